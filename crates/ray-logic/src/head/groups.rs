//! Placement groups: created, found, watched, removed. Where their bundles go: `bundles`.
//!
//! Invariants (checked by `check_groups`)
//! 1. A group that counts as created has every bundle on a living node, which has promised it for good.
//! 2. A group that is not placed is in line for it.
//! 3. Of what nodes were asked to set aside and have not answered yet, the sum per node is known (`promised`).

use super::awaited::Awaited;
use super::bundles::Phase;
use super::{Change, Head};
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::groups::{GroupInfo, GroupLife, GroupPlaces, GroupSpec};
use ray_proto::msg::FromNode;
use ray_proto::report::Fact;
use ray_proto::{hex, ActorId, GroupId, NodeIndex, ProcId, Resources, Strategy};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Groups that are no more and are kept for those who ask.
const REMEMBERED: usize = 1_000;

/// Why a group that a user removes is gone.
pub(super) const REMOVED: &str = "remove_placement_group was called";

#[derive(Debug)]
pub(super) struct Group {
    pub(super) spec: Box<GroupSpec>,
    /// The node of each bundle: one that has it, or was asked to.
    pub(super) nodes: Vec<Option<NodeIndex>>,
    pub(super) phase: Phase,
    /// Of the requests to nodes; each is answered with its number.
    pub(super) round: u32,
    /// It was created once.
    pub(super) was_created: bool,
    pub(super) since: Time,
    pub(super) latency_us: u64,
    /// Nodes that can't take it although they seemed to, with the version of the view that showed it.
    pub(super) refused: BTreeMap<NodeIndex, u64>,
    /// Processes that wait for it, or may.
    watchers: BTreeSet<ProcId>,
    /// Nodes with calls for it.
    interested: BTreeSet<NodeIndex>,
    pub(super) actors: BTreeSet<ActorId>,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) living: BTreeMap<GroupId, Group>,
    pub(super) names: BTreeMap<(String, String), GroupId>,
    /// Those without a place for every bundle, in the order in which they came.
    pub(super) line: VecDeque<GroupId>,
    /// What nodes were asked to set aside and have not answered.
    pub(super) promised: BTreeMap<NodeIndex, Resources>,
    pub(super) awaited: BTreeMap<GroupId, Awaited>,
    /// The highest number of a group of each creator.
    pub(super) latest: BTreeMap<ProcId, u64>,
    removed: BTreeMap<GroupId, GroupInfo>,
    removed_order: VecDeque<GroupId>,
}

impl Group {
    pub(super) fn life(&self) -> GroupLife {
        match (&self.phase, self.was_created) {
            (Phase::Created, _) => GroupLife::Created {},
            (_, true) => GroupLife::Rescheduling {},
            _ => GroupLife::Pending {},
        }
    }

    /// Bundles that have a node for good.
    pub(super) fn fixed(&self) -> BTreeMap<u32, NodeIndex> {
        let fresh = self.phase.fresh();
        let at = |(bundle, node): (usize, &Option<NodeIndex>)| node.map(|node| (bundle as u32, node));
        self.nodes.iter().enumerate().filter_map(at).filter(|(bundle, _)| !fresh.contains(bundle)).collect()
    }

    /// Bundles in which something of this shape could run, with their nodes. Those of a group that is not whole may be used where they are.
    pub(super) fn homes(&self, bundle: i32, shapes: [&Resources; 2]) -> Vec<(u32, NodeIndex)> {
        let fits = |at: &u32| shapes.iter().all(|shape| shape.fits_in(&self.spec.bundles[*at as usize]));
        self.fixed().into_iter().filter(|(at, _)| (bundle < 0 || *at == bundle as u32) && fits(at)).collect()
    }

    pub(super) fn node_gone(&mut self, index: NodeIndex) {
        self.interested.remove(&index);
        self.refused.remove(&index);
        self.watchers.retain(|watcher| watcher.node() != index);
    }

    fn describe(&self, id: GroupId) -> String {
        let name = if self.spec.name.is_empty() { String::new() } else { format!(" {:?}", self.spec.name) };
        format!("placement group{name} {}", hex(&id.bytes()))
    }
}

