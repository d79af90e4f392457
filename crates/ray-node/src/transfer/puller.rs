//! Pulls, spread over links: two to an address at most, one for small pulls and one for large ones.

use super::link::{Job, Link, Piece, State, IDLE_US};
use super::sink::{Moved, Sink};
use super::stream::prepare;
use super::{ConnectError, Connector, DoneList, Order, Orders, Pull, PullError};
use ray_shm::memory::write_cold;
use ray_shm::poll::Poll;
use rustix::fs::fstat;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::Builder;

/// Reads of one link in a row, then others have their turn.
const TURN_READS: usize = 8;

pub(super) struct Puller {
    links: BTreeMap<u64, Link>,
    jobs: BTreeMap<u64, Job>,
    /// Of the next job. Tickets may be used again while bytes of their last pull still come.
    next_job: u64,
    connect: Arc<Connector>,
    orders: Orders,
    done: Arc<DoneList>,
    sink: Sink,
    stall_us: u64,
}

impl Puller {
    pub(super) fn new(connect: Connector, orders: Orders, done: Arc<DoneList>, stall_us: u64) -> Self {
        Puller { links: BTreeMap::new(), jobs: BTreeMap::new(), next_job: 0, connect: Arc::new(connect), orders, done, sink: Sink::new(), stall_us }
    }

    pub(super) fn has_link(&self, token: u64) -> bool {
        self.links.contains_key(&token)
    }

    /// `token`: for a link, if one has to be made.
    pub(super) fn pull(&mut self, now: u64, token: u64, pull: Pull) {
        let len = pull.source.len;
        let size = fstat(&pull.into).map_or(0, |stat| stat.st_size as u64);
        if size < len {
            return self.done.push(pull.ticket, Err(PullError::Destination(format!("{len} bytes don't fit into {size}"))));
        }
        if len == 0 {
            return self.done.push(pull.ticket, Ok(()));
        }
        let small = Job::is_small(&pull);
        let found = self.links.iter().find(|(_, link)| link.small == small && link.address == pull.address).map(|(token, _)| *token);
        let token = found.unwrap_or(token);
        let link = self.links.entry(token).or_insert_with(|| Link::new(pull.address.clone(), small, now));
        self.next_job += 1;
        link.add(self.next_job, now);
        self.jobs.insert(self.next_job, Job::new(pull, token));
        self.ask(token);
    }

    pub(super) fn cancel(&mut self, ticket: u64) {
        let found = self.jobs.iter().find(|(_, job)| job.pull.ticket == ticket).map(|(id, _)| *id);
        if let Some(id) = found {
            self.finish(id, Err(PullError::Cancelled));
        }
    }

    fn finish(&mut self, id: u64, result: Result<(), PullError>) {
        let Some(job) = self.jobs.remove(&id) else { return };
        if let Some(link) = self.links.get_mut(&job.link) {
            link.forget(id);
        }
        // Whoever hears of it may close or reuse the destination: ours is closed first.
        let ticket = job.pull.ticket;
        drop(job);
        self.done.push(ticket, result);
    }

    pub(super) fn connected(&mut self, now: u64, poll: &Poll, token: u64, result: Result<OwnedFd, ConnectError>) {
        let Some(link) = self.links.get_mut(&token) else { return };
        let opened = result.and_then(|stream| {
            let failed = |error: Errno| ConnectError::Unreachable(error.to_string());
            prepare(&stream).and_then(|()| poll.add(stream.as_fd(), token)).map_err(failed)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                link.state = State::Open(stream);
                self.ask(token);
            }
            Err(ConnectError::Rejected(why)) => self.give_up(poll, token, &why),
            Err(ConnectError::Refused(why) | ConnectError::Unreachable(why)) => link.broke(now, why, &mut self.jobs),
        }
    }

    /// Bytes for a link, or its end.
    pub(super) fn read(&mut self, now: u64, poll: &Poll, token: u64) {
        for _ in 0..TURN_READS {
            match self.read_once(now, token) {
                Ok(true) => self.ask(token),
                Ok(false) => return,
                Err(why) => return self.broke(now, poll, token, why),
            }
        }
    }

