//! Values that went with their node: made again where that is possible, asked for again where they are borrowed, or replaced by an error (docs/design/011).
//!
//! A loss is handled in one event, in this order: the lost values are forgotten and what counted on them waits again; then calls are repeated, the arguments
//! that only lineage remembers first of all pending; then what can't be made again becomes an error; last, what the lost values mentioned is let go, since
//! repeated calls may hold it by then.
//!
//! Invariants (checked by `check_arguments`)
//! 1. `unresolved` of a call is the number of times it stands among the dependents of objects.
//! 2. A call in the queue of a class, and one that is about to be sent, has all its arguments.

use super::{Record, Unrepeatable};
use crate::owner::objects::State;
use crate::owner::tasks::{CallKind, Place, Task};
use crate::owner::Owner;
use crate::Time;
use ray_proto::value::system_error;
use ray_proto::{hex, NodeIndex, ObjectId, Payload, ShmRange, Value};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const REPEAT_HINT: &str = "only results of tasks and methods with retries left are made again, together with arguments of that kind; write what must \
                           outlive its node to a disk or a database, or raise max_retries";

/// A call that must be made again, and what speaks against it.
#[derive(Debug, Default)]
struct Repeat {
    /// Objects of ours without a value that it takes.
    needs: Vec<ObjectId>,
    problem: Option<Problem>,
}

/// Why a call can't be made again: an argument, or something else.
#[derive(Clone, Debug)]
struct Problem {
    argument: Option<ObjectId>,
    why: Arc<str>,
}

impl Problem {
    fn of_argument(id: ObjectId, why: &str) -> Self {
        Problem { argument: Some(id), why: why.into() }
    }

    fn text(&self) -> String {
        match self.argument {
            Some(id) => format!("an argument of the calls that made it, {}, is gone, too: {}", hex(&id.bytes()), self.why),
            None => self.why.to_string(),
        }
    }
}

impl Owner {
    pub fn node_died(&mut self, now: Time, node: NodeIndex, text: &str) {
        if node == self.me.node() || !self.nodes.died(node) {
            return;
        }
        self.actors_went_with(node);
        let is_there = |state: &State| matches!(state, State::Ready(Value::Shm(range)) if range.extent.node() == node);
        let mut lost: Vec<ObjectId> = self.objects.iter().filter(|(_, object)| is_there(&object.state)).map(|(id, _)| *id).collect();
        lost.sort_unstable();
        self.lose(now, &lost, &format!("its bytes went with node {}: {text}", node.0));
        self.leave_neighbourhood(now, node);
    }

    /// A reader found that the bytes of `id` are gone from `range`. Afterwards it waits for the object like for any other.
    pub fn value_lost(&mut self, now: Time, id: ObjectId, range: ShmRange) {
        if self.value(id) == Some(&Value::shm(range)) {
            self.lose(now, &[id], &format!("node {} does not have its bytes any more", range.extent.node().0));
        }
        if self.objects.get(&id).is_some_and(|object| object.state == State::Pending) {
            self.fetch(id);
        }
    }

    /// These are ready, in places that are gone.
    fn lose(&mut self, now: Time, lost: &[ObjectId], how: &str) {
        let mut inner = Vec::new();
        for id in lost {
            self.large.remove(id);
            inner.append(&mut self.objects.get_mut(id).expect("a lost object").forget_value());
        }
        self.wait_for_lost(lost);
        self.refetch(lost);
        self.repeat_or_fail(now, lost.iter().copied().filter(|id| id.owner == self.me).collect(), how);
        inner.into_iter().for_each(|id| self.unhold(id));
    }

