//! Running calls that give their results one after another: how many the caller takes, and whether it still does.
//!
//! Invariants
//! 1. An item leaves only while its number is within the credit; credit only grows.
//! 2. A closed stream stays closed.

use super::{Cancelling, Exec};
use ray_proto::msg::StreamOpen;
use ray_proto::ProcId;

/// The producer's end of a stream.
#[derive(Debug)]
pub struct Outgoing {
    until: u64,
    closed: bool,
}

/// What the producer may do about its next item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Go,
    /// Not before more credit comes.
    Wait,
    /// Nobody reads any more: stop.
    Closed,
}

impl Outgoing {
    pub(super) fn new(open: &StreamOpen) -> Self {
        Outgoing { until: open.until, closed: open.closed }
    }
}

impl Exec {
    /// Whether item `index` may be made. A call that does not run (any more) has no readers; nor has a method that was cancelled.
    pub fn permit(&self, from: ProcId, task: u64, index: u64) -> Permit {
        // A method is not interrupted: it stops here.
        let running = self.running.get(&(from, task)).filter(|running| running.is_task || running.cancelling == Cancelling::No);
        match running.and_then(|running| running.stream.as_ref()) {
            Some(stream) if !stream.closed && index <= stream.until => Permit::Go,
            Some(stream) if !stream.closed => Permit::Wait,
            _ => Permit::Closed,
        }
    }

    pub fn credit(&mut self, from: ProcId, task: u64, until: u64) {
        if let Some(stream) = self.running.get_mut(&(from, task)).and_then(|running| running.stream.as_mut()) {
            stream.until = stream.until.max(until);
        } else if let Some(stream) = self.queued_stream(from, task) {
            stream.until = stream.until.max(until);
        }
    }

    /// Nobody reads the items of this call. One that has not started will stop at its first item.
    pub fn close_stream(&mut self, from: ProcId, task: u64) {
        if let Some(stream) = self.running.get_mut(&(from, task)).and_then(|running| running.stream.as_mut()) {
            stream.closed = true;
        } else if let Some(stream) = self.queued_stream(from, task) {
            stream.closed = true;
        }
    }

    pub(super) fn close_streams_of(&mut self, caller: ProcId) {
        let of_caller = self.running.range_mut((caller, 0)..=(caller, u64::MAX));
        of_caller.filter_map(|(_, running)| running.stream.as_mut()).for_each(|stream| stream.closed = true);
    }

    fn queued_stream(&mut self, from: ProcId, task: u64) -> Option<&mut StreamOpen> {
        let queued = self.queues.iter_mut().flatten().find(|queued| queued.from == from && queued.call.task == task)?;
        queued.call.stream.as_mut()
    }
}