    /// False: there is no more for now.
    fn read_once(&mut self, now: u64, token: u64) -> Result<bool, String> {
        let Some(link) = self.links.get_mut(&token) else { return Ok(false) };
        let State::Open(stream) = &link.state else { return Ok(false) };
        let spliced = !link.small && self.sink.has_pipe();
        let target = link.next().and_then(|(id, at, left)| Some((id, self.jobs.get_mut(&id)?, at, left)));
        let (moved, job) = match target {
            Some((id, job, at, left)) if spliced => (self.sink.splice(stream, &job.pull.into, at, left), Some((id, job))),
            // The status alone, so that the bytes are left for the pipe.
            None if spliced && link.next().is_none() => (self.sink.receive(stream, 1), None),
            _ => (self.sink.receive(stream, usize::MAX), None),
        };
        match (moved, job) {
            (Moved::Bytes(n), None) => self.received(now, token, n)?,
            (Moved::Bytes(n), Some((id, job))) => {
                job.left -= n as u64;
                let ended = job.left == 0;
                link.skip(n as u64);
                link.moved(now);
                if ended {
                    self.finish(id, Ok(()));
                }
            }
            (Moved::Unwritable(n, error), job) => {
                link.skip(n as u64);
                if let Some((id, _)) = job {
                    self.finish(id, Err(PullError::Destination(error.to_string())));
                }
            }
            (Moved::Empty, _) => return Ok(false),
            (Moved::Lost(why), _) => return Err(why),
        }
        Ok(true)
    }

    fn received(&mut self, now: u64, token: u64, n: usize) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&token) else { return Ok(()) };
        let jobs = &mut self.jobs;
        let mut ended = Vec::new();
        let parsed = link.parse(&self.sink.buffer[..n], |piece| match piece {
            Piece::Bytes(id, at, bytes) => {
                let Some(job) = jobs.get_mut(&id) else { return };
                match write_cold(job.pull.into.as_fd(), at, bytes) {
                    Ok(()) => job.left -= bytes.len() as u64,
                    Err(error) => ended.push((id, Err(PullError::Destination(error.to_string())))),
                }
                if job.left == 0 {
                    ended.push((id, Ok(())));
                }
            }
            Piece::Gone(id) => {
                let Some(job) = jobs.get(&id) else { return };
                let text = format!("{} has no range {:?}", job.pull.address, job.pull.source);
                ended.push((id, Err(PullError::Gone(text))));
            }
        });
        if parsed.is_ok() {
            link.moved(now);
        }
        ended.into_iter().for_each(|(id, result)| self.finish(id, result));
        parsed
    }

    fn ask(&mut self, token: u64) {
        if let Some(link) = self.links.get_mut(&token) {
            link.ask(&mut self.jobs);
        }
    }

    fn broke(&mut self, now: u64, poll: &Poll, token: u64, why: String) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if let State::Open(stream) = &link.state {
            poll.remove(stream.as_fd());
        }
        link.broke(now, why, &mut self.jobs);
    }

    /// A link with all that is pulled over it.
    fn give_up(&mut self, poll: &Poll, token: u64, why: &str) {
        let Some(link) = self.links.remove(&token) else { return };
        if let State::Open(stream) = &link.state {
            poll.remove(stream.as_fd());
        }
        let ended: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.link == token).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.finish(id, Err(PullError::Unreachable(format!("{}: {why}", link.address)))));
    }

    /// What time has brought. Returns when something is due next.
    pub(super) fn tick(&mut self, now: u64, poll: &Poll) -> Option<u64> {
        let tokens: Vec<u64> = self.links.keys().copied().collect();
        tokens.into_iter().filter_map(|token| self.tick_link(now, poll, token)).min()
    }

    fn tick_link(&mut self, now: u64, poll: &Poll, token: u64) -> Option<u64> {
        let link = self.links.get_mut(&token)?;
        if !link.is_busy() {
            let due = link.moved_at + IDLE_US;
            if matches!(link.state, State::Closed { .. }) || now >= due {
                self.give_up(poll, token, "it is not used");
                return None;
            }
            return Some(due);
        }
        let due = link.moved_at + self.stall_us;
        if now >= due {
            let why = format!("no byte came for {} s; {}", self.stall_us / 1_000_000, link.why);
            self.give_up(poll, token, &why);
            return None;
        }
        match link.state {
            State::Closed { until } if now < until => Some(due.min(until)),
            State::Closed { .. } => {
                link.state = State::Connecting;
                let address = link.address.clone();
                self.start_connecting(token, address);
                Some(due)
            }
            _ => Some(due),
        }
    }

    fn start_connecting(&self, token: u64, address: String) {
        let (connect, orders) = (self.connect.clone(), self.orders.clone());
        let run = move || {
            let result = connect(&address);
            orders.give(Order::Connected { link: token, result });
        };
        if let Err(error) = Builder::new().name("ray-connect".into()).spawn(run) {
            self.orders.give(Order::Connected { link: token, result: Err(ConnectError::Unreachable(error.to_string())) });
        }
    }
}
