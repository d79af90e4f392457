//! Which node gets an actor. The node queues it until there is room; while it waits and another node has room, it is taken back and goes there.

use super::actors::Life;
use super::Head;
use crate::placing::{choose, explain, rank};
use ray_proto::cluster::NodeMessage;
use ray_proto::groups::Within;
use ray_proto::{ActorId, GroupId, NodeIndex, Resources, Strategy};
use std::collections::BTreeMap;

impl Head {
    /// Why no living node may take it; `true`: and none that joins later could.
    pub(super) fn why_homeless(&self, id: ActorId) -> Option<(String, bool)> {
        let spec = self.actors.get(&id)?.spec.as_ref()?;
        let name = &spec.class_name;
        if let Strategy::Group { group, bundle, .. } = spec.strategy {
            let why = self.why_not_in_group((group, bundle), [&spec.to_place, &spec.held]);
            return why.map(|(text, never)| (format!("actor {name}: {text}"), never));
        }
        if choose(&spec.strategy, &spec.to_place, &self.members).hopeless {
            return explain(&spec.to_place, &spec.strategy, &self.members).map(|text| (format!("actor {name}: {text}"), true));
        }
        let only = (self.members.len() == 1).then(|| self.members.values().next().expect("one"));
        let text = [&spec.to_place, &spec.held].into_iter().find_map(|shape| match only {
            Some(node) if !shape.fits_in(&node.total) => Some(crate::node::explain_infeasible(shape, &node.total)),
            _ => explain(shape, &spec.strategy, &self.members),
        });
        text.map(|text| (format!("actor {name}: {text}"), false))
    }

    /// Give an actor that has no node to the best one, or let it wait for one.
    pub(super) fn place(&mut self, id: ActorId) {
        let Some(node) = self.best_node(id, None) else {
            if !self.homeless.contains(&id) {
                self.homeless.push_back(id);
            }
            return self.end_if_hopeless(id);
        };
        self.homeless.retain(|other| *other != id);
        let actor = self.actors.get_mut(&id).expect("a known actor");
        actor.incarnation += 1;
        actor.life = Life::Placed { node, recalled: false };
        let (incarnation, restartable) = (actor.incarnation, actor.may_restart());
        let spec = actor.spec.clone().expect("created");
        self.waiting.insert(id);
        self.send(node, NodeMessage::PlaceActor { actor: id, incarnation, restartable, spec });
    }

    /// What an actor without a node needs, and why none may take it.
    pub(crate) fn homeless_request(&self, id: ActorId) -> Option<(Resources, String, String)> {
        let spec = self.actors.get(&id).filter(|actor| actor.life == Life::Waiting)?.spec.as_ref()?;
        let (text, _) = self.why_homeless(id)?;
        let shape = if spec.held.fits_in(&spec.to_place) { &spec.to_place } else { &spec.held };
        Some((shape.clone(), spec.env.clone(), text))
    }

    fn end_if_hopeless(&mut self, id: ActorId) {
        if let Some((text, true)) = self.why_homeless(id) {
            self.actor_ends(id, self.code_of_homeless(id), &text, "");
        }
    }

