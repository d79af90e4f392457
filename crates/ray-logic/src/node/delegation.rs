//! Leases that other nodes give to our owners, on our asking (docs/design/011, "Leases over nodes").
//!
//! Invariants (checked by `check_delegation`)
//! 1. What is asked of other nodes for a class is at most what its owner wants.
//! 2. Only wants of our own processes are delegated; a stranger's is served here or waits here.

use super::Node;
use crate::placing::{choose, explain, rank, Choice};
use ray_proto::groups::Within;
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{ClassId, NodeIndex, ProcId, Strategy};
use std::collections::BTreeMap;

/// What another node was asked for a class of ours.
#[derive(Debug, Default)]
pub(super) struct Delegate {
    /// Leases that came from there.
    granted: u64,
    /// Leases asked for and not granted.
    asked: u32,
    defined: bool,
}

impl Delegate {
    pub(super) fn asked(&self) -> u32 {
        self.asked
    }
}

/// No shape fits more often than this into a node as far as a plan is concerned.
const MOST: u32 = 1024;

type Plan = BTreeMap<NodeIndex, u32>;

impl Node {
    /// Decide anew who is asked for the leases of a class.
    pub(super) fn delegate(&mut self, owner: ProcId, class: ClassId) {
        if self.is_alone() || owner.node() != self.config.index {
            return;
        }
        let plan = self.plan(owner, class);
        let me = self.config.index;
        let want = &self.wants[&(owner, class)];
        let known: Vec<NodeIndex> = want.delegates.keys().chain(plan.keys()).copied().filter(|node| *node != me).collect();
        for node in known {
            self.ask_delegate(owner, class, node, plan.get(&node).copied().unwrap_or(0));
        }
    }

    fn ask_delegate(&mut self, owner: ProcId, class: ClassId, node: NodeIndex, count: u32) {
        let want = self.wants.get_mut(&(owner, class)).expect("planned");
        let (shape, env) = (want.shape().clone(), want.env().to_owned());
        let strategy = if want.strategy().is_group() { want.strategy().clone() } else { Strategy::DEFAULT };
        let delegate = want.delegates.entry(node).or_default();
        if delegate.asked == count {
            return;
        }
        delegate.asked = count;
        let (granted, defined) = (delegate.granted, std::mem::replace(&mut delegate.defined, true));
        if !defined {
            self.ask_node(node, owner, ToNode::DefineClass { class, shape, env, strategy });
        }
        self.ask_node(node, owner, ToNode::LeaseWant { class, granted, want: count });
    }

    /// Leases of the class by node, ours among them; together what is wanted.
    fn plan(&self, owner: ProcId, class: ClassId) -> Plan {
        let (want, me) = (&self.wants[&(owner, class)], self.config.index);
        if let Some(within) = Within::of(want.strategy()) {
            return self.plan_in_group(owner, class, &within);
        }
        let choice = choose(want.strategy(), want.shape(), &self.peers.members);
        let feasible: Vec<NodeIndex> = choice.allowed.iter().copied().filter(|node| want.shape().fits_in(&self.peers.members[node].total)).collect();
        match (feasible.is_empty(), choice.spread) {
            (true, _) => Plan::from([(me, want.wanted())]),
            (_, true) => self.deal(owner, class, &feasible),
            _ => self.fill(owner, class, &feasible, &choice),
        }
    }

    /// How many more of the class a node has room for, as far as is known.
    fn room_on(&self, owner: ProcId, class: ClassId, node: NodeIndex) -> u32 {
        let shape = self.wants[&(owner, class)].shape();
        if node == self.config.index {
            let mut room = self.whole_room();
            self.reserve_for_actors(&mut room);
            return shape.slots_in(&room.node, MOST);
        }
        let Some(view) = self.peers.views.get(&node) else { return 0 };
        let mut free = view.available.clone();
        // What others of ours were promised there and have not got yet.
        for (_, other) in self.wants.iter().filter(|(key, want)| **key != (owner, class) && !want.strategy().is_group()) {
            let promised = other.delegates.get(&node).map_or(0, |delegate| delegate.asked);
            (0..promised.min(MOST)).for_each(|_| free.subtract(other.shape()));
        }
        shape.slots_in(&free, MOST)
    }

    /// In turn: whoever gave the class least gives next; nodes with room before others.
    fn deal(&self, owner: ProcId, class: ClassId, feasible: &[NodeIndex]) -> Plan {
        let want = &self.wants[&(owner, class)];
        let mut plan = Plan::new();
        let mut rooms: BTreeMap<NodeIndex, u32> = feasible.iter().map(|node| (*node, self.room_on(owner, class, *node))).collect();
        let given = |node: &NodeIndex| match *node == self.config.index {
            true => want.granted_here(),
            false => want.delegates.get(node).map_or(0, |delegate| delegate.granted),
        };
        for _ in 0..want.wanted() {
            let next = feasible.iter().min_by_key(|node| {
                let planned = u64::from(plan.get(*node).copied().unwrap_or(0));
                (rooms[*node] == 0, given(node) + planned, **node)
            });
            let Some(next) = next else { break };
            *plan.entry(*next).or_insert(0) += 1;
            rooms.entry(*next).and_modify(|room| *room = room.saturating_sub(1));
        }
        plan
    }

