//! Sub-allocation of one process's shared-memory extents: which byte ranges are live, warm or cold.
//!
//! Invariants
//! 1. Live ranges never overlap, and a range is handed out again only after `free` named it (law 8 of the engine brief).
//! 2. Every byte of an extent is live, free, or beyond its high-water mark (never touched: cold).
//! 3. The smallest free range that fits is taken, warm ones before cold ones, and among equals the last freed: its pages are warm. Those that stay free
//!    are given back to the system (`trim`) and are cold again.
//! 4. No operation looks at more than a few ranges, however many are live or free: `index` holds every free range by length and every warm one by age.

use crate::Time;
use ray_proto::{ExtentId, ShmRange};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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

/// Where a free range stands.
type Place = (ExtentId, u64);

/// The free ranges of all extents in the orders in which they are looked for.
#[derive(Debug, Default)]
struct Index {
    /// By length, then the youngest first.
    warm: BTreeSet<(u64, Reverse<u64>, Place)>,
    cold: BTreeSet<(u64, Reverse<u64>, Place)>,
    /// The warm ones, oldest first.
    ages: BTreeSet<(u64, Place)>,
    warm_bytes: u64,
    /// What is beyond the high-water marks, by length.
    untouched: BTreeSet<(u64, ExtentId)>,
}

impl Index {
    fn insert(&mut self, place: Place, free: Free) {
        let key = (free.len, Reverse(free.stamp), place);
        if free.warm {
            self.warm.insert(key);
            self.ages.insert((free.stamp, place));
            self.warm_bytes += free.len;
        } else {
            self.cold.insert(key);
        }
    }

    fn remove(&mut self, place: Place, free: Free) {
        let key = (free.len, Reverse(free.stamp), place);
        if free.warm {
            self.warm.remove(&key);
            self.ages.remove(&(free.stamp, place));
            self.warm_bytes -= free.len;
        } else {
            self.cold.remove(&key);
        }
    }

    /// The free range to take for `need` bytes.
    fn best(&self, need: u64) -> Option<Place> {
        let from = (need, Reverse(u64::MAX), (ExtentId(0), 0));
        let warm = self.warm.range(from..).next();
        warm.or_else(|| self.cold.range(from..).next()).map(|(_, _, place)| *place)
    }
}

#[derive(Debug, Default)]
pub struct Extents {
    extents: BTreeMap<ExtentId, Extent>,
    index: Index,
    stamp: u64,
    /// The time of the last `trim`: near enough for the age of what is freed until the next one.
    now: Time,
}

pub fn rounded(len: u64) -> u64 {
    len.max(1).div_ceil(ALIGN) * ALIGN
}

impl Extents {
    pub fn add(&mut self, id: ExtentId, size: u64) {
        self.extents.insert(id, Extent { size, high_water: 0, live: BTreeMap::new(), free: BTreeMap::new() });
        self.index.untouched.insert((size, id));
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
        match self.index.best(need) {
            Some(place) => Some(self.take_free(place, need, len)),
            None => self.take_untouched(need, len),
        }
    }

    fn take_free(&mut self, place: Place, need: u64, len: u64) -> Allocation {
        let (id, at) = place;
        let free = self.remove_free(place);
        if free.len > need {
            self.insert_free((id, at + need), Free { len: free.len - need, ..free });
        }
        self.extents.get_mut(&id).expect("indexed").live.insert(at, need);
        Allocation { range: ShmRange { extent: id, offset: at, len }, warm: free.warm }
    }

    fn take_untouched(&mut self, need: u64, len: u64) -> Option<Allocation> {
        let (room, id) = *self.index.untouched.range((need, ExtentId(0))..).next()?;
        self.index.untouched.remove(&(room, id));
        self.index.untouched.insert((room - need, id));
        let extent = self.extents.get_mut(&id).expect("indexed");
        let offset = extent.high_water;
        extent.high_water += need;
        extent.live.insert(offset, need);
        Some(Allocation { range: ShmRange { extent: id, offset, len }, warm: false })
    }

    fn insert_free(&mut self, place: Place, free: Free) {
        self.extents.get_mut(&place.0).expect("a place in an extent of ours").free.insert(place.1, free);
        self.index.insert(place, free);
    }

    fn remove_free(&mut self, place: Place) -> Free {
        let free = self.extents.get_mut(&place.0).and_then(|extent| extent.free.remove(&place.1)).expect("an indexed range is free");
        self.index.remove(place, free);
        free
    }

