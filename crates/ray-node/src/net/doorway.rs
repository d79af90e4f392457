//! The door: who comes in, and what becomes of him. Part of `Net`.
//!
//! Invariants
//! 1. At most `STRANGERS_MAX` connections have not proven themselves. When there are so many the door is out of the poll set, and others wait in the kernel.
//! 2. Whoever stalls is dropped: after five seconds, or after one when others wait.

use super::callers::{Caller, Outcome};
use super::handshake::Kind;
use super::line::Line;
use super::{Net, NetEvent, Peer, CALLER, DOOR, IN};
use crate::conn::Token;
use ray_proto::cluster::Joining;
use ray_proto::NodeIndex;
use ray_shm::now_us;
use ray_shm::poll::Poll;
use ray_shm::tcp;
use std::os::fd::{AsFd, OwnedFd};

/// Connections that have not proven themselves; more wait in the kernel.
pub(super) const STRANGERS_MAX: usize = 64;
/// With so many, one that is older makes room for the next: proving oneself takes a few round trips.
const STRANGER_US: u64 = 1_000_000;
/// After an error of the host (no descriptors left), nobody is let in for this long.
const REST_US: u64 = 200_000;

impl Net {
    /// Accept whoever waits, as long as there is room for strangers.
    pub(super) fn let_in(&mut self, poll: &Poll, now: u64) {
        if self.shut_until.is_some_and(|until| now < until && self.strangers() >= STRANGERS_MAX) {
            return;
        }
        let shut_until = loop {
            if let Err(until) = self.make_room(now) {
                break Some(until);
            }
            match tcp::accept(&self.door) {
                Ok(Some(fd)) => self.welcome(poll, now, fd),
                Ok(None) => break None,
                Err(_) => break Some(now + REST_US),
            }
        };
        self.shut(poll, shut_until);
    }

    pub(super) fn strangers(&self) -> usize {
        self.callers.values().filter(|caller| caller.is_stranger()).count()
    }

    /// Err: there is no room before then.
    fn make_room(&mut self, now: u64) -> Result<(), u64> {
        if self.strangers() < STRANGERS_MAX {
            return Ok(());
        }
        let oldest = self.callers.iter().filter(|(_, caller)| caller.is_stranger()).min_by_key(|(_, caller)| caller.since);
        match oldest.map(|(number, caller)| (*number, caller.since)) {
            Some((_, since)) if now < since + STRANGER_US => Err(since + STRANGER_US),
            Some((number, _)) => {
                self.callers.remove(&number);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn shut(&mut self, poll: &Poll, until: Option<u64>) {
        match (self.shut_until, until) {
            (None, Some(_)) => poll.remove(self.door.as_fd()),
            // When it can't be opened, the next time may do.
            (Some(_), None) if poll.add(self.door.as_fd(), Token::Net(DOOR).pack()).is_err() => {
                self.shut_until = Some(now_us() + REST_US);
                return;
            }
            _ => {}
        }
        self.shut_until = until;
        self.due = self.due.min(until.unwrap_or(u64::MAX));
    }

    fn welcome(&mut self, poll: &Poll, now: u64, fd: OwnedFd) {
        let number = self.next_caller();
        let Ok(line) = Line::new(poll, fd, number) else { return };
        let caller = Caller::new(line, &self.me.at(poll, now));
        self.due = self.due.min(caller.deadline);
        self.callers.insert(number, caller);
        self.hear(poll, now, number);
    }

    fn next_caller(&mut self) -> u32 {
        loop {
            self.last_caller = CALLER | self.last_caller.wrapping_add(1);
            if !self.callers.contains_key(&self.last_caller) {
                return self.last_caller;
            }
        }
    }

    pub(super) fn hear(&mut self, poll: &Poll, now: u64, number: u32) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        let (me, dead, peers) = (&self.me, &self.dead, &self.peers);
        let is_shunned = |from: NodeIndex| dead.contains(&from) || peers.get(&from).is_some_and(|peer| peer.inbound.garbled);
        let outcome = caller.ready(&me.at(poll, now), &|kind| me.judge(kind, &is_shunned));
        self.due = self.due.min(caller.deadline);
        match outcome {
            Outcome::Stays => {}
            Outcome::Asks(question) => self.events.push(NetEvent::Join { ticket: number, question: *question }),
            Outcome::Gone => drop(self.callers.remove(&number)),
            Outcome::Is(kind) => {
                if let Some(caller) = self.callers.remove(&number) {
                    self.begin(poll, now, caller.line, kind);
                }
            }
        }
        if self.shut_until.is_some() {
            // There may be room again.
            self.due = now;
        }
    }

    fn begin(&mut self, poll: &Poll, now: u64, line: Line, kind: Kind) {
        match kind {
            Kind::Session { from, .. } if !self.dead.contains(&from) => {
                let peer = self.peers.entry(from).or_insert_with(|| Peer::new(from));
                let Ok(line) = line.renumber(poll, IN | u32::from(from.0)) else { return };
                let me = self.me.at(poll, now);
                let due = peer.hear(&me, &mut self.events, |inbound, events| inbound.open(&me, line, events, from));
                self.due = self.due.min(due);
            }
            Kind::Bulk { from, .. } if !self.dead.contains(&from) => {
                if let Some(stream) = line.release(poll) {
                    self.events.push(NetEvent::Bulk { from, stream });
                }
            }
            _ => {}
        }
    }

    /// Answer who asked to join. One who is gone does not hear it.
    pub fn answer_join(&mut self, poll: &Poll, ticket: u32, answer: &Joining) {
        let now = now_us();
        if let Some(caller) = self.callers.get_mut(&ticket) {
            caller.answer(now, answer);
            self.hear(poll, now, ticket);
        }
    }
}
