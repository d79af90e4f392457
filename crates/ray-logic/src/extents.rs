//! Sub-allocation of one process's shared-memory extents: which byte ranges are live, warm or cold.
//!
//! Invariants
//! 1. Live ranges never overlap, and a range is handed out again only after `free` named it (law 8 of the engine brief).
//! 2. Every byte of an extent is live, free, or beyond its high-water mark (never touched: cold).
//! 3. Freed ranges are reused last-in-first-out, so that pages stay warm. Those that stay free are given back to the system (`trim`) and are cold again.

use crate::Time;
use ray_proto::{ExtentId, ShmRange};
use std::collections::BTreeMap;

/// Ranges start on this boundary, so that buffers inside can be 64-byte aligned and a page is never shared by writers.
pub const ALIGN: u64 = 4096;

/// A range to write to. `warm`: its pages were touched before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allocation {
    pub range: ShmRange,
    pub warm: bool,
}

#[derive(Debug)]
struct Extent {
    size: u64,
    /// Everything from here on was never used.
    high_water: u64,
    /// Live ranges: offset to rounded length.
    live: BTreeMap<u64, u64>,
    /// Free ranges below the high-water mark, by offset.
    free: BTreeMap<u64, Free>,
}

#[derive(Clone, Copy, Debug)]
struct Free {
    len: u64,
    /// Rises with every free: the youngest is reused first.
    stamp: u64,
    since: Time,
    /// Its pages hold memory.
    warm: bool,
}

#[derive(Debug, Default)]
pub struct Extents {
    extents: BTreeMap<ExtentId, Extent>,
    stamp: u64,
    /// The time of the last `trim`: near enough for the age of what is freed until the next one.
    now: Time,
}

impl Extent {
    /// Cold neighbours become one range, so that large values find room again.
    fn merge_cold(&mut self) {
        let mut merged: BTreeMap<u64, Free> = BTreeMap::new();
        for (at, free) in std::mem::take(&mut self.free) {
            match merged.last_entry() {
                Some(mut last) if !free.warm && !last.get().warm && *last.key() + last.get().len == at => last.get_mut().len += free.len,
                _ => {
                    merged.insert(at, free);
                }
            }
        }
        self.free = merged;
    }
}

pub fn rounded(len: u64) -> u64 {
    len.max(1).div_ceil(ALIGN) * ALIGN
}

impl Extents {
    pub fn add(&mut self, id: ExtentId, size: u64) {
        self.extents.insert(id, Extent { size, high_water: 0, live: BTreeMap::new(), free: BTreeMap::new() });
    }

    pub fn owns(&self, id: ExtentId) -> bool {
        self.extents.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.extents.len()
    }

    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub fn live_bytes(&self) -> u64 {
        self.extents.values().flat_map(|e| e.live.values()).sum()
    }

    /// Bytes that live in one extent; None if it is not one of these.
    pub fn live_in(&self, id: ExtentId) -> Option<u64> {
        self.extents.get(&id).map(|e| e.live.values().sum())
    }

    /// A range of `len` bytes, or None when the node must be asked for another extent.
    pub fn allocate(&mut self, len: u64) -> Option<Allocation> {
        let need = rounded(len);
        let newest = |e: &Extent| e.free.iter().filter(|(_, f)| f.len >= need).map(|(at, f)| (f.stamp, *at)).max();
        let found = self.extents.iter().filter_map(|(id, e)| newest(e).map(|(stamp, at)| (stamp, *id, at))).max();
        if let Some((_, extent, at)) = found {
            return Some(self.take_free(extent, at, need, len));
        }
        let (id, extent) = self.extents.iter_mut().find(|(_, e)| e.size - e.high_water >= need)?;
        let offset = extent.high_water;
        extent.high_water += need;
        extent.live.insert(offset, need);
        Some(Allocation { range: ShmRange { extent: *id, offset, len }, warm: false })
    }

    fn take_free(&mut self, id: ExtentId, at: u64, need: u64, len: u64) -> Allocation {
        let extent = self.extents.get_mut(&id).expect("found above");
        let free = extent.free.remove(&at).expect("found above");
        if free.len > need {
            extent.free.insert(at + need, Free { len: free.len - need, ..free });
        }
        extent.live.insert(at, need);
        Allocation { range: ShmRange { extent: id, offset: at, len }, warm: free.warm }
    }

    /// The range's last reference is gone. Returns false for a range that is not live: a double free, which the caller reports.
    pub fn free(&mut self, range: ShmRange) -> bool {
        let Some(extent) = self.extents.get_mut(&range.extent) else { return false };
        let Some(len) = extent.live.remove(&range.offset) else { return false };
        self.stamp += 1;
        let (mut at, mut merged) = (range.offset, Free { len, stamp: self.stamp, since: self.now, warm: true });
        // Neighbours merge if they are as warm: a cold one that looked warm would be filled page by page.
        if let Some((&before, &free)) = extent.free.range(..at).next_back() {
            if before + free.len == at && free.warm {
                extent.free.remove(&before);
                at = before;
                merged.len += free.len;
            }
        }
        let after = at + merged.len;
        if let Some(free) = extent.free.get(&after).copied().filter(|free| free.warm) {
            extent.free.remove(&after);
            merged.len += free.len;
        }
        extent.free.insert(at, merged);
        true
    }

