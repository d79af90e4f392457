//! Signal masks: engine threads take none, so that the user's main thread gets every one of them.

/// Block every signal in the calling thread.
pub fn block_all() {
    // SAFETY: both calls only write to the local set and the thread's own mask.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// End this process and everything in its process group, now. Workers lead a group of their own.
pub fn end_own_group() {
    // SAFETY: neither call touches memory; the second is for the case that the first is refused.
    unsafe {
        if libc::getpgrp() == libc::getpid() {
            libc::kill(0, libc::SIGKILL);
        }
        libc::_exit(1);
    }
}
