//! What a detached actor is given must outlive who gave it: the values behind the references in its constructor's arguments go along with its description, and
//! become objects of the process where it lives (docs/design/014).

use crate::owner::objects::{Object, State};
use crate::owner::{Command, Owner};
use ray_proto::msg::ActorSpec;
use ray_proto::{ActorId, Blob, ObjectId, Payload, Value};
use std::collections::BTreeSet;

/// Small values that go along at most, in bytes; the head keeps them as long as the actor lives.
const GIFTS_BYTES: usize = 16 << 20;

impl Owner {
    /// Everything that the arguments of a creation refer to, and what that refers to in turn. None: some of it has no value yet; the creation goes on when it
    /// has.
    pub(in crate::owner) fn gather_gifts(&mut self, call: u64) -> Option<Vec<(ObjectId, Payload)>> {
        let refs = self.tasks[&call].refs.as_ref();
        let mut open: Vec<ObjectId> = refs.map_or_else(Vec::new, |refs| refs.nested.clone());
        for dep in refs.into_iter().flat_map(|refs| &refs.deps) {
            open.extend(self.objects.get(dep).into_iter().flat_map(Object::refs));
        }
        let (mut seen, mut missing, mut gifts) = (BTreeSet::new(), vec![], vec![]);
        while let Some(id) = open.pop() {
            if id.is_actor() || !seen.insert(id) {
                continue;
            }
            match self.objects.get(&id).map(|object| (&object.state, object.refs())) {
                Some((State::Ready(value), refs)) => {
                    open.extend(refs);
                    gifts.push((id, Payload { value: value.clone(), refs: refs.to_vec() }));
                }
                _ => missing.push(id),
            }
        }
        if missing.is_empty() {
            return Some(self.within_limits(call, gifts));
        }
        self.tasks.get_mut(&call).expect("an accepted creation").unresolved += missing.len() as u32;
        for id in missing {
            self.object(id).more().dependents.push(call);
            self.fetch(id);
        }
        None
    }

    fn within_limits(&mut self, call: u64, gifts: Vec<(ObjectId, Payload)>) -> Vec<(ObjectId, Payload)> {
        let len = |(_, payload): &(ObjectId, Payload)| match &payload.value {
            Value::Inline(bytes) => bytes.len(),
            Value::Shm(_) => 0,
        };
        if gifts.iter().map(len).sum::<usize>() <= GIFTS_BYTES {
            return gifts;
        }
        let name = self.tasks[&call].template.name.clone();
        let text = format!(
            "{name}: the objects that its arguments refer to are more than {} MiB, so a detached actor does not take them over: they go with their owner.\n\
             hint: pass them as one large value, or put them from within the actor",
            GIFTS_BYTES >> 20
        );
        self.out.push(Command::Notice(text));
        vec![]
    }

    /// A detached actor is sent off whose process has to copy large values: until it has, or never will, its creator should not leave.
    pub(in crate::owner) fn await_birth(&mut self, actor: ActorId, spec: &ActorSpec) {
        let given = spec.given.iter().chain(&spec.args.deps).map(|(_, payload)| &payload.value);
        if spec.detached && given.chain([&spec.args.body]).any(|value| matches!(value, Value::Shm(_))) {
            let birth = self.new_put_id();
            let mut object = Object::new(State::Pending);
            object.local = 1;
            self.objects.insert(birth, object);
            self.births.insert(actor, birth);
        }
    }

    pub(in crate::owner) fn is_born(&mut self, actor: ActorId) {
        if let Some(birth) = self.births.remove(&actor) {
            self.set_ready(birth, Payload { value: Value::Inline(Blob::EMPTY), refs: vec![] });
            self.release_local(birth);
        }
    }

    /// Objects that become ready when the detached actors that are on their way have what they were given.
    pub fn births(&self) -> Vec<ObjectId> {
        self.births.values().copied().collect()
    }

    /// The id of a value that `put_all` will bring.
    pub fn new_put_id(&mut self) -> ObjectId {
        let call = self.next_call();
        ObjectId::new(self.me, call, 0)
    }

    /// Values with ids from `new_put_id`, which may mention each other. Each gets one local reference.
    pub fn put_all(&mut self, puts: Vec<(ObjectId, Payload)>) {
        let mut mentioned = Vec::new();
        for (id, payload) in puts {
            let mut object = Object::new(State::Ready(payload.value));
            object.local = 1;
            self.note_large(id, &object.state);
            self.objects.insert(id, object);
            mentioned.push((id, payload.refs));
        }
        for (id, refs) in mentioned.into_iter().filter(|(_, refs)| !refs.is_empty()) {
            refs.iter().for_each(|inner| self.hold(*inner));
            self.object(id).more().refs = refs;
        }
    }
}
