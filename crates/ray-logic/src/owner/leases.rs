//! Leases: asking the node for workers and pushing calls to them.
//!
//! A class asks level-triggered ("with n granted so far, m more"), pushes to the least loaded lease, at most its fair share deep, so that
//! calls behind a long one stay few, and takes unstarted calls back when another worker is free (`rebalance`).

use super::ramp::is_light;
use super::tasks::{CallKind, Place};
use super::{Command, Owner};
use crate::evidence::describe;
use crate::Time;
use ray_proto::groups::Within;
use ray_proto::msg::{Evidence, MemoryKill, Outcome, Peer, Reply, ToNode};
use ray_proto::{ClassId, LeaseId, ProcId, Resources, Strategy};
use std::collections::VecDeque;

/// A call that replies within this counts as short.
const QUICK_US: Time = 2_000;

#[derive(Debug)]
pub(super) struct Class {
    pub(super) shape: Resources,
    pub(super) env: String,
    pub(super) strategy: Strategy,
    pub(super) queue: VecDeque<u64>,
    pub(super) leases: Vec<LeaseId>,
    in_flight: usize,
    granted: u64,
    wanted: u32,
    /// The node has said that it can never be; not asked again since.
    refused: bool,
    /// How many of these the nodes can run at once at best.
    pub(super) slots: u32,
    /// It asks for no CPU: how many workers it gets is decided here (ramp.rs).
    pub(super) is_light: bool,
    /// Of a light one: no more workers than this, but for those that block.
    ceiling: u32,
}

impl Class {
    pub(super) fn new(shape: Resources, env: String, strategy: Strategy, slots: u32, ceiling: u32) -> Self {
        let is_light = is_light(&shape);
        let (queue, leases) = (VecDeque::new(), Vec::new());
        Class { shape, env, strategy, queue, leases, in_flight: 0, granted: 0, wanted: 0, refused: false, slots, is_light, ceiling }
    }

    /// The most workers it may have now.
    fn most(&self) -> u32 {
        if self.is_light {
            self.slots.min(self.ceiling)
        } else {
            self.slots
        }
    }

    /// It has all the workers it may have, and could have more.
    pub(super) fn is_full(&self) -> bool {
        self.wanted == 0 && self.ceiling < self.slots
    }

    pub(super) fn reset_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling;
    }

    pub(super) fn widen(&mut self) {
        self.ceiling = self.ceiling.max(self.leases.len() as u32).saturating_mul(2);
    }
}

#[derive(Debug)]
pub(super) struct Lease {
    class: ClassId,
    worker: ProcId,
    pid: u32,
    gpu_ids: Vec<u32>,
    in_flight: VecDeque<u64>,
    /// So many at the front have started for sure: later ones were answered, and a worker starts calls in order.
    started: usize,
    /// How many calls may be in flight: doubles with every quick reply, halves with a slow one, so that little ever waits behind a long call.
    depth: usize,
    /// When the call at the head became the head.
    head_since: Time,
    idle_since: Time,
    /// The running call waits for something: push nothing behind it.
    blocked: bool,
    /// Unstarted calls were asked back; the answer is on its way.
    recalling: bool,
    /// The node wants it back.
    reclaimed: bool,
}

impl Lease {
    pub(super) fn worker(&self) -> ProcId {
        self.worker
    }

    pub(super) fn head_since(&self) -> Time {
        self.head_since
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.in_flight.iter().copied()
    }

    /// A call runs there, as far as we know.
    pub(super) fn runs(&self) -> bool {
        !self.in_flight.is_empty() && !self.blocked
    }
}

impl Owner {
    pub(super) fn enqueue(&mut self, now: Time, class: ClassId, call: u64, first: bool) {
        let class = self.class_near_arguments(class, call);
        let task = self.tasks.get_mut(&call).expect("an accepted call");
        task.place = Place::Queued(class);
        let queue = &mut self.classes[class.0 as usize].queue;
        if first {
            queue.push_front(call);
        } else {
            queue.push_back(call);
        }
        self.pump(now, class);
    }

    /// Like `enqueue`, from an event that carries no time: idle since now is what the lease had.
    pub(super) fn enqueue_resolved(&mut self, class: ClassId, call: u64) {
        let latest = self.leases.values().map(|lease| lease.idle_since.max(lease.head_since)).max().unwrap_or(0);
        self.enqueue(latest, class, call, false);
    }

