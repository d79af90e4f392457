//! Copies of objects whose bytes are on other nodes: fetched once per node, whoever asks, and kept while somebody here uses them, a little longer, or until
//! memory is short (docs/design/011, "Objects").
//!
//! Invariants (checked by `check_copies`)
//! 1. Nobody gets the descriptor of a copy before all its bytes are there.
//! 2. Somebody waits for each transfer, so that its original stays in its place.
//! 3. A copy's extent holds another object only after every process that used it has said that it does not any more, or has ended.

use super::{Node, NodeCommand};
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{ExtentId, NodeIndex, ObjectId, ProcId, ShmRange};
use std::collections::{BTreeMap, BTreeSet};

/// A copy that nobody uses is kept so long, and so is its memory once the copy is of no use.
const KEEP: Time = 10_000_000;
/// An extent is used again for an object of at least this part of it.
const LEAST_PART: u64 = 2;
const ALIGN: u64 = 64 * 1024;

#[derive(Debug)]
struct Copy {
    extent: ExtentId,
    source: ShmRange,
    /// The ticket of the transfer; None: the bytes are here.
    pulling: Option<u64>,
    /// Who asked while they were not, and for which place: their owner's latest word.
    waiting: Vec<(ProcId, u64, ShmRange)>,
    users: BTreeSet<ProcId>,
    idle_since: Time,
    /// Freed by its owner: of no use to anybody new.
    stale: bool,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    table: BTreeMap<ObjectId, Copy>,
    tickets: BTreeMap<u64, ObjectId>,
    next_ticket: u64,
    /// Extents without a copy, with their size and since when: warm pages for the next one.
    spares: BTreeMap<ExtentId, (u64, Time)>,
    /// Nodes that have copies of objects of this node.
    elsewhere: BTreeMap<ObjectId, BTreeSet<NodeIndex>>,
}

/// What a request for memory is for, when it is not for a process's own use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CopyWant {
    pub id: ObjectId,
    pub source: ShmRange,
}

impl Node {
    /// A process wants the bytes of an object that are on another node.
    pub(super) fn pull_wanted(&mut self, now: Time, from: ProcId, token: u64, id: ObjectId, range: ShmRange) {
        let source = range.extent.node();
        if let Some(copy) = self.copies.table.get_mut(&id) {
            // One that seemed freed and is still used here is its value all the same.
            copy.stale = false;
            match copy.pulling {
                Some(_) => copy.waiting.push((from, token, range)),
                None => self.hand_out(now, id, from, token),
            }
            return;
        }
        if self.awaits_newcomer(source, from, ToNode::Pull { token, id, range }) {
            return;
        }
        if !self.peers.members.contains_key(&source) || source == self.config.index {
            let text = self.death_of(source).unwrap_or_else(|| "the bytes are not on another node".into());
            return self.send(from, FromNode::PullFailed { token, lost: true, text });
        }
        let want = CopyWant { id, source: range };
        match self.spare_for(range.len) {
            Some(extent) => self.start_copy(want, extent, true, (from, token)),
            None => self.memory_for_copy(now, from, token, want, size_for(range.len)),
        }
    }

    /// Memory was granted for a copy. Somebody else may have brought it meanwhile.
    pub(super) fn copy_granted(&mut self, now: Time, from: ProcId, token: u64, want: CopyWant, size: u64) {
        if self.copies.table.contains_key(&want.id) {
            return self.pull_wanted(now, from, token, want.id, want.source);
        }
        let extent = self.new_extent(ProcId::NODE, size, false);
        self.start_copy(want, extent, false, (from, token));
    }

    /// There is no memory, and nobody can make room: the copy goes to disk, so that whoever holds other copies and waits for this one can go on.
    pub(super) fn copy_on_disk(&mut self, from: ProcId, token: u64, want: CopyWant, extent: ExtentId) {
        if self.is_gone(from) {
            return self.forget_extent(extent);
        }
        match self.copies.table.contains_key(&want.id) {
            true => {
                self.forget_extent(extent);
                self.pull_wanted(self.now, from, token, want.id, want.source);
            }
            false => self.start_copy(want, extent, true, (from, token)),
        }
    }

    fn start_copy(&mut self, want: CopyWant, extent: ExtentId, warm: bool, (from, token): (ProcId, u64)) {
        self.copies.next_ticket += 1;
        let ticket = self.copies.next_ticket;
        self.copies.tickets.insert(ticket, want.id);
        let size = self.extents[&extent].size();
        let waiting = vec![(from, token, want.source)];
        let copy = Copy { extent, source: want.source, pulling: Some(ticket), waiting, users: BTreeSet::new(), idle_since: 0, stale: false };
        self.copies.table.insert(want.id, copy);
        let to = want.source.extent.node();
        self.say_to(to, NodeMessage::CopyMade { id: want.id });
        self.out.push(NodeCommand::Copy { ticket, from: to, source: want.source, extent, size, warm });
    }

