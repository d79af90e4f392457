//! Back-pressure: what the calls that have not ended keep in memory, and who waits until it is less (docs/design/005).
//!
//! It counts and decides; the shell waits. A call counts from its acceptance to its one end, with what it costs this process and, for an actor's,
//! the process that queues it.
//!
//! Invariants (checked by `check_invariants`)
//! 1. `calls`, `bytes` and `holding` are the sums over the table of calls.
//! 2. `crowded` is set when `bytes` rises above the budget and cleared when it has fallen to seven eighths of it: a submitter that waits refills an eighth
//!    at a time, instead of being woken for each call.

use super::tasks::{CallKind, Task};
use super::{Command, Owner, WaitId};
use crate::Time;
use ray_proto::{Blob, Value};
use std::collections::BTreeMap;

/// What a call without arguments keeps: its entry, its return's, its places in queues, the reference in Python. Measured: queued_task_bytes in `make bench`.
const CALL_BYTES: u64 = 450;
const REF_BYTES: u64 = 16;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    calls: u64,
    bytes: u64,
    /// Calls that hold objects: they keep room in the store.
    holding: u64,
    /// Calls that have ended since the start.
    ended: u64,
    crowded: bool,
    waits: Vec<(WaitId, Want)>,
}

/// What a submitter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The queued calls keep less than the budget again.
    Room,
    /// One more call has ended than these.
    End { seen: u64 },
}

/// The calls of this process that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub calls: u64,
    pub bytes: u64,
    pub holding: u64,
    pub ended: u64,
    /// Workers that run tasks of ours and don't block in them. Whether an actor does anything is not known here.
    pub running: usize,
}

/// How long to wait while nothing moves.
#[derive(Debug)]
pub struct Patience {
    limit: Time,
    since: Time,
    first: Standing,
    last: Standing,
}

impl Patience {
    pub fn new(now: Time, standing: Standing, limit: Time) -> Self {
        Patience { limit, since: now, first: standing, last: standing }
    }

    /// Waiting for room among the calls makes no sense any more: none has ended for `limit`, and none runs. What they wait for may be this very thread.
    pub fn room_is_hopeless(&mut self, now: Time, standing: Standing) -> bool {
        if standing.running > 0 {
            self.since = now;
        }
        self.is_stuck(now, standing)
    }

    /// Waiting for room in the store makes no sense any more: no call holds anything, none has ended for `limit` (what runs may wait for this very thread),
    /// or as many have ended as there were, and it did not help.
    pub fn store_is_hopeless(&mut self, now: Time, standing: Standing) -> bool {
        standing.holding == 0 || standing.ended > self.first.ended + self.first.calls || self.is_stuck(now, standing)
    }

    fn is_stuck(&mut self, now: Time, standing: Standing) -> bool {
        if standing.ended != self.last.ended {
            self.since = now;
        }
        self.last = standing;
        now >= self.since + self.limit
    }
}

/// What a call keeps besides what its objects keep.
pub(super) fn cost(kind: CallKind, body: &Value, deps_bytes: u64, refs: usize) -> u32 {
    let args = inline_bytes(body) + deps_bytes;
    // Calls of an actor are sent at once, so a copy of what they carry waits there.
    let kept = match kind {
        CallKind::Method { .. } => inline_bytes(body) + args,
        _ => inline_bytes(body),
    };
    u32::try_from(CALL_BYTES + kept + REF_BYTES * refs as u64).unwrap_or(u32::MAX)
}

pub(super) fn inline_bytes(value: &Value) -> u64 {
    match value {
        Value::Inline(Blob::Shared(bytes)) => bytes.len() as u64,
        _ => 0,
    }
}

impl Owner {
    pub(super) fn count_accepted(&mut self, bytes: u32, holds: bool) {
        let backlog = &mut self.backlog;
        backlog.calls += 1;
        backlog.bytes += u64::from(bytes);
        backlog.holding += u64::from(holds);
        backlog.crowded |= backlog.bytes > self.limits.pending_bytes;
    }

    pub(super) fn count_ended(&mut self, task: &Task) {
        let backlog = &mut self.backlog;
        backlog.calls -= 1;
        backlog.bytes -= u64::from(task.bytes);
        backlog.holding -= u64::from(task.refs.is_some());
        backlog.ended += 1;
        if backlog.crowded && backlog.bytes <= self.limits.pending_bytes / 8 * 7 {
            backlog.crowded = false;
        }
        if !backlog.waits.is_empty() {
            let (crowded, out) = (backlog.crowded, &mut self.out);
            backlog.waits.retain(|(wait, want)| {
                let goes_on = *want == Want::Room && crowded;
                if !goes_on {
                    out.push(Command::Wake(*wait));
                }
                goes_on
            });
        }
    }

