//! Workers whose memory grows from call to call (a leak in a C extension, caches without bound) are replaced between two calls.
//!
//! The least that a worker was seen to use after its first call is its baseline: imports and what every call needs. A worker above it by more than
//! the rule allows is taken off its lease (what has started is done first), gives its freed pages back to the system, is looked at again, and ends
//! if it is still that large and nobody needs what it owns. Actors keep state on purpose: they are left alone.

use super::procs::Role;
use super::{Node, NodeCommand};
use crate::Time;
use ray_proto::msg::FromNode;
use ray_proto::ProcId;

/// A worker whose objects are needed is asked again after this.
const AGAIN: Time = 10_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    /// Nothing to find out before its next call.
    #[default]
    Settled,
    /// It has run calls and is idle: to be looked at.
    Due,
    /// Its lease was asked back.
    Reclaiming,
    /// It is off its lease and looked at before it gets another.
    Deciding,
    /// It was asked whether it may go, and frees what it can.
    Trimming,
    /// It has; the last look decides.
    Trimmed,
    Refused {
        until: Time,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    baseline: Option<u64>,
    stage: Stage,
}

impl Node {
    /// A worker got calls to run, or has run them.
    fn watch_growth(&mut self, at: Time) {
        if self.config.memory.growth_bytes.is_some() {
            self.growth_look = Some(self.growth_look.map_or(at, |look| look.min(at)));
        }
    }

    pub(super) fn worker_leased(&mut self, now: Time, worker: ProcId) {
        if let Some(proc) = self.procs.get_mut(&worker) {
            proc.growth.stage = Stage::Settled;
        }
        self.watch_growth(now + self.config.memory.growth_look);
    }

    /// Its lease is over. One that grew is looked at before anybody gets it.
    pub(super) fn worker_unleased(&mut self, now: Time, worker: ProcId) {
        let Some(proc) = self.procs.get_mut(&worker) else { return };
        match (proc.growth.stage, proc.role) {
            (Stage::Reclaiming, Role::Idle { since, .. }) => {
                proc.growth.stage = Stage::Deciding;
                proc.role = Role::Idle { since, asked: true };
                self.out.push(NodeCommand::Measure { proc_id: worker });
            }
            _ => {
                proc.growth.stage = Stage::Due;
                self.watch_growth(now + self.config.memory.growth_look);
            }
        }
    }

    pub(super) fn growth_tick(&mut self, now: Time) -> Option<Time> {
        let look_again = self.config.memory.growth_look;
        if self.growth_look.is_some_and(|at| now >= at) {
            self.growth_look = None;
            for (id, proc) in &self.procs {
                let (look, again) = match (proc.role, proc.growth.stage) {
                    (Role::Leased(_), stage) => (stage != Stage::Reclaiming, Some(now + look_again)),
                    (Role::Idle { asked: false, .. }, Stage::Due) => (true, None),
                    (Role::Idle { asked: false, .. }, Stage::Refused { until }) => (now >= until, Some(until.max(now + look_again))),
                    _ => (false, None),
                };
                if look {
                    self.out.push(NodeCommand::Measure { proc_id: *id });
                }
                self.growth_look = [self.growth_look, again].into_iter().flatten().min();
            }
        }
        self.growth_look
    }

    /// The answer to `Measure`: private memory now, None if it can't be told.
    pub fn footprint_measured(&mut self, now: Time, id: ProcId, bytes: Option<u64>) {
        let (Some(allowed), Some(proc)) = (self.config.memory.growth_bytes, self.procs.get_mut(&id)) else { return };
        let baseline = match (proc.growth.baseline, bytes) {
            (Some(least), Some(bytes)) => least.min(bytes),
            (known, bytes) => known.or(bytes).unwrap_or(0),
        };
        proc.growth.baseline = bytes.map(|_| baseline).or(proc.growth.baseline);
        let grown = bytes.unwrap_or(0).saturating_sub(baseline);
        match (proc.role, proc.growth.stage, grown > allowed) {
            (Role::Leased(lease), _, true) => {
                proc.growth.stage = Stage::Reclaiming;
                let owner = self.leases[&lease].owner;
                self.send(owner, FromNode::LeaseReclaim { lease });
            }
            (Role::Idle { since, asked: false }, _, true) | (Role::Idle { since, asked: true }, Stage::Deciding, true) => {
                proc.growth.stage = Stage::Trimming;
                proc.role = Role::Idle { since, asked: true };
                self.send(id, FromNode::MayYouExit {});
            }
            (Role::Idle { asked: true, .. }, Stage::Trimmed, true) => {
                proc.role = Role::Leaving;
                self.send(id, FromNode::Exit { reason: format!("its memory had grown by {} MiB over its calls", grown >> 20) });
            }
            (Role::Idle { since, asked: true }, Stage::Deciding | Stage::Trimmed, false) => {
                proc.growth.stage = Stage::Settled;
                proc.role = Role::Idle { since, asked: false };
                self.schedule(now);
            }
            (Role::Idle { asked: false, .. }, _, false) => proc.growth.stage = Stage::Settled,
            _ => {}
        }
    }

    /// Its answer to whether it may go, if it was asked because it grew. True: it is dealt with.
    pub(super) fn growth_answered(&mut self, now: Time, id: ProcId, may_exit: bool) -> bool {
        let Some(proc) = self.procs.get_mut(&id).filter(|proc| proc.growth.stage == Stage::Trimming) else { return false };
        match may_exit {
            true => {
                proc.growth.stage = Stage::Trimmed;
                self.out.push(NodeCommand::Measure { proc_id: id });
                true
            }
            false => {
                proc.growth.stage = Stage::Refused { until: now + AGAIN };
                self.watch_growth(now + AGAIN);
                false
            }
        }
    }
}
