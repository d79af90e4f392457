//! The object table and its counts. See mod.rs for the invariants, docs/design/001 for the protocol.

use super::lineage::{Count, Unrepeatable};
use super::{Command, Owner, WaitId};
use ray_proto::msg::{Peer, ToNode};
use ray_proto::value::system_error;
use ray_proto::{hex, ExtentId, ObjectId, Payload, ProcId, ShmRange, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Pending,
    Ready(Value),
    /// The object of an actor's handle: it has counts and no value.
    Handle,
    /// Nobody refers to it and its value is gone; it stays because lineage may want it made again.
    Freed,
}

/// One entry. Kept small: a queued no-op should cost a few hundred bytes in all.
#[derive(Debug)]
pub struct Object {
    /// Python handles and zero-copy views in this process.
    pub local: u32,
    /// Submitted calls and containers in this process that mention it.
    pub holds: u32,
    pub state: State,
    more: Option<Box<More>>,
}

/// What few entries need.
#[derive(Debug, Default)]
pub(super) struct More {
    pub borrowers: BTreeMap<ProcId, u32>,
    /// References inside the value; each counts as one hold.
    pub refs: Vec<ObjectId>,
    pub waits: Vec<WaitId>,
    /// Calls of ours that take it as an argument.
    pub dependents: Vec<u64>,
    /// Processes that asked for the value, with their request's number.
    pub fetchers: Vec<(ProcId, u64)>,
    /// The request for the value that is on its way; 0 for none. Only its own answer counts: an earlier one may tell where the value once was.
    pub fetch: u64,
    /// Running calls of others that mention it: their caller keeps it for us.
    pub covers: u32,
    /// Borrowed only: grants of the owner not yet released.
    pub granted: u32,
    /// Zero-copy views in this process; they count as `local`, too.
    pub views: u32,
    /// A process that borrowed it has died: whoever got it from that one may still read it where it is.
    pub lost_track: bool,
    /// The view here was opened through a copy on our node.
    pub copied: bool,
    /// Owned only: a process of another node was told where the value is, so there may be copies.
    pub travelled: bool,
    /// Owned only, of a value on another node: why it can't be made again.
    pub unrepeatable: Option<Unrepeatable>,
}

impl Object {
    pub(super) fn new(state: State) -> Self {
        Object { local: 0, holds: 0, state, more: None }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(Box::default)
    }

    pub(super) fn take_more(&mut self) -> Option<Box<More>> {
        self.more.take()
    }

    pub(super) fn forget_wait(&mut self, wait: WaitId) {
        if let Some(more) = &mut self.more {
            more.waits.retain(|other| *other != wait);
        }
    }

    pub(super) fn is_awaited_by(&self, wait: WaitId) -> bool {
        self.more.as_ref().is_some_and(|more| more.waits.contains(&wait))
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_) | State::Handle)
    }

    pub fn refs(&self) -> &[ObjectId] {
        self.more.as_ref().map_or(&[], |more| &more.refs)
    }

    pub fn granted(&self) -> u32 {
        self.more.as_ref().map_or(0, |more| more.granted)
    }

    pub(super) fn fetch(&self) -> u64 {
        self.more.as_ref().map_or(0, |more| more.fetch)
    }

    /// Nobody but this process's own handles and containers counts it, and nothing here reads it.
    pub(super) fn is_unread(&self) -> bool {
        self.more.as_ref().is_none_or(|more| more.borrowers.is_empty() && more.covers == 0 && more.views == 0 && !more.lost_track)
    }

    pub fn borrowers(&self) -> impl Iterator<Item = (ProcId, u32)> + '_ {
        self.more.iter().flat_map(|more| more.borrowers.iter().map(|(p, n)| (*p, *n)))
    }

    pub(super) fn unrepeatable(&self) -> Option<Unrepeatable> {
        self.more.as_ref().and_then(|more| more.unrepeatable)
    }

    /// The value is lost: there is none, and no request for one. Returns what it mentioned.
    pub(super) fn forget_value(&mut self) -> Vec<ObjectId> {
        self.state = State::Pending;
        self.more.as_mut().map_or_else(Vec::new, |more| {
            more.fetch = 0;
            std::mem::take(&mut more.refs)
        })
    }

    pub(super) fn forget_dependent(&mut self, call: u64) {
        if let Some(more) = &mut self.more {
            more.dependents.retain(|other| *other != call);
        }
    }

    pub(super) fn dependents(&self) -> &[u64] {
        self.more.as_ref().map_or(&[], |more| &more.dependents)
    }

    /// Nothing but lineage counts it.
    pub(super) fn is_unused(&self) -> bool {
        self.local == 0 && self.holds == 0 && self.more.as_ref().is_none_or(|more| more.covers == 0 && more.borrowers.is_empty())
    }
}

