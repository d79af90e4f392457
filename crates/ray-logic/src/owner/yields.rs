//! What running calls of others yield, on its way to them: several items in one message.
//!
//! The first item leaves at once; those that follow within `BATCH_US` wait for company, so that a quick producer costs its caller one wake-up for many.
//! What mentions other objects, or lies in shared memory, does not wait: its counts travel in the order of the messages.

use super::Owner;
use crate::Time;
use ray_proto::msg::Peer;
use ray_proto::{Payload, ProcId, Value};

/// An item that follows another within this waits for more.
const BATCH_US: Time = 200;
const BATCH_ITEMS: usize = 64;
const BATCH_BYTES: usize = 16 * 1024;

/// The items of one call that have not left.
#[derive(Debug, Default)]
pub(super) struct Yields {
    first: u64,
    items: Vec<Payload>,
    bytes: usize,
    sent_at: Time,
}

impl Yields {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl Owner {
    /// A running call of `to` yields its item `index`. Items come in order, with gaps only where the caller has what is left out.
    pub fn yield_item(&mut self, now: Time, to: ProcId, task: u64, index: u64, payload: Payload) {
        if self.yields.get(&(to, task)).is_some_and(|yields| !yields.is_empty() && index != yields.first + yields.items.len() as u64) {
            self.send_items(to, task);
        }
        let yields = self.yields.entry((to, task)).or_default();
        if yields.is_empty() {
            yields.first = index;
        }
        let alone = match &payload.value {
            Value::Inline(bytes) => {
                yields.bytes += bytes.len();
                !payload.refs.is_empty()
            }
            Value::Shm(_) => true,
        };
        yields.items.push(payload);
        let full = yields.items.len() >= BATCH_ITEMS || yields.bytes >= BATCH_BYTES;
        if alone || full || now >= yields.sent_at + BATCH_US {
            yields.sent_at = now;
            self.send_items(to, task);
        } else {
            self.unsent = true;
        }
    }

    /// Everything yielded so far leaves.
    pub fn send_all_items(&mut self) {
        if std::mem::take(&mut self.unsent) {
            let waiting: Vec<_> = self.yields.iter().filter(|(_, yields)| !yields.is_empty()).map(|(key, _)| *key).collect();
            waiting.into_iter().for_each(|(to, task)| self.send_items(to, task));
        }
    }

    /// Some items wait for company: `send_all_items` is due soon.
    pub fn has_unsent_items(&self) -> bool {
        self.unsent
    }

    fn send_items(&mut self, to: ProcId, task: u64) {
        let Some(yields) = self.yields.get_mut(&(to, task)) else { return };
        let (first, items) = (yields.first, std::mem::take(&mut yields.items));
        yields.bytes = 0;
        if !items.is_empty() {
            self.lend(to, task, first, &items);
            self.send(to, Peer::StreamItems { task, first, items }, true);
        }
    }

    /// The call ends: what is left of its items goes before its reply.
    pub(super) fn end_yields(&mut self, to: ProcId, task: u64) {
        if self.yields.contains_key(&(to, task)) {
            self.send_items(to, task);
            self.yields.remove(&(to, task));
        }
    }
}
