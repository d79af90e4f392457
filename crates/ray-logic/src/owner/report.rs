//! Answers about our objects, calls and waits: what the tables say at this moment (ray_proto::report).

use super::objects::State;
use super::tasks::{CallKind, Place, Task};
use super::{Object, Owner, WaitId};
use crate::Time;
use ray_proto::report::Fact;
use ray_proto::{ObjectId, Value};

/// Ids named in one fact at most: an answer is for people.
const NAMED: usize = 20;

fn stored(value: &Value) -> Fact {
    match value {
        Value::Inline(bytes) => Fact::Stored { bytes: bytes.len() as u64, node: None, on_disk: false },
        Value::Shm(range) => Fact::Stored { bytes: range.len, node: Some(range.extent.node()), on_disk: range.extent.is_on_disk() },
    }
}

impl Owner {
    /// What is known of an object here.
    pub fn report_object(&self, now: Time, id: ObjectId) -> Vec<Fact> {
        let Some(object) = self.objects.get(&id) else { return vec![Fact::Unknown {}] };
        match &object.state {
            State::Handle => {
                let mut facts = vec![Fact::Handle { actor: id }];
                facts.extend(self.tasks.get(&id.call()).filter(|_| id.owner == self.me).into_iter().flat_map(|task| self.report_call(now, id.call(), task)));
                facts
            }
            State::Freed => vec![Fact::Unknown {}],
            State::Ready(value) => vec![Fact::Ready { error: value.is_error().then(|| value.clone()) }, stored(value)],
            State::Pending if id.owner != self.me => vec![Fact::Borrowed { owner: id.owner }],
            State::Pending if self.awaited_group(id).is_some() => self.awaited_group(id).map(|group| Fact::AwaitsGroup { group }).into_iter().collect(),
            State::Pending => self.tasks.get(&id.call()).map_or_else(Vec::new, |task| self.report_call(now, id.call(), task)),
        }
    }

    fn report_call(&self, now: Time, call: u64, task: &Task) -> Vec<Fact> {
        let age_us = now.saturating_sub(task.since);
        let mut facts = vec![Fact::Call { task: call, name: task.template.name.clone(), attempt: task.attempt, retries_left: task.retries_left, age_us }];
        let missing = self.missing_arguments(task);
        if !missing.is_empty() {
            facts.push(Fact::NeedsArguments { missing });
        }
        facts.extend(self.report_place(call, task));
        facts.extend(self.report_cancel(now, call));
        facts
    }

    fn missing_arguments(&self, task: &Task) -> Vec<ObjectId> {
        let deps = task.refs.iter().flat_map(|refs| refs.deps.iter());
        deps.filter(|id| !self.is_ready(**id)).take(NAMED).copied().collect()
    }

    fn report_place(&self, call: u64, task: &Task) -> Option<Fact> {
        match (task.place, task.template.kind) {
            (Place::Queued(class), _) => {
                let (ahead, workers) = self.place_in_class(class, call);
                Some(Fact::NeedsWorker { class, ahead, workers })
            }
            (Place::Lease(id), _) => {
                let lease = self.leases.get(&id)?;
                let ahead = lease.in_flight().take_while(|other| *other != call).take(NAMED).collect();
                Some(Fact::AtWorker { worker: lease.worker(), pid: lease.pid(), ahead })
            }
            (Place::Actor | Place::ActorFlight(_), CallKind::Method { actor, .. }) => {
                let (at, sent, ahead) = self.actors.get(&actor)?.whereabouts(call, |other| self.are_mates(call, other));
                Some(Fact::AtActor { actor, at, sent, ahead })
            }
            _ => None,
        }
    }

    /// Every wait in this process, those of threads first.
    pub fn report_waits(&self, now: Time) -> Vec<Fact> {
        let mut waits: Vec<_> = self.waits.iter().collect();
        waits.sort_unstable_by_key(|(id, wait)| (!wait.who.blocks, **id));
        waits.truncate(NAMED);
        let fact = |(id, wait): (&WaitId, &super::waits::Wait)| {
            let ids = self.awaited(*id, wait);
            Fact::Waits { ids, missing: wait.missing as u32, age_us: now.saturating_sub(wait.who.since), blocks: wait.who.blocks, call: wait.who.call }
        };
        waits.into_iter().map(fact).collect()
    }

    /// The pending objects of a wait. One for few is noted at the objects only: asking is rare, waiting is not.
    fn awaited(&self, id: WaitId, wait: &super::waits::Wait) -> Vec<ObjectId> {
        let noted = |object: &Object| object.is_awaited_by(id);
        let mut ids: Vec<ObjectId> = match wait.many.is_empty() {
            true => self.objects.iter().filter(|(_, object)| noted(object)).map(|(id, _)| *id).collect(),
            false => wait.many.iter().filter(|id| !self.is_ready(**id)).copied().collect(),
        };
        ids.sort_unstable();
        ids.truncate(NAMED);
        ids
    }
}
