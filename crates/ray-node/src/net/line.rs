//! One connected socket in the daemon's poll set, and what waits to be written to it.

use crate::conn::Token;
use ray_shm::poll::Poll;
use ray_shm::tcp;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Closing it takes it out of the poll set: nobody else holds its socket.
pub(super) struct Line {
    fd: Arc<OwnedFd>,
    token: u64,
    watching: bool,
}

impl Line {
    /// Reported readable from now on, as `number`; writable once `watch` says so.
    pub(super) fn new(poll: &Poll, fd: OwnedFd, number: u32) -> Result<Self, Errno> {
        let token = Token::Net(number).pack();
        poll.add(fd.as_fd(), token)?;
        Ok(Line { fd: Arc::new(fd), token, watching: false })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn shared_fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    pub(super) fn watch(&mut self, poll: &Poll, on: bool) {
        if std::mem::replace(&mut self.watching, on) != on {
            // It is in the set: this only fails when the process is being torn down.
            let _ = poll.watch_writes(self.fd.as_fd(), self.token, on);
        }
    }

    /// The socket alone, out of the poll set. None: somebody shares it.
    pub(super) fn release(self, poll: &Poll) -> Option<OwnedFd> {
        poll.remove(self.fd.as_fd());
        Arc::into_inner(self.fd)
    }

    /// The same socket under another number.
    pub(super) fn renumber(self, poll: &Poll, number: u32) -> Result<Self, Errno> {
        let fd = self.release(poll).ok_or(Errno::BUSY)?;
        Line::new(poll, fd, number)
    }
}

/// A few bytes on their way out: handshakes, positions, one answer.
#[derive(Default)]
pub(super) struct Outbox {
    pub bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        Outbox { bytes, sent: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True: all is written. The line is watched until it is.
    pub(super) fn flush(&mut self, poll: &Poll, line: &mut Line) -> Result<bool, Errno> {
        while self.sent < self.bytes.len() {
            match tcp::send(line.fd(), &self.bytes[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => {
                    line.watch(poll, true);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        line.watch(poll, false);
        Ok(true)
    }
}
