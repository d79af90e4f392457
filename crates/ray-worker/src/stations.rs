//! Where executors wait for calls: one place for each concurrency group, so that a call wakes an executor that may run it.
//!
//! Invariants
//! 1. A call that arrives rings the bell of its group, and no other.
//! 2. The reader may be an executor of any group. It goes on reading while only calls of other groups come.

use crate::gate::Bell;
use crate::library::{Core, Library};
use ray_proto::{ProcId, TemplateId};
use ray_shm::poll::Waker;
use std::sync::OnceLock;

#[derive(Default)]
pub(crate) struct Station {
    pub bell: Bell,
    /// Rung besides `bell` for an asyncio loop that polls a descriptor.
    pub waker: OnceLock<Waker>,
}

impl Station {
    /// `sleepers`: how many of those that wait here are woken at most.
    pub(crate) fn ring(&self, sleepers: u32) {
        self.bell.ring(sleepers);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// One station per group. The default group's is there from the start, the others once the process has become an actor that has them.
#[derive(Default)]
pub(crate) struct Stations {
    default: Station,
    others: OnceLock<Box<[Station]>>,
}

impl Stations {
    pub(crate) fn of(&self, group: usize) -> &Station {
        match (group, self.others.get()) {
            (1.., Some(others)) => &others[group - 1],
            _ => &self.default,
        }
    }

    pub(crate) fn ring_all(&self, sleepers: u32) {
        self.default.ring(sleepers);
        self.others.get().into_iter().flatten().for_each(|station| station.ring(sleepers));
    }
}

/// What the engine keeps for a station.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Desk {
    /// Executors that sleep there.
    pub sleepers: u32,
    /// Calls that came since the bell rang.
    pub arrived: u32,
}

/// To be done once the engine's lock is released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub group: usize,
    pub calls: u32,
    pub sleepers: u32,
}

impl Library {
    /// This process is an actor with so many concurrency groups, the default one included. Before its first call.
    pub fn set_groups(&self, count: usize) {
        let mut core = self.lock();
        core.exec.set_groups(count);
        core.desks.resize_with(count.max(1), Desk::default);
        let others = (1..count).map(|_| Station::default()).collect();
        assert!(self.stations.others.set(others).is_ok(), "a process becomes an actor once");
    }
}

impl Core {
    /// The group of a call that came in. One that the actor does not have is the default one: only a broken peer names it.
    pub(crate) fn group_of(&self, from: ProcId, template: TemplateId) -> usize {
        if self.exec.groups() == 1 {
            return 0;
        }
        let group = self.templates.get(&(from, template)).map_or(0, |template| template.group as usize);
        if group < self.exec.groups() {
            group
        } else {
            0
        }
    }

    pub(crate) fn take_rings(&mut self, rings: &mut Vec<Ring>) {
        for (group, desk) in self.desks.iter_mut().enumerate() {
            let calls = std::mem::take(&mut desk.arrived);
            if calls > 0 {
                rings.push(Ring { group, calls, sleepers: desk.sleepers });
            }
        }
    }
}