    /// Add a free range, in one with the neighbours that are as warm: a cold one that looked warm would be filled page by page.
    fn merge_in(&mut self, (id, at): Place, free: Free) {
        let (mut at, mut merged) = (at, free);
        let extent = &self.extents[&id];
        let before = extent.free.range(..at).next_back().filter(|(start, f)| **start + f.len == at && f.warm == free.warm).map(|(start, _)| *start);
        let after = extent.free.get(&(at + free.len)).filter(|f| f.warm == free.warm).map(|_| at + free.len);
        if let Some(start) = before {
            merged.len += self.remove_free((id, start)).len;
            at = start;
        }
        if let Some(start) = after {
            merged.len += self.remove_free((id, start)).len;
        }
        self.insert_free((id, at), merged);
    }

    /// The range's last reference is gone. Returns false for a range that is not live: a double free, which the caller reports.
    pub fn free(&mut self, range: ShmRange) -> bool {
        let Some(extent) = self.extents.get_mut(&range.extent) else { return false };
        let Some(len) = extent.live.remove(&range.offset) else { return false };
        self.stamp += 1;
        self.merge_in((range.extent, range.offset), Free { len, stamp: self.stamp, since: self.now, warm: true });
        true
    }

    /// Ranges whose pages are to go back to the system: free for `age`, or the oldest of what is warm and free beyond `most_warm` bytes. They are cold from now on.
    pub fn trim(&mut self, now: Time, age: Time, most_warm: u64) -> Vec<ShmRange> {
        self.now = now;
        let mut trimmed = Vec::new();
        while let Some((_, place)) = self.index.ages.first().copied() {
            let since = self.extents[&place.0].free[&place.1].since;
            if now < since + age && self.index.warm_bytes <= most_warm {
                break;
            }
            let free = self.remove_free(place);
            trimmed.push(ShmRange { extent: place.0, offset: place.1, len: free.len });
            self.merge_in(place, Free { warm: false, ..free });
        }
        trimmed
    }

    /// Extents with nothing live, oldest use first: candidates to give back.
    pub fn empty_extents(&self) -> Vec<(ExtentId, u64)> {
        self.extents.iter().filter(|(_, e)| e.live.is_empty()).map(|(id, e)| (*id, e.size)).collect()
    }

    pub fn remove(&mut self, id: ExtentId) {
        let Some(extent) = self.extents.remove(&id) else { return };
        extent.free.into_iter().for_each(|(at, free)| self.index.remove((id, at), free));
        self.index.untouched.remove(&(extent.size - extent.high_water, id));
    }

    pub fn check_invariants(&self) {
        let mut indexed = Index::default();
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
            extent.free.iter().for_each(|(at, free)| indexed.insert((*id, *at), *free));
            indexed.untouched.insert((extent.size - extent.high_water, *id));
        }
        assert_eq!(indexed.warm, self.index.warm, "warm ranges by length");
        assert_eq!(indexed.cold, self.index.cold, "cold ranges by length");
        assert_eq!(indexed.ages, self.index.ages, "warm ranges by age");
        assert_eq!(indexed.warm_bytes, self.index.warm_bytes, "bytes of warm ranges");
        assert_eq!(indexed.untouched, self.index.untouched, "room beyond the high-water marks");
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

