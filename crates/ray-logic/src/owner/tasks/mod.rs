//! Calls we made: from submission through their arguments to exactly one end. `cancel` is that end before its time.

mod cancel;

pub use cancel::CancelError;
pub(super) use cancel::Cancels;

use super::backlog::{cost, inline_bytes};
use super::objects::{Object, State};
use super::streams::StreamOptions;
use super::{Command, Owner};
use crate::Time;
use ray_proto::msg::{Args, Call, Outcome, Reply};
use ray_proto::value::system_error;
use ray_proto::{hex, ActorId, Blob, ClassId, LeaseId, ObjectId, Payload, ProcId, Resources, Strategy, TemplateId, Value};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Task {
        class: ClassId,
    },
    /// `max_pending` < 0: unbounded.
    Method {
        actor: ActorId,
        max_pending: i64,
        /// Its concurrency group: calls to one group are sent in order, groups don't wait for each other.
        group: u32,
        /// A call that waits for its arguments may be overtaken by later ones.
        unordered: bool,
    },
    /// The construction of an actor; it has no returns.
    Create,
}

/// Everything constant about a call site.
#[derive(Debug, PartialEq)]
pub struct Template {
    pub id: TemplateId,
    pub kind: CallKind,
    pub name: String,
    pub payload: Blob,
    pub num_returns: u32,
    /// The results come one after another; `num_returns` counts for nothing then.
    pub stream: Option<StreamOptions>,
    /// -1: for ever.
    pub max_retries: i32,
    /// Whether an exception that the worker calls retryable counts as a failure to retry.
    pub retry_raised: bool,
    pub max_calls: u32,
}

