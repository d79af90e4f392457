//! One connected process as the daemon sees it: its link, its output, its last words.

use ray_proto::msg::WorkerLine;
use ray_proto::ProcId;
use ray_shm::link::{Reader, Writer};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Lines of stderr kept for the evidence of a death.
const TAIL_LINES: usize = 20;
const TAIL_LINE_BYTES: usize = 2_000;
/// A line longer than this is passed on in pieces.
const LINE_MAX: usize = 1 << 20;
/// Marks a line of the worker that names what it runs, for the prefix of the lines after it.
pub(crate) const NAME_MARK: &[u8] = b"\x01ray:name:";

pub(crate) struct Conn {
    pub reader: Reader,
    pub writer: Writer,
    pub pid: u32,
    pub slot: u32,
    pub out: Option<Pipe>,
    pub err: Option<Pipe>,
    pub tail: VecDeque<String>,
    /// It has said hello and runs.
    pub welcomed: bool,
    /// Why we killed it.
    pub ended_by_us: String,
    /// The link is closed: it is gone or about to be.
    pub closed_at: Option<u64>,
    /// Its template is dead: we are its parent.
    pub orphan: bool,
    /// The poll set also waits for room in its socket.
    pub watching_writes: bool,
    /// Since when /proc shows it stopped, and whether that was said.
    pub stopped_since: Option<(u64, bool)>,
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd, slot: u32) -> Self {
        let fd = Arc::new(fd);
        Conn {
            reader: Reader::new(fd.clone()),
            writer: Writer::new(fd),
            pid: 0,
            slot,
            out: None,
            err: None,
            tail: VecDeque::new(),
            welcomed: false,
            ended_by_us: String::new(),
            closed_at: None,
            orphan: false,
            watching_writes: false,
            stopped_since: None,
        }
    }

    pub(crate) fn remember(&mut self, lines: &[WorkerLine]) {
        for line in lines.iter().filter(|line| line.is_stderr) {
            let cut = line.text.chars().take(TAIL_LINE_BYTES).collect();
            self.tail.push_back(cut);
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
    }

    pub(crate) fn stderr_tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The read end of a worker's stdout or stderr.
pub(crate) struct Pipe {
    pub fd: OwnedFd,
    buffer: Vec<u8>,
    name: String,
}

impl Pipe {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Pipe { fd, buffer: Vec::new(), name: String::new() }
    }

    /// One read; whole lines out. `None` in the second place: the pipe is closed, and the lines include an unfinished last one.
    pub(crate) fn read(&mut self, pid: u32, is_stderr: bool) -> (Vec<WorkerLine>, Option<usize>) {
        let mut chunk = [0u8; 32 * 1024];
        let n = match rustix::io::read(&self.fd, &mut chunk) {
            Ok(0) => return (self.rest(pid, is_stderr).into_iter().collect(), None),
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => return (vec![], Some(0)),
            Err(_) => return (vec![], None),
        };
        self.buffer.extend_from_slice(&chunk[..n]);
        let mut lines = Vec::new();
        let mut start = 0;
        while let Some(at) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let text = self.buffer[start..start + at].to_vec();
            lines.extend(self.line(&text, pid, is_stderr));
            start += at + 1;
        }
        self.buffer.drain(..start);
        if self.buffer.len() > LINE_MAX {
            let text = std::mem::take(&mut self.buffer);
            lines.extend(self.line(&text, pid, is_stderr));
        }
        (lines, Some(n))
    }

    /// A last line without its end.
    pub(crate) fn rest(&mut self, pid: u32, is_stderr: bool) -> Option<WorkerLine> {
        let rest = std::mem::take(&mut self.buffer);
        if rest.is_empty() {
            return None;
        }
        self.line(&rest, pid, is_stderr)
    }

    fn line(&mut self, text: &[u8], pid: u32, is_stderr: bool) -> Option<WorkerLine> {
        if let Some(name) = text.strip_prefix(NAME_MARK) {
            self.name = String::from_utf8_lossy(name).into_owned();
            return None;
        }
        let text = String::from_utf8_lossy(text).trim_end_matches('\r').to_owned();
        Some(WorkerLine { name: self.name.clone(), pid, is_stderr, text })
    }
}

/// Poll tokens: a process's link, stdout and stderr, and the network's sockets, told apart by the top bits that job numbers never reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token {
    Template,
    Door,
    /// Children of ours ended.
    Children,
    /// Bytes of objects of other nodes are here, or will not come.
    Copied,
    Link(ProcId),
    Out(ProcId),
    Err(ProcId),
    /// A socket of the network; the number is `net::NetToken`'s.
    Net(u32),
}

const OUT_BIT: u64 = 1 << 63;
const ERR_BIT: u64 = 1 << 62;
/// Both bits: no process's. The specials at the top end differ in the bits above the number.
const NET_BITS: u64 = OUT_BIT | ERR_BIT;
const DOOR: u64 = u64::MAX - 1;
const CHILDREN: u64 = u64::MAX - 2;
const COPIED: u64 = u64::MAX - 3;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Token::Template => u64::MAX,
            Token::Door => DOOR,
            Token::Children => CHILDREN,
            Token::Copied => COPIED,
            Token::Link(id) => id.0,
            Token::Out(id) => id.0 | OUT_BIT,
            Token::Err(id) => id.0 | ERR_BIT,
            Token::Net(number) => u64::from(number) | NET_BITS,
        }
    }

    pub(crate) fn unpack(word: u64) -> Self {
        match word {
            u64::MAX => Token::Template,
            DOOR => Token::Door,
            CHILDREN => Token::Children,
            COPIED => Token::Copied,
            word if word & NET_BITS == NET_BITS => Token::Net(word as u32),
            word if word & OUT_BIT != 0 => Token::Out(ProcId(word & !OUT_BIT)),
            word if word & ERR_BIT != 0 => Token::Err(ProcId(word & !ERR_BIT)),
            word => Token::Link(ProcId(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_proto::NodeIndex;

    #[test]
    fn lines_carry_the_name_of_what_runs_and_an_unfinished_one_is_not_lost() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut pipe = Pipe::new(read);
        rustix::io::write(&write, b"early\n\x01ray:name:f\nlate\nlast words").unwrap();
        let (lines, more) = pipe.read(7, true);
        let named: Vec<_> = lines.iter().map(|l| (l.name.as_str(), l.text.as_str())).collect();
        assert_eq!(named, [("", "early"), ("f", "late")]);
        assert!(more.is_some());
        drop(write);
        let (lines, more) = pipe.read(7, true);
        assert_eq!((lines[0].text.as_str(), more), ("last words", None));
    }

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Template,
            Token::Door,
            Token::Children,
            Token::Link(ProcId::new(3, NodeIndex::HEAD, 9)),
            Token::Out(ProcId::new(3, NodeIndex::HEAD, 9)),
            Token::Err(ProcId::new(3, NodeIndex::HEAD, 9)),
            Token::Net(0),
            Token::Net(u32::MAX),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