    /// What the allocator promises, page by page and by looking at everything.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Page {
        Untouched,
        Live,
        Warm { stamp: u64, since: Time },
        Cold,
    }

    #[derive(Default)]
    struct Naive {
        extents: BTreeMap<ExtentId, Vec<Page>>,
        stamp: u64,
        now: Time,
    }

    impl Naive {
        /// Runs of pages of one kind: extent, first page, pages, the youngest stamp and time of the run.
        fn runs(&self, is_kind: impl Fn(Page) -> bool) -> Vec<(ExtentId, usize, usize, u64, Time)> {
            let mut runs: Vec<(ExtentId, usize, usize, u64, Time)> = Vec::new();
            for (id, pages) in &self.extents {
                for (at, page) in pages.iter().enumerate().filter(|(_, page)| is_kind(**page)) {
                    let (stamp, since) = if let Page::Warm { stamp, since } = page { (*stamp, *since) } else { (0, 0) };
                    match runs.last_mut() {
                        Some(run) if run.0 == *id && run.1 + run.2 == at => *run = (run.0, run.1, run.2 + 1, run.3.max(stamp), run.4.max(since)),
                        _ => runs.push((*id, at, 1, stamp, since)),
                    }
                }
            }
            runs
        }

        fn warm_runs(&self) -> Vec<(ExtentId, usize, usize, u64, Time)> {
            self.runs(|page| matches!(page, Page::Warm { .. }))
        }

        /// The least length among the runs that fit, warm ones first; None: only untouched room is left, or nothing.
        fn expected(&self, need: usize) -> Option<(bool, usize)> {
            let least = |runs: Vec<(ExtentId, usize, usize, u64, Time)>| runs.iter().map(|run| run.2).filter(|len| *len >= need).min();
            let warm = least(self.warm_runs()).map(|len| (true, len));
            warm.or_else(|| least(self.runs(|page| page == Page::Cold)).map(|len| (false, len)))
        }

        fn fill(&mut self, id: ExtentId, at: usize, len: usize, page: Page) {
            self.extents.get_mut(&id).unwrap()[at..at + len].fill(page);
        }
    }

    /// Deterministic numbers for the random tests (splitmix64).
    fn draw(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// One random step on both; the naive one checks what the other did.
    fn step(seed: &mut u64, extents: &mut Extents, naive: &mut Naive, live: &mut Vec<ShmRange>) {
        let pages = |range: &ShmRange| ((range.offset / ALIGN) as usize, (rounded(range.len) / ALIGN) as usize);
        match draw(seed, 100) {
            0..=49 => {
                let len = 1 + draw(seed, 9 * ALIGN);
                let need = (rounded(len) / ALIGN) as usize;
                let expected = naive.expected(need);
                let Some(allocation) = extents.allocate(len) else {
                    assert_eq!(expected, None, "a free run was missed");
                    assert!(naive.runs(|page| page == Page::Untouched).iter().all(|run| run.2 < need), "untouched room was missed");
                    return;
                };
                let (at, count) = pages(&allocation.range);
                let taken = &naive.extents[&allocation.range.extent][at..at + count];
                match expected {
                    None => assert!(taken.iter().all(|page| *page == Page::Untouched) && !allocation.warm),
                    Some((warm, least)) => {
                        assert_eq!(warm, allocation.warm);
                        let runs = if warm { naive.warm_runs() } else { naive.runs(|page| page == Page::Cold) };
                        let run = runs.iter().find(|run| run.0 == allocation.range.extent && run.1 == at).expect("the start of a run");
                        assert_eq!(run.2, least, "the smallest that fits");
                        assert!(runs.iter().all(|other| other.2 != least || other.3 <= run.3), "the youngest among equals");
                    }
                }
                naive.fill(allocation.range.extent, at, count, Page::Live);
                live.push(allocation.range);
            }
            50..=92 if !live.is_empty() => {
                let range = live.swap_remove(draw(seed, live.len() as u64) as usize);
                assert!(extents.free(range) && !extents.free(range));
                naive.stamp += 1;
                let (stamp, since, (at, count)) = (naive.stamp, naive.now, pages(&range));
                naive.fill(range.extent, at, count, Page::Warm { stamp, since });
                // What is warm side by side is one range, as young as its youngest part.
                let run = naive.warm_runs().into_iter().find(|run| run.0 == range.extent && run.1 <= at && at < run.1 + run.2).unwrap();
                naive.fill(run.0, run.1, run.2, Page::Warm { stamp: run.3, since: run.4 });
            }
            93..=97 => trim(seed, extents, naive),
            _ => {
                let id = ExtentId(1 + draw(seed, 4));
                if !extents.owns(id) {
                    let size = 1 + draw(seed, 60);
                    extents.add(id, size * ALIGN);
                    naive.extents.insert(id, vec![Page::Untouched; size as usize]);
                } else if extents.empty_extents().iter().any(|(empty, _)| *empty == id) {
                    assert!(!naive.extents[&id].contains(&Page::Live));
                    extents.remove(id);
                    naive.extents.remove(&id);
                }
            }
        }
    }

    fn trim(seed: &mut u64, extents: &mut Extents, naive: &mut Naive) {
        naive.now += draw(seed, 10);
        let most_warm = draw(seed, 40) * ALIGN;
        let mut oldest_first = naive.warm_runs();
        oldest_first.sort_unstable_by_key(|run| (run.3, run.0, run.1));
        let mut warm: u64 = oldest_first.iter().map(|run| run.2 as u64 * ALIGN).sum();
        let mut expected = Vec::new();
        for (id, at, count, _, since) in oldest_first {
            if naive.now < since + 15 && warm <= most_warm {
                break;
            }
            warm -= count as u64 * ALIGN;
            naive.fill(id, at, count, Page::Cold);
            expected.push(ShmRange { extent: id, offset: at as u64 * ALIGN, len: count as u64 * ALIGN });
        }
        assert_eq!(extents.trim(naive.now, 15, most_warm), expected);
    }

    #[test]
    fn random_use_agrees_with_an_allocator_that_looks_at_every_page() {
        for first in 0..200 {
            let (mut seed, mut extents, mut naive, mut live) = (first, Extents::default(), Naive::default(), Vec::new());
            for _ in 0..400 {
                step(&mut seed, &mut extents, &mut naive, &mut live);
                extents.check_invariants();
            }
            let naive_live: usize = naive.extents.values().flatten().filter(|page| **page == Page::Live).count();
            assert_eq!(extents.live_bytes(), naive_live as u64 * ALIGN, "seed {first}");
        }
    }
}
