//! Local waiters: threads in get or wait, and futures. A wait is a record with a countdown, so progress costs O(completed).

use super::{Command, Owner};
use ray_proto::ObjectId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(pub u64);

#[derive(Debug)]
pub(super) struct Wait {
    missing: usize,
}

impl Owner {
    /// Wait until `need` of `ids` are ready. None: they already are. Otherwise `Command::Wake` follows once; end it with `wait_end` in any case.
    pub fn wait_start(&mut self, ids: &[ObjectId], need: usize) -> Option<WaitId> {
        let ready = ids.iter().filter(|id| self.is_ready(**id)).take(need).count();
        if ready >= need {
            return None;
        }
        let wait = WaitId(self.next_token());
        self.waits.insert(wait, Wait { missing: need - ready });
        for &id in ids {
            if !self.is_ready(id) {
                self.object(id).more().waits.push(wait);
                self.fetch(id);
            }
        }
        Some(wait)
    }

    /// Forget a wait: it was woken, timed out or interrupted.
    pub fn wait_end(&mut self, wait: WaitId, ids: &[ObjectId]) {
        self.waits.remove(&wait);
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                if !object.is_ready() {
                    object.more().waits.retain(|other| *other != wait);
                }
            }
        }
    }

    pub(super) fn wait_progress(&mut self, wait: WaitId) {
        let Some(record) = self.waits.get_mut(&wait) else { return };
        record.missing = record.missing.saturating_sub(1);
        if record.missing == 0 {
            self.waits.remove(&wait);
            self.out.push(Command::Wake(wait));
        }
    }
}
