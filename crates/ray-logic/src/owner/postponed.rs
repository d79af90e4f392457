//! Calls whose worker was ended because others, too, used the memory: they are run again later, each time later, so that they don't meet again.

use super::tasks::{CallKind, Place};
use super::{Command, Owner};
use crate::Time;
use ray_proto::msg::MemoryKill;

const FIRST_WAIT: Time = 1_000_000;
const LONGEST_WAIT: Time = 60_000_000;

#[derive(Debug, Default)]
pub(super) struct Postponed {
    due: std::collections::BTreeSet<(Time, u64)>,
    /// How often calls that have not ended were postponed.
    times: std::collections::BTreeMap<u64, u32>,
}

impl Owner {
    /// Whether a call whose worker died is postponed at no cost. Compat: `max_retries=0` excludes that, too.
    pub(super) fn postpone(&mut self, now: Time, call: u64, kill: &MemoryKill, how: &str) -> bool {
        let MemoryKill::Crowded { free_retries } = *kill else { return false };
        let Some(task) = self.tasks.get_mut(&call) else { return false };
        let times = self.postponed.times.get(&call).copied().unwrap_or(0);
        if task.template.max_retries == 0 || (free_retries >= 0 && i64::from(times) >= i64::from(free_retries)) {
            return false;
        }
        let wait = (FIRST_WAIT << times.min(6)).min(LONGEST_WAIT);
        task.attempt += 1;
        task.place = Place::Waiting;
        let text = format!("task {} was ended for want of memory and runs again in {} s: {how}", task.template.name, wait / 1_000_000);
        self.postponed.times.insert(call, times + 1);
        self.postponed.due.insert((now + wait, call));
        self.out.push(Command::Notice(text));
        true
    }

    /// Returns when the next one is due.
    pub(super) fn resume_postponed(&mut self, now: Time) -> Option<Time> {
        while let Some((at, call)) = self.postponed.due.first().copied() {
            if now < at {
                return Some(at);
            }
            self.postponed.due.pop_first();
            if let Some(CallKind::Task { class }) = self.tasks.get(&call).map(|task| task.template.kind) {
                self.enqueue(now, class, call, true);
            }
        }
        None
    }

    pub(super) fn forget_postponed(&mut self, call: u64) {
        if !self.postponed.times.is_empty() {
            self.postponed.times.remove(&call);
        }
    }
}