    /// Calls that are not sent and had counted these as resolved wait again.
    fn wait_for_lost(&mut self, lost: &[ObjectId]) {
        let set: FxHashSet<ObjectId> = lost.iter().copied().collect();
        let is_hit = |task: &Task| {
            let sent = match (task.place, task.template.kind) {
                (Place::Lease(_) | Place::ActorFlight(_), _) => true,
                // Its arguments are with the node.
                (_, CallKind::Create) => task.unresolved == 0,
                // It ends at this very moment, or looks at its arguments when its time comes.
                (Place::Waiting, _) => task.unresolved == 0,
                _ => false,
            };
            !sent && task.refs.iter().any(|refs| refs.deps.iter().any(|id| set.contains(id)))
        };
        let mut hit: Vec<u64> = self.tasks.iter().filter(|(_, task)| is_hit(task)).map(|(call, _)| *call).collect();
        hit.sort_unstable();
        let mut queues = BTreeSet::new();
        for &call in &hit {
            let task = self.tasks.get_mut(&call).expect("listed");
            let deps: Vec<ObjectId> = task.refs.iter().flat_map(|refs| &refs.deps).filter(|id| set.contains(id)).copied().collect();
            task.unresolved += deps.len() as u32;
            let (place, kind) = (task.place, task.template.kind);
            if let Place::Queued(class) = place {
                task.place = Place::Waiting;
                queues.insert(class);
            }
            deps.into_iter().for_each(|id| self.object(id).more().dependents.push(call));
            if let (Place::Actor, CallKind::Method { actor, .. }) = (place, kind) {
                self.argument_lost(actor, call);
            }
        }
        for class in queues {
            let tasks = &self.tasks;
            self.classes[class.0 as usize].queue.retain(|call| matches!(tasks[call].place, Place::Queued(_)));
            self.update_want(class);
        }
    }

    /// Borrowed values are asked for again where somebody waits for them; others when somebody does.
    fn refetch(&mut self, lost: &[ObjectId]) {
        for &id in lost {
            let awaited = self.many_waits_regress(id);
            if awaited || !self.objects[&id].dependents().is_empty() {
                self.fetch(id);
            }
        }
    }

    pub(in crate::owner) fn repeat_or_fail(&mut self, now: Time, lost: Vec<ObjectId>, how: &str) {
        let mut plan = self.plan(&lost);
        let mut errors = Vec::new();
        let mut wanted = BTreeSet::new();
        for id in lost {
            match self.problem_with(id, &plan) {
                Some(problem) => errors.push((id, loss(id, how, &problem.text()))),
                None if self.is_made_by_task(id) => self.want_again(id),
                None => _ = wanted.insert(id.call()),
            }
        }
        // Later calls first: what they need is wanted, too, and calls to one actor end up in their old order at the head of its queue.
        let mut calls = Vec::new();
        while let Some(call) = wanted.pop_last() {
            for id in plan.remove(&call).expect("planned").needs {
                let object = self.objects.get_mut(&id).expect("needed");
                object.state = State::Pending;
                match self.is_made_by_task(id) {
                    true => self.want_again(id),
                    false => _ = wanted.insert(id.call()),
                }
            }
            calls.push(call);
        }
        calls.into_iter().for_each(|call| self.repeat(now, call));
        errors.into_iter().for_each(|(id, value)| self.set_ready(id, Payload { value, refs: vec![] }));
    }

    /// Every call that would have to be made again for these (in order), and what speaks against it. Arguments were made by earlier calls than those that take them.
    fn plan(&self, lost: &[ObjectId]) -> FxHashMap<u64, Repeat> {
        let mut open: BTreeSet<u64> = lost.iter().filter(|id| !self.is_made_by_task(**id)).map(|id| id.call()).collect();
        let mut seen: BTreeMap<u64, Repeat> = BTreeMap::new();
        while let Some(call) = open.pop_last() {
            let Some(record) = self.lineage.record(call) else { continue };
            let repeat = self.look_at(record, lost);
            open.extend(repeat.needs.iter().filter(|id| !self.is_made_by_task(**id)).map(|id| id.call()));
            seen.insert(call, repeat);
        }
        let mut plan = FxHashMap::default();
        for (call, mut repeat) in seen {
            if repeat.problem.is_none() {
                let with = |id: &ObjectId| Some((*id, self.problem_with(*id, &plan)?));
                repeat.problem = repeat.needs.iter().find_map(with).map(|(id, problem)| Problem { argument: problem.argument.or(Some(id)), ..problem });
            }
            plan.insert(call, repeat);
        }
        plan
    }

    /// What a call on record takes that has no value, and what of it is gone for good.
    fn look_at(&self, record: &Record, lost: &[ObjectId]) -> Repeat {
        let mut repeat = Repeat::default();
        if let CallKind::Method { actor, .. } = record.template.kind {
            if !self.objects.contains_key(&actor) {
                repeat.problem = Some(Problem { argument: None, why: "the last handle of the actor whose method made it is gone".into() });
            }
        }
        let deps = record.refs.as_ref().map_or(0, |refs| refs.deps.len());
        for (at, id) in record.mentioned().enumerate() {
            match self.objects.get(&id).map(|object| &object.state) {
                Some(State::Freed) => repeat.needs.push(id),
                Some(State::Pending) if lost.binary_search(&id).is_ok() => repeat.needs.push(id),
                Some(State::Ready(value)) if at < deps && value.is_error() => repeat.problem = Some(Problem::of_argument(id, "it is an error now")),
                // One that another process owns is asked for again.
                None if id.owner == self.me => repeat.problem = Some(Problem::of_argument(id, why_freed(id))),
                _ => {}
            }
        }
        repeat
    }