    fn hand_out(&mut self, now: Time, id: ObjectId, to: ProcId, token: u64) {
        let copy = self.copies.table.get_mut(&id).expect("a copy");
        copy.users.insert(to);
        copy.idle_since = now;
        let extent = copy.extent;
        self.extent_open(to, token, extent);
    }

    /// The shell has the bytes.
    pub fn copied(&mut self, now: Time, ticket: u64) {
        self.now = now;
        let Some(id) = self.copies.tickets.remove(&ticket) else { return };
        let copy = self.copies.table.get_mut(&id).expect("by its ticket");
        copy.pulling = None;
        copy.idle_since = now;
        for (to, token, _) in std::mem::take(&mut copy.waiting) {
            self.hand_out(now, id, to, token);
        }
        self.retire_if_stale(now, id);
    }

    /// The shell could not get them. `gone`: nothing answers for them.
    pub fn copy_failed(&mut self, now: Time, ticket: u64, gone: bool, text: &str) {
        self.now = now;
        let Some(id) = self.copies.tickets.remove(&ticket) else { return };
        let copy = self.copies.table.remove(&id).expect("by its ticket");
        self.forget_extent(copy.extent);
        for (to, token, range) in copy.waiting {
            match range == copy.source {
                true => self.send(to, FromNode::PullFailed { token, lost: gone, text: text.to_owned() }),
                // It knows of a later place.
                false => self.pull_wanted(now, to, token, id, range),
            }
        }
        self.make_room(now);
    }

    /// No view of it is left in a process.
    pub(super) fn copy_done(&mut self, now: Time, from: ProcId, id: ObjectId) {
        if let Some(copy) = self.copies.table.get_mut(&id) {
            copy.users.remove(&from);
            copy.idle_since = now;
            self.retire_if_stale(now, id);
        }
    }

    pub(super) fn forget_copies_of(&mut self, now: Time, proc_id: ProcId) {
        let used: Vec<ObjectId> = self.copies.table.iter().filter(|(_, copy)| copy.users.contains(&proc_id)).map(|(id, _)| *id).collect();
        used.into_iter().for_each(|id| self.copy_done(now, proc_id, id));
        self.copies.table.values_mut().for_each(|copy| copy.waiting.retain(|(who, ..)| *who != proc_id));
        // Nobody who waits keeps the original in its place: what still comes may be something else.
        let pointless: Vec<u64> = self.copies.table.values().filter(|copy| copy.waiting.is_empty()).filter_map(|copy| copy.pulling).collect();
        for ticket in pointless {
            self.out.push(NodeCommand::CancelCopy { ticket });
            self.copy_failed(now, ticket, false, "");
        }
    }

    fn retire_if_stale(&mut self, now: Time, id: ObjectId) {
        if self.copies.table.get(&id).is_some_and(|copy| copy.stale && copy.users.is_empty() && copy.pulling.is_none()) {
            self.retire(now, id);
        }
    }

    /// An unused copy's memory is free for the next one.
    fn retire(&mut self, now: Time, id: ObjectId) {
        let copy = self.copies.table.remove(&id).expect("a copy");
        match copy.extent.is_on_disk() {
            true => self.forget_extent(copy.extent),
            false => drop(self.copies.spares.insert(copy.extent, (self.extents[&copy.extent].size(), now))),
        }
        self.say_to(copy.source.extent.node(), NodeMessage::CopiesStale { ids: vec![id] });
    }

    /// Freed by their owner, says the node of the bytes; or a node says that it has no copy of them any more.
    pub(super) fn copies_stale(&mut self, now: Time, from: NodeIndex, ids: &[ObjectId]) {
        for id in ids {
            if let Some(nodes) = self.copies.elsewhere.get_mut(id) {
                nodes.remove(&from);
                if nodes.is_empty() {
                    self.copies.elsewhere.remove(id);
                }
            }
            self.mark_stale(now, *id);
        }
    }

    fn mark_stale(&mut self, now: Time, id: ObjectId) {
        if let Some(copy) = self.copies.table.get_mut(&id) {
            copy.stale = true;
            self.retire_if_stale(now, id);
        }
    }

    pub(super) fn copy_made(&mut self, by: NodeIndex, id: ObjectId) {
        self.copies.elsewhere.entry(id).or_default().insert(by);
    }

