//! How many workers calls get that ask for no CPU. Nothing bounds how many of them run at once, and each worker costs a process: a thousand no-ops should
//! share a few, and a thousand calls that sleep for a minute should all sleep at once.
//!
//! So a class begins with a few workers for each CPU, and as long as calls wait while every worker has been at one call for a while, it may have twice as many.

use super::leases::Class;
use super::Owner;
use crate::Time;
use ray_proto::{ClassId, Resources, UNIT};

/// Workers for each CPU, and for each node, to begin with.
const PER_CPU: u32 = 4;
const PER_NODE: u32 = 8;
/// A call that has run for so long is no short one.
const LONG: Time = 10_000;

pub(super) fn is_light(shape: &Resources) -> bool {
    shape.get("CPU") <= 0
}

impl Owner {
    /// What a light class begins with.
    pub(super) fn first_ceiling(&self) -> u32 {
        let cpus = u32::try_from(self.node_total.get("CPU") / UNIT).unwrap_or(0);
        cpus.saturating_mul(PER_CPU).max(self.nodes.count().saturating_mul(PER_NODE))
    }

    /// Let classes have more workers whose workers are all at long calls while others wait. Returns when to look again.
    pub(super) fn widen(&mut self, now: Time) -> Option<Time> {
        let mut next: Option<Time> = None;
        for class in 0..self.classes.len() {
            let record = &self.classes[class];
            if !record.is_light || record.queue.is_empty() || !record.is_full() {
                continue;
            }
            let youngest = self.youngest_head(record);
            let due = youngest + LONG;
            if now < due {
                next = Some(next.unwrap_or(u64::MAX).min(due));
                continue;
            }
            self.classes[class].widen();
            self.pump(now, ClassId(class as u32));
        }
        next
    }

    /// When the call at the head of a worker's line became that, of the worker for which it was last.
    fn youngest_head(&self, class: &Class) -> Time {
        class.leases.iter().map(|id| self.leases[id].head_since()).max().unwrap_or(0)
    }
}
