//! What this process keeps of its own: for leak checks.

use super::objects::State;
use super::Owner;
use ray_proto::{ObjectId, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// A value of so many bytes; the call that made it is forgotten.
    Object { bytes: u64 },
    /// An actor that somebody may call.
    Actor,
    /// A call that has not ended.
    Call,
}

impl Owner {
    /// Objects, actors and unfinished calls of this process, in order. The name is that of the call while it has not ended.
    pub fn holdings(&self) -> Vec<(ObjectId, Holding, String)> {
        let name = |id: ObjectId| self.tasks.get(&id.call()).map_or_else(String::new, |task| task.template.name.clone());
        let object = |id: ObjectId| match &self.objects[&id].state {
            State::Pending | State::Freed => None,
            State::Handle => Some((id, Holding::Actor, name(id))),
            State::Ready(value) => Some((id, Holding::Object { bytes: size_of(value) }, String::new())),
        };
        let mut found: Vec<_> = self.ids().into_iter().filter(|id| id.owner == self.me && !self.is_ghost(*id)).filter_map(object).collect();
        let calls = self.tasks.keys().map(|call| ObjectId::new(self.me, *call, 0));
        found.extend(calls.map(|id| (id, Holding::Call, name(id))));
        found.sort_unstable_by_key(|(id, ..)| *id);
        found
    }
}

fn size_of(value: &Value) -> u64 {
    match value {
        Value::Inline(bytes) => bytes.len() as u64,
        Value::Shm(range) => range.len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Limits;
    use ray_proto::{NodeIndex, Payload, ProcId, Resources};

    #[test]
    fn holdings_are_what_is_referred_to() {
        let mut owner = Owner::new(ProcId::new(1, NodeIndex::HEAD, 1), Resources::default(), Limits::default());
        let id = owner.put(Payload { value: Value::inline(b"abc"), refs: vec![] });
        assert_eq!(owner.holdings(), vec![(id, Holding::Object { bytes: 3 }, String::new())]);
        owner.release_local(id);
        assert_eq!(owner.holdings(), vec![]);
    }
}