impl Head {
    pub(super) fn group_create(&mut self, from: ProcId, token: u64, id: GroupId, spec: Box<GroupSpec>) {
        let key = (spec.namespace.clone(), spec.name.clone());
        let existing = if spec.name.is_empty() { None } else { self.groups.names.get(&key).copied() };
        if token != 0 {
            self.tell(from, FromNode::GroupTaken { token, existing });
        }
        if existing.is_some() || self.groups.living.contains_key(&id) || self.groups.removed.contains_key(&id) {
            return;
        }
        let Awaited { mut watchers, interested, actors, removed } = self.group_came(id);
        watchers.insert(from);
        if !spec.name.is_empty() {
            self.groups.names.insert(key, id);
        }
        self.commit(Change::GroupCreated { group: id, spec: spec.clone() });
        let group = Group {
            nodes: vec![None; spec.bundles.len()],
            spec,
            phase: Phase::Unplaced,
            round: 0,
            was_created: false,
            since: self.now,
            latency_us: 0,
            refused: BTreeMap::new(),
            watchers,
            interested: interested.clone(),
            actors,
        };
        self.groups.living.insert(id, group);
        self.groups.line.push_back(id);
        if !self.try_group(id) {
            let group = &self.groups.living[&id];
            let (why, never) = self.why_unplaced(group);
            if never {
                let text = format!("{} can't be placed and stays pending: {why}", group.describe(id));
                self.tell(from, FromNode::Notice { text });
            }
        }
        let places = self.places_of(id);
        for node in interested {
            self.send(node, NodeMessage::GroupPlaced { group: id, places: Box::new(places.clone()) });
        }
        if removed {
            self.group_remove(id, REMOVED);
        }
    }

    pub(super) fn group_watch(&mut self, from: ProcId, id: GroupId) {
        if let Some(awaited) = self.awaited_group(id) {
            awaited.watchers.insert(from);
            return self.tell(from, FromNode::GroupIs { group: id, life: GroupLife::Pending {} });
        }
        let life = match self.groups.living.get_mut(&id) {
            Some(group) => {
                group.watchers.insert(from);
                group.life()
            }
            None => GroupLife::Removed { text: self.why_removed(id) },
        };
        self.tell(from, FromNode::GroupIs { group: id, life });
    }

    fn why_removed(&self, id: GroupId) -> String {
        let known = self.groups.removed.get(&id).map(|info| info.life.clone());
        match known {
            Some(GroupLife::Removed { text }) => text,
            _ => format!("placement group {} is not known: it was removed, or never created", hex(&id.bytes())),
        }
    }

    /// A node has calls for the group.
    pub(super) fn group_wanted(&mut self, from: NodeIndex, id: GroupId) {
        if let Some(awaited) = self.awaited_group(id) {
            // Told when it is there.
            awaited.interested.insert(from);
            return;
        }
        if let Some(group) = self.groups.living.get_mut(&id) {
            group.interested.insert(from);
        }
        let places = Box::new(self.places_of(id));
        self.send(from, NodeMessage::GroupPlaced { group: id, places });
    }

    fn places_of(&self, id: GroupId) -> GroupPlaces {
        let Some(group) = self.groups.living.get(&id) else {
            return GroupPlaces::removed(self.why_removed(id));
        };
        let (life, fixed) = (group.life(), group.fixed());
        let nodes = (0..group.nodes.len() as u32).map(|bundle| fixed.get(&bundle).copied()).collect();
        let why = if life == (GroupLife::Created {}) { String::new() } else { self.why_unplaced(group).0 };
        GroupPlaces { life, nodes, bundles: group.spec.bundles.clone(), why }
    }

    /// Everybody who wants to know hears how the group stands.
    pub(super) fn tell_of_group(&mut self, id: GroupId) {
        let group = &self.groups.living[&id];
        let life = group.life();
        let (watchers, interested) = (group.watchers.clone(), group.interested.clone());
        for watcher in watchers {
            self.tell(watcher, FromNode::GroupIs { group: id, life: life.clone() });
        }
        if !interested.is_empty() {
            let places = self.places_of(id);
            for node in interested {
                self.send(node, NodeMessage::GroupPlaced { group: id, places: Box::new(places.clone()) });
            }
        }
    }

