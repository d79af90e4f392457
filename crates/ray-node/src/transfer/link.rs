//! One connection that is pulled over, with what was asked on it and not answered in full; and the pulls' jobs as chunks.
//!
//! A link outlives its connection: when that breaks, what is missing of each chunk is asked for on the next one.

use super::{Pull, CHUNK, GONE, OK, REQUEST};
use rustix::io::Errno;
use rustix::net::{send, SendFlags};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

/// Without a pull for this long, a connection is closed.
pub(super) const IDLE_US: u64 = 10_000_000;
const BACKOFF_US: u64 = 20_000;
const BACKOFF_MAX_US: u64 = 500_000;
/// Pulls up to this size have a link of their own: they don't wait behind the chunks of large ones.
const SMALL: u64 = 1 << 20;
/// Requests in flight: the server has the next one at hand before the client has read the last.
const AHEAD: usize = 3;
const AHEAD_SMALL: usize = 16;

pub(super) enum State {
    /// Connect at this time, if there is something to pull.
    Closed {
        until: u64,
    },
    Connecting,
    Open(OwnedFd),
}

/// A chunk on its way: `got` bytes of the `len` from `at` on have come.
struct Asked {
    job: u64,
    at: u64,
    len: u64,
    got: u64,
    answered: bool,
}

/// A pull in hand.
pub(super) struct Job {
    pub(super) pull: Pull,
    pub(super) link: u64,
    /// From here on nothing was asked for.
    next: u64,
    /// Asked for and lost: (from, bytes).
    again: VecDeque<(u64, u64)>,
    /// Bytes to come.
    pub(super) left: u64,
}

impl Job {
    pub(super) fn new(pull: Pull, link: u64) -> Self {
        let left = pull.source.len;
        Job { pull, link, next: 0, again: VecDeque::new(), left }
    }

    pub(super) fn is_small(pull: &Pull) -> bool {
        pull.source.len <= SMALL
    }

    fn cut(&mut self) -> Option<(u64, u64)> {
        if let Some(lost) = self.again.pop_front() {
            return Some(lost);
        }
        let len = (self.pull.source.len - self.next).min(CHUNK);
        self.next += len;
        (len > 0).then_some((self.next - len, len))
    }

    fn has_more(&self) -> bool {
        !self.again.is_empty() || self.next < self.pull.source.len
    }
}

/// What came over a link.
pub(super) enum Piece<'a> {
    /// Bytes of a job, for this offset of its destination.
    Bytes(u64, u64, &'a [u8]),
    Gone(u64),
}

pub(super) struct Link {
    pub(super) address: String,
    pub(super) small: bool,
    pub(super) state: State,
    /// Jobs with something left to ask for, in turn.
    turns: VecDeque<u64>,
    flight: VecDeque<Asked>,
    /// Requests that the socket had no room for.
    unsent: Vec<u8>,
    backoff_us: u64,
    /// When the last byte came, or the first pull after none.
    pub(super) moved_at: u64,
    /// Why the last connection broke, for whoever is told in the end.
    pub(super) why: String,
}

impl Link {
    pub(super) fn new(address: String, small: bool, now: u64) -> Self {
        let state = State::Closed { until: now };
        Link {
            address,
            small,
            state,
            turns: VecDeque::new(),
            flight: VecDeque::new(),
            unsent: Vec::new(),
            backoff_us: BACKOFF_US,
            moved_at: now,
            why: "nothing came".into(),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.turns.is_empty() || !self.flight.is_empty()
    }

    pub(super) fn add(&mut self, job: u64, now: u64) {
        if !self.is_busy() {
            self.moved_at = now;
        }
        self.turns.push_back(job);
    }

    pub(super) fn forget(&mut self, job: u64) {
        // What is in flight comes all the same and is thrown away.
        self.turns.retain(|other| *other != job);
    }

    /// Ask for chunks, of the jobs in turn.
    pub(super) fn ask(&mut self, jobs: &mut BTreeMap<u64, Job>) {
        let State::Open(stream) = &self.state else { return };
        let ahead = if self.small { AHEAD_SMALL } else { AHEAD };
        while self.flight.len() < ahead {
            let Some(id) = self.turns.pop_front() else { break };
            let Some(job) = jobs.get_mut(&id) else { continue };
            let Some((at, len)) = job.cut() else { continue };
            if job.has_more() {
                self.turns.push_back(id);
            }
            let source = &job.pull.source;
            for word in [source.extent.0, source.offset.wrapping_add(at), len] {
                self.unsent.extend_from_slice(&word.to_le_bytes());
            }
            self.flight.push_back(Asked { job: id, at, len, got: 0, answered: false });
        }
        debug_assert!(self.unsent.len() <= (ahead + 1) * REQUEST);
        while !self.unsent.is_empty() {
            match send(stream, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(Errno::INTR) => {}
                // A few hundred bytes fit: this is a peer that does not read, and it is not waited for in any other way.
                Err(Errno::AGAIN) => return,
                // It is broken. What it brought before that is still there to be read, and then reading says so.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// What the next bytes of the stream mean. They are all used up, or the stream is not one of ours.
    pub(super) fn parse(&mut self, mut bytes: &[u8], mut on_piece: impl FnMut(Piece<'_>)) -> Result<(), String> {
        while !bytes.is_empty() {
            let Some(asked) = self.flight.front_mut() else { return Err("it sent what nobody asked for".into()) };
            if !asked.answered {
                match bytes[0] {
                    OK => asked.answered = true,
                    GONE => {
                        on_piece(Piece::Gone(asked.job));
                        self.flight.pop_front();
                    }
                    status => return Err(format!("it answered {status}, which means nothing")),
                }
                bytes = &bytes[1..];
                continue;
            }
            let n = bytes.len().min((asked.len - asked.got) as usize);
            on_piece(Piece::Bytes(asked.job, asked.at + asked.got, &bytes[..n]));
            self.skip(n as u64);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// What comes next: bytes of (a job, for this offset, so many), or a status.
    pub(super) fn next(&self) -> Option<(u64, u64, u64)> {
        let asked = self.flight.front().filter(|asked| asked.answered)?;
        Some((asked.job, asked.at + asked.got, asked.len - asked.got))
    }

    /// So many of the `next` bytes have gone where they belong.
    pub(super) fn skip(&mut self, bytes: u64) {
        let Some(asked) = self.flight.front_mut() else { return };
        asked.got += bytes;
        if asked.got == asked.len {
            self.flight.pop_front();
        }
    }

    /// Bytes came.
    pub(super) fn moved(&mut self, now: u64) {
        self.moved_at = now;
        self.backoff_us = BACKOFF_US;
    }

    /// The connection is gone, or could not be made. What was on its way is asked for again, from the byte on that is missing.
    pub(super) fn broke(&mut self, now: u64, why: String, jobs: &mut BTreeMap<u64, Job>) {
        for asked in self.flight.drain(..).rev() {
            let Some(job) = jobs.get_mut(&asked.job) else { continue };
            job.again.push_front((asked.at + asked.got, asked.len - asked.got));
            if !self.turns.contains(&asked.job) {
                self.turns.push_front(asked.job);
            }
        }
        self.unsent.clear();
        self.why = why;
        self.state = State::Closed { until: now + self.backoff_us };
        self.backoff_us = (2 * self.backoff_us).min(BACKOFF_MAX_US);
    }
}
