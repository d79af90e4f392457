//! The lives of actors: created, placed, alive, restarted, dead, and who is told.

use super::{Change, Head};
use crate::evidence::describe;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::{ActorSpec, ActorState, Evidence, FromNode, MemoryKill};
use ray_proto::report::Fact;
use ray_proto::value::system_error;
use ray_proto::{hex, ActorId, NodeIndex, ProcId, Value};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Life {
    /// Heard of, and not created yet; or in `homeless`; or taken back from a node, whose answer is awaited in `Placed`.
    Waiting,
    /// Given to a node, not up there. `recalled`: asked back.
    Placed {
        node: NodeIndex,
        recalled: bool,
    },
    Alive(ProcId),
    Dead(Value),
}

#[derive(Debug)]
pub(super) struct Actor {
    /// None before it is created, and once dead: a dead actor costs only its cause.
    pub spec: Option<Box<ActorSpec>>,
    class_name: String,
    pub life: Life,
    /// Of the life that runs or ran last.
    pub incarnation: u32,
    restarts_left: i32,
    subscribers: BTreeSet<ProcId>,
    /// One line per death.
    deaths: Vec<String>,
    /// Why no further incarnation may follow, once that is decided.
    ending: Option<String>,
    /// No handle exists any more: forget it with its process.
    unreferenced: bool,
}

impl Actor {
    /// Heard of, not created yet.
    fn unknown() -> Self {
        Actor {
            spec: None,
            class_name: String::new(),
            life: Life::Waiting,
            incarnation: 0,
            restarts_left: 0,
            subscribers: BTreeSet::new(),
            deaths: vec![],
            ending: None,
            unreferenced: false,
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead(_))
    }

    pub(super) fn may_restart(&self) -> bool {
        self.restarts_left != 0 && self.ending.is_none()
    }

    pub(super) fn is_detached(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.detached)
    }

    /// The node that has it, if one does.
    pub(super) fn node(&self) -> Option<NodeIndex> {
        match self.life {
            Life::Placed { node, .. } => Some(node),
            Life::Alive(proc_id) => Some(proc_id.node()),
            _ => None,
        }
    }

    pub(super) fn report(&self) -> Fact {
        let (life, cause) = match &self.life {
            Life::Waiting if self.spec.is_none() => ("uncreated", None),
            Life::Waiting => ("waiting", None),
            Life::Placed { .. } => ("starting", None),
            Life::Alive(_) => ("alive", None),
            Life::Dead(cause) => ("dead", Some(cause.clone())),
        };
        let process = if let Life::Alive(proc_id) = self.life { Some(proc_id) } else { None };
        let spec = self.spec.as_ref();
        let held = spec.filter(|_| process.is_some()).map(|spec| spec.held.clone()).unwrap_or_default();
        let to_place = spec.map(|spec| spec.to_place.clone()).unwrap_or_default();
        Fact::Actor { class_name: self.class_name.clone(), life: life.into(), process, held, to_place, deaths: self.deaths.clone(), cause }
    }

    fn state(&self) -> ActorState {
        match &self.life {
            Life::Alive(proc_id) => ActorState::Alive { proc_id: *proc_id, incarnation: self.incarnation },
            Life::Dead(cause) => ActorState::Dead { cause: cause.clone() },
            _ => ActorState::Pending {},
        }
    }
}

impl Head {
    pub(super) fn actor_create(&mut self, creator: ProcId, id: ActorId, spec: Box<ActorSpec>) {
        let actor = self.actors.entry(id).or_insert_with(Actor::unknown);
        if actor.is_dead() {
            // Somebody it was passed to killed it first.
            let state = actor.state();
            return self.tell(creator, FromNode::ActorChanged { actor: id, state });
        }
        if actor.spec.is_some() {
            return;
        }
        actor.class_name = spec.class_name.clone();
        actor.restarts_left = spec.max_restarts;
        actor.spec = Some(spec.clone());
        actor.subscribers.insert(creator);
        self.note_actor_of_group(id, &spec.strategy, true);
        let in_group = spec.is_in_group();
        self.commit(Change::ActorCreated { actor: id, spec });
        if let Some((text, hopeless)) = self.why_homeless(id) {
            if hopeless || self.config.infeasible_is_error && !in_group {
                return self.actor_ends(id, self.code_of_homeless(id), &text, "");
            }
            if !in_group {
                self.tell(creator, FromNode::Notice { text });
            }
        }
        self.place(id);
    }

