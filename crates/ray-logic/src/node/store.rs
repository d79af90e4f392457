//! Extents: who made them, what outlives their makers, how full the store is.
//!
//! A creator sub-allocates its extents by itself (see crate::extents). The node hears only of ranges made for another owner: those keep an extent alive
//! after its creator's death, and their frees run through here, so that none is lost between two processes.

use super::{Node, NodeCommand};
use crate::Time;
use ray_proto::msg::FromNode;
use ray_proto::{ExtentId, ProcId, ShmRange};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Extent {
    creator: ProcId,
    size: u64,
    /// Offset of each range made for another process, with that owner and the range's length.
    foreign: BTreeMap<u64, (ProcId, u64)>,
    /// Frees that overtook their `Published` (they travel on different links).
    early: BTreeSet<u64>,
    orphan: bool,
    /// Processes that have it mapped besides its creator.
    readers: BTreeSet<ProcId>,
}

impl Extent {
    pub(super) fn creator(&self) -> ProcId {
        self.creator
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn set_size(&mut self, size: u64) {
        self.size = size;
    }

    /// Owner and length of each range made for another process.
    pub(super) fn foreign_bytes(&self) -> impl Iterator<Item = (ProcId, u64)> + '_ {
        self.foreign.values().copied()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.orphan || !self.foreign.is_empty() || !self.early.is_empty()
    }
}

impl Node {
    pub(super) fn grant_memory(&mut self, to: ProcId, token: u64, size: u64) {
        let extent = self.new_extent(to, size, false);
        self.out.push(NodeCommand::NewExtent { to, token, extent, size });
    }

    /// A record of an extent about to be made.
    pub(super) fn new_extent(&mut self, creator: ProcId, size: u64, on_disk: bool) -> ExtentId {
        let (node, number) = (self.config.index, self.next_extent);
        let extent = if on_disk { ExtentId::on_disk(node, number) } else { ExtentId::in_memory(node, number) };
        self.next_extent += 1;
        *self.used(extent) += size;
        let record = Extent { creator, size, foreign: BTreeMap::new(), early: BTreeSet::new(), orphan: false, readers: BTreeSet::new() };
        self.extents.insert(extent, record);
        extent
    }

    /// The ledger that an extent stands in.
    fn used(&mut self, extent: ExtentId) -> &mut u64 {
        match extent.is_on_disk() {
            true => self.disk_used(),
            false => &mut self.store_used,
        }
    }

    pub(super) fn explain_full(&self, size: u64, disk: bool) -> String {
        let mut by_creator: BTreeMap<ProcId, u64> = BTreeMap::new();
        let in_memory = self.extents.iter().filter(|(id, _)| !id.is_on_disk());
        in_memory.for_each(|(_, e)| *by_creator.entry(e.creator).or_insert(0) += e.size);
        let mut holders: Vec<(u64, ProcId)> = by_creator.into_iter().map(|(id, bytes)| (bytes, id)).collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        let line = |(bytes, id): &(u64, ProcId)| {
            let who = match self.procs.get(id) {
                Some(_) if *id == self.driver => "the driver".to_owned(),
                Some(proc) if proc.role == super::procs::Role::Driver => format!("the driver with pid {}", proc.pid),
                None if *id == ProcId::NODE => "copies of objects of other nodes".to_owned(),
                Some(proc) => format!("worker pid {}", proc.pid),
                None => "a worker that has ended".to_owned(),
            };
            format!("{who} holds {}", mib(*bytes))
        };
        let lines: Vec<String> = holders.iter().take(5).map(line).collect();
        let used = mib(self.store_used);
        let total = mib(self.config.store_bytes);
        let (on_disk, hint) = self.explain_disk();
        let what = if disk { "the object store is full and its disk can't be used" } else { "the object store is full" };
        format!("{what}: {} more were asked for, {used} of {total} are in use ({}){on_disk}.\nhint: {hint}", mib(size), lines.join(", "))
    }

    /// The shell could not make the memfd.
    pub fn extent_failed(&mut self, now: Time, extent: ExtentId) {
        self.forget_extent(extent);
        self.make_room(now);
    }

    pub(super) fn forget_extent(&mut self, extent: ExtentId) {
        if let Some(record) = self.extents.remove(&extent) {
            *self.used(extent) -= record.size;
            self.out.push(NodeCommand::CloseExtent { extent });
            record.readers.into_iter().for_each(|reader| self.send(reader, FromNode::ExtentClosed { extent }));
        }
    }

    pub(super) fn extent_open(&mut self, from: ProcId, token: u64, extent: ExtentId) {
        match self.extents.get_mut(&extent) {
            Some(record) => {
                record.readers.insert(from);
                self.out.push(NodeCommand::OpenExtent { to: from, token, extent, size: record.size });
            }
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
        let owner_gone = self.is_gone(owner);
        let Some(extent) = self.extents.get_mut(&range.extent).filter(|e| e.creator == from) else { return };
        if extent.early.remove(&range.offset) {
            return self.send(from, FromNode::RangeFreed { range });
        }
        if owner_gone {
            return;
        }
        extent.foreign.insert(range.offset, (owner, range.len));
    }

    pub(super) fn range_freed(&mut self, range: ShmRange) {
        let Some(extent) = self.extents.get_mut(&range.extent) else { return };
        let creator = extent.creator;
        match extent.foreign.remove(&range.offset) {
            Some(_) if extent.orphan && range.extent.is_on_disk() => self.out.push(NodeCommand::Punch { range }),
            Some(_) => {
                self.send(creator, FromNode::RangeFreed { range });
                self.may_help_again(creator);
            }
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
            for (offset, (owner, _)) in &extent.foreign {
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
            extent.foreign.retain(|_, (owner, _)| *owner != proc_id);
            extent.readers.remove(&proc_id);
            self.drop_if_spent(id);
        }
    }

    pub(super) fn check_store(&self) {
        let used: u64 = self.extents.iter().filter(|(id, _)| !id.is_on_disk()).map(|(_, e)| e.size).sum();
        assert_eq!(used, self.store_used, "bytes granted");
        assert!(used <= self.config.store_bytes, "the store is overdrawn");
        self.check_pressure();
    }
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
