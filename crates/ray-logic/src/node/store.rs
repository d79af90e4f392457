//! Extents: who made them, what outlives their makers, how full the store is.
//!
//! A creator sub-allocates its extents by itself (see crate::extents). The node hears only of ranges made for another owner: those keep an extent alive
//! after its creator's death, and their frees run through here, so that none is lost between two processes.

use super::{Node, NodeCommand};
use ray_proto::msg::FromNode;
use ray_proto::{ExtentId, ProcId, ShmRange};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Extent {
    creator: ProcId,
    size: u64,
    /// Offset of each range made for another process, with that owner.
    foreign: BTreeMap<u64, ProcId>,
    /// Frees that overtook their `Published` (they travel on different links).
    early: BTreeSet<u64>,
    orphan: bool,
}

impl Extent {
    pub(super) fn is_busy(&self) -> bool {
        self.orphan || !self.foreign.is_empty() || !self.early.is_empty()
    }
}

impl Node {
    pub(super) fn extent_wanted(&mut self, from: ProcId, token: u64, size: u64) {
        if self.store_used + size > self.config.store_bytes {
            let text = self.explain_full(size);
            return self.send(from, FromNode::StoreFull { token, text });
        }
        let extent = ExtentId(self.next_extent);
        self.next_extent += 1;
        self.store_used += size;
        self.extents.insert(extent, Extent { creator: from, size, foreign: BTreeMap::new(), early: BTreeSet::new(), orphan: false });
        self.out.push(NodeCommand::NewExtent { to: from, token, extent, size });
    }

    fn explain_full(&self, size: u64) -> String {
        let mut by_creator: BTreeMap<ProcId, u64> = BTreeMap::new();
        self.extents.values().for_each(|e| *by_creator.entry(e.creator).or_insert(0) += e.size);
        let mut holders: Vec<(u64, ProcId)> = by_creator.into_iter().map(|(id, bytes)| (bytes, id)).collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        let line = |(bytes, id): &(u64, ProcId)| {
            let who = match self.procs.get(id) {
                Some(_) if *id == self.driver => "the driver".to_owned(),
                Some(proc) => format!("worker pid {}", proc.pid),
                None => "a worker that has ended".to_owned(),
            };
            format!("{who} holds {}", mib(*bytes))
        };
        let lines: Vec<String> = holders.iter().take(5).map(line).collect();
        let used = mib(self.store_used);
        let total = mib(self.config.store_bytes);
        format!("the object store is full: {} more were asked for, {used} of {total} are in use ({}).\nhint: drop references that are not needed any more, or start with a larger ray.init(object_store_memory=...)", mib(size), lines.join(", "))
    }

    /// The shell could not make the memfd.
    pub fn extent_failed(&mut self, extent: ExtentId) {
        self.forget_extent(extent);
    }

    fn forget_extent(&mut self, extent: ExtentId) {
        if let Some(record) = self.extents.remove(&extent) {
            self.store_used -= record.size;
            self.out.push(NodeCommand::CloseExtent { extent });
        }
    }

    pub(super) fn extent_open(&mut self, from: ProcId, token: u64, extent: ExtentId) {
        match self.extents.get(&extent).map(|e| e.size) {
            Some(size) => self.out.push(NodeCommand::OpenExtent { to: from, token, extent, size }),
            None => self.send(from, FromNode::ExtentGone { token }),
        }
    }

    /// Its creator has nothing live in it and gives it back.
    pub(super) fn extent_dropped(&mut self, from: ProcId, extent: ExtentId) {
        if self.extents.get(&extent).is_some_and(|e| e.creator == from && e.foreign.is_empty()) {
            self.forget_extent(extent);
        }
    }

    pub(super) fn range_published(&mut self, from: ProcId, range: ShmRange, owner: ProcId) {
        let owner_gone = !self.procs.contains_key(&owner);
        let Some(extent) = self.extents.get_mut(&range.extent).filter(|e| e.creator == from) else { return };
        if extent.early.remove(&range.offset) {
            return self.send(from, FromNode::RangeFreed { range });
        }
        if owner_gone {
            return;
        }
        extent.foreign.insert(range.offset, owner);
    }

    pub(super) fn range_freed(&mut self, range: ShmRange) {
        let Some(extent) = self.extents.get_mut(&range.extent) else { return };
        let creator = extent.creator;
        match extent.foreign.remove(&range.offset) {
            Some(_) => self.send(creator, FromNode::RangeFreed { range }),
            None if !extent.orphan => {
                extent.early.insert(range.offset);
            }
            None => {}
        }
        self.drop_if_spent(range.extent);
    }

    fn drop_if_spent(&mut self, extent: ExtentId) {
        if self.extents.get(&extent).is_some_and(|e| e.orphan && e.foreign.is_empty()) {
            self.forget_extent(extent);
        }
    }

    /// A process is gone. What others own in its extents stays; what it owned in others' extents can't be freed: readers that it knew of may hold views.
    /// Such a range is lost until its creator ends.
    pub(super) fn creator_died(&mut self, proc_id: ProcId) {
        let ids: Vec<ExtentId> = self.extents.keys().copied().collect();
        let mut orphans: BTreeMap<ProcId, Vec<ShmRange>> = BTreeMap::new();
        for (id, extent) in self.extents.iter().filter(|(_, e)| e.creator == proc_id) {
            for (offset, owner) in &extent.foreign {
                orphans.entry(*owner).or_default().push(ShmRange { extent: *id, offset: *offset, len: 0 });
            }
        }
        for (owner, ranges) in orphans {
            self.send(owner, FromNode::OrphanRanges { ranges });
        }
        for id in ids {
            let extent = self.extents.get_mut(&id).expect("listed");
            extent.orphan |= extent.creator == proc_id;
            // Others may still read what the dead process owned, and its table is gone: never reused, closed with the extent.
            extent.foreign.retain(|_, owner| *owner != proc_id);
            self.drop_if_spent(id);
        }
    }

    pub(super) fn check_store(&self) {
        let used: u64 = self.extents.values().map(|e| e.size).sum();
        assert_eq!(used, self.store_used, "bytes granted");
        assert!(used <= self.config.store_bytes, "the store is overdrawn");
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