    /// Why an object of ours without a value can't be made again, if so.
    fn problem_with(&self, id: ObjectId, plan: &FxHashMap<u64, Repeat>) -> Option<Problem> {
        if self.is_made_by_task(id) {
            return None;
        }
        if let Some(repeat) = plan.get(&id.call()) {
            return repeat.problem.clone();
        }
        let why = match self.objects.get(&id).and_then(|object| object.unrepeatable()) {
            _ if id.index() == 0 => "it is a put, and only its value was there",
            Some(Unrepeatable::NoRetries) => "the call that made it has max_retries=0 (of a method: max_task_retries=0)",
            Some(Unrepeatable::UsedUp) => "the call that made it has no retries left",
            Some(Unrepeatable::Budget) => "what it takes to repeat the call that made it was dropped, since lineage kept more than its budget",
            None => "the call that made it is not on record",
        };
        Some(Problem { argument: None, why: why.into() })
    }

    /// Make a call on record again. What it takes is ready, or pending by now.
    pub(in crate::owner) fn repeat(&mut self, now: Time, call: u64) {
        let accept = |owner: &mut Owner, record: &Record| {
            owner.count_accepted(record.task_bytes, record.refs.is_some());
            let held: Vec<ObjectId> = held_again(record).collect();
            for id in held {
                owner.hold(id);
                owner.register_borrow(id);
            }
        };
        let Some(record) = self.revive_call(call, accept) else { return };
        let retries_left = record.retries_left - i32::from(record.retries_left > 0);
        let Record { template, body, refs, attempt, items, task_bytes: bytes, .. } = record;
        let (kind, stream) = (template.kind, template.stream);
        let task = Task { template, body, refs, unresolved: 0, retries_left, attempt: attempt + 1, bytes, place: Place::Waiting, since: now };
        self.tasks.insert(call, task);
        if let Some(options) = stream {
            self.reopen_stream(call, options, items);
        }
        match kind {
            CallKind::Task { class } => self.run_again(now, class, call),
            CallKind::Method { actor, .. } => {
                self.requeue_actor_call(actor, call);
                self.pump_actor_call(actor, call);
            }
            CallKind::Create => {}
        }
    }

    pub(in crate::owner) fn check_arguments(&self) {
        let mut registered: FxHashMap<u64, u32> = FxHashMap::default();
        self.objects.values().flat_map(|object| object.dependents()).for_each(|call| *registered.entry(*call).or_insert(0) += 1);
        for (call, task) in &self.tasks {
            assert_eq!(registered.get(call).copied().unwrap_or(0), task.unresolved, "arguments that call {call} waits for ({:?})", task.place);
            let deps = task.refs.iter().flat_map(|refs| &refs.deps);
            match task.place {
                Place::Queued(_) => assert!(deps.clone().all(|id| self.is_ready(*id)), "call {call} is queued without its arguments"),
                Place::Lease(_) | Place::ActorFlight(_) => assert_eq!(task.unresolved, 0, "call {call} was sent and waits for arguments"),
                Place::Waiting | Place::Actor => {}
            }
        }
    }
}

/// Every object that the call will hold.
fn held_again(record: &Record) -> impl Iterator<Item = ObjectId> + '_ {
    let actor = match record.template.kind {
        CallKind::Method { actor, .. } => Some(actor),
        _ => None,
    };
    let body = record.refs.as_ref().map(|refs| refs.body_id).filter(|id| !id.is_nil());
    actor.into_iter().chain(body).chain(record.mentioned())
}

fn why_freed(id: ObjectId) -> &'static str {
    match id.index() {
        0 => "it was a put, and its last reference was dropped",
        _ => "its last reference was dropped, and the call that made it is not on record (max_retries=0, or lineage kept more than its budget)",
    }
}

pub(in crate::owner) fn loss(id: ObjectId, how: &str, why: &str) -> Value {
    let hex = hex(&id.bytes());
    let message = format!("object {hex} is lost: {how}. It can't be made again: {why}.\nhint: {REPEAT_HINT}.");
    system_error("object_lost", &[("object_id", &hex), ("message", &message)])
}
