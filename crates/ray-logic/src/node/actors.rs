//! Actors that the head gave to this node: they wait for room, start, live, end. What becomes of them next is the head's business.

use super::bundles::{Pool, Room};
use super::procs::Role;
use super::Node;
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::{ActorSpec, Evidence, FromNode};
use ray_proto::report::Fact;
use ray_proto::{ActorId, ProcId, Resources, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
enum Life {
    /// In `to_place`.
    Waiting,
    Starting(ProcId),
    Alive(ProcId),
}

#[derive(Debug)]
pub(super) struct Hosted {
    spec: Box<ActorSpec>,
    life: Life,
    held: Resources,
    devices: Vec<(u32, i64)>,
    /// Whom they are from.
    pool: Pool,
    incarnation: u32,
    /// Another life may follow this one.
    restartable: bool,
}

impl Hosted {
    pub(super) fn held(&self) -> &Resources {
        &self.held
    }

    pub(super) fn pool(&self) -> Pool {
        self.pool
    }

    /// The bundle that it lived from is no more. Returns its process.
    pub(super) fn lose_bundle(&mut self) -> Option<ProcId> {
        self.pool = None;
        self.process()
    }

    pub(super) fn may_restart(&self) -> bool {
        self.restartable
    }

    pub(super) fn class_name(&self) -> &str {
        &self.spec.class_name
    }

    pub(super) fn is_detached(&self) -> bool {
        self.spec.detached
    }

    /// What a placement waits for: the spec while it waits.
    pub(super) fn waiting_spec(&self) -> Option<&ActorSpec> {
        (self.life == Life::Waiting).then_some(&self.spec)
    }

    /// What the head says of it, with what is known here only.
    pub(super) fn located(&self, fact: Fact) -> Fact {
        match fact {
            Fact::Actor { class_name, life, to_place, deaths, cause, .. } => {
                Fact::Actor { class_name, life, process: self.process(), held: self.held.clone(), to_place, deaths, cause }
            }
            Fact::Unknown {} => Fact::Actor {
                class_name: self.spec.class_name.clone(),
                life: if matches!(self.life, Life::Alive(_)) { "alive" } else { "starting" }.into(),
                process: self.process(),
                held: self.held.clone(),
                to_place: self.spec.to_place.clone(),
                deaths: vec![],
                cause: None,
            },
            other => other,
        }
    }

    fn process(&self) -> Option<ProcId> {
        match self.life {
            Life::Starting(id) | Life::Alive(id) => Some(id),
            Life::Waiting => None,
        }
    }
}

impl Node {
    pub(super) fn actor_placed(&mut self, now: Time, id: ActorId, incarnation: u32, restartable: bool, spec: Box<ActorSpec>) {
        if self.hosted.get(&id).is_some_and(|hosted| hosted.incarnation >= incarnation) {
            return;
        }
        self.hosted.insert(id, Hosted { spec, life: Life::Waiting, held: Resources::default(), devices: vec![], pool: None, incarnation, restartable });
        self.to_place.push_back(id);
        self.schedule(now);
    }

    /// The head wants it back if it has not started.
    pub(super) fn actor_unplace(&mut self, now: Time, id: ActorId, incarnation: u32) {
        let waits = self.hosted.get(&id).is_some_and(|hosted| hosted.incarnation == incarnation && hosted.life == Life::Waiting);
        if waits {
            self.hosted.remove(&id);
            self.to_place.retain(|other| *other != id);
            self.say_to_head(NodeMessage::ActorUnplaced { actor: id, incarnation });
            self.schedule(now);
        }
    }

    pub(super) fn actor_kill(&mut self, now: Time, id: ActorId, incarnation: u32, reason: &str) {
        let Some(hosted) = self.hosted.get(&id).filter(|hosted| hosted.incarnation == incarnation) else { return };
        match hosted.process() {
            Some(process) => self.kill(process, reason),
            None => self.actor_unplace(now, id, incarnation),
        }
    }

    pub(super) fn actor_finish(&mut self, now: Time, id: ActorId, incarnation: u32) {
        let Some(hosted) = self.hosted.get(&id).filter(|hosted| hosted.incarnation == incarnation) else { return };
        match hosted.process() {
            Some(process) => self.send(process, FromNode::ActorFinish { actor: id }),
            None => self.actor_unplace(now, id, incarnation),
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
        let Some(spec) = self.hosted.get(&id).map(|hosted| &hosted.spec) else { return true };
        let Some(pool) = self.pool_for(&spec.strategy, &[&spec.to_place, &spec.held], None) else { return false };
        let Some(worker) = self.idle_worker(&spec.env, id.owner.job(), None) else { return false };
        let spec = spec.clone();
        let Some(devices) = self.devices_in(pool).assign(&spec.held) else { return false };
        *idle -= 1;
        self.free_in(pool).subtract(&spec.held);
        self.procs.get_mut(&worker).expect("an idle worker").role = Role::Actor(id);
        let hosted = self.hosted.get_mut(&id).expect("looked up above");
        hosted.held = spec.held.clone();
        hosted.pool = pool;
        hosted.life = Life::Starting(worker);
        let gpu_ids = devices.iter().map(|(device, _)| *device).collect();
        hosted.devices = devices;
        let incarnation = hosted.incarnation;
        self.send(worker, FromNode::ActorStart { actor: id, incarnation, gpu_ids, spec });
        true
    }

    /// Actors that would fit but for a worker, by job and environment.
    pub(super) fn actors_without_worker(&self) -> BTreeMap<(u32, String), usize> {
        let mut counts = BTreeMap::new();
        for id in &self.to_place {
            let Some(spec) = self.hosted.get(id).map(|hosted| &hosted.spec) else { continue };
            if self.pool_for(&spec.strategy, &[&spec.to_place], None).is_some() {
                let count = counts.entry((id.owner.job(), spec.env.clone())).or_insert(0);
                *count = (*count + 1usize).min(64);
            }
        }
        counts
    }

    /// Actors wait for whole processes; calls must not starve them of what they hold.
    pub(super) fn reserve_for_actors(&self, room: &mut Room) {
        for spec in self.to_place.iter().filter_map(|id| self.hosted.get(id)).map(|hosted| &hosted.spec) {
            if let Some(pool) = self.pool_for(&spec.strategy, &[&spec.held], Some(&*room)) {
                self.promise(room, pool, &spec.held);
            }
        }
    }

    pub(super) fn actor_up(&mut self, from: ProcId, id: ActorId) {
        let Some(hosted) = self.hosted.get_mut(&id) else { return };
        if hosted.life == Life::Starting(from) {
            hosted.life = Life::Alive(from);
            let incarnation = hosted.incarnation;
            self.say_to_head(NodeMessage::ActorUp { actor: id, incarnation, proc_id: from });
        }
    }

    /// The constructor raised. False: it is not this node's to construct.
    pub(super) fn actor_failed(&mut self, now: Time, from: ProcId, id: ActorId, error: &Value) -> bool {
        let Some(hosted) = self.hosted.get(&id).filter(|hosted| hosted.life == Life::Starting(from)) else { return false };
        let incarnation = hosted.incarnation;
        self.release_actor(id, false);
        self.leave(from, "the actor's constructor failed");
        self.say_to_head(NodeMessage::ActorFailed { actor: id, incarnation, error: error.clone() });
        self.schedule(now);
        true
    }

    fn leave(&mut self, worker: ProcId, reason: &str) {
        if let Some(proc) = self.procs.get_mut(&worker) {
            proc.role = Role::Leaving;
            proc.blocked = false;
            self.send(worker, FromNode::Exit { reason: reason.to_owned() });
        }
    }

    fn release_actor(&mut self, id: ActorId, blocked: bool) {
        let hosted = self.hosted.remove(&id).expect("a known actor");
        self.give_back(hosted.pool, &hosted.held, &hosted.devices, blocked);
    }

    pub(super) fn actor_process_died(&mut self, id: ActorId, blocked: bool, evidence: &Evidence) {
        let incarnation = self.hosted[&id].incarnation;
        self.release_actor(id, blocked);
        self.say_to_head(NodeMessage::ActorEnded { actor: id, incarnation, evidence: evidence.clone() });
    }

    pub(super) fn check_actors(&self) {
        for (id, hosted) in &self.hosted {
            match hosted.process() {
                Some(process) => {
                    let role = self.procs.get(&process).map(|p| p.role);
                    assert_eq!(role, Some(Role::Actor(*id)), "the process of {id:?} knows it");
                }
                None => assert!(self.to_place.contains(id), "{id:?} waits in no line"),
            }
        }
        let placed: BTreeSet<_> = self.hosted.values().filter_map(Hosted::process).collect();
        let roles = self.procs.values().filter(|p| matches!(p.role, Role::Actor(_))).count();
        assert_eq!(placed.len(), roles, "one process per living actor");
    }
}
