//! What workers print: read from their pipes, passed on to their job's driver, and held back while it does not show it.

use super::Daemon;
use crate::conn::Token;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::{FromNode, WorkerLine};
use ray_proto::{NodeIndex, ProcId};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

/// Bytes of log lines that a driver has not shown, above which pipes of its workers are not read: they block, nothing is lost.
const LOG_BACKLOG: u64 = 4 << 20;

/// What is on its way to a driver.
#[derive(Default)]
struct Backlog {
    /// Bytes from workers of this node that it has not shown.
    unshown: u64,
    /// Of a driver of this node: where what it will show next comes from, and how much.
    sources: VecDeque<(NodeIndex, u64)>,
}

#[derive(Default)]
pub(super) struct Output {
    drivers: BTreeMap<ProcId, Backlog>,
}

impl Output {
    fn is_full(&self, driver: ProcId) -> bool {
        self.drivers.get(&driver).is_some_and(|backlog| backlog.unshown > LOG_BACKLOG)
    }

    fn has_room(&self, driver: ProcId) -> bool {
        self.drivers.get(&driver).is_none_or(|backlog| backlog.unshown <= LOG_BACKLOG / 2)
    }

    /// Lines of workers of this node were shown.
    pub(super) fn shown(&mut self, driver: ProcId, bytes: u64) {
        if let Some(backlog) = self.drivers.get_mut(&driver) {
            backlog.unshown = backlog.unshown.saturating_sub(bytes);
        }
    }

    pub(super) fn forget(&mut self, driver: ProcId) {
        self.drivers.remove(&driver);
    }
}

fn weight(lines: &[WorkerLine]) -> u64 {
    lines.iter().map(|line| WorkerLine::weight(&line.text)).sum()
}

impl Daemon {
    /// Who shows what workers of a job print. None: nobody.
    fn reader_of(&self, worker: ProcId) -> Option<ProcId> {
        let info = self.node.job(worker.job()).filter(|info| info.ended_ms == 0 && info.spec.log_to_driver)?;
        Some(info.driver)
    }

    pub(super) fn read_pipe(&mut self, id: ProcId, token: Token) {
        let is_full = self.reader_of(id).is_some_and(|driver| self.output.is_full(driver));
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let is_stderr = token == Token::Err(id);
        let slot = if is_stderr { &mut conn.err } else { &mut conn.out };
        let Some(pipe) = slot else { return };
        if is_full {
            self.poll.remove(pipe.fd.as_fd());
            return self.paused.push(token);
        }
        let (lines, more) = pipe.read(conn.pid, is_stderr);
        if more.is_none() {
            self.poll.remove(pipe.fd.as_fd());
            *slot = None;
        }
        conn.remember(&lines);
        self.forward(id, lines);
    }

    /// Pass on what a worker of this node printed.
    fn forward(&mut self, worker: ProcId, lines: Vec<WorkerLine>) {
        let Some(driver) = self.reader_of(worker).filter(|_| !lines.is_empty()) else { return };
        let (bytes, here) = (weight(&lines), self.node.index());
        let is_here = driver.node() == here;
        if is_here && !self.conns.contains_key(&driver) {
            return;
        }
        let backlog = self.output.drivers.entry(driver).or_default();
        backlog.unshown += bytes;
        let message = FromNode::Lines { lines };
        match is_here {
            true => {
                backlog.sources.push_back((here, bytes));
                self.send(driver, &message);
            }
            false => self.say_to(driver.node(), &NodeMessage::Deliver { to: driver, message: Box::new(message) }),
        }
    }

    /// What workers of another node printed, for a driver of this one.
    pub(super) fn show_from(&mut self, driver: ProcId, from: NodeIndex, message: FromNode) {
        let FromNode::Lines { lines } = &message else { return };
        let bytes = weight(lines);
        if !self.conns.contains_key(&driver) {
            return self.say_to(from, &NodeMessage::LinesShown { driver, bytes });
        }
        self.output.drivers.entry(driver).or_default().sources.push_back((from, bytes));
        self.send(driver, &message);
    }

    /// A driver of this node has shown so much: those who printed it may go on.
    pub(super) fn lines_shown(&mut self, driver: ProcId, bytes: u64) {
        let (mut left, mut shown) = (bytes, BTreeMap::new());
        let Some(backlog) = self.output.drivers.get_mut(&driver) else { return };
        while let Some((source, waiting)) = backlog.sources.front_mut().filter(|_| left > 0) {
            let taken = left.min(*waiting);
            *shown.entry(*source).or_insert(0) += taken;
            *waiting -= taken;
            left -= taken;
            if *waiting == 0 {
                backlog.sources.pop_front();
            }
        }
        for (source, bytes) in shown {
            match source == self.node.index() {
                true => self.output.shown(driver, bytes),
                false => self.say_to(source, &NodeMessage::LinesShown { driver, bytes }),
            }
        }
    }

    pub(super) fn resume_pipes(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let (ready, paused): (Vec<Token>, Vec<Token>) = std::mem::take(&mut self.paused).into_iter().partition(|token| match token {
            Token::Out(id) | Token::Err(id) => self.reader_of(*id).is_none_or(|driver| self.output.has_room(driver)),
            _ => true,
        });
        self.paused = paused;
        for token in ready {
            let (Token::Out(id) | Token::Err(id)) = token else { continue };
            let Some(conn) = self.conns.get(&id) else { continue };
            let pipe = if token == Token::Err(id) { &conn.err } else { &conn.out };
            if let Some(pipe) = pipe {
                // A descriptor that can't be watched again is read at its worker's end.
                let _ = self.poll.add(pipe.fd.as_fd(), token.pack());
            }
        }
    }

    /// The last words of a worker that has ended.
    pub(super) fn drain_pipes(&mut self, id: ProcId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut all = Vec::new();
        for is_stderr in [false, true] {
            let slot = if is_stderr { &mut conn.err } else { &mut conn.out };
            while let Some(pipe) = slot {
                let (lines, more) = pipe.read(conn.pid, is_stderr);
                all.extend(lines);
                match more {
                    // Empty yet open: somebody else holds the other end. Its bytes are not the worker's.
                    Some(0) => {
                        all.extend(pipe.rest(conn.pid, is_stderr));
                        break;
                    }
                    Some(_) => {}
                    None => *slot = None,
                }
            }
        }
        conn.remember(&all);
        self.forward(id, all);
    }
}
