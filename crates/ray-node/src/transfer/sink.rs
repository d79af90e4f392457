//! How bytes get from a socket into a file.
//!
//! Large ones through a pipe: the kernel hands pages of the socket over and copies them once, into the file. Small ones, and all where there is no such way,
//! through a buffer that stays in the core's cache and pwrite: one call for status and bytes. The pipe is empty between calls.
//!
//! 100 MB from a memfd with sendfile over loopback, in ms of the receiving thread: through a pipe 36 (into fresh pages 44), buffer and pwrite 44 (52), into a
//! mapping 53 with its page faults (78), into one whose pages are asked for first 44 (72).

use rustix::io::Errno;
use rustix::net::{recv, RecvFlags};
use rustix::pipe::{fcntl_setpipe_size, pipe_with, splice, PipeFlags, SpliceFlags};
use std::os::fd::OwnedFd;

/// Half of a second-level cache of today, and the most that an unprivileged pipe holds.
const ROOM: usize = 1 << 20;

pub(super) enum Moved {
    Bytes(usize),
    /// So many were taken from the socket, and could not be written.
    Unwritable(usize, Errno),
    /// No more for now.
    Empty,
    /// The connection is of no more use.
    Lost(String),
}

pub(super) struct Sink {
    pub(super) buffer: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
}

impl Sink {
    pub(super) fn new() -> Self {
        Sink { buffer: vec![0; ROOM], pipe: pipe() }
    }

    pub(super) fn has_pipe(&self) -> bool {
        self.pipe.is_some()
    }

    /// Into the start of the buffer, `most` at most.
    pub(super) fn receive(&mut self, stream: &OwnedFd, most: usize) -> Moved {
        match recv(stream, &mut self.buffer[..most.min(ROOM)], RecvFlags::empty()) {
            Ok((n, _)) => from_stream(Ok(n)),
            Err(error) => from_stream(Err(error)),
        }
    }

    /// Into a file.
    pub(super) fn splice(&mut self, stream: &OwnedFd, into: &OwnedFd, mut at: u64, most: u64) -> Moved {
        let Some((end, start)) = &self.pipe else { return Moved::Empty };
        let taken = splice(stream, None, start, None, most.min(ROOM as u64) as usize, SpliceFlags::MOVE | SpliceFlags::NONBLOCK);
        if taken == Err(Errno::INVAL) {
            // Not with this kernel or socket: from now on the other way.
            self.pipe = None;
            return Moved::Bytes(0);
        }
        let moved = from_stream(taken);
        let Moved::Bytes(n) = moved else { return moved };
        let mut left = n;
        while left > 0 {
            match splice(end, None, into, Some(&mut at), left, SpliceFlags::MOVE) {
                Ok(0) => return self.give_up(n, Errno::IO),
                Ok(written) => left -= written,
                Err(Errno::INTR) => {}
                Err(error) => return self.give_up(n, error),
            }
        }
        moved
    }

    /// What is left in the pipe goes with it.
    fn give_up(&mut self, taken: usize, error: Errno) -> Moved {
        self.pipe = pipe();
        Moved::Unwritable(taken, error)
    }
}

fn from_stream(taken: Result<usize, Errno>) -> Moved {
    match taken {
        Ok(0) => Moved::Lost("it closed the connection".into()),
        Ok(n) => Moved::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Empty,
        Err(error) => Moved::Lost(error.to_string()),
    }
}

fn pipe() -> Option<(OwnedFd, OwnedFd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC).ok()?;
    // A smaller one is slower, and no reason to have none.
    let _ = fcntl_setpipe_size(&pipe.1, ROOM);
    Some(pipe)
}
