//! Actors of the node: placing, restarting, ending, names.

use super::procs::Role;
use super::Node;
use crate::evidence::describe;
use crate::Time;
use ray_proto::msg::{ActorSpec, ActorState, Evidence, FromNode, MemoryKill};
use ray_proto::report::Fact;
use ray_proto::value::system_error;
use ray_proto::{ActorId, Blob, ProcId, Resources, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
enum Life {
    /// In `to_place`.
    Waiting,
    Starting(ProcId),
    Alive(ProcId),
    Dead(Value),
}

#[derive(Debug)]
pub(super) struct Actor {
    /// None once dead: a dead actor costs only its cause.
    spec: Option<Box<ActorSpec>>,
    class_name: String,
    life: Life,
    held: Resources,
    gpus: Vec<(u32, i64)>,
    incarnation: u32,
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
            held: Resources::default(),
            gpus: vec![],
            incarnation: 0,
            restarts_left: 0,
            subscribers: BTreeSet::new(),
            deaths: vec![],
            ending: None,
            unreferenced: false,
        }
    }

    pub(super) fn held(&self) -> &Resources {
        &self.held
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead(_))
    }

    pub(super) fn may_restart(&self) -> bool {
        self.restarts_left != 0 && self.ending.is_none()
    }

    pub(super) fn class_name(&self) -> &str {
        &self.class_name
    }

    /// What a placement waits for: the spec while it waits.
    pub(super) fn waiting_spec(&self) -> Option<&ActorSpec> {
        self.spec.as_deref().filter(|_| self.life == Life::Waiting)
    }

    pub(super) fn report(&self) -> Fact {
        let (life, cause) = match &self.life {
            Life::Waiting if self.spec.is_none() => ("uncreated", None),
            Life::Waiting => ("waiting", None),
            Life::Starting(_) => ("starting", None),
            Life::Alive(_) => ("alive", None),
            Life::Dead(cause) => ("dead", Some(cause.clone())),
        };
        let to_place = self.spec.as_ref().map(|spec| spec.to_place.clone()).unwrap_or_default();
        Fact::Actor {
            class_name: self.class_name.clone(),
            life: life.into(),
            process: self.process(),
            held: self.held.clone(),
            to_place,
            deaths: self.deaths.clone(),
            cause,
        }
    }

    fn process(&self) -> Option<ProcId> {
        match self.life {
            Life::Starting(id) | Life::Alive(id) => Some(id),
            _ => None,
        }
    }

    fn state(&self) -> ActorState {
        match &self.life {
            Life::Alive(proc_id) => ActorState::Alive { proc_id: *proc_id, incarnation: self.incarnation },
            Life::Dead(cause) => ActorState::Dead { cause: cause.clone() },
            _ => ActorState::Pending {},
        }
    }
}

impl Node {
    pub(super) fn actor_create(&mut self, now: Time, creator: ProcId, id: ActorId, spec: Box<ActorSpec>) {
        let infeasible = [&spec.to_place, &spec.held].into_iter().find(|shape| !shape.fits_in(&self.config.total));
        let text = infeasible.map(|shape| format!("actor {}: {}", spec.class_name, super::sched::explain_infeasible(shape, &self.config.total)));
        let actor = self.actors.entry(id).or_insert_with(Actor::unknown);
        if actor.is_dead() {
            // Somebody it was passed to killed it first.
            let state = actor.state();
            return self.send(creator, FromNode::ActorChanged { actor: id, state });
        }
        if actor.spec.is_some() {
            return;
        }
        actor.class_name = spec.class_name.clone();
        actor.restarts_left = spec.max_restarts;
        actor.spec = Some(spec);
        actor.subscribers.insert(creator);
        if let Some(text) = text {
            if self.config.infeasible_is_error {
                return self.actor_ends(id, "unschedulable", &text, "");
            }
            self.send(creator, FromNode::Notice { text });
        }
        self.to_place.push_back(id);
        self.schedule(now);
    }

