//! What other nodes are to us: what all have together, which are dead, calls that go to the bytes of their arguments, values that were read elsewhere.
//!
//! Invariants
//! 1. Nothing is queued for the neighbourhood of a dead node.
//! 2. A value of ours that a process of another node was told of, or that is on another node, is not freed in silence: there may be copies.

use super::objects::State;
use super::Owner;
use crate::Time;
use ray_proto::{ClassId, NodeIndex, ObjectId, ProcId, Resources, Strategy, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A call goes to another node's bytes when so many more of its arguments are there than here.
const NEAR_BYTES: u64 = 1 << 20;
/// Workers of one class at most, whatever the resources say.
const SLOTS_MAX: u32 = 1024;

#[derive(Debug)]
pub(super) struct Nodes {
    /// Those that live.
    count: u32,
    dead: BTreeSet<NodeIndex>,
}

impl Default for Nodes {
    fn default() -> Self {
        Nodes { count: 1, dead: BTreeSet::new() }
    }
}

impl Nodes {
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Returns whether that is news.
    pub(super) fn died(&mut self, node: NodeIndex) -> bool {
        self.dead.insert(node)
    }
}

impl Owner {
    // ---- capacity

    pub(super) fn capacity_changed(&mut self, now: Time, total: Resources, nodes: u32) {
        self.node_total = total;
        self.nodes.count = nodes.max(1);
        let ceiling = self.first_ceiling();
        for class in 0..self.classes.len() {
            self.classes[class].slots = self.slots_for(&self.classes[class].shape);
            self.classes[class].reset_ceiling(ceiling);
            self.pump(now, ClassId(class as u32));
        }
    }

    /// How many calls of a shape can run at once at best.
    pub(super) fn slots_for(&self, shape: &Resources) -> u32 {
        shape.slots_in(&self.node_total, SLOTS_MAX).max(1)
    }

    // ---- calls that go to their arguments

    /// The class for a call whose arguments are at hand: that of its template, or the same near the node with most of their bytes.
    pub(super) fn class_near_arguments(&mut self, class: ClassId, call: u64) -> ClassId {
        if self.nodes.count <= 1 || self.classes[class.0 as usize].strategy != Strategy::DEFAULT {
            return self.living_class(class);
        }
        let Some(node) = self.node_of_arguments(call) else { return class };
        let record = &self.classes[class.0 as usize];
        let (shape, env) = (record.shape.clone(), record.env.clone());
        self.class_for(&shape, &env, &Strategy::Near { node })
    }

    fn node_of_arguments(&self, call: u64) -> Option<NodeIndex> {
        let refs = self.tasks[&call].refs.as_ref()?;
        let mut bytes: BTreeMap<NodeIndex, u64> = BTreeMap::new();
        for id in refs.deps.iter().chain([&refs.body_id]) {
            if let Some(Value::Shm(range)) = self.value(*id) {
                *bytes.entry(range.extent.node()).or_insert(0) += range.len;
            }
        }
        let here = bytes.remove(&self.me.node()).unwrap_or(0);
        let lives = |(node, _): &(NodeIndex, u64)| !self.nodes.dead.contains(node);
        let (node, there) = bytes.into_iter().filter(lives).max_by_key(|(node, bytes)| (*bytes, std::cmp::Reverse(*node)))?;
        (there >= here + NEAR_BYTES).then_some(node)
    }

    /// The class itself, or the one without a place if it is for the neighbourhood of a dead node.
    pub(super) fn living_class(&mut self, class: ClassId) -> ClassId {
        let record = &self.classes[class.0 as usize];
        match &record.strategy {
            Strategy::Near { node } if self.nodes.dead.contains(node) => {
                let (shape, env) = (record.shape.clone(), record.env.clone());
                self.class_for(&shape, &env, &Strategy::DEFAULT)
            }
            _ => class,
        }
    }

    /// What is queued for the neighbourhood of a node that died goes anywhere.
    pub(super) fn leave_neighbourhood(&mut self, now: Time, node: NodeIndex) {
        let near = Strategy::Near { node };
        for class in (0..self.classes.len()).filter(|at| self.classes[*at].strategy == near).map(|at| ClassId(at as u32)).collect::<Vec<_>>() {
            let calls = std::mem::take(&mut self.classes[class.0 as usize].queue);
            self.update_want(class);
            let home = self.living_class(class);
            for call in calls {
                self.tasks.get_mut(&call).expect("a queued call").place = super::tasks::Place::Queued(home);
                self.classes[home.0 as usize].queue.push_back(call);
            }
            self.pump(now, home);
        }
    }

    // ---- values that travel

    /// `to` gets to know where the value of `id` is, or may ask.
    pub(super) fn note_travel(&mut self, to: ProcId, id: ObjectId) {
        if to.node() != self.me.node() {
            self.mark_travelled(id);
        }
    }

    fn mark_travelled(&mut self, id: ObjectId) {
        let object = self.objects.get_mut(&id).filter(|object| id.owner == self.me && matches!(object.state, State::Pending | State::Ready(Value::Shm(_))));
        if let Some(object) = object {
            object.more().travelled = true;
        }
    }

    /// A call leaves for `to`, with the places of its arguments. None: the head decides who gets it.
    pub(super) fn arguments_travel(&mut self, to: Option<ProcId>, call: u64) {
        if to.map_or(self.nodes.count <= 1, |to| to.node() == self.me.node()) {
            return;
        }
        let refs = self.tasks[&call].refs.iter();
        let ids: Vec<ObjectId> = refs.flat_map(|refs| refs.deps.iter().chain([&refs.body_id]).copied()).collect();
        ids.into_iter().for_each(|id| self.mark_travelled(id));
    }

    /// A value of another node is viewed here through a copy on our node. The node is told when the object goes.
    pub fn note_copied(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.more().copied = true;
        }
    }
}