    /// Of the error when it can never have a node.
    pub(super) fn code_of_homeless(&self, id: ActorId) -> &'static str {
        let group = self.actors.get(&id).and_then(|actor| actor.spec.as_ref()).and_then(|spec| Within::of(&spec.strategy)).map(|within| within.group);
        match group.is_some_and(|group| self.group_is_gone(group)) {
            true => "actor_group_removed",
            false => "unschedulable",
        }
    }

    /// The nodes changed: perhaps somebody has one now, or will never have.
    pub(super) fn place_homeless(&mut self) {
        for id in std::mem::take(&mut self.homeless) {
            self.place(id);
        }
    }

    /// The node with room now (the creator's own before others), else the one with the shortest line. `but`: not that one, and only with room.
    fn best_node(&self, id: ActorId, but: Option<NodeIndex>) -> Option<NodeIndex> {
        let spec = self.actors.get(&id)?.spec.as_ref()?;
        if let Strategy::Group { group, bundle, .. } = spec.strategy {
            return if but.is_none() { self.home_in_group(id, group, bundle) } else { None };
        }
        let choice = choose(&spec.strategy, &spec.to_place, &self.members);
        let feasible = |index: &&NodeIndex| spec.to_place.fits_in(&self.members[*index].total) && spec.held.fits_in(&self.members[*index].total);
        if let ([only], None) = (&choice.allowed[..], but) {
            return Some(only).filter(feasible).copied();
        }
        let has_room = |index: &NodeIndex| {
            let free = self.free_on(*index, id);
            spec.to_place.fits_in(&free) && spec.held.fits_in(&free)
        };
        let score = |index: &NodeIndex| {
            let own = *index == id.owner.node() && !choice.spread;
            let room = has_room(index);
            let view = &self.views[index];
            let load = if choice.spread {
                crate::placing::load(&self.members[index].total, &view.available)
            } else {
                rank(&self.members[index].total, &view.available)
            };
            let line = self.line_at(*index);
            (!room, choice.tier(*index), if room { 0 } else { line }, !own, if choice.spread { line } else { 0 }, load, *index)
        };
        let candidates = choice.allowed.iter().filter(feasible).filter(|index| but.is_none_or(|but| **index != but && has_room(index)));
        candidates.min_by_key(|index| score(index)).copied()
    }

    /// The node with a bundle of the group that has most room left, as far as the group's actors tell.
    fn home_in_group(&self, id: ActorId, group: GroupId, bundle: i32) -> Option<NodeIndex> {
        let spec = self.actors.get(&id)?.spec.as_ref()?;
        let found = self.groups.living.get(&group)?;
        let homes = found.homes(bundle, [&spec.to_place, &spec.held]);
        let mut room: BTreeMap<NodeIndex, Resources> = BTreeMap::new();
        for (at, node) in &homes {
            room.entry(*node).or_default().add(&found.spec.bundles[*at as usize]);
        }
        for other in found.actors.iter().filter(|other| **other != id) {
            let actor = &self.actors[other];
            let (Some(node), Some(held)) = (actor.node(), actor.spec.as_ref().map(|spec| &spec.held)) else { continue };
            room.entry(node).and_modify(|left| left.subtract(held));
        }
        let crowd = |node: &NodeIndex| found.actors.iter().filter(|other| **other != id && self.actors[other].node() == Some(*node)).count();
        room.into_iter().min_by_key(|(node, left)| (!spec.held.fits_in(left), crowd(node), *node != id.owner.node(), *node)).map(|(node, _)| node)
    }

    /// Actors that wait at a node.
    fn line_at(&self, index: NodeIndex) -> usize {
        self.waiting.iter().filter(|id| self.actors[id].node() == Some(index)).count()
    }

    /// What a node has to give, as far as is known: its view less what other actors were promised there.
    fn free_on(&self, index: NodeIndex, but: ActorId) -> Resources {
        let mut free = self.views[&index].available.clone();
        if let Some(promised) = self.groups.promised.get(&index) {
            free.subtract(promised);
        }
        for id in self.waiting.iter().filter(|id| **id != but && self.actors[id].node() == Some(index)) {
            if let Some(spec) = self.actors[id].spec.as_ref().filter(|spec| !spec.is_in_group()) {
                free.subtract(&spec.held);
            }
        }
        free
    }

    /// There may be room at `index`: actors that wait elsewhere without room there are asked back.
    pub(super) fn move_waiting(&mut self, index: NodeIndex) {
        // Looked at once, and not more are asked back than fit: a thousand may wait.
        let mut room = self.free_on(index, ActorId::NIL);
        for id in self.waiting.iter().copied().collect::<Vec<_>>() {
            let actor = &self.actors[&id];
            let Life::Placed { node, recalled: false } = actor.life else { continue };
            let Some(spec) = &actor.spec else { continue };
            let free = &self.views[&node].available;
            let fits = spec.to_place.fits_in(&room) && spec.held.fits_in(&room);
            let stays = node == index || spec.is_in_group() || !fits || spec.to_place.fits_in(free);
            if stays || self.best_node(id, Some(node)) != Some(index) {
                continue;
            }
            room.subtract(&spec.held);
            let incarnation = actor.incarnation;
            self.actors.get_mut(&id).expect("listed").life = Life::Placed { node, recalled: true };
            self.send(node, NodeMessage::UnplaceActor { actor: id, incarnation });
        }
    }
}