    pub(super) fn actor_subscribe(&mut self, from: ProcId, id: ActorId) {
        let state = match self.actors.get_mut(&id) {
            Some(actor) => {
                actor.subscribers.insert(from);
                actor.state()
            }
            None if id.owner != from && !self.procs.contains_key(&id.owner) => {
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
        self.send(from, FromNode::ActorChanged { actor: id, state });
    }

    fn tell(&mut self, id: ActorId, state: ActorState) {
        for to in self.actors[&id].subscribers.clone() {
            self.send(to, FromNode::ActorChanged { actor: id, state: state.clone() });
        }
    }

    /// Start waiting actors, first come first served. Placement needs `to_place`; what stays held is `held`.
    pub(super) fn place_actors(&mut self, now: Time) {
        // Asked once, not per waiting actor: a thousand may wait.
        let mut idle = self.idle_workers();
        let mut waiting = std::mem::take(&mut self.to_place);
        if !waiting.is_empty() {
            self.watch_memory(now);
        }
        waiting.retain(|id| idle == 0 || !self.try_place(*id, &mut idle));
        self.to_place = waiting;
    }

    fn try_place(&mut self, id: ActorId, idle: &mut usize) -> bool {
        let Some(spec) = self.actors.get(&id).and_then(|actor| actor.spec.as_ref()) else { return true };
        if !spec.to_place.fits_in(&self.available) || !spec.held.fits_in(&self.available) {
            return false;
        }
        let Some(worker) = self.idle_worker(&spec.env, ProcId::NODE) else { return false };
        let spec = spec.clone();
        let Some(gpus) = self.gpus.assign(spec.held.get("GPU")) else { return false };
        *idle -= 1;
        self.available.subtract(&spec.held);
        self.procs.get_mut(&worker).expect("an idle worker").role = Role::Actor(id);
        let actor = self.actors.get_mut(&id).expect("looked up above");
        actor.held = spec.held.clone();
        actor.incarnation += 1;
        actor.life = Life::Starting(worker);
        let gpu_ids = gpus.iter().map(|(device, _)| *device).collect();
        actor.gpus = gpus;
        let incarnation = actor.incarnation;
        self.send(worker, FromNode::ActorStart { actor: id, incarnation, gpu_ids, spec });
        true
    }

    /// Actors that would fit but for a worker, by environment.
    pub(super) fn actors_without_worker(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for id in &self.to_place {
            let Some(spec) = self.actors.get(id).and_then(|actor| actor.spec.as_ref()) else { continue };
            if spec.to_place.fits_in(&self.available) {
                let count = counts.entry(spec.env.clone()).or_insert(0);
                *count = (*count + 1usize).min(64);
            }
        }
        counts
    }

    /// Actors wait for whole processes; calls must not starve them of what they hold.
    pub(super) fn reserve_for_actors(&self, room: &mut Resources) {
        for id in &self.to_place {
            if let Some(spec) = self.actors.get(id).and_then(|actor| actor.spec.as_ref()) {
                if spec.held.fits_in(room) {
                    room.subtract(&spec.held);
                }
            }
        }
    }

    pub(super) fn actor_up(&mut self, from: ProcId, id: ActorId) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.life == Life::Starting(from) {
            actor.life = Life::Alive(from);
            let state = actor.state();
            self.tell(id, state);
        }
    }

    /// The constructor raised.
    pub(super) fn actor_failed(&mut self, now: Time, from: ProcId, id: ActorId, error: Value) {
        if from == id.owner && self.actors.get(&id).is_none_or(|actor| actor.spec.is_none()) {
            return self.actor_never_was(id, error);
        }
        let Some(actor) = self.actors.get(&id) else { return };
        if actor.life != Life::Starting(from) {
            return;
        }
        let cause = match &error {
            Value::Inline(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            Value::Shm(_) => String::new(),
        };
        let text = format!("the actor {} died because its constructor raised an exception", actor.class_name);
        self.release_actor(id, false);
        self.actor_ends(id, "actor_init_failed", &text, &cause);
        self.leave(from, "the actor's constructor failed");
        self.schedule(now);
    }

    /// Its creator could not create it: `error` is the last word.
    fn actor_never_was(&mut self, id: ActorId, error: Value) {
        let actor = self.actors.entry(id).or_insert_with(Actor::unknown);
        if !actor.is_dead() {
            actor.life = Life::Dead(error.clone());
            self.tell(id, ActorState::Dead { cause: error });
        }
    }

    fn leave(&mut self, worker: ProcId, reason: &str) {
        if let Some(proc) = self.procs.get_mut(&worker) {
            proc.role = Role::Leaving;
            proc.blocked = false;
            self.send(worker, FromNode::Exit { reason: reason.to_owned() });
        }
    }

    fn release_actor(&mut self, id: ActorId, blocked: bool) {
        let actor = self.actors.get_mut(&id).expect("a known actor");
        let (held, gpus) = (std::mem::take(&mut actor.held), std::mem::take(&mut actor.gpus));
        self.give_back(&held, blocked);
        self.gpus.release(&gpus);
    }

    /// The last word on an actor.
    fn actor_ends(&mut self, id: ActorId, code: &str, text: &str, cause_hex: &str) {
        let actor = self.actors.get_mut(&id).expect("a known actor");
        let mut message = text.to_owned();
        if actor.deaths.len() > 1 {
            message.push_str(&format!("\nit had died {} times:", actor.deaths.len()));
            actor.deaths.iter().enumerate().for_each(|(n, line)| message.push_str(&format!("\n  {}. {line}", n + 1)));
        }
        let cause = actor_error(code, id, &actor.class_name, &message, cause_hex);
        actor.life = Life::Dead(cause.clone());
        actor.spec = None;
        self.to_place.retain(|other| *other != id);
        self.names.retain(|_, (other, _)| *other != id);
        self.tell(id, ActorState::Dead { cause });
    }

    pub(super) fn actor_process_died(&mut self, id: ActorId, blocked: bool, evidence: &Evidence) {
        self.release_actor(id, blocked);
        let actor = self.actors.get_mut(&id).expect("a known actor");
        let how = describe(evidence);
        actor.deaths.push(how.lines().next().unwrap_or_default().to_owned());
        let name = actor.class_name.clone();
        match (&actor.ending, actor.restarts_left) {
            (Some(why), _) => {
                let text = format!("the actor {name} is dead: {why}");
                let unreferenced = actor.unreferenced;
                self.actor_ends(id, "actor_died", &text, "");
                if unreferenced {
                    self.actors.remove(&id);
                }
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
                self.to_place.push_back(id);
                self.tell(id, ActorState::Restarting { cause });
            }
        }
    }

    pub(super) fn actor_kill(&mut self, now: Time, id: ActorId, no_restart: bool) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let why = "it was killed by ray.kill";
        if no_restart {
            actor.ending = Some(why.into());
        }
        match actor.process() {
            Some(process) => self.kill(process, why),
            None if no_restart && !matches!(actor.life, Life::Dead(_)) => {
                let text = format!("the actor {} is dead: {why}", actor.class_name);
                self.actor_ends(id, "actor_died", &text, "");
                self.schedule(now);
            }
            None => {}
        }
    }

    /// Nobody can call it any more; its calls are done, since each held a handle.
    pub(super) fn actor_out_of_scope(&mut self, now: Time, id: ActorId) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let why = "every handle to it went out of scope";
        actor.ending.get_or_insert_with(|| why.into());
        actor.unreferenced = true;
        match actor.life {
            Life::Alive(process) | Life::Starting(process) => self.send(process, FromNode::ActorFinish { actor: id }),
            Life::Waiting => {
                self.actor_ends(id, "actor_died", why, "");
                self.actors.remove(&id);
                self.schedule(now);
            }
            Life::Dead(_) => {
                self.actors.remove(&id);
            }
        }
    }

