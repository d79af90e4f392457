//! Calls to actors: one client per actor and process. The node tells where the actor lives; calls go straight there, in order.

mod gifts;
mod unsent;

use super::objects::{Object, State};
use super::tasks::{CallArgs, CallKind, Place, Template};
use super::{Command, Owner};
use crate::Time;
use ray_proto::ids::ACTOR_INDEX;
use ray_proto::msg::{ActorSpec, ActorState, Args, Peer, ToNode};
use ray_proto::value::system_error;
use ray_proto::{hex, ActorId, Blob, NodeIndex, ObjectId, ProcId, Resources, Strategy, Value};
use std::collections::BTreeMap;
use unsent::Unsent;

#[derive(Debug)]
enum Whereabouts {
    /// Not started yet, or between two lives.
    Away,
    At(ProcId),
    Dead(Value),
}

#[derive(Debug)]
pub(super) struct ActorClient {
    place: Whereabouts,
    /// Calls not sent, in order in each group; the first may wait for its arguments.
    unsent: Unsent,
    /// Calls sent to this incarnation, by position.
    in_flight: BTreeMap<u64, u64>,
}

impl ActorClient {
    fn new() -> Self {
        ActorClient { place: Whereabouts::Away, unsent: Unsent::default(), in_flight: BTreeMap::new() }
    }

    pub(super) fn pending(&self) -> usize {
        self.unsent.len() + self.in_flight.len()
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.in_flight.values().copied()
    }

    /// Where the actor lives, whether the call is there, and how many calls of ours are before it. `is_mate`: of the same group.
    pub(super) fn whereabouts(&self, call: u64, is_mate: impl Fn(u64) -> bool) -> (Option<ProcId>, bool, u32) {
        let at = match self.place {
            Whereabouts::At(proc_id) => Some(proc_id),
            _ => None,
        };
        let mates = || self.in_flight.values().filter(|other| is_mate(**other));
        let sent = mates().position(|other| *other == call);
        let queued = self.unsent.ahead_of(call).map(|before| mates().count() + before);
        (at, sent.is_some(), sent.or(queued).unwrap_or(0) as u32)
    }
}

/// What a creator says about a new actor, arguments aside.
#[derive(Clone, Debug)]
pub struct ActorOptions {
    pub class_name: String,
    pub payload: Blob,
    pub held: Resources,
    pub to_place: Resources,
    pub env: String,
    pub max_restarts: i32,
    pub name: String,
    pub namespace: String,
    pub detached: bool,
    pub strategy: Strategy,
}

impl Owner {
    /// The id of an actor that is going to be created, before its arguments are pickled (its name is taken with it).
    pub fn new_actor_id(&mut self) -> ActorId {
        let call = self.next_call();
        ObjectId::new(self.me, call, ACTOR_INDEX)
    }

