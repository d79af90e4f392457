//! A session's door: an abstract Unix socket through which other processes of the same user join it. Nothing is left in the file system, and nothing is read
//! from a peer before the kernel has said whose process it is.

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{accept_with, bind, connect, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};

const BACKLOG: i32 = 16;

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Open a door. Fails when the name is taken or too long (107 bytes).
pub fn open(name: &str) -> Result<OwnedFd, Errno> {
    let door = socket()?;
    bind(&door, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    listen(&door, BACKLOG)?;
    Ok(door)
}

/// The next who wants in. None: nobody does. Processes of other users are turned away.
pub fn admit(door: &OwnedFd) -> Option<OwnedFd> {
    loop {
        let guest = accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        let is_own = socket_peercred(&guest).is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root());
        if is_own {
            return Some(guest);
        }
    }
}

/// Knock. The door must be of the same user: anybody can take a name.
pub fn enter(name: &str) -> Result<OwnedFd, Errno> {
    let link = socket()?;
    connect(&link, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    let host = socket_peercred(&link)?;
    let mine = rustix::process::geteuid();
    (host.uid == mine || mine.is_root()).then_some(link).ok_or(Errno::ACCESS)
}

/// The process at the other end of a socket.
pub fn peer_pid(link: impl AsFd) -> u32 {
    socket_peercred(link).map_or(0, |peer| peer.pid.as_raw_nonzero().get() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_lets_its_own_user_in_and_is_gone_with_its_descriptor() {
        let name = format!("ray/test/{}", std::process::id());
        let door = open(&name).unwrap();
        assert!(admit(&door).is_none());
        let guest = enter(&name).unwrap();
        let host = admit(&door).unwrap();
        assert_eq!(peer_pid(&guest), std::process::id());
        assert_eq!(peer_pid(&host), std::process::id());
        assert_eq!(open(&name).unwrap_err(), Errno::ADDRINUSE);
        drop(door);
        // Another test's fork may hold a copy of it for a moment.
        let deadline = crate::now_us() + 5_000_000;
        while enter(&name).is_ok() && crate::now_us() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(enter(&name).unwrap_err(), Errno::CONNREFUSED);
    }
}
