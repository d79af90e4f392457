//! Signal masks: engine threads take none, so that the user's main thread gets every one of them. And the ends of children as a descriptor.

use std::os::fd::{FromRawFd, OwnedFd};

/// Block every signal in the calling thread.
pub fn block_all() {
    // SAFETY: both calls only write to the local set and the thread's own mask.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn child_ends() -> libc::sigset_t {
    // SAFETY: the calls only write to the local set.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        set
    }
}

/// A descriptor that is readable when a child of this process ended. The signal has to be blocked.
pub fn child_ends_fd() -> Result<OwnedFd, rustix::io::Errno> {
    // SAFETY: the set is valid, and the descriptor is new and ours.
    unsafe {
        let fd = libc::signalfd(-1, &child_ends(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(rustix::io::Errno::from_raw_os_error(*libc::__errno_location()));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Block SIGCHLD in the calling thread, or let it through. What this thread starts inherits the mask.
pub fn block_child_ends(block: bool) {
    let how = if block { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set is valid; only the thread's own mask changes.
    unsafe {
        libc::pthread_sigmask(how, &child_ends(), std::ptr::null_mut());
    }
}

/// The signal that says to the main thread of a worker: look whether your call was cancelled. None that a library uses, and none that the shell sends.
pub fn interrupt_signal() -> i32 {
    libc::SIGRTMIN() + 9
}

/// Send it to the main thread of this process, also when that sleeps in a system call.
pub fn interrupt_main_thread() {
    // SAFETY: no memory is touched. The main thread's number is that of the process.
    unsafe {
        let pid = libc::getpid();
        libc::syscall(libc::SYS_tgkill, pid, pid, interrupt_signal());
    }
}

/// End this process, all that descends from it and everything in its process group, now. Workers lead a group of their own.
pub fn end_own_group() {
    crate::processes::descendants(std::process::id()).iter().for_each(|process| {
        process.kill();
    });
    // SAFETY: neither call touches memory; the second is for the case that the first is refused.
    unsafe {
        if libc::getpgrp() == libc::getpid() {
            libc::kill(0, libc::SIGKILL);
        }
        libc::_exit(1);
    }
}