    /// Calls of the class before this one in its queue, and the workers that run calls of the class.
    pub(super) fn place_in_class(&self, class: ClassId, call: u64) -> (u32, Vec<ProcId>) {
        let record = &self.classes[class.0 as usize];
        let ahead = record.queue.iter().position(|other| *other == call).unwrap_or(0) as u32;
        (ahead, record.leases.iter().map(|id| self.leases[id].worker).collect())
    }

    /// A call leaves the queue of its class.
    pub(super) fn leave_queue(&mut self, class: ClassId, call: u64) {
        let queue = &mut self.class(class).queue;
        // Mostly the first or the last.
        let at = if queue.back() == Some(&call) { Some(queue.len() - 1) } else { queue.iter().position(|other| *other == call) };
        at.and_then(|at| queue.remove(at));
        self.update_want(class);
    }

    fn class(&mut self, class: ClassId) -> &mut Class {
        &mut self.classes[class.0 as usize]
    }

    /// Push what can be pushed, ask for what is missing.
    pub(super) fn pump(&mut self, now: Time, class: ClassId) {
        while !self.class(class).queue.is_empty() {
            let Some(lease) = self.best_lease(class) else { break };
            let call = self.class(class).queue.pop_front().expect("not empty");
            self.push(now, lease, call);
        }
        self.update_want(class);
    }

    /// The least loaded lease that may take one more call.
    fn best_lease(&self, class: ClassId) -> Option<LeaseId> {
        let record = &self.classes[class.0 as usize];
        let load = |id: &LeaseId| self.leases[id].in_flight.len();
        let open = |id: &&LeaseId| {
            let lease = &self.leases[*id];
            !(lease.blocked || lease.recalling || lease.reclaimed) && lease.in_flight.len() < lease.depth
        };
        let best = record.leases.iter().filter(open).min_by_key(|id| load(id))?;
        let workers = record.leases.len().max(record.most() as usize).max(1);
        let share = (record.queue.len() + record.in_flight).div_ceil(workers).clamp(1, self.limits.pipeline_depth);
        (load(best) < share).then_some(*best)
    }

    fn push(&mut self, now: Time, lease_id: LeaseId, call: u64) {
        let lease = &self.leases[&lease_id];
        let (worker, urgent, gpu_ids) = (lease.worker, lease.in_flight.is_empty(), lease.gpu_ids.clone());
        self.send_template(worker, call);
        self.stream_sent(call, worker);
        self.arguments_travel(Some(worker), call);
        let message = self.call_message(call, None, gpu_ids);
        self.send(worker, Peer::Call { call: message }, urgent);
        let lease = self.leases.get_mut(&lease_id).expect("looked up above");
        if urgent {
            lease.head_since = now;
        }
        lease.in_flight.push_back(call);
        let class = lease.class;
        self.class(class).in_flight += 1;
        self.tasks.get_mut(&call).expect("a queued call").place = Place::Lease(lease_id);
    }

    pub(super) fn send_template(&mut self, to: ProcId, call: u64) {
        let template = self.tasks[&call].template.clone();
        if self.peer(to).templates.insert(template.id.0) {
            let held = match template.kind {
                CallKind::Task { class } => self.classes[class.0 as usize].shape.clone(),
                _ => Resources::default(),
            };
            let group = match template.kind {
                CallKind::Method { group, .. } => group,
                _ => 0,
            };
            let (name, payload) = (template.name.clone(), template.payload.clone());
            let within = match template.kind {
                CallKind::Task { class } => Within::of(&self.classes[class.0 as usize].strategy),
                _ => None,
            };
            let message = Peer::Template { template: template.id, name, payload, max_calls: template.max_calls, held, group, within };
            self.send(to, message, false);
        }
    }

    /// Tell the node how many more leases would be used; nothing is sent when the number stands.
    pub(super) fn update_want(&mut self, class: ClassId) {
        let record = &self.classes[class.0 as usize];
        let behind: usize = record.leases.iter().map(|id| &self.leases[id]).filter(|l| !l.blocked).map(|l| l.in_flight.len().saturating_sub(1)).sum();
        let idle = record.leases.iter().any(|id| self.leases[id].in_flight.is_empty() && !self.leases[id].reclaimed);
        let unblocked = record.leases.iter().filter(|id| !self.leases[id].blocked).count() as u32;
        let waiting = (record.queue.len() + behind) as u32;
        // One more than are known to fit is asked for: resources may have grown. Where none are needed, every wish would be granted.
        let extra = u32::from(!record.queue.is_empty() && !record.is_light);
        let room = record.most().saturating_sub(unblocked).max(extra);
        let want = if idle { 0 } else { waiting.min(room) };
        let anew = record.refused && !record.queue.is_empty();
        if want != record.wanted || anew {
            let granted = record.granted;
            let record = self.class(class);
            (record.wanted, record.refused) = (want, false);
            self.out.push(Command::Node(ToNode::LeaseWant { class, granted, want }));
        }
    }

