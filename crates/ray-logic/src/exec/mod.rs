//! The calls that reached a worker and have not started: a FIFO for each concurrency group, from which their owners may take them back.
//!
//! Invariants
//! 1. A call is in the queue or running, never both; a recalled call was never started.
//! 2. Calls of one caller to one group leave in the order they came in. Groups don't wait for each other.
//! 3. A call that mentions objects of third parties starts when these know of us: its caller may end while it runs, and what it kept goes with it. Later
//!    calls of the same caller wait behind it, those of others don't.

mod cancel;
mod streams;

pub use cancel::{Cancelling, Found};
pub use streams::{Outgoing, Permit};

use crate::Time;
use ray_proto::msg::{ActorSpec, Args, Call};
use ray_proto::{ObjectId, ProcId, TemplateId, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub struct Queued {
    pub from: ProcId,
    pub call: Box<Call>,
    /// The registration that must come first (`Owner::accept_call`).
    pub after: Option<u64>,
}

impl Queued {
    /// Its owner takes it back while the worker blocks; an actor's call can run nowhere else.
    fn is_returnable(&self) -> bool {
        self.call.actor_seq.is_none()
    }
}

/// A call that runs: what its owner still keeps for it.
#[derive(Debug)]
pub struct Running {
    pub covered: Vec<ObjectId>,
    pub num_returns: u32,
    pub template: TemplateId,
    pub since: Time,
    /// Its results leave one after another.
    pub stream: Option<Outgoing>,
    /// It is no actor's.
    pub is_task: bool,
    pub cancelling: Cancelling,
}

#[derive(Debug)]
pub struct Exec {
    /// One per concurrency group; the default one is the first. Only an actor has more.
    queues: Vec<VecDeque<Queued>>,
    /// Those in the queues that are no actor's: nearly always all or none.
    returnable: usize,
    /// Those in the queues that wait for a registration: nearly always none.
    held_up: usize,
    running: BTreeMap<(ProcId, u64), Running>,
    /// Threads of the process that wait inside a running call.
    blocked: u32,
}

impl Default for Exec {
    fn default() -> Self {
        Exec { queues: vec![VecDeque::new()], returnable: 0, held_up: 0, running: BTreeMap::new(), blocked: 0 }
    }
}

impl Exec {
    /// So many groups, the default one included. Before the first call.
    pub fn set_groups(&mut self, count: usize) {
        debug_assert!(self.is_empty());
        self.queues.resize_with(count.max(1), VecDeque::new);
    }

    pub fn groups(&self) -> usize {
        self.queues.len()
    }

    /// Queue a call of a group below `groups()`. One that arrives while the running call blocks is given straight back, unless it is an actor's.
    pub fn push(&mut self, group: usize, queued: Queued) -> Option<Queued> {
        if self.blocked > 0 && queued.is_returnable() {
            return Some(queued);
        }
        self.returnable += usize::from(queued.is_returnable());
        self.held_up += usize::from(queued.after.is_some());
        self.queues[group].push_back(queued);
        None
    }

    /// Nothing waits, in no group.
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub fn is_group_empty(&self, group: usize) -> bool {
        self.queues[group].is_empty()
    }

    /// The registration is done. `gone`: what nobody had kept, with what stands for its value; a call that takes it fails with that. Returns the group whose
    /// call may start now.
    pub fn registered(&mut self, token: u64, gone: &[(ObjectId, Value)]) -> Option<usize> {
        let group = self.queues.iter().position(|queue| queue.iter().any(|queued| queued.after == Some(token)))?;
        let queued = self.queues[group].iter_mut().find(|queued| queued.after == Some(token))?;
        queued.after = None;
        queued.call.args.replace_gone(gone);
        self.held_up -= 1;
        Some(group)
    }

    /// Where in the queue the next call to start is.
    fn next(&self, group: usize) -> Option<usize> {
        let queue = &self.queues[group];
        if self.held_up == 0 {
            return (!queue.is_empty()).then_some(0);
        }
        let mut behind = BTreeSet::new();
        queue.iter().position(|queued| {
            if queued.after.is_some() {
                behind.insert(queued.from);
            }
            !behind.contains(&queued.from)
        })
    }

    /// A call of the group could start now.
    pub fn can_start(&self, group: usize) -> bool {
        self.next(group).is_some()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Start the next call of a group.
    pub fn pop(&mut self, group: usize, now: Time) -> Option<Queued> {
        let at = self.next(group)?;
        let queued = self.queues[group].remove(at)?;
        self.returnable -= usize::from(queued.is_returnable());
        let call = &queued.call;
        let running = Running {
            covered: covered_refs(call),
            num_returns: call.num_returns,
            template: call.template,
            since: now,
            stream: call.stream.as_ref().map(Outgoing::new),
            is_task: queued.is_returnable(),
            cancelling: Cancelling::No,
        };
        self.running.insert((queued.from, call.task), running);
        Some(queued)
    }

    pub fn finish(&mut self, from: ProcId, task: u64) -> Option<Running> {
        self.running.remove(&(from, task))
    }

    /// Take back those of `tasks` that have not started.
    pub fn recall(&mut self, from: ProcId, tasks: &[u64]) -> Vec<Queued> {
        let wanted = |q: &Queued| q.from == from && tasks.contains(&q.call.task);
        self.drain_where(wanted)
    }

    /// A running call blocks. The first to do so hands back everything behind it that is not an actor's.
    pub fn block(&mut self) -> Option<Vec<Queued>> {
        self.blocked += 1;
        // An actor with a long queue that waits in each of its calls must not look through the queue each time.
        (self.blocked == 1).then(|| if self.returnable == 0 { Vec::new() } else { self.drain_where(Queued::is_returnable) })
    }

    /// True when no call blocks any more.
    pub fn unblock(&mut self) -> bool {
        self.blocked -= 1;
        self.blocked == 0
    }

    /// What runs now, by caller and call.
    pub fn all_running(&self) -> impl Iterator<Item = (ProcId, u64, &Running)> + '_ {
        self.running.iter().map(|((from, task), running)| (*from, *task, running))
    }

    pub fn queued(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// The callers of what runs now.
    pub fn callers(&self) -> impl Iterator<Item = ProcId> + '_ {
        self.running.keys().map(|(from, _)| *from)
    }

    /// A caller died: nobody reads what its running calls yield, and its queued ones are not wanted.
    pub fn forget_caller(&mut self, caller: ProcId) -> Vec<Queued> {
        self.close_streams_of(caller);
        self.drain_where(|q| q.from == caller)
    }

    /// The process starts nothing more: everything unstarted.
    pub fn drain(&mut self) -> Vec<Queued> {
        self.drain_where(|_| true)
    }

    fn drain_where(&mut self, wanted: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        let mut all_taken = Vec::new();
        for queue in &mut self.queues {
            let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(queue).into_iter().partition(&wanted);
            *queue = kept.into();
            all_taken.extend(taken);
        }
        self.returnable = self.queues.iter().flatten().filter(|queued| queued.is_returnable()).count();
        self.held_up = self.queues.iter().flatten().filter(|queued| queued.after.is_some()).count();
        all_taken
    }
}

/// Every reference that the caller keeps alive while the call runs, one entry per mention.
pub fn covered_refs(call: &Call) -> Vec<ObjectId> {
    mentioned(&call.args)
}

/// The same of a constructor, which its creator keeps until the actor is up: in its arguments, and in what a detached actor takes over.
pub fn constructor_refs(spec: &ActorSpec) -> Vec<ObjectId> {
    let mut ids = mentioned(&spec.args);
    ids.extend(spec.given.iter().flat_map(|(_, payload)| payload.refs.iter().copied()));
    ids
}

fn mentioned(args: &Args) -> Vec<ObjectId> {
    let mut ids = Vec::with_capacity(args.nested.len() + args.deps.len());
    if !args.body_id.is_nil() {
        ids.push(args.body_id);
    }
    ids.extend(args.nested.iter().copied());
    for (id, payload) in &args.deps {
        ids.push(*id);
        ids.extend(payload.refs.iter().copied());
    }
    ids
}
