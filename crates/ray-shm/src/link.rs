//! A framed, non-blocking link over a Unix stream socket that can pass descriptors.
//!
//! Frames are `u32 length, message`. A descriptor travels with the first byte of its frame, and both ends keep descriptors and frames in the same order.
//! The reading half belongs to one thread; the writing half stands under the lock of whoever owns it.

use ray_proto::wire::{frame, Wire};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// No frame is larger: bulk goes through shared memory.
const FRAME_MAX: usize = 1 << 30;
const READ_CHUNK: usize = 64 * 1024;
/// Descriptors in flight per read.
const FDS_PER_READ: usize = 16;

pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    All,
    /// The socket is full: wait until it can be written.
    Partly,
    /// The peer is gone.
    Closed,
}

pub struct Writer {
    /// None once closed.
    fd: Option<Arc<OwnedFd>>,
    buffer: Vec<u8>,
    sent: usize,
    /// Descriptors to send, with the position in `buffer` of their frame.
    fds: VecDeque<(usize, OwnedFd)>,
    frames: usize,
    closed: bool,
}

impl Writer {
    pub fn new(fd: Arc<OwnedFd>) -> Self {
        Writer { fd: Some(fd), buffer: Vec::new(), sent: 0, fds: VecDeque::new(), frames: 0, closed: false }
    }

    /// None once closed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// Let go of the socket; what is queued is dropped.
    pub fn close(&mut self) {
        self.closed = true;
        self.fd = None;
        self.flush();
    }

    pub fn queue<T: Wire>(&mut self, message: &T) {
        if !self.closed {
            frame(message, &mut self.buffer);
            self.frames += 1;
        }
    }

    pub fn queue_with_fd<T: Wire>(&mut self, message: &T, fd: OwnedFd) {
        if !self.closed {
            self.fds.push_back((self.buffer.len(), fd));
            self.queue(message);
        }
    }

    /// Bytes and frames not yet written.
    pub fn pending(&self) -> (usize, usize) {
        (self.buffer.len() - self.sent, self.frames)
    }

    pub fn flush(&mut self) -> Flushed {
        while self.sent < self.buffer.len() && !self.closed {
            match self.write_some() {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Flushed::Partly,
                Err(_) => self.closed = true,
            }
        }
        self.buffer.clear();
        // One large burst must not keep its buffer for ever.
        self.buffer.shrink_to(4 * READ_CHUNK);
        self.fds.clear();
        (self.sent, self.frames) = (0, 0);
        match self.closed {
            true => Flushed::Closed,
            false => Flushed::All,
        }
    }

    fn write_some(&mut self) -> Result<usize, Errno> {
        let Some(fd) = &self.fd else { return Err(Errno::PIPE) };
        let next_fd = self.fds.front().map(|(at, _)| *at);
        if next_fd != Some(self.sent) {
            let end = next_fd.unwrap_or(self.buffer.len());
            return rustix::net::send(&**fd, &self.buffer[self.sent..end], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        let end = self.fds.get(1).map_or(self.buffer.len(), |(at, _)| *at);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [self.fds[0].1.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let n = sendmsg(&**fd, &[IoSlice::new(&self.buffer[self.sent..end])], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        self.fds.pop_front();
        Ok(n)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There may be more.
    Data,
    /// That was all: it left room in the buffer. What comes from now on is reported by the poll set.
    Last,
    Empty,
    Closed,
}

pub struct Reader {
    fd: Arc<OwnedFd>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// None: it was lost on its way, since this process has no descriptors left.
    fds: VecDeque<Option<OwnedFd>>,
}

impl Reader {
    pub fn new(fd: Arc<OwnedFd>) -> Self {
        Reader { fd, buffer: Vec::new(), start: 0, end: 0, fds: VecDeque::new() }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The socket, for the writing half.
    pub fn shared_fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// One read. `Closed` comes only after everything before it was read.
    pub fn fill(&mut self) -> Filled {
        self.make_room();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_READ))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut self.buffer[self.end..])];
        match recvmsg(&*self.fd, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
            Ok(read) if read.bytes == 0 => Filled::Closed,
            Ok(read) => {
                let before = self.fds.len();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        self.fds.extend(fds.map(Some));
                    }
                }
                // A read ends with the first piece that carries a descriptor, and none carries two: what was cut off is one.
                if read.flags.contains(ReturnFlags::CTRUNC) && self.fds.len() == before {
                    self.fds.push_back(None);
                }
                self.end += read.bytes;
                match self.end < self.buffer.len() && self.fds.len() == before {
                    true => Filled::Last,
                    false => Filled::Data,
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => Filled::Empty,
            Err(_) => Filled::Closed,
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.end >= READ_CHUNK / 2 {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // Grows with what has arrived, never by a length that was only announced.
        let wanted = (2 * self.end).max(READ_CHUNK);
        self.buffer.resize(wanted.max(self.buffer.len()), 0);
    }

    /// The next whole frame's message. Err: the peer announces a frame no release writes.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, usize> {
        let have = &self.buffer[self.start..self.end];
        let Some(head) = have.get(..4) else { return Ok(None) };
        let len = u32::from_le_bytes(head.try_into().expect("four bytes")) as usize;
        if len > FRAME_MAX {
            return Err(len);
        }
        if have.len() < 4 + len {
            return Ok(None);
        }
        let at = self.start + 4;
        self.start = at + len;
        Ok(Some(&self.buffer[at..at + len]))
    }

    /// The descriptor of the frame just read, for messages that carry one. None: there was no room for it in this process.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_proto::wire::decode;

    fn linked() -> (Writer, Reader) {
        let (a, b) = pair().unwrap();
        (Writer::new(Arc::new(a)), Reader::new(Arc::new(b)))
    }

    #[test]
    fn frames_and_descriptors_stay_in_step() {
        let (mut writer, mut reader) = linked();
        let (probe, other) = pair().unwrap();
        writer.queue(&1u64);
        writer.queue_with_fd(&2u64, other);
        writer.queue(&3u64);
        assert_eq!(writer.flush(), Flushed::All);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            assert_ne!(reader.fill(), Filled::Closed);
            while let Ok(Some(bytes)) = reader.next_frame() {
                seen.push(decode::<u64>(bytes).unwrap());
            }
        }
        assert_eq!(seen, [1, 2, 3]);
        let passed = reader.take_fd().expect("one descriptor");
        rustix::io::write(&passed, b"x").unwrap();
        assert_eq!(rustix::io::read(&probe, &mut [0u8; 4]).unwrap(), 1);
    }

    #[test]
    fn a_frame_larger_than_the_socket_arrives_whole_and_then_the_end() {
        let (mut writer, mut reader) = linked();
        let big: ray_proto::Blob = vec![7u8; 3 << 20].into();
        writer.queue(&big);
        loop {
            let flushed = writer.flush();
            while matches!(reader.fill(), Filled::Data | Filled::Last) {}
            if flushed == Flushed::All {
                break;
            }
        }
        assert_eq!(decode::<ray_proto::Blob>(reader.next_frame().unwrap().unwrap()).unwrap(), big);
        drop(writer);
        // Another test's fork may hold a copy of the other end for a moment.
        let deadline = crate::now_us() + 5_000_000;
        while reader.fill() == Filled::Empty && crate::now_us() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(reader.fill(), Filled::Closed);
    }
}
