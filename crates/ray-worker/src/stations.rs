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
    /// Wake so many of those that wait here at most. Returns whether there are any.
    pub(crate) fn ring(&self, most: u32) -> bool {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        self.bell.ring(most)
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

    pub(crate) fn ring_all(&self, most: u32) {
        self.default.ring(most);
        self.others.get().into_iter().flatten().for_each(|station| _ = station.ring(most));
    }
}

/// To be done once the engine's lock is released.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub group: usize,
    pub calls: u32,
}

impl Library {
    /// This process is an actor with so many concurrency groups, the default one included. Before its first call.
    pub fn set_groups(&self, count: usize) {
        let mut core = self.lock();
        core.exec.set_groups(count);
        core.arrived.resize(count.max(1), 0);
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
        for (group, arrived) in self.arrived.iter_mut().enumerate() {
            let calls = std::mem::take(arrived);
            if calls > 0 {
                rings.push(Ring { group, calls });
            }
        }
    }
}