    pub(super) fn actor_subscribe(&mut self, from: ProcId, id: ActorId) {
        let creator_gone = id.owner != from && self.is_gone(id.owner);
        let state = match self.actors.get_mut(&id) {
            Some(actor) => {
                actor.subscribers.insert(from);
                actor.state()
            }
            None if creator_gone => {
                let cause = actor_error("actor_died", id, "?", "the actor is unknown: its creator is gone, and so is the actor", "");
                ActorState::Dead { cause }
            }
            // Its creator still resolves the constructor's arguments: remember who asked.
            None => {
                let mut blank = Actor::unknown();
                blank.subscribers.insert(from);
                self.actors.insert(id, blank);
                ActorState::Pending {}
            }
        };
        self.tell(from, FromNode::ActorChanged { actor: id, state });
    }

    /// A process that can't be the owner of anything any more, as far as is known here.
    pub(super) fn is_gone(&self, proc_id: ProcId) -> bool {
        let is_detached = || self.actors.values().any(|actor| actor.life == Life::Alive(proc_id));
        let job_over = self.state.jobs.get(&proc_id.job()).is_none_or(|info| info.ended_ms > 0) && !is_detached();
        !self.members.contains_key(&proc_id.node()) || job_over || self.gone.contains(&proc_id)
    }

    fn tell_subscribers(&mut self, id: ActorId, state: &ActorState) {
        for to in self.actors[&id].subscribers.clone() {
            self.tell(to, FromNode::ActorChanged { actor: id, state: state.clone() });
        }
    }

