//! Calls of ours that are to end early. Where a call has not left us it ends here and now. Where it was sent, its worker or actor is told, and what ends the
//! call in any case ends it: the reply, its return to us, or the death of the process (docs/design/013).
//!
//! Invariants (checked by `check_cancels`)
//! 1. What is noted here belongs to a call that has not ended.
//! 2. A call whose cancellation was asked for is on a worker or at its actor, and is never tried again.

use super::{CallKind, Place};
use crate::owner::Owner;
use crate::Time;
use ray_proto::msg::{Cancellation, Peer};
use ray_proto::report::Fact;
use ray_proto::value::system_error;
use ray_proto::{hex, ObjectId, ProcId, Value};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(in crate::owner) struct Cancels {
    /// By call: who asked first, and when.
    asked: BTreeMap<u64, (Cancellation, Time)>,
    /// Calls that were made inside a call which runs here for another process, with that call.
    parents: FxHashMap<u64, (ProcId, u64)>,
}

impl Cancels {
    pub(in crate::owner) fn is_asked(&self, call: u64) -> bool {
        !self.asked.is_empty() && self.asked.contains_key(&call)
    }

    /// The call has ended.
    pub(in crate::owner) fn forget(&mut self, call: u64) {
        if !self.asked.is_empty() {
            self.asked.remove(&call);
        }
        if !self.parents.is_empty() {
            self.parents.remove(&call);
        }
    }
}

/// Why a call is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelError {
    /// `force` would end the actor, and with it the calls of others.
    ForceOnActor { name: String },
}

impl Owner {
    /// Cancel the call that makes `id`. One that has ended, and a value that was put, are left as they are.
    pub fn cancel(&mut self, now: Time, id: ObjectId, how: &Cancellation) -> Result<(), CancelError> {
        let call = id.call();
        let Some(task) = self.tasks.get(&call).filter(|_| id.owner == self.me) else { return Ok(()) };
        match task.template.kind {
            CallKind::Method { .. } if how.force => return Err(CancelError::ForceOnActor { name: task.template.name.clone() }),
            CallKind::Create => {}
            CallKind::Method { .. } | CallKind::Task { .. } => self.cancel_call(now, call, how),
        }
        Ok(())
    }

    /// A call was submitted inside of one that runs here for `parent.0`.
    pub fn note_parent(&mut self, call: u64, parent: (ProcId, u64)) {
        if self.tasks.contains_key(&call) {
            self.cancels.parents.insert(call, parent);
        }
    }

    /// Cancel what was submitted inside of a call that runs here. Actors are never ended by force.
    pub fn cancel_children(&mut self, now: Time, parent: (ProcId, u64), how: &Cancellation) {
        let mut children: Vec<u64> = self.cancels.parents.iter().filter(|(_, other)| **other == parent).map(|(call, _)| *call).collect();
        children.sort_unstable();
        for call in children {
            self.cancel_child(now, call, how);
        }
    }

    pub fn cancel_child(&mut self, now: Time, call: u64, how: &Cancellation) {
        // The end of one may have ended others.
        let Some(task) = self.tasks.get(&call) else { return };
        let force = how.force && matches!(task.template.kind, CallKind::Task { .. });
        if !matches!(task.template.kind, CallKind::Create) {
            self.cancel_call(now, call, &Cancellation { force, ..how.clone() });
        }
    }

    fn cancel_call(&mut self, now: Time, call: u64, how: &Cancellation) {
        self.cancels.asked.entry(call).or_insert_with(|| (how.clone(), now));
        let task = self.tasks.get_mut(&call).expect("a call that has not ended");
        task.retries_left = 0;
        match (task.place, task.template.kind) {
            (Place::Lease(lease), _) => {
                let worker = self.leases[&lease].worker();
                self.send(worker, Peer::Cancel { task: call, how: how.clone() }, true);
            }
            (Place::ActorFlight(_), CallKind::Method { actor, .. }) => {
                // Where the actor is gone, the news of its end ends the call.
                if let Some(to) = self.actor_process(actor) {
                    self.send(to, Peer::Cancel { task: call, how: how.clone() }, true);
                }
            }
            _ => self.end_here(call),
        }
    }

    /// A call that nobody else knows of ends.
    fn end_here(&mut self, call: u64) {
        self.stop_waiting(call);
        let task = &self.tasks[&call];
        match (task.place, task.template.kind) {
            (Place::Queued(class), _) => {
                self.leave_queue(class, call);
                self.fail_cancelled(call);
            }
            (Place::Actor, CallKind::Method { actor, .. }) => {
                let group = self.leave_actor_queue(actor, call);
                self.fail_cancelled(call);
                self.pump_group(actor, group);
            }
            _ => self.fail_cancelled(call),
        }
    }

    /// The arguments that are not there are not awaited any more.
    fn stop_waiting(&mut self, call: u64) {
        let task = self.tasks.get_mut(&call).expect("a call that has not ended");
        if std::mem::take(&mut task.unresolved) == 0 {
            return;
        }
        let deps: Vec<ObjectId> = task.refs.iter().flat_map(|refs| refs.deps.iter().copied()).collect();
        for id in deps {
            if let Some(object) = self.objects.get_mut(&id) {
                object.forget_dependent(call);
            }
        }
    }

    pub(in crate::owner) fn fail_cancelled(&mut self, call: u64) {
        let error = self.cancelled_error(call);
        self.fail(call, error);
    }

    pub(in crate::owner) fn cancelled_error(&self, call: u64) -> Value {
        let name = self.tasks.get(&call).map_or("", |task| &task.template.name);
        let by = self.cancels.asked.get(&call).map_or("its caller", |(how, _)| &how.by);
        let task_id = hex(&ObjectId::new(self.me, call, 0).task_bytes());
        system_error("cancelled", &[("name", name), ("task_id", &task_id), ("by", by)])
    }

    pub(in crate::owner) fn report_cancel(&self, now: Time, call: u64) -> Option<Fact> {
        let (how, since) = self.cancels.asked.get(&call)?;
        Some(Fact::CancelAsked { by: how.by.clone(), force: how.force, age_us: now.saturating_sub(*since) })
    }

    pub(in crate::owner) fn check_cancels(&self) {
        for call in self.cancels.asked.keys() {
            let task = self.tasks.get(call).unwrap_or_else(|| panic!("call {call} has ended, and its cancellation has not"));
            assert!(matches!(task.place, Place::Lease(_) | Place::ActorFlight(_)), "call {call} is cancelled and stays at {:?}", task.place);
            assert_eq!(task.retries_left, 0, "call {call} is cancelled and may be tried again");
        }
        assert!(self.cancels.parents.keys().all(|call| self.tasks.contains_key(call)), "a call that has ended has a parent");
    }
}
