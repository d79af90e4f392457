//! A user's fork: handlers around it, and cutting the child off from sockets that are its parent's.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Run `before` in the forking thread just before each `fork` of this process, and one of the others just after it, in that thread again.
/// They run inside of the C library's `fork`, so no other code of the process comes between; a fork that only starts a program runs none of them.
pub fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) -> Result<(), Errno> {
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    }
}

/// Make the number of `socket` name what `harmless` names. It stays taken: a thread that exists in the parent only still thinks that it owns it.
pub fn sever(socket: BorrowedFd<'_>, harmless: BorrowedFd<'_>) {
    // SAFETY: both are open; the number of `socket` stays open over the call, so no owner of it can be fooled into using another's.
    let severed = unsafe { libc::dup3(harmless.as_raw_fd(), socket.as_raw_fd(), libc::O_CLOEXEC) };
    debug_assert!(severed >= 0, "dup3");
}