    /// Create an actor. Its handle object gets one local reference.
    pub fn create_actor(&mut self, now: Time, actor: ActorId, options: ActorOptions, args: CallArgs) {
        let mut handle = Object::new(State::Handle);
        // A detached actor outlives every handle: its creator's count never reaches zero.
        handle.local = 1 + u32::from(options.detached);
        self.objects.insert(actor, handle);
        self.actors.insert(actor, ActorClient::new());
        let template = self.template(Template {
            id: Default::default(),
            kind: CallKind::Create,
            name: format!("{}.__init__", options.class_name),
            payload: options.payload.clone(),
            num_returns: 0,
            stream: None,
            max_retries: 0,
            retry_raised: false,
            max_calls: 0,
        });
        let ActorOptions { class_name, payload, held, to_place, env, max_restarts, name, namespace, detached, strategy } = options;
        let empty = Args { body: Value::Inline(Blob::EMPTY), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        let spec = ActorSpec { class_name, payload, args: empty, held, to_place, env, max_restarts, name, namespace, detached, strategy, given: vec![] };
        self.creating.insert(actor.call(), (actor, Box::new(spec)));
        self.accept(now, actor.call(), &template, args);
        if self.tasks[&actor.call()].unresolved == 0 {
            self.send_creation(actor.call());
        }
    }

    /// The constructor's arguments are resolved: over to the node.
    pub(super) fn send_creation(&mut self, call: u64) {
        let Some((actor, spec)) = self.creating.get(&call) else { return };
        let actor = *actor;
        let mut spec = spec.clone();
        if let Some(cause) = self.failed_dependency(call) {
            let name = spec.class_name.clone();
            let message = format!("the actor {name} was not created: an argument of its constructor is the result of a failed call.");
            let cause_hex = match &cause {
                Value::Inline(bytes) => hex(bytes),
                Value::Shm(_) => String::new(),
            };
            let error = system_error(
                "actor_init_failed",
                &[("actor_id", &hex(&actor.actor_bytes())), ("class_name", &name), ("message", &message), ("cause", &cause_hex)],
            );
            // Whoever got the handle from us asks the node.
            self.out.push(Command::Node(ToNode::ActorFailed { actor, error: error.clone() }));
            return self.actor_changed(actor, ActorState::Dead { cause: error });
        }
        if spec.detached {
            match self.gather_gifts(call) {
                Some(given) => spec.given = given,
                None => return,
            }
        }
        self.arguments_travel(None, call);
        spec.args = self.args_of(&self.tasks[&call]);
        self.await_birth(actor, &spec);
        self.out.push(Command::Node(ToNode::ActorCreate { actor, spec }));
    }

    pub(super) fn actor(&mut self, actor: ActorId) -> &mut ActorClient {
        let out = &mut self.out;
        self.actors.entry(actor).or_insert_with(|| {
            out.push(Command::Node(ToNode::ActorSubscribe { actor }));
            ActorClient::new()
        })
    }

    pub(super) fn queue_actor_call(&mut self, actor: ActorId, call: u64) {
        let (group, unordered) = self.manner(call);
        let task = self.tasks.get_mut(&call).expect("accepted");
        task.place = Place::Actor;
        let waits = task.unresolved > 0;
        let client = self.actor(actor);
        if unordered && waits && !matches!(client.place, Whereabouts::Dead(_)) {
            return client.unsent.put_aside(call);
        }
        client.unsent.push_back(group, call);
        self.pump_group(actor, group);
    }

    /// A call that failed and may be retried goes before every later one of its group that is not yet sent; aside, if it waits for arguments that were lost
    /// meanwhile and others may overtake it.
    pub(super) fn requeue_actor_call(&mut self, actor: ActorId, call: u64) {
        let (group, unordered) = self.manner(call);
        self.tasks.get_mut(&call).expect("accepted").place = Place::Actor;
        let waits = self.misses_arguments(call);
        let client = self.actor(actor);
        match unordered && waits && !matches!(client.place, Whereabouts::Dead(_)) {
            true => client.unsent.put_aside(call),
            false => client.unsent.put_back(group, call),
        }
    }

    /// The queue that the call stands in may have something to send.
    pub(super) fn pump_actor_call(&mut self, actor: ActorId, call: u64) {
        let (group, _) = self.manner(call);
        self.pump_group(actor, group);
    }

    /// An argument of a call that is not sent was lost: others may overtake it, if they may at all.
    pub(super) fn argument_lost(&mut self, actor: ActorId, call: u64) {
        let (group, unordered) = self.manner(call);
        if let Some(client) = self.actors.get_mut(&actor).filter(|client| unordered && !matches!(client.place, Whereabouts::Dead(_))) {
            client.unsent.set_aside(group, call);
        }
    }

    /// Actors on a dead node are nowhere until the word of their end comes: what is sent there is lost, and would cost a retry.
    pub(super) fn actors_went_with(&mut self, node: NodeIndex) {
        for client in self.actors.values_mut() {
            if matches!(client.place, Whereabouts::At(proc_id) if proc_id.node() == node) {
                client.place = Whereabouts::Away;
            }
        }
    }

    /// The last argument of a call that is not sent yet is here.
    pub(super) fn arguments_ready(&mut self, actor: ActorId, call: u64) {
        let (group, _) = self.manner(call);
        let Some(client) = self.actors.get_mut(&actor) else { return };
        if client.unsent.take_aside(call) {
            client.unsent.push_back(group, call);
        }
        self.pump_group(actor, group);
    }

    /// A call that is not sent leaves its actor's queue. Returns its group, in which others may go on.
    pub(super) fn leave_actor_queue(&mut self, actor: ActorId, call: u64) -> u32 {
        let (group, _) = self.manner(call);
        if let Some(client) = self.actors.get_mut(&actor) {
            client.unsent.remove(group, call);
        }
        group
    }

    /// The process that the calls in flight were sent to, if it is the one where the actor still is.
    pub(super) fn actor_process(&self, actor: ActorId) -> Option<ProcId> {
        match self.actors.get(&actor)?.place {
            Whereabouts::At(proc_id) => Some(proc_id),
            _ => None,
        }
    }

    /// A method call's group, and whether others may overtake it.
    fn manner(&self, call: u64) -> (u32, bool) {
        match self.tasks[&call].template.kind {
            CallKind::Method { group, unordered, .. } => (group, unordered),
            _ => (0, false),
        }
    }

    /// Whether two calls stand in one queue at their actor.
    pub(super) fn are_mates(&self, call: u64, other: u64) -> bool {
        self.manner(call).0 == self.manner(other).0
    }

    /// Send what can be sent.
    fn pump_actor(&mut self, actor: ActorId) {
        let groups = self.actors.get(&actor).map_or(0, |client| client.unsent.groups());
        (0..groups).for_each(|group| self.pump_group(actor, group));
    }

    /// Send what can be sent of one group, in order.
    pub(super) fn pump_group(&mut self, actor: ActorId, group: u32) {
        loop {
            let Some(client) = self.actors.get(&actor) else { return };
            let Some(call) = client.unsent.front(group) else { return };
            let (at, dead) = match &client.place {
                Whereabouts::Away => return,
                Whereabouts::At(proc_id) => (*proc_id, None),
                Whereabouts::Dead(cause) => (ProcId::NODE, Some(cause.clone())),
            };
            if dead.is_none() && self.tasks[&call].unresolved > 0 {
                return;
            }
            self.actor(actor).unsent.pop_front(group);
            if let Some(error) = dead.or_else(|| self.failed_dependency(call)) {
                self.fail(call, error);
                continue;
            }
            self.send_actor_call(actor, at, call);
        }
    }

    fn send_actor_call(&mut self, actor: ActorId, at: ProcId, call: u64) {
        self.send_template(at, call);
        // Counted per process, not per client: the last handle may go and another one come.
        let peer = self.peer(at);
        let seq = peer.actor_calls;
        peer.actor_calls += 1;
        self.tasks.get_mut(&call).expect("queued").place = Place::ActorFlight(seq);
        let client = self.actor(actor);
        let urgent = client.in_flight.is_empty();
        client.in_flight.insert(seq, call);
        self.stream_sent(call, at);
        self.arguments_travel(Some(at), call);
        let message = self.call_message(call, Some((actor, seq)), vec![]);
        self.send(at, Peer::Call { call: message }, urgent);
    }

    /// A reply of an actor. Returns whether the call was in flight there: what a process said that the actor has left may come late, and by then another one
    /// has the call and what belongs to it.
    pub(super) fn actor_replied(&mut self, from: ProcId, call: u64, seq: u64) -> bool {
        let CallKind::Method { actor, .. } = self.tasks[&call].template.kind else { return false };
        let client = self.actors.get_mut(&actor).filter(|client| matches!(client.place, Whereabouts::At(here) if here == from));
        client.is_some_and(|client| client.in_flight.remove(&seq).is_some())
    }

    pub(super) fn actor_changed(&mut self, actor: ActorId, state: ActorState) {
        let over = match &state {
            ActorState::Alive { .. } => self.creating.get(&actor.call()).is_none_or(|(_, spec)| spec.max_restarts == 0),
            ActorState::Dead { .. } => true,
            _ => false,
        };
        if matches!(state, ActorState::Alive { .. } | ActorState::Dead { .. }) {
            self.is_born(actor);
        }
        if over && actor.owner == self.me {
            self.end_creation(actor);
        }
        if !self.actors.contains_key(&actor) {
            return;
        }
        match state {
            ActorState::Pending {} => {}
            ActorState::Alive { proc_id, .. } => self.actor_alive(actor, proc_id),
            ActorState::Restarting { cause } => {
                self.actor(actor).place = Whereabouts::Away;
                self.fail_in_flight(actor, &cause, true);
            }
            ActorState::Dead { cause } => self.actor_dead(actor, cause),
        }
    }

    fn actor_alive(&mut self, actor: ActorId, proc_id: ProcId) {
        self.actor(actor).place = Whereabouts::At(proc_id);
        if proc_id != self.me {
            self.peer(proc_id);
            self.out.push(Command::Node(ToNode::Connect { proc_id }));
        }
        self.pump_actor(actor);
    }

    /// Our last count on an actor we created is gone. A creation that was not sent yet never will be.
    pub(super) fn actor_out_of_scope(&mut self, actor: ActorId) {
        self.actors.remove(&actor);
        let unsent = self.tasks.get(&actor.call()).is_some_and(|task| task.unresolved > 0);
        if unsent {
            self.end_creation(actor);
        }
        // Also when it was never sent: others may have asked the node about it.
        self.out.push(Command::Node(ToNode::ActorOutOfScope { actor }));
    }

    /// The constructor's arguments are not needed any more.
    fn end_creation(&mut self, actor: ActorId) {
        if self.creating.remove(&actor.call()).is_some() {
            self.finish(actor.call(), vec![]);
        }
    }

    fn actor_dead(&mut self, actor: ActorId, cause: Value) {
        let client = self.actor(actor);
        client.place = Whereabouts::Dead(cause.clone());
        let aside = client.unsent.take_all_aside();
        self.fail_in_flight(actor, &cause, false);
        aside.into_iter().for_each(|call| self.fail(call, cause.clone()));
        self.pump_actor(actor);
    }

    /// The incarnation is gone. Calls with retries left go back to the head of their group's queue in their order if there will be another one.
    fn fail_in_flight(&mut self, actor: ActorId, cause: &Value, restarts: bool) {
        let calls: Vec<u64> = std::mem::take(&mut self.actor(actor).in_flight).into_values().collect();
        let (again, lost): (Vec<u64>, Vec<u64>) = calls.into_iter().partition(|call| restarts && self.has_retries(*call));
        for call in again.into_iter().rev() {
            let task = self.tasks.get_mut(&call).expect("in flight");
            task.attempt += 1;
            task.retries_left -= i32::from(task.retries_left > 0);
            self.requeue_actor_call(actor, call);
        }
        lost.into_iter().for_each(|call| self.fail(call, cause.clone()));
    }
}