    /// The actor ends itself (exit_actor): its exit is no failure.
    pub(super) fn actor_leaving(&mut self, id: ActorId, reason: String) {
        if let Some(actor) = self.actors.get_mut(&id) {
            actor.ending = Some(reason);
        }
    }

    pub(super) fn owner_of_actors_died(&mut self, now: Time, owner: ProcId) {
        let orphans: Vec<ActorId> =
            self.actors.iter().filter(|(id, a)| id.owner == owner && !a.spec.as_ref().is_some_and(|s| s.detached)).map(|(id, _)| *id).collect();
        for id in orphans {
            let actor = self.actors.get_mut(&id).expect("listed");
            let why = "its owner, the process that created it, has died";
            actor.ending = Some(why.into());
            match actor.process() {
                Some(process) => self.kill(process, why),
                None if actor.life == Life::Waiting => {
                    let text = format!("the actor {} is dead: {why}", actor.class_name);
                    self.actor_ends(id, "actor_died", &text, "");
                }
                None => {}
            }
        }
        self.schedule(now);
    }

    pub(super) fn name_take(&mut self, from: ProcId, token: u64, key: (String, String), value: (ActorId, Blob)) {
        let existing = self.names.get(&key).cloned();
        if existing.is_none() {
            self.names.insert(key, value);
        }
        self.send(from, FromNode::NameTaken { token, existing });
    }

    pub(super) fn name_find(&mut self, from: ProcId, token: u64, key: (String, String)) {
        let existing = self.names.get(&key).cloned();
        self.send(from, FromNode::NameFound { token, existing });
    }

    pub(super) fn name_list(&mut self, from: ProcId, token: u64, all: bool, namespace: &str) {
        let names = self.names.keys().filter(|(ns, _)| all || ns == namespace).cloned().collect();
        self.send(from, FromNode::Names { token, names });
    }

    pub(super) fn check_actors(&self) {
        for (id, actor) in &self.actors {
            if let Some(process) = actor.process() {
                let role = self.procs.get(&process).map(|p| p.role);
                assert_eq!(role, Some(Role::Actor(*id)), "the process of {id:?} knows it");
            }
        }
        let placed: BTreeSet<_> = self.actors.values().filter_map(Actor::process).collect();
        let roles = self.procs.values().filter(|p| matches!(p.role, Role::Actor(_))).count();
        assert_eq!(placed.len(), roles, "one process per living actor");
    }
}

fn actor_error(code: &str, id: ActorId, class_name: &str, message: &str, cause_hex: &str) -> Value {
    let hex: String = id.actor_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let fields = [("actor_id", hex.as_str()), ("class_name", class_name), ("message", message), ("cause", cause_hex)];
    system_error(code, &fields)
}