    /// It ends, and what runs in it with it.
    pub(super) fn group_remove(&mut self, id: GroupId, why: &str) {
        if let Some(awaited) = self.awaited_group(id) {
            awaited.removed = true;
        }
        if !self.groups.living.contains_key(&id) {
            return;
        }
        self.give_up_round(id, None);
        let group = self.groups.living.remove(&id).expect("looked up above");
        let text = format!("{} was removed: {why}", group.describe(id));
        self.groups.line.retain(|other| *other != id);
        self.groups.names.remove(&(group.spec.namespace.clone(), group.spec.name.clone()));
        self.commit(Change::GroupRemoved { group: id });
        let mut by_node: BTreeMap<NodeIndex, Vec<u32>> = BTreeMap::new();
        for (bundle, node) in group.fixed() {
            by_node.entry(node).or_default().push(bundle);
        }
        // First the actors: what ends them is the removal, not the end of their processes.
        self.actors_of_group_end(group.actors, &text);
        for (node, bundles) in by_node {
            self.send(node, NodeMessage::DropBundles { group: id, bundles, reason: text.clone() });
        }
        self.tell_removed(id, &text, group.watchers, group.interested);
        let info = GroupInfo {
            group: id,
            spec: *group.spec,
            life: GroupLife::Removed { text },
            nodes: group.nodes,
            why: String::new(),
            infeasible: false,
            latency_us: group.latency_us,
            attempts: group.round,
        };
        self.remember_removed(info);
        self.place_groups();
    }

    /// Everybody who cares for the group hears that there will be none.
    pub(super) fn tell_removed(&mut self, id: GroupId, text: &str, watchers: BTreeSet<ProcId>, interested: BTreeSet<NodeIndex>) {
        for watcher in watchers {
            self.tell(watcher, FromNode::GroupIs { group: id, life: GroupLife::Removed { text: text.into() } });
        }
        for node in interested {
            self.send(node, NodeMessage::GroupPlaced { group: id, places: Box::new(GroupPlaces::removed(text.into())) });
        }
    }

    fn remember_removed(&mut self, info: GroupInfo) {
        self.groups.removed_order.push_back(info.group);
        self.groups.removed.insert(info.group, info);
        if self.groups.removed_order.len() > REMEMBERED {
            self.groups.removed_order.pop_front().map(|oldest| self.groups.removed.remove(&oldest));
        }
    }

    // ---- creators

    /// What the job created ends with it, but for detached groups and those of actors that live on.
    pub(super) fn groups_of_job_end(&mut self, job: u32) {
        let lives_on = |creator: &ActorId| self.actors.get(creator).is_some_and(|actor| actor.is_detached() && !actor.is_dead());
        let ends = |(id, group): &(&GroupId, &Group)| id.owner.job() == job && !group.spec.detached && !group.spec.creator.as_ref().is_some_and(lives_on);
        let ending: Vec<GroupId> = self.groups.living.iter().filter(ends).map(|(id, _)| *id).collect();
        ending.into_iter().for_each(|id| self.group_remove(id, "the job that created it is over"));
    }

    /// An actor is dead for good. Its groups end with it if its job is over.
    pub(super) fn groups_of_actor_end(&mut self, actor: ActorId) {
        if self.state.jobs.get(&actor.owner.job()).is_some_and(|info| info.ended_ms == 0) {
            return;
        }
        let ending = |group: &Group| !group.spec.detached && group.spec.creator == Some(actor);
        let ending: Vec<GroupId> = self.groups.living.iter().filter(|(_, group)| ending(group)).map(|(id, _)| *id).collect();
        ending.into_iter().for_each(|id| self.group_remove(id, "the actor that created it is dead"));
    }

    pub(super) fn watcher_of_groups_gone(&mut self, proc_id: ProcId) {
        self.groups.living.values_mut().for_each(|group| {
            group.watchers.remove(&proc_id);
        });
        self.groups.awaited.values_mut().for_each(|group| {
            group.watchers.remove(&proc_id);
        });
        self.creators_of_groups_gone(|creator| creator == proc_id);
    }

    // ---- actors that live in groups

    pub(super) fn note_actor_of_group(&mut self, id: ActorId, strategy: &Strategy, lives: bool) {
        let Strategy::Group { group, .. } = strategy else { return };
        let actors = match self.groups.living.get_mut(group) {
            Some(group) => Some(&mut group.actors),
            None => self.awaited_group(*group).map(|group| &mut group.actors),
        };
        if let Some(actors) = actors {
            match lives {
                true => actors.insert(id),
                false => actors.remove(&id),
            };
        }
    }

    // ---- answers

    fn info_of(&self, id: GroupId, group: &Group) -> GroupInfo {
        let (life, fixed) = (group.life(), group.fixed());
        let (why, infeasible) = if life == (GroupLife::Created {}) { (String::new(), false) } else { self.why_unplaced(group) };
        let nodes = (0..group.nodes.len() as u32).map(|bundle| fixed.get(&bundle).copied()).collect();
        GroupInfo { group: id, spec: (*group.spec).clone(), life, nodes, why, infeasible, latency_us: group.latency_us, attempts: group.round }
    }