    pub(super) fn lease_granted(&mut self, now: Time, class: ClassId, id: LeaseId, worker: ProcId, pid: u32, gpu_ids: Vec<u32>) {
        let dead = self.peer(worker).dead;
        let record = self.class(class);
        record.granted += 1;
        // Of a placement group with several nodes each is asked for what is missing: the first to give is enough.
        let is_surplus = record.wanted == 0 && record.queue.is_empty() && record.strategy.is_group();
        record.wanted = record.wanted.saturating_sub(1);
        if is_surplus {
            return self.out.push(Command::Node(ToNode::LeaseReturn { lease: id, leaving: false }));
        }
        if dead {
            return self.out.push(Command::Node(ToNode::LeaseReturn { lease: id, leaving: true }));
        }
        record.leases.push(id);
        let lease = Lease {
            class,
            worker,
            pid,
            gpu_ids,
            in_flight: VecDeque::new(),
            started: 0,
            depth: 1,
            head_since: now,
            idle_since: now,
            blocked: false,
            recalling: false,
            reclaimed: false,
        };
        self.leases.insert(id, lease);
        self.leased_workers.insert(worker, id);
        self.pump(now, class);
        self.rebalance(now, class);
    }

    pub(super) fn lease_reclaimed(&mut self, now: Time, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.reclaimed = true;
        let class = lease.class;
        if lease.in_flight.is_empty() {
            self.return_lease(id, false);
            return self.pump(now, class);
        }
        let tail = lease.in_flight.len() - 1;
        self.recall(id, tail);
        self.pump(now, class);
    }

    fn return_lease(&mut self, id: LeaseId, leaving: bool) {
        let Some(lease) = self.leases.remove(&id) else { return };
        let first = self.first_ceiling();
        let record = self.class(lease.class);
        record.leases.retain(|other| *other != id);
        if record.leases.is_empty() {
            record.ceiling = first;
        }
        self.leased_workers.remove(&lease.worker);
        self.out.push(Command::Node(ToNode::LeaseReturn { lease: id, leaving }));
    }

    /// A reply of a leased worker. Returns whether the call was in flight there.
    pub(super) fn lease_replied(&mut self, now: Time, from: ProcId, reply: &Reply) -> bool {
        let (call, leaving) = (reply.task, reply.leaving);
        let Some(id) = self.leased_workers.get(&from).copied() else { return false };
        let lease = self.leases.get_mut(&id).expect("indexed");
        let Some(at) = lease.in_flight.iter().position(|other| *other == call) else { return false };
        lease.in_flight.remove(at);
        if reply.outcome == (Outcome::Cancelled { started: false }) {
            // It was taken out of the worker's queue: that says nothing of the calls before it.
            lease.head_since = if at == 0 { now } else { lease.head_since };
        } else {
            lease.started = if at < lease.started { lease.started - 1 } else { at };
            lease.blocked = false;
            let quick = now < lease.head_since + QUICK_US;
            lease.depth = if quick { (2 * lease.depth).min(self.limits.pipeline_depth) } else { lease.depth.div_ceil(2) };
            lease.head_since = now;
        }
        lease.idle_since = now;
        let class = lease.class;
        self.class(class).in_flight -= 1;
        self.tasks.get_mut(&call).expect("in flight").place = Place::Waiting;
        if leaving {
            let back = self.take_in_flight(id);
            self.return_lease(id, true);
            self.put_back(now, class, &back);
        }
        true
    }

    /// After a reply: give the worker its next call, or look for one elsewhere.
    pub(super) fn pump_all_after_reply(&mut self, now: Time, from: ProcId) {
        let Some(id) = self.leased_workers.get(&from).copied() else { return };
        let class = self.leases[&id].class;
        self.pump(now, class);
        let lease = &self.leases[&id];
        if !lease.in_flight.is_empty() {
            return;
        }
        match lease.reclaimed {
            true => {
                self.return_lease(id, false);
                self.pump(now, class);
            }
            false => self.rebalance(now, class),
        }
    }