    /// Ranges whose pages are to go back to the system: free for `age`, or the oldest of what is warm and free beyond `most_warm` bytes. They are cold from now on.
    pub fn trim(&mut self, now: Time, age: Time, most_warm: u64) -> Vec<ShmRange> {
        self.now = now;
        let warm =
            |(id, e): (&ExtentId, &Extent)| -> Vec<(u64, ExtentId, u64)> { e.free.iter().filter(|(_, f)| f.warm).map(|(at, f)| (f.stamp, *id, *at)).collect() };
        let mut oldest_first: Vec<(u64, ExtentId, u64)> = self.extents.iter().flat_map(warm).collect();
        oldest_first.sort_unstable();
        let mut warm_bytes: u64 = oldest_first.iter().map(|(_, id, at)| self.extents[id].free[at].len).sum();
        let mut trimmed = Vec::new();
        for (_, id, offset) in oldest_first {
            let extent = self.extents.get_mut(&id).expect("listed");
            let free = extent.free.get_mut(&offset).expect("listed");
            if now < free.since + age && warm_bytes <= most_warm {
                break;
            }
            free.warm = false;
            warm_bytes -= free.len;
            trimmed.push(ShmRange { extent: id, offset, len: free.len });
            extent.merge_cold();
        }
        trimmed
    }

    /// Extents with nothing live, oldest use first: candidates to give back.
    pub fn empty_extents(&self) -> Vec<(ExtentId, u64)> {
        self.extents.iter().filter(|(_, e)| e.live.is_empty()).map(|(id, e)| (*id, e.size)).collect()
    }

    pub fn remove(&mut self, id: ExtentId) {
        self.extents.remove(&id);
    }

    pub fn check_invariants(&self) {
        for (id, extent) in &self.extents {
            let mut spans: Vec<(u64, u64)> = extent.live.iter().map(|(at, len)| (*at, *len)).collect();
            spans.extend(extent.free.iter().map(|(at, free)| (*at, free.len)));
            spans.sort_unstable();
            let mut end = 0;
            for (at, len) in spans {
                assert_eq!(at, end, "a gap or overlap in {id:?}");
                end = at + len;
            }
            assert_eq!(end, extent.high_water, "ranges of {id:?} end at its high-water mark");
            assert!(end <= extent.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(size: u64) -> Extents {
        let mut extents = Extents::default();
        extents.add(ExtentId(1), size);
        extents
    }

    #[test]
    fn the_last_freed_range_is_reused_first() {
        let mut extents = one(10 * ALIGN);
        let ranges: Vec<_> = (0..5).map(|_| extents.allocate(10).unwrap().range).collect();
        assert!(extents.free(ranges[0]) && extents.free(ranges[2]));
        let again = extents.allocate(20).unwrap();
        assert_eq!((again.range.offset, again.warm), (ranges[2].offset, true));
        extents.check_invariants();
    }

    #[test]
    fn what_stays_free_goes_back_to_the_system_and_is_cold_then() {
        let mut extents = one(4 * ALIGN);
        let ranges: Vec<_> = (0..4).map(|_| extents.allocate(ALIGN).unwrap().range).collect();
        assert!(extents.free(ranges[0]) && extents.free(ranges[2]));
        assert_eq!(extents.trim(5, 10, u64::MAX), vec![]);
        let trimmed: Vec<u64> = extents.trim(10, 10, u64::MAX).iter().map(|r| r.offset).collect();
        assert_eq!(trimmed, [ranges[0].offset, ranges[2].offset]);
        assert!(extents.free(ranges[1]));
        assert_eq!(extents.trim(11, 10, 0).len(), 1, "beyond the bound the oldest warm range goes at once");
        extents.check_invariants();
        let again = extents.allocate(3 * ALIGN).unwrap();
        assert_eq!((again.range.offset, again.warm), (0, false));
    }

    #[test]
    fn neighbours_merge_and_a_double_free_is_refused() {
        let mut extents = one(3 * ALIGN);
        let ranges: Vec<_> = (0..3).map(|_| extents.allocate(ALIGN).unwrap().range).collect();
        assert!(extents.allocate(1).is_none());
        for at in [1, 0, 2] {
            assert!(extents.free(ranges[at]));
            extents.check_invariants();
        }
        assert!(!extents.free(ranges[1]));
        assert_eq!(extents.allocate(3 * ALIGN).map(|a| a.range.offset), Some(0));
    }
}