    pub(super) fn groups_asked(&mut self, from: ProcId, token: u64, group: Option<GroupId>, name: Option<(String, String)>) {
        let by_name = name.map(|key| self.groups.names.get(&key).copied());
        let known = |id: GroupId| self.groups.living.get(&id).map(|group| self.info_of(id, group)).or_else(|| self.groups.removed.get(&id).cloned());
        let groups = match (by_name, group) {
            (Some(found), _) => found.and_then(known).into_iter().collect(),
            (None, Some(id)) => known(id).into_iter().collect(),
            (None, None) => {
                let living = self.groups.living.iter().map(|(id, group)| self.info_of(*id, group));
                self.groups.removed.values().cloned().chain(living).collect()
            }
        };
        self.tell(from, FromNode::GroupsAre { token, groups });
    }

    /// For `ray why`.
    pub fn report_group(&self, id: GroupId) -> Fact {
        let living = self.groups.living.get(&id).map(|group| self.info_of(id, group));
        let info = living.or_else(|| self.groups.removed.get(&id).cloned());
        info.map_or(Fact::Unknown {}, |info| Fact::Group { info: Box::new(info) })
    }

    /// Why something of these shapes can't go to its group now; `true`: nor ever.
    pub(super) fn why_not_in_group(&self, (group, bundle): (GroupId, i32), shapes: [&Resources; 2]) -> Option<(String, bool)> {
        if self.group_may_come(group) {
            return Some(("its placement group's creator has not said yet what it is".into(), false));
        }
        let Some(found) = self.groups.living.get(&group) else { return Some((self.why_removed(group), true)) };
        if !found.homes(bundle, shapes).is_empty() {
            return None;
        }
        let fits = |shape: &Resources| found.spec.bundles.iter().enumerate().any(|(at, room)| (bundle < 0 || at == bundle as usize) && shape.fits_in(room));
        if let Some(shape) = shapes.into_iter().find(|shape| !fits(shape)) {
            return Some((format!("a request for {{{shape}}} fits into no bundle that it may use of {}", found.describe(group)), true));
        }
        let (why, _) = self.why_unplaced(found);
        Some((format!("it waits for {}, which is {}: {why}", found.describe(group), found.life().name()), false))
    }

    pub(super) fn group_is_gone(&self, group: GroupId) -> bool {
        !self.groups.living.contains_key(&group) && !self.group_may_come(group)
    }

    pub(super) fn group_leftovers(&self) -> Vec<String> {
        self.groups.living.iter().map(|(id, group)| format!("the head knows group {id:?}: {group:?}")).collect()
    }

    /// Groups whose bundles are all promised, with their places: for the simulator's checks.
    pub fn created_groups(&self) -> impl Iterator<Item = (GroupId, &GroupSpec, &[Option<NodeIndex>])> {
        self.groups.living.iter().filter(|(_, group)| group.phase == Phase::Created).map(|(id, group)| (*id, &*group.spec, &group.nodes[..]))
    }

    /// Every group, with the bundles that have a node for good.
    pub fn living_groups(&self) -> impl Iterator<Item = (GroupId, &GroupSpec, BTreeMap<u32, NodeIndex>)> {
        self.groups.living.iter().map(|(id, group)| (*id, &*group.spec, group.fixed()))
    }

    pub(super) fn check_groups(&self) {
        let mut promised: BTreeMap<NodeIndex, Resources> = BTreeMap::new();
        for (id, group) in &self.groups.living {
            let whole = group.nodes.iter().all(Option::is_some);
            assert!(group.phase != Phase::Created || whole, "group {id:?} counts as created and is not whole: {group:?}");
            assert_eq!(self.groups.line.contains(id), group.phase == Phase::Unplaced, "a group is in line if it has no place: {id:?} {group:?}");
            let living = |node: &NodeIndex| self.members.contains_key(node);
            assert!(group.nodes.iter().flatten().all(living), "a bundle on a dead node: {id:?} {group:?}");
            for (node, bundles) in group.phase.unanswered() {
                bundles.iter().for_each(|bundle| promised.entry(*node).or_default().add(&group.spec.bundles[*bundle as usize]));
            }
        }
        let nothing = Resources::default();
        for node in self.members.keys() {
            let (known, found) = (self.groups.promised.get(node).unwrap_or(&nothing), promised.get(node).unwrap_or(&nothing));
            assert!(known.0.iter().all(|(name, amount)| found.get(name) == *amount), "promised by {node:?}: {known} is noted, {found} is asked for");
        }
    }
}