    /// The calls that have not ended keep more than the budget: submit no more.
    pub fn is_crowded(&self) -> bool {
        self.backlog.crowded
    }

    /// For a wait that begins now.
    pub fn patience(&self, now: Time) -> Patience {
        Patience::new(now, self.standing(), self.limits.pending_patience)
    }

    pub fn standing(&self) -> Standing {
        let Backlog { calls, bytes, holding, ended, .. } = self.backlog;
        Standing { calls, bytes, holding, ended, running: self.leases.values().filter(|lease| lease.runs()).count() }
    }

    /// Wait for `want`. None: it is so already. Otherwise `Command::Wake` follows once; end it with `wait_end` in any case.
    pub fn backlog_wait_start(&mut self, want: Want) -> Option<WaitId> {
        let waits = match want {
            Want::Room => self.backlog.crowded,
            Want::End { seen } => self.backlog.ended <= seen,
        };
        waits.then(|| {
            let wait = WaitId(self.next_token());
            self.backlog.waits.push((wait, want));
            wait
        })
    }

    pub(super) fn backlog_wait_end(&mut self, wait: WaitId) {
        self.backlog.waits.retain(|(other, _)| *other != wait);
    }

    /// The calls that have not ended, in words: how many, what they keep, of which functions.
    pub fn describe_backlog(&self) -> String {
        let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
        self.tasks.values().for_each(|task| *by_name.entry(&task.template.name).or_insert(0) += 1);
        let mut counts: Vec<(u64, &str)> = by_name.into_iter().map(|(name, count)| (count, name)).collect();
        counts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let names: Vec<String> = counts.iter().take(3).map(|(count, name)| format!("{count} of {name}")).collect();
        let Standing { calls, bytes, .. } = self.standing();
        let more = if counts.len() > 3 { ", ..." } else { "" };
        let (kept, budget) = (mib(bytes), mib(self.limits.pending_bytes));
        format!("{calls} calls of this process have not ended ({}{more}) and keep {kept} of memory; the limit is {budget}", names.join(", "))
    }

