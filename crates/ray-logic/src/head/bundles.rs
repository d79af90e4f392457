//! Which nodes get the bundles of a placement group: plan, reserve, commit.
//!
//! The plan is made from views, which are hints; the node that sets the resources aside is the judge. A round is one plan: every node in it gets one message to
//! reserve its bundles and, when all have, one to commit. If one refuses, is lost, or has let its reservation expire, the round is given up: all bundles of it are
//! dropped, and there is another plan. A group with one node needs only one message, which reserves and commits.

use super::groups::Group;
use super::Head;
use crate::packing::{why_not, Free, Plan, Puzzle};
use ray_proto::cluster::{NodeMessage, NodeView};
use ray_proto::wire::Wire;
use ray_proto::{GroupId, NodeIndex, Resources};
use std::collections::{BTreeMap, BTreeSet};

type Bundles = BTreeMap<NodeIndex, Vec<u32>>;

#[derive(Debug, PartialEq)]
pub(super) enum Phase {
    /// In line: some bundles have no node.
    Unplaced,
    /// Nodes were asked to set bundles aside: those that have not answered, and those that have.
    Reserving {
        asked: Bundles,
        done: Bundles,
    },
    /// They all have, and are told to keep them; `asked` have not answered that.
    Committing {
        asked: BTreeSet<NodeIndex>,
        all: Bundles,
    },
    Created,
}

impl Phase {
    /// The bundles of the round that runs.
    pub(super) fn fresh(&self) -> BTreeSet<u32> {
        self.round().values().flatten().copied().collect()
    }

    fn round(&self) -> Bundles {
        match self {
            Phase::Reserving { asked, done } => asked.iter().chain(done).map(|(node, bundles)| (*node, bundles.clone())).collect(),
            Phase::Committing { all, .. } => all.clone(),
            Phase::Unplaced | Phase::Created => Bundles::new(),
        }
    }

    /// What nodes were asked to set aside and have not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (&NodeIndex, &Vec<u32>)> {
        let asked = if let Phase::Reserving { asked, .. } = self { Some(asked) } else { None };
        asked.into_iter().flatten()
    }
}

impl Group {
    fn sum(&self, bundles: &[u32]) -> Resources {
        let mut sum = Resources::default();
        bundles.iter().for_each(|bundle| sum.add(&self.spec.bundles[*bundle as usize]));
        sum
    }

    /// Equal for groups that need the same.
    fn need(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.spec.bundles.put(&mut out);
        self.spec.selectors.put(&mut out);
        self.spec.packing.put(&mut out);
        self.spec.domain.put(&mut out);
        self.nodes.put(&mut out);
        out
    }
}

impl Head {
    /// What each node has to give, as far as is known: its view, less what it was asked to set aside and what actors wait for there.
    fn free_for_groups(&self) -> Free {
        let mut free: Free = self.views.iter().map(|(index, view)| (*index, view.available.clone())).collect();
        for (node, promised) in &self.groups.promised {
            free.entry(*node).and_modify(|room| room.subtract(promised));
        }
        for id in &self.waiting {
            let actor = &self.actors[id];
            let (Some(node), Some(spec)) = (actor.node(), &actor.spec) else { continue };
            if let Some(room) = free.get_mut(&node).filter(|room| !spec.is_in_group() && spec.held.fits_in(room)) {
                room.subtract(&spec.held);
            }
        }
        free
    }

    pub(super) fn why_unplaced(&self, group: &Group) -> (String, bool) {
        why_not(&group.spec, &self.members, &self.free_for_groups(), &group.fixed())
    }

    fn plan(&self, group: &Group, free: &Free) -> Option<Plan> {
        let mut free = free.clone();
        free.retain(|node, _| group.refused.get(node).is_none_or(|version| *version != self.views[node].version));
        Puzzle::new(&group.spec, &self.members, free, &group.fixed()).solve()
    }

    /// Place one group if it can be. It is in line.
    pub(super) fn try_group(&mut self, id: GroupId) -> bool {
        let Some(plan) = self.plan(&self.groups.living[&id], &self.free_for_groups()) else { return false };
        self.reserve(id, plan);
        true
    }

    /// There may be room now: place those in line that can be.
    pub(super) fn place_groups(&mut self) {
        if self.groups.line.is_empty() {
            return;
        }
        let mut free = self.free_for_groups();
        let mut hopeless: BTreeSet<Vec<u8>> = BTreeSet::new();
        for id in self.groups.line.clone() {
            let group = &self.groups.living[&id];
            let need = group.need();
            if hopeless.contains(&need) {
                continue;
            }
            match self.plan(group, &free) {
                None => drop(hopeless.insert(need)),
                Some(plan) => {
                    for (bundle, node) in &plan {
                        free.get_mut(node).expect("planned").subtract(&group.spec.bundles[*bundle as usize]);
                    }
                    self.reserve(id, plan);
                }
            }
        }
    }