impl Owner {
    /// A new owned object with one local reference. The references inside it are counted as held by it.
    pub fn put(&mut self, payload: Payload) -> ObjectId {
        let call = self.next_call();
        let id = ObjectId::new(self.me, call, 0);
        let mut object = Object::new(State::Ready(payload.value));
        object.local = 1;
        self.note_large(id, &object.state);
        self.objects.insert(id, object);
        for inner in &payload.refs {
            self.hold(*inner);
        }
        if !payload.refs.is_empty() {
            self.object(id).more().refs = payload.refs;
        }
        id
    }

    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// The value of a ready object.
    pub fn value(&self, id: ObjectId) -> Option<&Value> {
        match self.objects.get(&id).map(|object| &object.state) {
            Some(State::Ready(value)) => Some(value),
            _ => None,
        }
    }

    pub fn is_ready(&self, id: ObjectId) -> bool {
        self.objects.get(&id).is_some_and(Object::is_ready)
    }

    /// The entry of an id; a borrowed one is created on first mention.
    pub(super) fn object(&mut self, id: ObjectId) -> &mut Object {
        let known = self.objects.get(&id).is_some_and(|object| !matches!(object.state, State::Freed));
        if !known {
            let state = self.first_state(id);
            if self.objects.insert(id, Object::new(state)).is_none() {
                self.return_appeared(id);
            }
        }
        self.objects.get_mut(&id).expect("inserted above")
    }

    fn first_state(&mut self, id: ObjectId) -> State {
        if id.owner == self.me {
            // Ours, yet not in the table: it was freed, or somebody made the id up.
            return State::Ready(lost(id, "its owner, this process, has already freed it or never made it"));
        }
        let peer = self.peer(id.owner);
        peer.owned_by_them += 1;
        match (id.is_actor(), peer.dead) {
            (true, _) => State::Handle,
            (false, true) => State::Ready(owner_died(id, "the owner had died before the reference arrived")),
            (false, false) => State::Pending,
        }
    }

    /// A Python handle or a view appeared.
    pub fn add_local(&mut self, id: ObjectId) {
        self.object(id).local += 1;
    }

