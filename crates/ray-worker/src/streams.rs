//! Streams of results: the reader's end of our own calls, and the producer's end of the calls that run here.

use crate::exec::CallWork;
use crate::gate::Gate;
use crate::library::{Core, Library};
use crate::waits::{CompletionQueue, Waiter};
use ray_logic::exec::Permit;
use ray_logic::owner::Next;
use ray_proto::msg::ToNode;
use ray_proto::{ObjectId, Payload, ProcId};
use std::sync::Arc;

impl Library {
    // ---- the reader

    pub fn stream_next(&self, call: u64) -> Next {
        self.with(|core| core.owner.stream_next(call))
    }

    /// An object that is ready when a reader need not wait. It carries one local reference.
    pub fn stream_peek(&self, call: u64) -> ObjectId {
        self.with(|core| core.owner.stream_peek(call))
    }

    /// The object that is ready when the call has ended. It carries one local reference.
    pub fn stream_end(&self, call: u64) -> ObjectId {
        self.with(|core| core.owner.stream_end(call))
    }

    /// Whether the next item is here, and whether all are read.
    pub fn stream_state(&self, call: u64) -> (bool, bool) {
        self.with(|core| core.owner.stream_state(call))
    }

    // ---- the producer

    /// A running call yields its item `index`. Returns what it may do about the next one.
    pub fn yield_item(&self, work: &CallWork, index: u64, payload: Payload) -> Permit {
        let (from, task) = (work.from, work.call.task);
        let now = ray_shm::now_us();
        self.with(|core| {
            core.publish(from, std::slice::from_ref(&payload));
            core.owner.yield_item(now, from, task, index, payload);
            let permit = core.exec.permit(from, task, index + 1);
            if permit != Permit::Go {
                core.flush_all();
            }
            permit
        })
    }

    pub fn permit(&self, work: &CallWork, index: u64) -> Permit {
        self.with(|core| core.exec.permit(work.from, work.call.task, index))
    }

    /// Begin to wait for the permit to make item `index`; None: no need to. The gate opens when it is worth to ask again.
    pub fn credit_gate(&self, work: &CallWork, index: u64) -> Option<Arc<Gate>> {
        let gate = Arc::new(Gate::default());
        self.starve(work, index, Waiter::Gate(gate.clone())).then_some(gate)
    }

    /// The same for an event loop: `token` is queued when it is worth to ask again. Returns false if there is no need to wait.
    pub fn credit_watch(&self, work: &CallWork, index: u64, queue: &Arc<CompletionQueue>, token: u64) -> bool {
        self.starve(work, index, Waiter::Completion(queue.clone(), token))
    }

    fn starve(&self, work: &CallWork, index: u64, waiter: Waiter) -> bool {
        let key = (work.from, work.call.task);
        self.with(|core| {
            // Looked at under the lock: a session that ends later finds the waiter.
            let waits = core.exec.permit(key.0, key.1, index) == Permit::Wait && core.over.is_none();
            if waits {
                core.starved.insert(key, waiter);
                core.flush_all();
            }
            waits
        })
    }

    /// The call that waits for credit counts as blocked from now on: its CPU goes to others, the reader perhaps. End it with `credit_came`.
    pub fn credit_blocks(&self) {
        self.with(|core| {
            core.call_blocks();
            core.flush_all();
        });
    }

    pub fn credit_came(&self) {
        self.with(|core| {
            if core.exec.unblock() {
                core.queue_node(ToNode::Unblocked {});
            }
        });
    }
}

impl Core {
    /// Something changed for a producer that may wait.
    pub(crate) fn feed(&mut self, from: ProcId, task: u64) {
        self.woken.extend(self.starved.remove(&(from, task)));
    }
}