    fn reserve(&mut self, id: GroupId, plan: Plan) {
        self.groups.line.retain(|other| *other != id);
        let group = self.groups.living.get_mut(&id).expect("planned");
        group.round += 1;
        let mut asked = Bundles::new();
        for (bundle, node) in plan {
            group.nodes[bundle as usize] = Some(node);
            asked.entry(node).or_default().push(bundle);
        }
        let (round, commit) = (group.round, asked.len() == 1);
        let mut messages = Vec::new();
        for (node, numbers) in &asked {
            let shape = |bundle: &u32| (*bundle, group.spec.bundles[*bundle as usize].clone());
            messages.push((*node, NodeMessage::ReserveBundles { group: id, round, commit, bundles: numbers.iter().map(shape).collect() }));
            self.groups.promised.entry(*node).or_default().add(&group.sum(numbers));
        }
        group.phase = Phase::Reserving { asked, done: Bundles::new() };
        messages.into_iter().for_each(|(node, message)| self.send(node, message));
    }

    /// A node has answered: what it was asked for is in its views from now on, or is not to be.
    fn answered(&mut self, node: NodeIndex, sum: &Resources, taken: bool) {
        if let Some(promised) = self.groups.promised.get_mut(&node) {
            promised.subtract(sum);
            promised.0.retain(|_, amount| *amount != 0);
        }
        if let Some(view) = self.views.get_mut(&node).filter(|_| taken) {
            view.available.subtract(sum);
        }
    }

    pub(super) fn bundles_reserved(&mut self, from: NodeIndex, id: GroupId, round: u32) {
        let Some(group) = self.groups.living.get_mut(&id).filter(|group| group.round == round) else { return };
        let Phase::Reserving { asked, done } = &mut group.phase else { return };
        let Some(bundles) = asked.remove(&from) else { return };
        done.insert(from, bundles.clone());
        let (sum, is_last, all) = (group.sum(&bundles), matches!(&group.phase, Phase::Reserving { asked, .. } if asked.is_empty()), group.phase.round());
        self.answered(from, &sum, true);
        if !is_last {
            return;
        }
        if all.len() == 1 {
            return self.group_created(id);
        }
        let nodes: BTreeSet<NodeIndex> = all.keys().copied().collect();
        self.groups.living.get_mut(&id).expect("looked up above").phase = Phase::Committing { asked: nodes.clone(), all };
        nodes.into_iter().for_each(|node| self.send(node, NodeMessage::CommitBundles { group: id, round }));
    }

    pub(super) fn bundles_committed(&mut self, from: NodeIndex, id: GroupId, round: u32) {
        let Some(group) = self.groups.living.get_mut(&id).filter(|group| group.round == round) else { return };
        let Phase::Committing { asked, .. } = &mut group.phase else { return };
        asked.remove(&from);
        if asked.is_empty() {
            self.group_created(id);
        }
    }

    fn group_created(&mut self, id: GroupId) {
        let group = self.groups.living.get_mut(&id).expect("its last bundle has come");
        group.phase = Phase::Created;
        if !std::mem::replace(&mut group.was_created, true) {
            group.latency_us = self.now.saturating_sub(group.since);
        }
        group.refused.clear();
        self.tell_of_group(id);
        self.place_homeless();
    }

    pub(super) fn bundles_refused(&mut self, from: NodeIndex, id: GroupId, round: u32, view: NodeView) {
        let version = view.version;
        self.note_view(view);
        let Some(group) = self.groups.living.get_mut(&id).filter(|group| group.round == round) else { return };
        group.refused.insert(from, version);
        self.give_up_round(id, Some(from));
        self.place_groups();
    }

    /// It was to keep what it has given up meanwhile.
    pub(super) fn bundles_expired(&mut self, from: NodeIndex, id: GroupId, round: u32) {
        if self.groups.living.get(&id).is_some_and(|group| group.round == round && matches!(group.phase, Phase::Committing { .. })) {
            self.give_up_round(id, Some(from));
            self.place_groups();
        }
    }

    /// The bundles of the round that runs, if one does, have no node any more. `but`: that node has none of them.
    pub(super) fn give_up_round(&mut self, id: GroupId, but: Option<NodeIndex>) {
        let group = self.groups.living.get_mut(&id).expect("a living group");
        let all = group.phase.round();
        if all.is_empty() {
            return;
        }
        let unanswered: Vec<(NodeIndex, Resources)> = group.phase.unanswered().map(|(node, bundles)| (*node, group.sum(bundles))).collect();
        all.values().flatten().for_each(|bundle| group.nodes[*bundle as usize] = None);
        group.phase = Phase::Unplaced;
        self.groups.line.push_back(id);
        unanswered.iter().for_each(|(node, sum)| self.answered(*node, sum, false));
        for (node, bundles) in all.into_iter().filter(|(node, _)| Some(*node) != but) {
            self.send(node, NodeMessage::DropBundles { group: id, bundles, reason: "the group is placed anew".into() });
        }
    }

    /// What was there is nowhere now.
    pub(super) fn bundles_of_node_gone(&mut self, index: NodeIndex) {
        let hit = |group: &Group| group.nodes.contains(&Some(index));
        let hit: Vec<GroupId> = self.groups.living.iter().filter(|(_, group)| hit(group)).map(|(id, _)| *id).collect();
        for id in &hit {
            self.give_up_round(*id, Some(index));
            let group = self.groups.living.get_mut(id).expect("listed");
            group.nodes.iter_mut().filter(|node| **node == Some(index)).for_each(|node| *node = None);
            if group.phase == Phase::Created {
                group.phase = Phase::Unplaced;
                self.groups.line.push_back(*id);
            }
        }
        self.groups.promised.remove(&index);
        self.groups.living.values_mut().for_each(|group| group.node_gone(index));
        hit.into_iter().for_each(|id| self.tell_of_group(id));
        self.place_groups();
    }
}