    pub(super) fn actor_up(&mut self, id: ActorId, incarnation: u32, proc_id: ProcId) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.incarnation == incarnation && matches!(actor.life, Life::Placed { .. }) {
            actor.life = Life::Alive(proc_id);
            self.waiting.remove(&id);
            let state = self.actors[&id].state();
            self.tell_subscribers(id, &state);
        }
    }

    /// The constructor raised.
    pub(super) fn actor_failed(&mut self, id: ActorId, incarnation: u32, error: &Value) {
        let Some(actor) = self.actors.get(&id) else { return };
        if actor.incarnation != incarnation || actor.is_dead() {
            return;
        }
        let cause = match error {
            Value::Inline(bytes) => hex(bytes),
            Value::Shm(_) => String::new(),
        };
        let text = format!("the actor {} died because its constructor raised an exception", actor.class_name);
        self.actor_ends(id, "actor_init_failed", &text, &cause);
    }

    /// Its creator could not create it: `error` is the last word.
    pub(super) fn actor_never_was(&mut self, id: ActorId, error: Value) {
        let actor = self.actors.entry(id).or_insert_with(Actor::unknown);
        if actor.spec.is_none() && !actor.is_dead() {
            actor.life = Life::Dead(error.clone());
            self.tell_subscribers(id, &ActorState::Dead { cause: error });
            self.free_name(id);
        }
    }

    /// The last word on an actor.
    pub(super) fn actor_ends(&mut self, id: ActorId, code: &str, text: &str, cause_hex: &str) {
        let actor = self.actors.get_mut(&id).expect("a known actor");
        let mut message = text.to_owned();
        if actor.deaths.len() > 1 {
            message.push_str(&format!("\nit had died {} times:", actor.deaths.len()));
            actor.deaths.iter().enumerate().for_each(|(n, line)| message.push_str(&format!("\n  {}. {line}", n + 1)));
        }
        let cause = actor_error(code, id, &actor.class_name, &message, cause_hex);
        actor.life = Life::Dead(cause.clone());
        let spec = actor.spec.take();
        let unreferenced = actor.unreferenced;
        self.homeless.retain(|other| *other != id);
        self.waiting.remove(&id);
        self.commit(Change::ActorEnded { actor: id });
        self.tell_subscribers(id, &ActorState::Dead { cause });
        if unreferenced {
            self.actors.remove(&id);
        }
        if let Some(spec) = spec {
            self.note_actor_of_group(id, &spec.strategy, false);
        }
        self.groups_of_actor_end(id);
    }

    /// Their placement group is removed.
    pub(super) fn actors_of_group_end(&mut self, ids: BTreeSet<ActorId>, why: &str) {
        for id in ids.into_iter().filter(|id| self.actors.get(id).is_some_and(|actor| !actor.is_dead())).collect::<Vec<_>>() {
            let actor = self.actors.get_mut(&id).expect("listed");
            actor.ending.get_or_insert_with(|| why.into());
            let incarnation = actor.incarnation;
            match actor.node() {
                Some(node) => self.send(node, NodeMessage::KillActor { actor: id, incarnation, reason: why.into() }),
                None => self.actor_ends(id, "actor_group_removed", why, ""),
            }
        }
    }

    /// Its process is gone.
    pub(super) fn actor_ended(&mut self, id: ActorId, incarnation: u32, evidence: &Evidence) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.incarnation != incarnation || actor.node().is_none() {
            return;
        }
        let how = describe(evidence);
        actor.deaths.push(how.lines().next().unwrap_or_default().to_owned());
        let name = actor.class_name.clone();
        self.waiting.remove(&id);
        let actor = self.actors.get_mut(&id).expect("looked up above");
        match (&actor.ending, actor.restarts_left) {
            (Some(why), _) => {
                let text = format!("the actor {name} is dead: {why}");
                self.actor_ends(id, "actor_died", &text, "");
            }
            (None, 0) => {
                let text = format!("the actor {name} is dead: {how}");
                // Compat: not an ActorDiedError.
                let code = if evidence.memory_kill == (MemoryKill::No {}) { "actor_died" } else { "out_of_memory" };
                self.actor_ends(id, code, &text, "");
            }
            (None, left) => {
                actor.restarts_left -= i32::from(left > 0);
                actor.life = Life::Waiting;
                let cause = actor_error("actor_unavailable", id, &name, &format!("the actor {name} died during the call and is being restarted: {how}"), "");
                self.tell_subscribers(id, &ActorState::Restarting { cause });
                self.place(id);
            }
        }
    }

    /// A node gave it back unstarted: because it was to end, or to go to another node.
    pub(super) fn actor_unplaced(&mut self, id: ActorId, incarnation: u32) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.incarnation != incarnation || !matches!(actor.life, Life::Placed { .. }) {
            return;
        }
        actor.life = Life::Waiting;
        self.waiting.remove(&id);
        match self.actors[&id].ending.clone() {
            Some(why) => {
                let text = self.dead_text(id, &why);
                let code = if self.code_of_homeless(id) == "unschedulable" { "actor_died" } else { "actor_group_removed" };
                self.actor_ends(id, code, &text, "");
            }
            None => self.place(id),
        }
    }

    fn dead_text(&self, id: ActorId, why: &str) -> String {
        match self.actors[&id].unreferenced {
            true => why.to_owned(),
            false => format!("the actor {} is dead: {why}", self.actors[&id].class_name),
        }
    }

    pub(super) fn actor_kill(&mut self, id: ActorId, no_restart: bool) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let why = "it was killed by ray.kill";
        if no_restart {
            actor.ending = Some(why.into());
        }
        let (node, incarnation) = (actor.node(), actor.incarnation);
        if no_restart {
            self.free_name(id);
        }
        let actor = &self.actors[&id];
        match (&actor.life, node) {
            (_, Some(node)) => self.send(node, NodeMessage::KillActor { actor: id, incarnation, reason: why.into() }),
            (Life::Waiting, None) if no_restart => {
                let text = self.dead_text(id, why);
                self.actor_ends(id, "actor_died", &text, "");
            }
            _ => {}
        }
    }

    /// Nobody can call it any more; its calls are done, since each held a handle.
    pub(super) fn actor_out_of_scope(&mut self, id: ActorId) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let why = "every handle to it went out of scope";
        actor.ending.get_or_insert_with(|| why.into());
        actor.unreferenced = true;
        let incarnation = actor.incarnation;
        self.free_name(id);
        let actor = &self.actors[&id];
        match (&actor.life, actor.node()) {
            (_, Some(node)) => self.send(node, NodeMessage::FinishActor { actor: id, incarnation }),
            (Life::Dead(_), None) => {
                self.actors.remove(&id);
            }
            _ => self.actor_ends(id, "actor_died", why, ""),
        }
    }

    /// The actor ends itself (exit_actor): its exit is no failure.
    pub(super) fn actor_leaving(&mut self, id: ActorId, reason: String) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.ending = Some(reason);
        }
    }

    pub(super) fn owner_of_actors_gone(&mut self, owner: ProcId) {
        self.remember_gone(owner);
        self.actors.values_mut().for_each(|actor| {
            actor.subscribers.remove(&owner);
        });
        let orphans: Vec<ActorId> = self.actors.range(first_of(owner)..=last_of(owner)).filter(|(_, actor)| !actor.is_detached()).map(|(id, _)| *id).collect();
        self.end_all(orphans, "its owner, the process that created it, has died");
        self.free_names_of_unborn(owner);
    }

    /// A job is over: what its workers created ends with them.
    pub(super) fn actors_of_job_end(&mut self, job: u32) {
        let left: Vec<ActorId> = self.actors.iter().filter(|(id, actor)| id.owner.job() == job && !actor.is_detached()).map(|(id, _)| *id).collect();
        self.end_all(left, "its job is over");
    }

    fn end_all(&mut self, ids: Vec<ActorId>, why: &str) {
        for id in ids {
            let actor = self.actors.get_mut(&id).expect("listed");
            if actor.is_dead() {
                self.actors.remove(&id);
                continue;
            }
            actor.ending = Some(why.into());
            let incarnation = actor.incarnation;
            match actor.node() {
                Some(node) => self.send(node, NodeMessage::KillActor { actor: id, incarnation, reason: why.into() }),
                None => {
                    let text = self.dead_text(id, why);
                    self.actor_ends(id, "actor_died", &text, "");
                }
            }
        }
    }

    pub(super) fn actors_of_node_gone(&mut self, index: NodeIndex, death: &str) {
        let evidence = Evidence::of_lost_node(death);
        let there: Vec<(ActorId, u32)> =
            self.actors.iter().filter(|(_, actor)| actor.node() == Some(index)).map(|(id, actor)| (*id, actor.incarnation)).collect();
        for (id, incarnation) in there {
            match self.actors[&id].life {
                // It had not lived there: nothing is lost.
                Life::Placed { .. } => self.actor_unplaced(id, incarnation),
                _ => self.actor_ended(id, incarnation, &evidence),
            }
        }
    }

    /// Processes of a node that own actors.
    pub(super) fn owners_on(&self, index: NodeIndex) -> Vec<ProcId> {
        let owners: BTreeSet<ProcId> =
            self.actors.keys().map(|id| id.owner).chain(self.actors.values().flat_map(|actor| actor.subscribers.iter().copied())).collect();
        owners.into_iter().filter(|owner| owner.node() == index).collect()
    }

    pub(super) fn check_actors(&self) {
        for (id, actor) in &self.actors {
            let homeless = self.homeless.contains(id);
            assert_eq!(homeless, actor.life == Life::Waiting && actor.spec.is_some(), "an actor waits for a node if it has none: {id:?} {actor:?}");
            assert_eq!(self.waiting.contains(id), matches!(actor.life, Life::Placed { .. }), "{id:?} waits at its node: {actor:?}");
            assert!(actor.node().is_none_or(|node| self.members.contains_key(&node)), "an actor on a dead node: {id:?} {actor:?}");
            assert!(!homeless || self.why_homeless(*id).is_some(), "an actor waits although a node may take it: {id:?}");
        }
    }
}

fn first_of(owner: ProcId) -> ActorId {
    ActorId { owner, seq: 0 }
}

fn last_of(owner: ProcId) -> ActorId {
    ActorId { owner, seq: u64::MAX }
}

pub(super) fn actor_error(code: &str, id: ActorId, class_name: &str, message: &str, cause_hex: &str) -> Value {
    let actor_id = hex(&id.actor_bytes());
    let fields = [("actor_id", actor_id.as_str()), ("class_name", class_name), ("message", message), ("cause", cause_hex)];
    system_error(code, &fields)
}
