//! Calls to one actor that wait to be sent: a queue for each concurrency group, and those that others may overtake meanwhile.
//!
//! Invariants
//! 1. A call is in one queue or aside, never both.
//! 2. Calls of one group leave in the order of their numbers, but for those that were aside. One that is tried again is back in its place: were it behind a
//!    call that takes its result, both would wait for ever.

use std::collections::{BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub(in crate::owner) struct Unsent {
    queues: Vec<VecDeque<u64>>,
    /// They wait for arguments, and nothing waits for them.
    aside: BTreeSet<u64>,
}

impl Unsent {
    pub(in crate::owner) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum::<usize>() + self.aside.len()
    }

    pub(in crate::owner) fn groups(&self) -> u32 {
        self.queues.len() as u32
    }

    pub(in crate::owner) fn push_back(&mut self, group: u32, call: u64) {
        self.queue(group).push_back(call);
    }

    /// Where it was once: before every later call.
    pub(in crate::owner) fn put_back(&mut self, group: u32, call: u64) {
        let queue = self.queue(group);
        let at = queue.iter().position(|other| *other > call).unwrap_or(queue.len());
        queue.insert(at, call);
    }

    pub(in crate::owner) fn front(&self, group: u32) -> Option<u64> {
        self.queues.get(group as usize)?.front().copied()
    }

    pub(in crate::owner) fn pop_front(&mut self, group: u32) {
        self.queue(group).pop_front();
    }

    pub(in crate::owner) fn put_aside(&mut self, call: u64) {
        self.aside.insert(call);
    }

    /// The same for one that may stand in its group's queue.
    pub(in crate::owner) fn set_aside(&mut self, group: u32, call: u64) {
        let queue = self.queue(group);
        if let Some(at) = queue.iter().position(|other| *other == call) {
            queue.remove(at);
            self.aside.insert(call);
        }
    }

    /// Whether the call was aside; it is not any more.
    pub(in crate::owner) fn take_aside(&mut self, call: u64) -> bool {
        self.aside.remove(&call)
    }

    /// The call is not to be sent.
    pub(in crate::owner) fn remove(&mut self, group: u32, call: u64) {
        let queue = self.queue(group);
        if let Some(at) = queue.iter().position(|other| *other == call) {
            queue.remove(at);
        } else {
            self.aside.remove(&call);
        }
    }

    pub(in crate::owner) fn take_all_aside(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.aside)
    }

    /// How many calls of its group are before this one, if it is here.
    pub(in crate::owner) fn ahead_of(&self, call: u64) -> Option<usize> {
        let queued = self.queues.iter().find_map(|queue| queue.iter().position(|other| *other == call));
        queued.or_else(|| self.aside.contains(&call).then_some(0))
    }

    fn queue(&mut self, group: u32) -> &mut VecDeque<u64> {
        let group = group as usize;
        if self.queues.len() <= group {
            self.queues.resize_with(group + 1, VecDeque::new);
        }
        &mut self.queues[group]
    }
}