    /// A worker is idle while calls wait behind a long one elsewhere: take half of them back.
    fn rebalance(&mut self, now: Time, class: ClassId) {
        let record = &self.classes[class.0 as usize];
        let has_idle = record.leases.iter().any(|id| self.leases[id].in_flight.is_empty() && !self.leases[id].reclaimed);
        if !has_idle {
            return;
        }
        let patience = self.limits.head_patience;
        let stuck = |id: &&LeaseId| {
            let lease = &self.leases[*id];
            lease.in_flight.len() > 1 && !lease.recalling && now >= lease.head_since + patience
        };
        let victims: Vec<LeaseId> = record.leases.iter().filter(stuck).copied().collect();
        for id in victims {
            let tail = self.leases[&id].in_flight.len() - 1;
            self.recall(id, tail);
        }
    }

    /// Ask for the last `count` calls of a lease back.
    fn recall(&mut self, id: LeaseId, count: usize) {
        let lease = self.leases.get_mut(&id).expect("a lease");
        if count == 0 || lease.recalling {
            return;
        }
        lease.recalling = true;
        let tasks = lease.in_flight.iter().rev().take(count).rev().copied().collect();
        let worker = lease.worker;
        self.send(worker, Peer::Recall { tasks }, true);
    }

    /// Unstarted calls came back, asked for or because their worker blocks.
    pub(super) fn returned(&mut self, now: Time, from: ProcId, tasks: &[u64], blocked: bool) {
        let Some(id) = self.leased_workers.get(&from).copied() else { return };
        let lease = self.leases.get_mut(&id).expect("indexed");
        match blocked {
            true => lease.blocked = true,
            false => lease.recalling = false,
        }
        let class = lease.class;
        let before = lease.in_flight.len();
        lease.in_flight.retain(|call| !tasks.contains(call));
        let removed = before - lease.in_flight.len();
        self.class(class).in_flight -= removed;
        let was_here = |call: &&u64| self.tasks.get(call).is_some_and(|task| task.place == Place::Lease(id));
        let back: Vec<u64> = tasks.iter().filter(was_here).copied().collect();
        let lease = &self.leases[&id];
        if lease.reclaimed && lease.in_flight.is_empty() {
            self.return_lease(id, false);
        }
        self.put_back(now, class, &back);
    }

    /// The calls in flight on a lease leave it; where they go is the caller's business.
    fn take_in_flight(&mut self, id: LeaseId) -> Vec<u64> {
        let lease = self.leases.get_mut(&id).expect("a lease");
        let (class, calls) = (lease.class, Vec::from(std::mem::take(&mut lease.in_flight)));
        lease.started = 0;
        self.class(class).in_flight -= calls.len();
        calls
    }

    /// Calls that had left come back to the head of their class's queue, in their order; or they wait for arguments that were lost meanwhile.
    fn put_back(&mut self, now: Time, class: ClassId, calls: &[u64]) {
        let (left, class) = (class, self.living_class(class));
        let mut ready = Vec::with_capacity(calls.len());
        let mut cancelled = Vec::new();
        for &call in calls {
            self.tasks.get_mut(&call).expect("it was in flight").place = Place::Waiting;
            if self.cancels.is_asked(call) {
                cancelled.push(call);
            } else if !self.misses_arguments(call) {
                ready.push(call);
            }
        }
        let (failed, ready): (Vec<u64>, Vec<u64>) = ready.into_iter().partition(|call| self.failed_dependency(*call).is_some());
        for &call in ready.iter().rev() {
            self.tasks.get_mut(&call).expect("it was in flight").place = Place::Queued(class);
            self.class(class).queue.push_front(call);
        }
        for call in failed {
            if let Some(error) = self.failed_dependency(call) {
                self.fail(call, error);
            }
        }
        cancelled.into_iter().for_each(|call| self.fail_cancelled(call));
        self.pump(now, class);
        if left != class {
            self.pump(now, left);
        }
    }

