//! Local waiters: threads in get or wait, and futures. A wait is a record with a countdown, so progress costs O(completed).
//!
//! A wait for a few objects is noted at each of them; one for many keeps their ids instead, so that starting and ending it touches no object.
//! There are as many of the latter as threads that block, so asking each of them about every object that becomes ready is cheap.

pub(super) mod groups;

use super::{Command, Owner};
use crate::Time;
use ray_proto::{ObjectId, ProcId};
use rustc_hash::FxHashSet;

/// Up to so many objects a wait is noted at the objects.
const FEW: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(pub u64);

#[derive(Debug)]
pub(super) struct Wait {
    pub(super) missing: usize,
    /// The pending objects of a wait for many; empty for a wait for few.
    pub(super) many: FxHashSet<ObjectId>,
    pub(super) who: Waiting,
}

/// Who waits: for answers to "what does it wait for".
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    pub since: Time,
    /// A thread stands still; false for a future.
    pub blocks: bool,
    /// The call that the thread runs.
    pub call: Option<(ProcId, u64)>,
}

impl Owner {
    /// Wait until `need` of `ids` are ready. None: they already are. Otherwise `Command::Wake` follows once; end it with `wait_end` in any case.
    pub fn wait_start(&mut self, ids: &[ObjectId], need: usize, who: Waiting) -> Option<WaitId> {
        let mut pending = FxHashSet::default();
        let mut not_ready = 0;
        for &id in ids.iter().filter(|id| !self.is_ready(**id)) {
            not_ready += 1;
            pending.insert(id);
        }
        let ready = ids.len() - not_ready;
        if ready >= need {
            return None;
        }
        let wait = WaitId(self.next_token());
        // One id may stand in `ids` more than once: it is missing once.
        let repeats = not_ready - pending.len();
        let missing = (need - ready).saturating_sub(repeats).max(1);
        for &id in ids {
            self.fetch(id);
        }
        if pending.len() <= FEW {
            for &id in &pending {
                self.object(id).more().waits.push(wait);
            }
            self.waits.insert(wait, Wait { missing, many: FxHashSet::default(), who });
        } else {
            self.many_waits.push(wait);
            self.waits.insert(wait, Wait { missing, many: pending, who });
        }
        Some(wait)
    }

    /// Forget a wait: it was woken, timed out or interrupted.
    pub fn wait_end(&mut self, wait: WaitId, ids: &[ObjectId]) {
        self.waits.remove(&wait);
        self.backlog_wait_end(wait);
        if let Some(at) = self.many_waits.iter().position(|other| *other == wait) {
            self.many_waits.swap_remove(at);
            return;
        }
        if ids.len() > FEW + ids.iter().filter(|id| self.is_ready(**id)).count() {
            return;
        }
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                if !object.is_ready() {
                    object.forget_wait(wait);
                }
            }
        }
    }

    /// An object became ready: count it for those that wait for many.
    pub(super) fn many_waits_progress(&mut self, id: ObjectId) {
        if self.many_waits.is_empty() {
            return;
        }
        let holds_it = |wait: &&WaitId| self.waits.get(wait).is_some_and(|record| record.many.contains(&id));
        let hit: Vec<WaitId> = self.many_waits.iter().filter(holds_it).copied().collect();
        hit.into_iter().for_each(|wait| self.wait_progress(wait));
    }

    /// An object that was ready is pending again: those that wait for many count it again, and somebody waits for it if there are any. A wait for few
    /// does not know which of its objects were ready: it wakes its thread too early at worst, and that looks again.
    pub(super) fn many_waits_regress(&mut self, id: ObjectId) -> bool {
        let mut any = false;
        for wait in &self.many_waits {
            if let Some(record) = self.waits.get_mut(wait).filter(|record| record.many.contains(&id)) {
                record.missing += 1;
                any = true;
            }
        }
        any
    }

    pub(super) fn wait_progress(&mut self, wait: WaitId) {
        let Some(record) = self.waits.get_mut(&wait) else { return };
        record.missing = record.missing.saturating_sub(1);
        if record.missing == 0 {
            self.waits.remove(&wait);
            self.many_waits.retain(|other| *other != wait);
            self.out.push(Command::Wake(wait));
        }
    }
}
