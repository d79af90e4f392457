//! The status board: one shared page range with a slot per worker, written by the worker, read by the daemon after its death or when it seems stuck.
//! A slot holds the caller and the number of the call that the worker started last. Plain atomic stores: no syscall per call.

use crate::memory::{create, Mapping};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Workers at once. Slots are reused after a death.
pub const SLOTS: u32 = 16_384;
const SLOT_BYTES: u64 = 64;

pub struct Board {
    mapping: Mapping,
}

impl Board {
    pub fn create() -> Result<(OwnedFd, Board), Errno> {
        let fd = create("ray-board", u64::from(SLOTS) * SLOT_BYTES)?;
        let board = Board::open(&fd)?;
        Ok((fd, board))
    }

    pub fn open(fd: &OwnedFd) -> Result<Board, Errno> {
        Ok(Board { mapping: Mapping::read_write(fd.as_fd(), u64::from(SLOTS) * SLOT_BYTES)? })
    }

    fn words(&self, slot: u32) -> &[AtomicU64; 2] {
        assert!(slot < SLOTS, "slot {slot}");
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

    pub fn clear(&self, slot: u32) {
        self.start(slot, 0, 0);
    }
}