    /// Objects freed by an owner, with the nodes of their bytes.
    pub(super) fn objects_freed(&mut self, now: Time, from: ProcId, ids: Vec<(ObjectId, NodeIndex)>) {
        let mut elsewhere: BTreeMap<NodeIndex, Vec<(ObjectId, NodeIndex)>> = BTreeMap::new();
        let mut stale: BTreeMap<NodeIndex, Vec<ObjectId>> = BTreeMap::new();
        for (id, node) in ids {
            self.mark_stale(now, id);
            if node != self.config.index {
                elsewhere.entry(node).or_default().push((id, node));
                continue;
            }
            for holder in self.copies.elsewhere.remove(&id).unwrap_or_default() {
                stale.entry(holder).or_default().push(id);
            }
        }
        stale.into_iter().for_each(|(node, ids)| self.say_to(node, NodeMessage::CopiesStale { ids }));
        if from.node() == self.config.index {
            elsewhere.into_iter().for_each(|(node, ids)| self.ask_node(node, from, ToNode::Freed { ids }));
        }
    }

    pub(super) fn copies_of_node_gone(&mut self, index: NodeIndex) {
        let broken: Vec<u64> = self.copies.table.values().filter(|copy| copy.source.extent.node() == index).filter_map(|copy| copy.pulling).collect();
        let death = self.peers.deaths.get(&index).cloned().unwrap_or_default();
        for ticket in broken {
            self.out.push(NodeCommand::CancelCopy { ticket });
            self.copy_failed(self.now, ticket, true, &death);
        }
        for nodes in self.copies.elsewhere.values_mut() {
            nodes.remove(&index);
        }
        self.copies.elsewhere.retain(|_, nodes| !nodes.is_empty());
    }

    // ---- memory

    /// A spare extent that is not much too large.
    fn spare_for(&mut self, len: u64) -> Option<ExtentId> {
        let fits = |(_, (size, _)): &(&ExtentId, &(u64, Time))| *size >= len && *size <= (LEAST_PART * len).max(ALIGN);
        let extent = self.copies.spares.iter().filter(fits).min_by_key(|(_, (size, _))| *size).map(|(extent, _)| *extent)?;
        self.copies.spares.remove(&extent);
        Some(extent)
    }

    /// Memory is short: spare extents go, then copies that nobody uses, the longest unused first, until so many bytes are free.
    pub(super) fn evict_copies(&mut self, needed: u64) {
        while self.room() < needed {
            if let Some((extent, _)) = self.copies.spares.pop_first() {
                self.forget_extent(extent);
                continue;
            }
            let idle = self.copies.table.iter().filter(|(_, copy)| copy.users.is_empty() && copy.pulling.is_none());
            let Some(id) = idle.min_by_key(|(_, copy)| copy.idle_since).map(|(id, _)| *id) else { return };
            self.retire(self.now, id);
        }
    }

    pub(super) fn tick_copies(&mut self, now: Time) -> Option<Time> {
        let late: Vec<ExtentId> = self.copies.spares.iter().filter(|(_, (_, since))| now >= since + KEEP).map(|(extent, _)| *extent).collect();
        for extent in late {
            self.copies.spares.remove(&extent);
            self.forget_extent(extent);
        }
        let is_idle = |copy: &Copy| copy.users.is_empty() && copy.pulling.is_none();
        let unused: Vec<ObjectId> = self.copies.table.iter().filter(|(_, copy)| is_idle(copy) && now >= copy.idle_since + KEEP).map(|(id, _)| *id).collect();
        unused.into_iter().for_each(|id| self.retire(now, id));
        let spare = self.copies.spares.values().map(|(_, since)| since + KEEP).min();
        let idle = self.copies.table.values().filter(|copy| is_idle(copy)).map(|copy| copy.idle_since + KEEP).min();
        [spare, idle].into_iter().flatten().min()
    }

    /// Extents that hold copies or are kept for the next ones.
    pub(super) fn copy_leftovers(&self) -> impl Iterator<Item = String> + '_ {
        self.copies.table.iter().filter(|(_, copy)| !copy.users.is_empty() || copy.pulling.is_some()).map(|(id, copy)| format!("copy of {id:?}: {copy:?}"))
    }

    pub(super) fn check_copies(&self) {
        let ours = self.extents.iter().filter(|(id, extent)| extent.creator() == ProcId::NODE && !self.is_being_placed(**id)).count();
        assert_eq!(ours, self.copies.table.len() + self.copies.spares.len(), "an extent of the node's own holds a copy or is spare");
        for (id, copy) in &self.copies.table {
            assert!(self.extents.contains_key(&copy.extent) && !self.copies.spares.contains_key(&copy.extent), "the extent of a copy of {id:?}");
            assert!(copy.pulling.is_none() || copy.users.is_empty(), "{id:?} is used before it is here");
            assert!(copy.pulling.is_some() != copy.waiting.is_empty(), "a transfer for nobody, or somebody waits for {id:?}, which is here");
            assert!(!(copy.stale && copy.users.is_empty() && copy.pulling.is_none()), "a stale copy of {id:?} is kept");
        }
    }
}

fn size_for(len: u64) -> u64 {
    len.div_ceil(ALIGN).max(1) * ALIGN
}