    /// One node after another: those to be tried before others, this one, those little used, the others; what finds no room waits here, or where it can.
    fn fill(&self, owner: ProcId, class: ClassId, feasible: &[NodeIndex], choice: &Choice) -> Plan {
        let want = &self.wants[&(owner, class)];
        let me = self.config.index;
        let mut order = feasible.to_vec();
        order.sort_by_key(|node| {
            let load = self.peers.views.get(node).map_or(1000, |view| rank(&self.peers.members[node].total, &view.available));
            (choice.tier(*node), *node != me, load, *node)
        });
        let (mut plan, mut left) = (Plan::new(), want.wanted());
        for node in &order {
            let takes = left.min(self.room_on(owner, class, *node));
            if takes > 0 {
                plan.insert(*node, takes);
                left -= takes;
            }
        }
        if left > 0 {
            let waits = |node: &&NodeIndex| self.peers.views.get(*node).map_or(u32::MAX, |view| view.waiting);
            let here = feasible.contains(&me).then_some(&me);
            let least = here.or_else(|| order.iter().min_by_key(waits));
            *plan.entry(*least.expect("feasible")).or_insert(0) += left;
        }
        plan
    }

    /// Another node gave a lease to an owner of ours.
    pub(super) fn delegate_granted(&mut self, from: NodeIndex, owner: ProcId, class: ClassId) {
        let Some(want) = self.wants.get_mut(&(owner, class)) else { return };
        want.count_grant();
        let delegate = want.delegates.entry(from).or_default();
        delegate.granted += 1;
        delegate.asked = delegate.asked.saturating_sub(1);
        self.queue_want(owner, class);
        // One that crossed its withdrawal makes another one superfluous.
        self.delegate(owner, class);
    }

    /// A dead node gives nothing any more.
    pub(super) fn delegates_died(&mut self, index: NodeIndex) {
        for want in self.wants.values_mut() {
            want.delegates.remove(&index);
            want.told_infeasible = false;
        }
        let wants: Vec<(ProcId, ClassId)> = self.order.values().copied().collect();
        wants.into_iter().for_each(|(owner, class)| self.tell_infeasible(owner, class));
    }

    /// Nobody can ever give it: say so, once.
    pub(super) fn tell_infeasible(&mut self, owner: ProcId, class: ClassId) {
        let Some(want) = self.wants.get(&(owner, class)) else { return };
        if let Some(within) = Within::of(want.strategy()) {
            return self.tell_not_in_group(owner, class, &within);
        }
        if want.wanted() == 0 || want.told_infeasible || owner.node() != self.config.index {
            return;
        }
        let doubt = want.doubt;
        let Some((text, hopeless)) = self.why_infeasible(owner, class) else { return };
        if hopeless && doubt.is_none_or(|seq| !self.is_answered(seq)) {
            // The node that it is for may have joined, and we have not heard of it.
            let seq = if doubt.is_none() { self.ask_for_news() } else { doubt };
            self.wants.get_mut(&(owner, class)).expect("looked up above").doubt = seq;
            if seq.is_some() {
                return;
            }
        }
        // An error is for the calls that wait now; later ones get their own. A warning is said once.
        let is_error = hopeless || self.config.infeasible_is_error;
        self.wants.get_mut(&(owner, class)).expect("looked up above").told_infeasible = !is_error;
        let code = if is_error { "unschedulable" } else { "" };
        self.send(owner, FromNode::Infeasible { class, text, code: code.into() });
    }

    /// The head has answered: what still seems hopeless is.
    pub(super) fn settle_doubts(&mut self) {
        let doubtful: Vec<(ProcId, ClassId)> =
            self.wants.iter().filter(|(_, want)| want.doubt.is_some() && !want.told_infeasible).map(|(key, _)| *key).collect();
        doubtful.into_iter().for_each(|(owner, class)| self.tell_infeasible(owner, class));
    }

    /// Why nobody can ever give a lease of the class; `true`: nor could a node that joins.
    pub(super) fn why_infeasible(&self, owner: ProcId, class: ClassId) -> Option<(String, bool)> {
        let want = &self.wants[&(owner, class)];
        if let Some(within) = Within::of(want.strategy()) {
            return self.why_not_in_group(&within, want.shape()).map(|(text, _)| (text, true));
        }
        let alone = self.peers.members.is_empty();
        let hopeless = !alone && choose(want.strategy(), want.shape(), &self.peers.members).hopeless;
        let text = match self.is_alone() && !hopeless && !want.shape().fits_in(&self.config.total) {
            true => Some(super::explain_infeasible(want.shape(), &self.config.total)),
            false if alone => None,
            false => explain(want.shape(), want.strategy(), &self.peers.members),
        };
        text.map(|text| (text, hopeless))
    }

    pub(super) fn check_delegation(&self) {
        for ((owner, class), want) in &self.wants {
            let each = want.delegates.values().map(|delegate| delegate.asked);
            // A class of a group asks each node for all that is missing.
            let asked: u32 = if want.strategy().is_group() { each.max().unwrap_or(0) } else { each.sum() };
            assert!(asked <= want.wanted(), "{owner:?} {class:?} wants {}, and {asked} are asked of others", want.wanted());
            assert!(owner.node() == self.config.index || want.delegates.is_empty(), "a stranger's want is delegated");
        }
    }
}