    pub(super) fn check_backlog(&self) {
        let backlog = &self.backlog;
        assert_eq!(backlog.calls, self.tasks.len() as u64, "calls that have not ended");
        assert_eq!(backlog.bytes, self.tasks.values().map(|task| u64::from(task.bytes)).sum::<u64>(), "bytes of calls that have not ended");
        assert_eq!(backlog.holding, self.tasks.values().filter(|task| task.refs.is_some()).count() as u64, "calls that hold objects");
        assert!(!backlog.crowded || backlog.bytes > self.limits.pending_bytes / 8 * 7, "crowded below the budget");
        assert!(backlog.crowded || backlog.bytes <= self.limits.pending_bytes, "above the budget and not crowded");
        assert!(backlog.crowded || backlog.waits.iter().all(|(_, want)| *want != Want::Room), "somebody waits for room that is there");
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::{CallArgs, Limits, Template};
    use super::*;
    use ray_proto::msg::{FromNode, Outcome, Peer, Reply};
    use ray_proto::{LeaseId, ObjectId, Payload, ProcId, Resources, Strategy, UNIT};
    use std::sync::Arc;

    const ME: ProcId = ProcId(1);
    const WORKER: ProcId = ProcId(2);
    const BODY: usize = 10_000;

    /// An owner whose budget is eight calls with `BODY` bytes each, and a call site.
    fn owner() -> (Owner, Arc<Template>) {
        let each = BODY as u64 + CALL_BYTES;
        let shape = Resources::from_f64([("CPU", 1.0)]);
        let mut owner = Owner::new(ME, shape.clone(), Limits { pending_bytes: 8 * each, ..Limits::default() });
        let class = owner.class_for(&shape, "", &Strategy::DEFAULT);
        let kind = CallKind::Task { class };
        let template = owner.template(Template {
            id: Default::default(),
            kind,
            name: "work".into(),
            payload: Blob::EMPTY,
            num_returns: 1,
            max_retries: 0,
            retry_raised: false,
            max_calls: 0,
            stream: None,
        });
        assert_eq!(shape.get("CPU"), UNIT);
        (owner, template)
    }

    fn submit(owner: &mut Owner, template: &Arc<Template>) -> u64 {
        let args = CallArgs { body: Value::inline(vec![0u8; BODY]), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        let call = owner.submit(0, template, args).expect("accepted");
        owner.check_invariants();
        call
    }

    fn grant(owner: &mut Owner) {
        owner.on_node(0, FromNode::LeaseGrant { class: Default::default(), lease: LeaseId(1), worker: WORKER, pid: 7, gpu_ids: vec![] });
    }

    fn reply(owner: &mut Owner, task: u64) {
        let results = vec![Payload { value: Value::inline(b"\0N"), refs: vec![] }];
        let reply = Box::new(Reply { task, outcome: Outcome::Returned {}, results, retained: vec![], leaving: false });
        owner.on_peer(1, WORKER, Peer::Reply { reply });
        owner.check_invariants();
    }

    fn wakes(owner: &mut Owner) -> Vec<WaitId> {
        let mut commands = Vec::new();
        owner.take_commands(&mut commands);
        commands.into_iter().filter_map(|command| if let Command::Wake(wait) = command { Some(wait) } else { None }).collect()
    }

    #[test]
    fn a_submitter_above_the_budget_waits_until_an_eighth_is_free() {
        let (mut owner, template) = owner();
        let calls: Vec<u64> = (0..8).map(|_| submit(&mut owner, &template)).collect();
        assert!(!owner.is_crowded());
        assert_eq!(owner.backlog_wait_start(Want::Room), None, "there is room");
        let last = submit(&mut owner, &template);
        assert!(owner.is_crowded());
        let wait = owner.backlog_wait_start(Want::Room).expect("no room");
        grant(&mut owner);
        reply(&mut owner, calls[0]);
        assert_eq!((owner.is_crowded(), wakes(&mut owner)), (true, vec![]), "at the budget is not below it");
        reply(&mut owner, calls[1]);
        assert_eq!((owner.is_crowded(), wakes(&mut owner)), (false, vec![wait]));
        calls[2..].iter().chain([&last]).for_each(|call| reply(&mut owner, *call));
        assert_eq!(owner.standing(), Standing { ended: 9, ..Standing::default() });
    }

    #[test]
    fn waiting_for_any_end_is_over_with_the_next_one_and_can_be_given_up() {
        let (mut owner, template) = owner();
        let calls = [submit(&mut owner, &template), submit(&mut owner, &template)];
        grant(&mut owner);
        let given_up = owner.backlog_wait_start(Want::End { seen: 0 }).unwrap();
        owner.wait_end(given_up, &[]);
        let wait = owner.backlog_wait_start(Want::End { seen: 0 }).unwrap();
        wakes(&mut owner);
        reply(&mut owner, calls[0]);
        assert_eq!(wakes(&mut owner), [wait]);
        assert_eq!(owner.backlog_wait_start(Want::End { seen: 0 }), None, "one has ended since");
    }

    #[test]
    fn the_description_names_functions_counts_and_bytes() {
        let (mut owner, template) = owner();
        for _ in 0..9 {
            submit(&mut owner, &template);
        }
        let text = owner.describe_backlog();
        assert!(text.contains("9 calls") && text.contains("9 of work") && text.contains("0.1 MiB"), "{text}");
    }

    #[test]
    fn patience_for_room_lasts_while_calls_run_or_end() {
        let at = |ended, running| Standing { calls: 5, ended, running, ..Standing::default() };
        let mut patience = Patience::new(0, at(0, 1), 10);
        assert!(!patience.room_is_hopeless(100, at(0, 1)), "a task runs");
        assert!(!patience.room_is_hopeless(109, at(0, 0)));
        assert!(!patience.room_is_hopeless(112, at(1, 0)), "one has ended");
        assert!(patience.room_is_hopeless(122, at(1, 0)));
    }

    #[test]
    fn patience_for_the_store_ends_when_nothing_is_held_or_all_of_the_first_have_ended() {
        let at = |ended, holding| Standing { calls: 5, ended, holding, running: 1, ..Standing::default() };
        assert!(Patience::new(0, at(0, 0), 10).store_is_hopeless(0, at(0, 0)), "no call holds anything");
        let mut patience = Patience::new(0, at(0, 5), 10);
        assert!(!patience.store_is_hopeless(9, at(0, 5)));
        assert!(!patience.store_is_hopeless(18, at(5, 5)), "calls end");
        assert!(patience.store_is_hopeless(19, at(6, 5)), "more ended than there were, and there is still no room");
        assert!(Patience::new(0, at(0, 5), 10).store_is_hopeless(10, at(0, 5)), "none ends, although one runs");
    }
}
