//! TCP sockets as the daemon uses them: never blocking, never delayed, and what the kernel knows of their other end.

use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::{ioctl_fionbio, Errno};
use rustix::ioctl::{ioctl, Getter};
use rustix::net::sockopt::{set_socket_reuseaddr, set_tcp_nodelay, socket_error};
use rustix::net::{accept_with, bind, getpeername, getsockname, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::time::Timespec;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Connections that wait to be accepted; the kernel cuts it at net.core.somaxconn.
const BACKLOG: i32 = 1024;

fn socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Listen, and where: the port 0 asks for any.
pub fn listen(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let door = socket(&address)?;
    // A daemon that starts again takes its port back while old connections linger, if both say so. Before a bind to any port, it would let two starters choose
    // the same one.
    set_socket_reuseaddr(&door, address.port() != 0)?;
    bind(&door, &address)?;
    set_socket_reuseaddr(&door, true)?;
    rustix::net::listen(&door, BACKLOG)?;
    let local = SocketAddr::try_from(getsockname(&door)?)?;
    Ok((door, local))
}

/// The next who connected. None: nobody did.
pub fn accept(door: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    loop {
        match accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(guest) => {
                // Fails for one who is gone already: the first read tells.
                let _ = set_tcp_nodelay(&guest, true);
                return Ok(Some(guest));
            }
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Begin to connect: `connected` says how it went, once the socket can be written.
pub fn connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let line = socket(&address)?;
    set_tcp_nodelay(&line, true)?;
    match rustix::net::connect(&line, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(line),
        Err(error) => Err(error),
    }
}

/// Whether `connect` has come to an end. A port of this machine on which nobody listens may be connected with itself: that counts as refused.
pub fn connected(line: &OwnedFd) -> Result<bool, Errno> {
    socket_error(line)??;
    match getpeername(line) {
        Ok(Some(peer)) if peer == getsockname(line)? => Err(Errno::CONNREFUSED),
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes read; 0 at the end of the stream. Nothing there: `AGAIN`.
pub fn receive(line: impl AsFd, into: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(&line, &mut *into, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            other => return other.map(|(n, _)| n),
        }
    }
}

/// Bytes written. No room: `AGAIN`.
pub fn send(line: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::send(&line, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Wait until it can be read (or written) or is closed. False: the time is over.
pub fn wait(line: &OwnedFd, for_writing: bool, timeout_us: u64) -> Result<bool, Errno> {
    let timeout = Timespec { tv_sec: (timeout_us / 1_000_000) as i64, tv_nsec: ((timeout_us % 1_000_000) * 1_000) as _ };
    let flags = if for_writing { PollFlags::OUT } else { PollFlags::IN };
    match poll(&mut [PollFd::new(line, flags)], Some(&timeout)) {
        // Interrupted is as good as ready: who waits tries and waits again.
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error),
    }
}

pub fn set_blocking(line: &OwnedFd, on: bool) -> Result<(), Errno> {
    ioctl_fionbio(line, !on)
}

/// What the kernel knows about the way to the other end.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// Bytes written that the other kernel has not acknowledged, sent or not.
    pub queued: u32,
    /// The kernel sends some of them again since their time was over. Not for a full receiver: that one is probed.
    pub repeats: bool,
    /// Since the other kernel last acknowledged anything, a probe of a full receiver included.
    pub silent_us: u64,
    /// There and back, smoothed.
    pub round_trip_us: u64,
}

pub fn health(line: &OwnedFd) -> Result<Health, Errno> {
    // SAFETY: SIOCOUTQ (which has the number of TIOCOUTQ) writes one int, which is the getter's output.
    let queued = unsafe { ioctl(line, Getter::<{ libc::TIOCOUTQ as _ }, libc::c_int>::new())? };
    let info = tcp_info(line)?;
    Ok(Health {
        queued: queued.max(0) as u32,
        repeats: info.tcpi_retransmits > 0,
        silent_us: u64::from(info.tcpi_last_ack_recv) * 1_000,
        round_trip_us: info.tcpi_rtt.into(),
    })
}

fn tcp_info(line: &OwnedFd) -> Result<libc::tcp_info, Errno> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes at the pointer, which is valid for so many.
    let done = unsafe { libc::getsockopt(line.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len) };
    if done != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    // SAFETY: every field is an integer, and all bytes were zero before the kernel wrote some.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (door, at) = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let near = connect(at).unwrap();
        assert!(wait(&near, true, 5_000_000).unwrap() && connected(&near).unwrap());
        assert!(wait(&door, false, 5_000_000).unwrap());
        (near, accept(&door).unwrap().unwrap())
    }

    #[test]
    fn bytes_that_nobody_reads_are_acknowledged_by_the_kernel_until_it_is_full() {
        let (near, far) = pair();
        send(&near, b"hello").unwrap();
        let deadline = crate::now_us() + 5_000_000;
        while health(&near).unwrap().queued > 0 && crate::now_us() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(health(&near).unwrap().queued, 0);
        while send(&near, &[0; 65536]) != Err(Errno::AGAIN) {}
        assert!(health(&near).unwrap().queued > 0);
        assert_eq!(receive(&far, &mut [0; 5]), Ok(5));
    }

    #[test]
    fn a_port_on_which_nobody_listens_refuses() {
        let (door, at) = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(listen(at).err(), Some(Errno::ADDRINUSE));
        drop(door);
        let refused = connect(at).and_then(|line| {
            wait(&line, true, 5_000_000)?;
            connected(&line)
        });
        assert_eq!(refused, Err(Errno::CONNREFUSED));
    }
}
