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
        if task.template.max_retries == 0 || self.cancels.is_asked(call) || (free_retries >= 0 && i64::from(times) >= i64::from(free_retries)) {
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
            let task = self.tasks.get(&call).filter(|task| task.unresolved == 0);
            if let Some(CallKind::Task { class }) = task.map(|task| task.template.kind) {
                self.run_again(now, class, call);
            }
        }
        None
    }

    pub(super) fn forget_postponed(&mut self, call: u64) {
        if self.postponed.times.remove(&call).is_some() {
            self.postponed.due.retain(|(_, other)| *other != call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{CallArgs, Limits, State, Template};
    use ray_proto::msg::{Evidence, FromNode};
    use ray_proto::{Blob, LeaseId, NodeIndex, ObjectId, ProcId, Resources, Strategy, Value};

    const ME: u64 = 1;

    fn owner_with_a_call(max_retries: i32) -> (Owner, u64) {
        let one = Resources::from_f64([("CPU", 1.0)]);
        let mut owner = Owner::new(ProcId::new(1, NodeIndex::HEAD, ME as u32), one.clone(), Limits::default());
        let class = owner.class_for(&one, "", &Strategy::DEFAULT);
        let template = owner.template(Template {
            id: Default::default(),
            kind: CallKind::Task { class },
            name: "large".into(),
            payload: Blob::EMPTY,
            num_returns: 1,
            max_retries,
            retry_raised: false,
            max_calls: 0,
            stream: None,
        });
        let args = CallArgs { body: Value::Inline(Blob::EMPTY), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        let call = owner.submit(0, &template, args).expect("room");
        (owner, call)
    }

    /// It is given a worker, which then dies of `kill`.
    fn die(owner: &mut Owner, now: Time, life: u64, call: u64, kill: MemoryKill) {
        let worker = ProcId::new(1, NodeIndex::HEAD, 10 + life as u32);
        let class = ray_proto::ClassId(0);
        owner.on_node(now, FromNode::LeaseGrant { class, lease: LeaseId(life), worker, pid: 7, gpu_ids: vec![] });
        let evidence =
            Evidence { pid: 7, signal: 9, ended_by_us: "for memory".into(), memory_kill: kill, last_started: Some((owner.me(), call)), ..Evidence::default() };
        owner.on_node(now, FromNode::ProcDied { proc_id: worker, evidence });
        owner.check_invariants();
    }

    fn is_over(owner: &Owner, call: u64) -> bool {
        matches!(owner.objects[&ObjectId::new(owner.me(), call, 1)].state, State::Ready(_))
    }

    #[test]
    fn crowded_ends_cost_no_retry_and_wait_longer_each_time() {
        let (mut owner, call) = owner_with_a_call(1);
        let mut now = 0;
        for (life, wait) in [(1, 1_000_000), (2, 2_000_000), (3, 4_000_000)] {
            die(&mut owner, now, life, call, MemoryKill::Crowded { free_retries: -1 });
            assert_eq!(owner.tick(now), Some(now + wait));
            assert_eq!(owner.tasks[&call].place, Place::Waiting);
            now += wait;
            owner.tick(now);
            assert_eq!(owner.tasks[&call].place, Place::Queued(ray_proto::ClassId(0)));
        }
        assert_eq!((owner.tasks[&call].attempt, owner.tasks[&call].retries_left), (3, 1));
    }

    #[test]
    fn ends_alone_and_those_beyond_the_free_ones_are_attempts() {
        let (mut owner, call) = owner_with_a_call(1);
        die(&mut owner, 0, 1, call, MemoryKill::Crowded { free_retries: 1 });
        owner.tick(1_000_000);
        die(&mut owner, 1_000_000, 2, call, MemoryKill::Crowded { free_retries: 1 });
        assert_eq!((owner.tasks[&call].place, owner.tasks[&call].retries_left), (Place::Queued(ray_proto::ClassId(0)), 0));
        die(&mut owner, 1_000_000, 3, call, MemoryKill::Alone {});
        assert!(is_over(&owner, call));
        assert!(owner.postponed.times.is_empty());
    }

    #[test]
    fn a_call_that_may_not_be_retried_is_not() {
        let (mut owner, call) = owner_with_a_call(0);
        die(&mut owner, 0, 1, call, MemoryKill::Crowded { free_retries: -1 });
        assert!(is_over(&owner, call));
    }
}
