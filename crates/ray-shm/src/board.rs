//! The status board: one shared page range with a slot per worker, written by the worker, read by the daemon after its death or when it seems stuck.
//! A slot holds the caller and the number of the call that the worker started last. Plain atomic stores: no syscall per call.
//! One more place is the daemon's to write: until when its node may be sure to be a part of its cluster.
//! Behind all that, in the same file, are the rings of records of calls (events.rs), one per slot.

use crate::events::{self, Ring};
use crate::memory::{create, Mapping};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Workers at once. Slots are reused after a death.
pub const SLOTS: u32 = 16_384;
const SLOT_BYTES: u64 = 64;
/// Behind the workers' slots.
const LEASE: u32 = SLOTS;
const BYTES: u64 = (SLOTS as u64 + 1) * SLOT_BYTES;
/// A whole number of pages, of any size that Linux has.
const RINGS_AT: u64 = BYTES.next_multiple_of(64 << 10);

pub struct Board {
    mapping: Mapping,
}

impl Board {
    pub fn create() -> Result<(OwnedFd, Board), Errno> {
        // Where the size of a file is limited (ulimit -f), there is no timeline.
        let fd = create("ray-board", events::bytes_behind(RINGS_AT)).or_else(|_| create("ray-board", BYTES))?;
        let board = Board::open(&fd)?;
        Ok((fd, board))
    }

    /// The ring of records of a slot; None where there are none.
    pub fn ring(fd: &OwnedFd, slot: u32) -> Result<Option<Ring>, Errno> {
        Ring::of_slot(fd, RINGS_AT, slot)
    }

    pub fn open(fd: &OwnedFd) -> Result<Board, Errno> {
        Ok(Board { mapping: Mapping::read_write(fd.as_fd(), BYTES)? })
    }

    fn words(&self, slot: u32) -> &[AtomicU64; 2] {
        assert!(slot <= LEASE, "slot {slot}");
        let bytes = self.mapping.slice(u64::from(slot) * SLOT_BYTES, 16).expect("inside the board");
        // SAFETY: 64-byte aligned, inside the mapping, and only ever accessed as atomics.
        unsafe { &*bytes.as_ptr().cast::<[AtomicU64; 2]>() }
    }

    /// The worker starts this call now.
    pub fn start(&self, slot: u32, caller: u64, task: u64) {
        let words = self.words(slot);
        words[0].store(caller, Ordering::Relaxed);
        words[1].store(task, Ordering::Release);
    }

    /// What the worker started last; only meaningful once it is dead. None: nothing yet.
    pub fn last_started(&self, slot: u32) -> Option<(u64, u64)> {
        let words = self.words(slot);
        let task = words[1].load(Ordering::Acquire);
        (task != 0).then(|| (words[0].load(Ordering::Relaxed), task))
    }

    /// Until when the node's workers may run, by the monotonic clock in microseconds. 0: for ever.
    pub fn lease(&self) -> u64 {
        self.words(LEASE)[0].load(Ordering::Acquire)
    }

    pub fn set_lease(&self, until_us: u64) {
        self.words(LEASE)[0].store(until_us, Ordering::Release);
    }

    pub fn clear(&self, slot: u32) {
        self.start(slot, 0, 0);
    }
}