    /// A Python handle or a view is gone.
    pub fn release_local(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            debug_assert!(object.local > 0, "local count of {id:?}");
            object.local = object.local.saturating_sub(1);
            self.free_if_unused(id);
        }
    }

    pub(super) fn hold(&mut self, id: ObjectId) {
        self.object(id).holds += 1;
    }

    pub(super) fn unhold(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            debug_assert!(object.holds > 0, "holds of {id:?}");
            object.holds = object.holds.saturating_sub(1);
            self.free_if_unused(id);
        }
    }

    /// Remove the entry when nothing counts it, then whatever only it held.
    pub(super) fn free_if_unused(&mut self, id: ObjectId) {
        let mut list = Vec::new();
        self.free_one(id, &mut list);
        self.drop_counts(list);
    }

    /// A work list, since containers may nest deeply, and so may lineage.
    pub(super) fn drop_counts(&mut self, mut list: Vec<Count>) {
        while let Some(count) = list.pop() {
            let id = match count {
                Count::Hold(id) => {
                    let Some(object) = self.objects.get_mut(&id) else { continue };
                    object.holds = object.holds.saturating_sub(1);
                    id
                }
                Count::Mention(id) if self.unmention(id) => id,
                Count::Mention(_) => continue,
            };
            self.free_one(id, &mut list);
        }
    }

    /// What goes with the entry, if it was removed, is added to `list`.
    fn free_one(&mut self, id: ObjectId, list: &mut Vec<Count>) {
        if !self.objects.get(&id).is_some_and(Object::is_unused) || self.stays_for_lineage(id, list) {
            return;
        }
        let object = self.objects.remove(&id).expect("looked up above");
        self.drop_entry(id, object, list);
        if id.owner == self.me {
            self.return_gone(id, list);
        } else if let Some(peer) = self.peers.get_mut(&id.owner) {
            peer.owned_by_them -= 1;
        }
    }

    /// An entry that nothing counts, or what it was before it became a ghost: give back what it stands for.
    pub(super) fn drop_entry(&mut self, id: ObjectId, mut object: Object, list: &mut Vec<Count>) {
        let more = object.take_more().map(|more| *more).unwrap_or_default();
        list.extend(more.refs.into_iter().map(Count::Hold));
        // Readers whom nothing counts: a lost container had kept it for them.
        more.fetchers.into_iter().for_each(|(to, request)| self.answer_lost(to, id, request));
        // So it is with the creation of a detached actor, which waits for what its arguments mention: it looks again for what they mention when they are back.
        more.dependents.into_iter().for_each(|call| self.dependency_ready(call, id));
        if more.copied {
            self.out.push(Command::Node(ToNode::CopyDone { id }));
        }
        if id.owner == self.me {
            self.free_owned(id, object.state, more.travelled);
        } else {
            self.free_borrowed(id, more.granted);
        }
    }

    fn free_owned(&mut self, id: ObjectId, state: State, travelled: bool) {
        match state {
            State::Ready(Value::Shm(range)) => {
                self.large.remove(&id);
                let node = range.extent.node();
                if travelled || node != self.me.node() {
                    self.freed.push((id, node));
                }
                self.out.push(Command::Free(*range));
            }
            State::Handle => self.actor_out_of_scope(id),
            State::Pending => self.promise_freed(id),
            _ => {}
        }
        if id.is_end() {
            self.stream_end_freed(id.call());
        }
    }

    fn free_borrowed(&mut self, id: ObjectId, granted: u32) {
        if granted > 0 {
            self.releases.entry(id.owner).or_default().push((id, granted));
        }
        if id.is_actor() {
            self.actors.remove(&id);
        }
    }

    /// The value of a pending object is here: wake who waits, answer who asked, start what depends.
    pub(super) fn set_ready(&mut self, id: ObjectId, payload: Payload) {
        let is_large = id.owner == self.me && self.is_in_our_memory(&payload.value);
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.state == State::Pending) else { return self.discard(payload) };
        object.state = State::Ready(payload.value);
        if is_large {
            self.large.insert(id);
        }
        if object.more.is_none() && payload.refs.is_empty() {
            return self.many_waits_progress(id);
        }
        let more = object.more();
        more.refs = payload.refs;
        let (waits, dependents, fetchers) = (std::mem::take(&mut more.waits), std::mem::take(&mut more.dependents), std::mem::take(&mut more.fetchers));
        waits.into_iter().for_each(|wait| self.wait_progress(wait));
        self.many_waits_progress(id);
        fetchers.into_iter().for_each(|(to, request)| self.answer_fetch(to, id, request));
        dependents.into_iter().for_each(|task| self.dependency_ready(task, id));
    }

    /// A value nobody refers to any more: give back what it holds.
    pub(super) fn discard(&mut self, payload: Payload) {
        if let Value::Shm(range) = payload.value {
            self.out.push(Command::Free(*range));
        }
        payload.refs.into_iter().for_each(|id| self.unhold(id));
    }

    /// Ask the owner for the value of a borrowed object, once.
    pub(super) fn fetch(&mut self, id: ObjectId) {
        if id.owner == self.me || self.is_ready(id) {
            return;
        }
        if self.object(id).more().fetch == 0 {
            let request = self.next_token();
            self.object(id).more().fetch = request;
            self.fetches.entry(id.owner).or_default().push((id, request));
        }
    }

    pub(super) fn fetch_asked(&mut self, from: ProcId, ids: &[(ObjectId, u64)]) {
        for &(id, request) in ids {
            match self.objects.get_mut(&id) {
                Some(object) if object.state == State::Pending => object.more().fetchers.push((from, request)),
                Some(object) if object.is_ready() => self.answer_fetch(from, id, request),
                _ => self.answer_lost(from, id, request),
            }
        }
    }

    fn answer_lost(&mut self, to: ProcId, id: ObjectId, request: u64) {
        let payload = Payload { value: lost(id, "its owner has freed it: no counted reference was left"), refs: vec![] };
        self.send(to, Peer::Fetched { id, request, payload }, true);
    }

    fn answer_fetch(&mut self, to: ProcId, id: ObjectId, request: u64) {
        let Some(object) = self.objects.get(&id) else { return };
        let State::Ready(value) = &object.state else { return };
        let payload = Payload { value: value.clone(), refs: object.refs().to_vec() };
        self.grant_refs(to, &payload.refs);
        self.note_travel(to, id);
        self.send(to, Peer::Fetched { id, request, payload }, true);
    }

    pub(super) fn owner_died(&mut self, owner: ProcId, evidence: &ray_proto::msg::Evidence) {
        if self.peer(owner).owned_by_them == 0 {
            return;
        }
        let is_hit = |(id, object): (&ObjectId, &Object)| {
            let lost = matches!(object.state, State::Pending | State::Ready(Value::Shm(_)));
            (id.owner == owner && lost).then_some(*id)
        };
        let mut hit: Vec<ObjectId> = self.objects.iter().filter_map(is_hit).collect();
        hit.sort_unstable();
        let how = crate::evidence::describe(evidence);
        for id in hit {
            // Calls that fail with an earlier one may have dropped it.
            let Some(object) = self.objects.get_mut(&id) else { continue };
            let value = owner_died(id, &format!("the process that owned it is gone: {how}"));
            let was_ready = object.is_ready();
            object.state = State::Pending;
            if was_ready {
                object.state = State::Ready(value);
            } else {
                self.set_ready(id, Payload { value, refs: vec![] });
            }
        }
    }

    /// Ranges made for us by a process that died. Those whose reply was lost with it belong to no object here.
    pub(super) fn free_unknown(&mut self, ranges: Vec<ShmRange>) {
        let known = |object: &Object| match &object.state {
            State::Ready(Value::Shm(range)) => Some((range.extent, range.offset)),
            _ => None,
        };
        let known: BTreeSet<(ExtentId, u64)> = self.objects.values().filter_map(known).collect();
        let lost = ranges.into_iter().filter(|range| !known.contains(&(range.extent, range.offset)));
        self.out.extend(lost.map(Command::Free));
    }

    /// A table that once held millions must not keep their room for ever.
    pub(super) fn shrink_tables(&mut self) {
        const LARGE: usize = 64 * 1024;
        if self.objects.capacity() > LARGE.max(8 * self.objects.len()) {
            self.objects.shrink_to(2 * self.objects.len());
        }
        if self.tasks.capacity() > LARGE.max(8 * self.tasks.len()) {
            self.tasks.shrink_to(2 * self.tasks.len());
        }
    }

    /// Panics when a count is off; called by the simulator and by tests after each step.
    pub fn check_invariants(&self) {
        let mut holds: BTreeMap<ObjectId, u32> = BTreeMap::new();
        let mut mention = |id: ObjectId| *holds.entry(id).or_insert(0) += 1;
        self.objects.values().flat_map(|object| object.refs()).for_each(|id| mention(*id));
        self.tasks.values().flat_map(|task| task.held_refs()).for_each(&mut mention);
        self.reply_holds.values().flatten().for_each(|id| mention(*id));
        self.pending_borrows.values().flat_map(|pending| pending.held()).for_each(|id| mention(*id));
        self.held_by_streams().for_each(&mut mention);
        self.held_by_lineage().for_each(&mut mention);
        self.held_by_promises().for_each(&mut mention);
        for (id, object) in &self.objects {
            assert!(!object.is_unused() || self.is_ghost(*id), "{id:?} is in the table with no count");
            assert_eq!(object.holds, holds.get(id).copied().unwrap_or(0), "holds of {id:?} ({:?})", object.state);
            assert!(id.owner != self.me || object.granted() == 0, "{id:?} is ours and borrowed");
        }
        for id in holds.keys() {
            assert!(self.objects.contains_key(id), "{id:?} is held and not in the table");
        }
        self.check_large();
        self.check_leases();
        self.check_streams();
        self.check_backlog();
        self.check_arguments();
        self.check_lineage();
        self.check_cancels();
    }
}

pub(super) fn lost(id: ObjectId, why: &str) -> Value {
    let hex = hex(&id.bytes());
    system_error("object_lost", &[("object_id", &hex), ("message", &format!("object {hex} is lost: {why}."))])
}

fn owner_died(id: ObjectId, why: &str) -> Value {
    let hex = hex(&id.bytes());
    system_error("owner_died", &[("object_id", &hex), ("message", &format!("object {hex} can't be read: {why}"))])
}