/// Arguments as the shell hands them over: pickled, with the references they mention.
#[derive(Debug)]
pub struct CallArgs {
    pub body: Value,
    /// The object that holds `body` when that is in shared memory, else nil.
    pub body_id: ObjectId,
    pub deps: Vec<ObjectId>,
    pub nested: Vec<ObjectId>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum SubmitError {
    TooManyPending { limit: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// For arguments, or postponed.
    Waiting,
    /// In the queue of this class, which need not be its template's: its arguments may draw it to their node.
    Queued(ClassId),
    Lease(LeaseId),
    /// In its actor client's queue.
    Actor,
    /// Sent to its actor, at this position.
    ActorFlight(u64),
}

#[derive(Debug)]
pub(super) struct TaskRefs {
    pub body_id: ObjectId,
    pub deps: Vec<ObjectId>,
    pub nested: Vec<ObjectId>,
}

#[derive(Debug)]
pub(super) struct Task {
    pub template: Arc<Template>,
    pub body: Value,
    pub refs: Option<Box<TaskRefs>>,
    pub unresolved: u32,
    pub retries_left: i32,
    pub attempt: u32,
    /// What it keeps, for the backlog.
    pub bytes: u32,
    pub place: Place,
    /// When it was submitted.
    pub since: Time,
}

impl Task {
    /// Every object this call holds, one entry per hold.
    pub(super) fn held_refs(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let actor = match self.template.kind {
            CallKind::Method { actor, .. } => Some(actor),
            _ => None,
        };
        let refs = self.refs.iter().flat_map(|refs| {
            let body = (!refs.body_id.is_nil()).then_some(refs.body_id);
            body.into_iter().chain(refs.deps.iter().copied()).chain(refs.nested.iter().copied())
        });
        actor.into_iter().chain(refs)
    }
}

impl Owner {
    /// Register a call site. `id` is set here.
    pub fn template(&mut self, mut template: Template) -> Arc<Template> {
        template.id = TemplateId(self.templates.len() as u32);
        let template = Arc::new(template);
        self.templates.push(template.clone());
        template
    }

    /// The scheduling class of a shape, an environment and a strategy.
    pub fn class_for(&mut self, shape: &Resources, env: &str, strategy: &Strategy) -> ClassId {
        let key = (shape.clone(), env.to_owned(), strategy.key());
        if let Some(class) = self.class_ids.get(&key) {
            return *class;
        }
        let class = ClassId(self.classes.len() as u32);
        let slots = self.slots_for(shape);
        self.classes.push(super::leases::Class::new(shape.clone(), env.to_owned(), strategy.clone(), slots, self.first_ceiling()));
        self.class_ids.insert(key, class);
        self.out.push(Command::Node(ray_proto::msg::ToNode::DefineClass { class, shape: shape.clone(), env: env.to_owned(), strategy: strategy.clone() }));
        class
    }

    /// Accept a call. Its returns are `ObjectId::new(me, counter, 1..=num_returns)`, each with one local reference. One with a stream has a reader
    /// instead, or for one that gathers a local reference to its end object.
    pub fn submit(&mut self, now: Time, template: &Arc<Template>, args: CallArgs) -> Result<u64, SubmitError> {
        if let CallKind::Method { actor, max_pending, .. } = template.kind {
            let pending = self.actor(actor).pending();
            if max_pending >= 0 && pending as i64 >= max_pending {
                return Err(SubmitError::TooManyPending { limit: max_pending });
            }
        }
        let call = self.next_call();
        match template.stream {
            Some(options) => self.open_stream(call, options),
            None => {
                for index in 1..=u64::from(template.num_returns) {
                    let mut object = Object::new(State::Pending);
                    object.local = 1;
                    self.objects.insert(ObjectId::new(self.me, call, index), object);
                }
            }
        }
        self.accept(now, call, template, args);
        self.arrange(now, call);
        Ok(call)
    }

    /// When a call that has not ended was submitted.
    pub fn submitted_at(&self, call: u64) -> Option<Time> {
        self.tasks.get(&call).map(|task| task.since)
    }

    /// Take the holds of a call and note what it still waits for.
    pub(super) fn accept(&mut self, since: Time, call: u64, template: &Arc<Template>, args: CallArgs) {
        let has_refs = !(args.deps.is_empty() && args.nested.is_empty() && args.body_id.is_nil());
        let (mut unresolved, mut deps_bytes) = (0, 0);
        for &id in &args.deps {
            // The first mention may make its entry, and one that was freed, or never was, is ready: with an error.
            if self.object(id).is_ready() {
                deps_bytes += self.value(id).map_or(0, inline_bytes);
            } else {
                unresolved += 1;
                self.object(id).more().dependents.push(call);
                self.fetch(id);
            }
        }
        let bytes = cost(template.kind, &args.body, deps_bytes, args.deps.len() + args.nested.len());
        self.count_accepted(bytes, has_refs);
        let refs = has_refs.then(|| Box::new(TaskRefs { body_id: args.body_id, deps: args.deps, nested: args.nested }));
        let (template, retries_left) = (template.clone(), template.max_retries);
        let task = Task { template, body: args.body, refs, unresolved, retries_left, attempt: 0, bytes, place: Place::Waiting, since };
        let held: Vec<ObjectId> = task.held_refs().collect();
        held.into_iter().for_each(|id| self.hold(id));
        self.tasks.insert(call, task);
    }

    /// Put an accepted call where it belongs now.
    fn arrange(&mut self, now: Time, call: u64) {
        let task = &self.tasks[&call];
        let resolved = task.unresolved == 0;
        match task.template.kind {
            CallKind::Method { actor, .. } => self.queue_actor_call(actor, call),
            _ if !resolved => {}
            CallKind::Task { class } => match self.failed_dependency(call) {
                Some(error) => self.fail(call, error),
                None => self.enqueue(now, class, call, false),
            },
            CallKind::Create => self.send_creation(call),
        }
    }

    pub(super) fn dependency_ready(&mut self, call: u64, _id: ObjectId) {
        let Some(task) = self.tasks.get_mut(&call) else { return };
        task.unresolved -= 1;
        if task.unresolved > 0 {
            return;
        }
        match task.template.kind {
            CallKind::Method { actor, .. } => self.arguments_ready(actor, call),
            CallKind::Create => self.send_creation(call),
            CallKind::Task { class } => match self.failed_dependency(call) {
                Some(error) => self.fail(call, error),
                None => self.enqueue_resolved(class, call),
            },
        }
    }

    /// A call that had its arguments is to be sent again. Those that were lost meanwhile must come first: true if there are any.
    pub(super) fn misses_arguments(&mut self, call: u64) -> bool {
        let deps = self.tasks[&call].refs.as_ref().map_or_else(Vec::new, |refs| refs.deps.clone());
        let missing: Vec<ObjectId> = deps.into_iter().filter(|id| !self.is_ready(*id)).collect();
        for &id in &missing {
            self.object(id).more().dependents.push(call);
            self.fetch(id);
        }
        let task = self.tasks.get_mut(&call).expect("looked up above");
        debug_assert_eq!(task.unresolved, 0, "call {call} had its arguments");
        task.unresolved = missing.len() as u32;
        !missing.is_empty()
    }

    /// A task that is in no queue and on no worker goes to the head of its queue, waits for arguments that were lost meanwhile, or fails with one of them.
    pub(super) fn run_again(&mut self, now: Time, class: ClassId, call: u64) {
        self.tasks.get_mut(&call).expect("an accepted call").place = Place::Waiting;
        if self.misses_arguments(call) {
            return;
        }
        match self.failed_dependency(call) {
            Some(error) => self.fail(call, error),
            None => self.enqueue(now, class, call, true),
        }
    }

    /// The error among its resolved arguments, if any: the call fails with it without running.
    pub(super) fn failed_dependency(&self, call: u64) -> Option<Value> {
        let refs = self.tasks[&call].refs.as_ref()?;
        refs.deps.iter().filter_map(|id| self.value(*id)).find(|value| value.is_error()).cloned()
    }

    /// The call as it goes on the wire.
    pub(super) fn call_message(&self, call: u64, actor_seq: Option<(ActorId, u64)>, gpu_ids: Vec<u32>) -> Box<Call> {
        let task = &self.tasks[&call];
        let args = self.args_of(task);
        let template = &task.template;
        Box::new(Call {
            task: call,
            template: template.id,
            attempt: task.attempt,
            num_returns: template.num_returns,
            actor_seq,
            gpu_ids,
            args,
            stream: self.stream_open(call),
        })
    }

    pub(super) fn args_of(&self, task: &Task) -> Args {
        let Some(refs) = &task.refs else {
            return Args { body: task.body.clone(), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        };
        let resolved = |id: &ObjectId| {
            let object = &self.objects[id];
            let State::Ready(value) = &object.state else { unreachable!("{id:?} is resolved") };
            (*id, Payload { value: value.clone(), refs: object.refs().to_vec() })
        };
        // A body in shared memory may have been moved since the submission.
        let body = self.value(refs.body_id).unwrap_or(&task.body).clone();
        Args { body, body_id: refs.body_id, deps: refs.deps.iter().map(resolved).collect(), nested: refs.nested.clone() }
    }

    pub(super) fn replied(&mut self, now: Time, from: ProcId, reply: Reply) {
        let call = reply.task;
        self.take_in(from, call, 0, &reply.results);
        reply.retained.iter().for_each(|id| self.grant(from, *id, 1));
        let known = match self.tasks.get(&call).map(|task| task.place) {
            Some(Place::Lease(_)) => self.lease_replied(now, from, &reply),
            Some(Place::ActorFlight(seq)) => self.actor_replied(from, call, seq),
            _ => false,
        };
        match reply.outcome {
            _ if !known => reply.results.into_iter().for_each(|payload| self.discard(payload)),
            Outcome::Cancelled { .. } if reply.results.is_empty() => self.fail_cancelled(call),
            Outcome::Raised { retryable: true } if self.may_retry(call) => {
                reply.results.into_iter().for_each(|payload| self.discard(payload));
                self.retry(now, call);
            }
            _ => {
                self.finish(call, reply.results);
                self.repeat_for_lost(now, call);
            }
        }
        self.pump_all_after_reply(now, from);
    }

    fn may_retry(&self, call: u64) -> bool {
        self.tasks.get(&call).is_some_and(|task| task.template.retry_raised) && self.has_retries(call)
    }

    /// Another attempt is allowed, and somebody wants it.
    pub(super) fn has_retries(&self, call: u64) -> bool {
        self.tasks.get(&call).is_some_and(|task| task.retries_left != 0) && self.is_stream_wanted(call)
    }

    /// Start over, at the head of the line: it has waited longest.
    pub(super) fn retry(&mut self, now: Time, call: u64) {
        let Some(task) = self.tasks.get_mut(&call) else { return };
        task.attempt += 1;
        if task.retries_left > 0 {
            task.retries_left -= 1;
        }
        match task.template.kind {
            CallKind::Task { class } => self.run_again(now, class, call),
            CallKind::Method { actor, .. } => {
                self.requeue_actor_call(actor, call);
                self.pump_actor_call(actor, call);
            }
            CallKind::Create => {}
        }
    }

    /// The one end of a call: results to its returns, holds dropped.
    pub(super) fn finish(&mut self, call: u64, results: Vec<Payload>) {
        let Some(task) = self.tasks.remove(&call) else { return };
        self.count_ended(&task);
        self.forget_postponed(call);
        self.cancels.forget(call);
        let held: Vec<ObjectId> = task.held_refs().collect();
        if task.template.stream.is_some() {
            let (items, perishable) = self.items_of(call);
            let was_error = results.first().filter(|payload| payload.value.is_error()).map(|payload| payload.value.clone());
            self.end_stream(call, results);
            if perishable || self.may_be_lost(&[]) {
                self.remember(call, task, items);
            }
            self.lost_not_made(call, was_error);
        } else {
            let may_be_lost = self.may_be_lost(&results);
            self.set_returns(call, u64::from(task.template.num_returns), results);
            if may_be_lost {
                self.remember(call, task, 0);
            }
        }
        held.into_iter().for_each(|id| self.unhold(id));
    }

    fn set_returns(&mut self, call: u64, returns: u64, results: Vec<Payload>) {
        let shared_error = results.len() == 1 && results[0].value.is_error();
        if shared_error && returns > 1 {
            for index in 1..=returns {
                self.set_ready(ObjectId::new(self.me, call, index), results[0].clone());
            }
        } else {
            for (index, payload) in results.into_iter().enumerate() {
                match (index as u64) < returns {
                    true => self.set_ready(ObjectId::new(self.me, call, index as u64 + 1), payload),
                    false => self.discard(payload),
                }
            }
        }
    }

    /// Whatever stopped a call that was being cancelled: it is cancelled.
    pub(super) fn fail(&mut self, call: u64, error: Value) {
        let error = if self.cancels.is_asked(call) { self.cancelled_error(call) } else { error };
        self.finish(call, vec![Payload { value: error.clone(), refs: vec![] }]);
        self.give_up_lost(call, &error);
    }

    /// The record of a failure of this call found by the engine.
    pub(super) fn call_error(&self, call: u64, code: &str, message: &str) -> Value {
        let name = self.tasks.get(&call).map_or("", |task| &task.template.name);
        let task_id = hex(&ObjectId::new(self.me, call, 0).task_bytes());
        system_error(code, &[("name", name), ("task_id", &task_id), ("message", message)])
    }
}