    /// The worker is dead: calls it had started are attempts that failed, the others go back to the queue free of charge. When it went with its node, nobody
    /// can say which it had started: a call that may not run twice must count as started.
    pub(super) fn lease_worker_died(&mut self, now: Time, worker: ProcId, evidence: &Evidence) {
        let Some(id) = self.leased_workers.get(&worker).copied() else { return };
        let lease = &self.leases[&id];
        let class = lease.class;
        let mine = evidence.last_started.filter(|(caller, _)| *caller == self.me).map(|(_, call)| call);
        let started = mine.and_then(|call| lease.in_flight.iter().position(|other| *other == call)).map_or(0, |at| at + 1).max(lease.started);
        let mut victims = self.take_in_flight(id);
        let unstarted = if evidence.node_lost { Vec::new() } else { victims.split_off(started) };
        victims.iter().for_each(|call| self.tasks.get_mut(call).expect("in flight").place = Place::Waiting);
        self.return_lease(id, true);
        self.put_back(now, class, &unstarted);
        for call in victims.into_iter().rev() {
            let how = describe(evidence);
            if self.postpone(now, call, &evidence.memory_kill, &how) {
                continue;
            }
            let task = &self.tasks[&call];
            if self.has_retries(call) {
                self.retry(now, call);
            } else {
                let text = format!("task {} failed for good after attempt {}: {}", task.template.name, task.attempt + 1, how);
                let memory = evidence.oom_kill || evidence.memory_kill != (MemoryKill::No {});
                let error = self.call_error(call, if memory { "out_of_memory" } else { "worker_crashed" }, &text);
                self.fail(call, error);
            }
        }
        self.pump(now, class);
    }

    pub(super) fn class_infeasible(&mut self, class: ClassId, text: String, code: &str) {
        if code.is_empty() {
            return self.out.push(Command::Notice(text));
        }
        let record = self.class(class);
        record.refused = true;
        let calls = std::mem::take(&mut record.queue);
        for call in calls {
            let error = self.call_error(call, code, &text);
            self.fail(call, error);
        }
        self.update_want(class);
    }

    /// Time passed. Returns when to call again, if anything waits for time.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
        let postponed = self.resume_postponed(now);
        let expired = |l: &Lease| l.in_flight.is_empty() && now >= l.idle_since + self.limits.idle_lease;
        let idle: Vec<LeaseId> = self.leases.iter().filter(|(_, l)| expired(l)).map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|id| self.return_lease(id, false));
        self.shrink_tables();
        for class in 0..self.classes.len() {
            self.rebalance(now, ClassId(class as u32));
        }
        let wider = self.widen(now);
        [self.next_deadline(now), postponed, wider].into_iter().flatten().min()
    }

    /// Leases without work go back now, not when their time is up.
    pub fn return_idle_leases(&mut self) {
        let idle: Vec<LeaseId> = self.leases.iter().filter(|(_, l)| l.in_flight.is_empty()).map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|id| self.return_lease(id, false));
    }

    fn next_deadline(&self, now: Time) -> Option<Time> {
        let idle = self.leases.values().filter(|l| l.in_flight.is_empty()).map(|l| l.idle_since + self.limits.idle_lease);
        let has_idle = |class: ClassId| self.classes[class.0 as usize].leases.iter().any(|id| self.leases[id].in_flight.is_empty());
        let stuck = self
            .leases
            .values()
            .filter(|l| l.in_flight.len() > 1 && !l.recalling && has_idle(l.class))
            .map(|l| (l.head_since + self.limits.head_patience).max(now + 1));
        idle.chain(stuck).min()
    }

    pub(super) fn check_leases(&self) {
        for (id, lease) in &self.leases {
            assert_eq!(self.leased_workers.get(&lease.worker), Some(id), "{id:?} is indexed (pid {})", lease.pid);
            for call in &lease.in_flight {
                assert_eq!(self.tasks.get(call).map(|task| task.place), Some(Place::Lease(*id)), "call {call} is in flight on {id:?}");
            }
        }
        for (number, class) in self.classes.iter().enumerate() {
            let in_flight: usize = class.leases.iter().map(|id| self.leases[id].in_flight.len()).sum();
            assert_eq!(in_flight, class.in_flight, "in-flight count of a class");
            for call in &class.queue {
                assert_eq!(self.tasks.get(call).map(|task| task.place), Some(Place::Queued(ClassId(number as u32))), "call {call} is queued");
            }
            let is_open = |id: &LeaseId| self.leases[id].in_flight.is_empty() && !self.leases[id].reclaimed && !self.leases[id].recalling;
            assert!(class.queue.is_empty() || !class.leases.iter().any(is_open), "calls are queued while a lease is idle");
            assert!(class.queue.is_empty() || class.wanted > 0 || !class.leases.is_empty(), "calls are queued, and nobody was asked for a worker");
        }
    }
}
