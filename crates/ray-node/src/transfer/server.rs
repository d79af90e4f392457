//! One connection that is served: requests in, ranges of extents out.
//!
//! The peer has authenticated itself, yet what it asks for is checked all the same: bad requests are answered with `GONE`, a flood of them ends the connection.

use super::{SharedFiles, GONE, OK, REQUEST};
use ray_proto::ExtentId;
use rustix::fs::{fstat, sendfile};
use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A client asks for a few chunks ahead; one that sends more than this is none of ours.
const QUEUE_MAX: usize = 256;
/// Sent at a time, then others have their turn.
const TURN: u64 = 1 << 20;
/// A connection on which nothing moves for this long is closed. Longer than a client keeps one: it has the first say.
const IDLE_US: u64 = 60_000_000;

struct Request {
    extent: ExtentId,
    offset: u64,
    len: u64,
}

/// The answer that is being sent.
struct Answer {
    /// Not sent yet.
    status: Option<u8>,
    /// Held, so that the file stays while its bytes are sent.
    file: Option<Arc<OwnedFd>>,
    offset: u64,
    left: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing to send.
    Idle,
    /// More to send, now or when the socket has room.
    More,
    Closed,
}

pub(super) struct Server {
    pub(super) stream: OwnedFd,
    files: SharedFiles,
    /// A piece of a request.
    piece: Vec<u8>,
    queue: VecDeque<Request>,
    answer: Option<Answer>,
    moved_at: u64,
    /// The poll set also waits for room in its socket.
    pub(super) watching_writes: bool,
}

impl Server {
    pub(super) fn new(stream: OwnedFd, files: SharedFiles, now: u64) -> Self {
        Server { stream, files, piece: Vec::new(), queue: VecDeque::new(), answer: None, moved_at: now, watching_writes: false }
    }

    pub(super) fn due(&self) -> u64 {
        self.moved_at + IDLE_US
    }

    /// Take requests in. False: the connection is of no more use.
    pub(super) fn read(&mut self, now: u64) -> bool {
        let mut chunk = [0u8; 64 * REQUEST];
        let n = match recv(&self.stream, &mut chunk, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        self.moved_at = now;
        self.piece.extend_from_slice(&chunk[..n]);
        let whole = self.piece.len() - self.piece.len() % REQUEST;
        self.queue.extend(self.piece[..whole].chunks_exact(REQUEST).map(Request::parse));
        self.piece.drain(..whole);
        self.queue.len() <= QUEUE_MAX
    }

    /// Send for one turn, or until the socket is full.
    pub(super) fn pump(&mut self, now: u64) -> Pumped {
        let mut budget = TURN;
        while budget > 0 {
            if self.answer.is_none() {
                let Some(request) = self.queue.pop_front() else { return Pumped::Idle };
                self.answer = Some(self.answer_to(&request));
            }
            match self.send_some(&mut budget) {
                Ok(()) => self.moved_at = now,
                Err(Errno::AGAIN) => return Pumped::More,
                Err(Errno::INTR) => {}
                Err(_) => return Pumped::Closed,
            }
        }
        Pumped::More
    }

    fn answer_to(&self, request: &Request) -> Answer {
        let inside = |file: &Arc<OwnedFd>| {
            let size = fstat(file).map_or(0, |stat| stat.st_size as u64);
            request.offset.checked_add(request.len).is_some_and(|end| end <= size)
        };
        match self.files.get(request.extent).filter(inside) {
            Some(file) => Answer { status: Some(OK), file: Some(file), offset: request.offset, left: request.len },
            None => Answer { status: Some(GONE), file: None, offset: 0, left: 0 },
        }
    }

    fn send_some(&mut self, budget: &mut u64) -> Result<(), Errno> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        if let Some(status) = answer.status {
            // It travels with the bytes that follow.
            let more = if answer.left > 0 { SendFlags::MORE } else { SendFlags::empty() };
            send(&self.stream, &[status], SendFlags::NOSIGNAL | more)?;
            answer.status = None;
            *budget -= 1;
        } else if let (Some(file), 1..) = (&answer.file, answer.left) {
            let n = sendfile(&self.stream, file.as_fd(), Some(&mut answer.offset), answer.left.min(*budget) as usize)? as u64;
            if n == 0 {
                // The file is shorter than it was: what was promised can't be sent.
                return Err(Errno::IO);
            }
            answer.left -= n;
            *budget -= n;
        }
        if answer.status.is_none() && answer.left == 0 {
            self.answer = None;
        }
        Ok(())
    }
}

impl Request {
    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Request { extent: ExtentId(word(0)), offset: word(8), len: word(16) }
    }
}
