//! Moving objects of this process from shared memory to disk (docs/design/010).
//!
//! The owner is the one writer of an object's state, so it alone moves it, and only while nobody can read the old place: no borrower, no view here, no call
//! in flight that mentions it. What is copied meanwhile is decided by the shell; the conditions are checked again when the copy is done.
//!
//! Invariants
//! 1. A victim carries one local count until `moved` or `stays`: its range is not reused while it is copied.
//! 2. `large` lists exactly the owned objects whose value is in memory extents of our own node.

use super::objects::State;
use super::{Command, Owner};
use ray_proto::{ExtentId, ObjectId, ShmRange, Value};
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

/// An object to be moved, with the place it is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    pub id: ObjectId,
    pub range: ShmRange,
}

impl Owner {
    /// A zero-copy view of a value that was seen at `range`. Returns where the value is now: it stays there while the view lives.
    pub fn add_view(&mut self, id: ObjectId, range: ShmRange) -> ShmRange {
        let object = self.object(id);
        object.local += 1;
        object.more().views += 1;
        match &object.state {
            State::Ready(Value::Shm(now)) => **now,
            _ => range,
        }
    }

    /// A view is gone.
    pub fn release_view(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            let more = object.more();
            debug_assert!(more.views > 0, "views of {id:?}");
            more.views = more.views.saturating_sub(1);
        }
        self.release_local(id);
    }

    pub(super) fn note_large(&mut self, id: ObjectId, state: &State) {
        if matches!(state, State::Ready(value) if id.owner == self.me && self.is_in_our_memory(value)) {
            self.large.insert(id);
        }
    }

    /// The same for an entry of the table.
    pub(super) fn note_ready(&mut self, id: ObjectId) {
        if id.owner == self.me && self.value(id).is_some_and(|value| self.is_in_our_memory(value)) {
            self.large.insert(id);
        }
    }

    /// Only what is on our node can be moved to its disk.
    pub(super) fn is_in_our_memory(&self, value: &Value) -> bool {
        matches!(value, Value::Shm(range) if !range.extent.is_on_disk() && range.extent.node() == self.me.node())
    }

    /// Something may be movable. Cheap: a process that owns nothing large need not look any closer.
    pub fn has_large(&self) -> bool {
        !self.large.is_empty()
    }

    /// Objects to move, at least `bytes` if there are so many. First those that together are all that lives in an extent of ours, since only whole extents go
    /// back to the node; among these the oldest. `live`: bytes that live in an extent of this process, None for another's.
    pub fn pick_victims(&mut self, bytes: u64, live: impl Fn(ExtentId) -> Option<u64>) -> Vec<Victim> {
        let in_flight = self.in_flight_mentions();
        let mut groups: BTreeMap<ExtentId, (u64, Vec<Victim>)> = BTreeMap::new();
        for &id in &self.large {
            let Some(range) = self.movable(id, &in_flight) else { continue };
            let (size, victims) = groups.entry(range.extent).or_default();
            *size += crate::extents::rounded(range.len);
            victims.push(Victim { id, range });
        }
        let mut ordered: Vec<(bool, ObjectId, Vec<Victim>)> = Vec::new();
        for (extent, (size, victims)) in groups {
            let leaves_some = live(extent).is_some_and(|all| all > size);
            ordered.push((leaves_some, victims[0].id, victims));
        }
        ordered.sort_unstable_by_key(|(leaves_some, oldest, _)| (*leaves_some, *oldest));
        let mut taken = 0;
        let mut picked = Vec::new();
        for victim in ordered.into_iter().flat_map(|(_, _, victims)| victims) {
            if taken >= bytes {
                break;
            }
            taken += victim.range.len;
            self.objects.get_mut(&victim.id).expect("listed").local += 1;
            picked.push(victim);
        }
        picked
    }

    /// The victims' bytes stand at their new places as well. Per victim, true: that is where it is now; false: somebody may read the old place, so it stays.
    pub fn moved(&mut self, moves: &[(Victim, ShmRange)]) -> Vec<bool> {
        let in_flight = self.in_flight_mentions();
        let mut done = Vec::with_capacity(moves.len());
        for (victim, to) in moves {
            let may = self.movable(victim.id, &in_flight) == Some(victim.range);
            if may {
                self.objects.get_mut(&victim.id).expect("movable").state = State::Ready(Value::shm(*to));
                self.large.remove(&victim.id);
                self.out.push(Command::Free(victim.range));
            }
            self.stays(*victim);
            done.push(may);
        }
        done
    }

    /// A victim is not moved after all.
    pub fn stays(&mut self, victim: Victim) {
        self.release_local(victim.id);
    }

    fn movable(&self, id: ObjectId, in_flight: &FxHashSet<ObjectId>) -> Option<ShmRange> {
        let object = self.objects.get(&id)?;
        let State::Ready(Value::Shm(range)) = &object.state else { return None };
        (self.large.contains(&id) && object.is_unread() && !in_flight.contains(&id)).then_some(**range)
    }

    /// Every object that a call on its way or running elsewhere was told the place of, or may ask for.
    fn in_flight_mentions(&self) -> FxHashSet<ObjectId> {
        let leased = self.leases.values().flat_map(|lease| lease.in_flight());
        let methods = self.actors.values().flat_map(|client| client.in_flight());
        // The node starts an actor again with the arguments that it was given.
        let constructors = self.creating.keys().copied().filter(|call| self.tasks.get(call).is_some_and(|task| task.unresolved == 0));
        let mut mentioned = FxHashSet::default();
        for task in leased.chain(methods).chain(constructors).filter_map(|call| self.tasks.get(&call)) {
            let Some(refs) = &task.refs else { continue };
            mentioned.insert(refs.body_id);
            mentioned.extend(refs.nested.iter().chain(&refs.deps));
            let inside = refs.deps.iter().filter_map(|id| self.objects.get(id));
            inside.for_each(|object| mentioned.extend(object.refs()));
        }
        mentioned
    }

    pub(super) fn check_large(&self) {
        let is_large = |id: &ObjectId| id.owner == self.me && self.value(*id).is_some_and(|value| self.is_in_our_memory(value));
        assert!(self.large.iter().all(is_large), "an object is listed as large and is not");
        let large = self.objects.keys().filter(|id| is_large(id)).count();
        assert_eq!(large, self.large.len(), "an object in shared memory is not listed as large");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{CallArgs, CallKind, Limits, Template};
    use ray_proto::msg::{FromNode, Outcome, Peer, Reply};
    use ray_proto::{LeaseId, NodeIndex, Payload, ProcId, Resources, Strategy};

    const SIZE: u64 = 8192;

    fn at(extent: u64, slot: u64) -> ShmRange {
        ShmRange { extent: ExtentId(extent), offset: slot * SIZE, len: SIZE }
    }

    fn on_disk(slot: u64) -> ShmRange {
        ShmRange { extent: ExtentId::on_disk(NodeIndex::HEAD, 9), offset: slot * SIZE, len: SIZE }
    }

    fn owner() -> Owner {
        Owner::new(ProcId::new(1, NodeIndex::HEAD, 1), Resources::from_f64([("CPU", 1.0)]), Limits::default())
    }

    fn put(owner: &mut Owner, range: ShmRange) -> ObjectId {
        owner.put(Payload { value: Value::shm(range), refs: vec![] })
    }

    fn picked(owner: &mut Owner, bytes: u64) -> Vec<ObjectId> {
        let victims = owner.pick_victims(bytes, |_| None);
        victims.iter().for_each(|victim| owner.stays(*victim));
        victims.iter().map(|victim| victim.id).collect()
    }

    fn commands(owner: &mut Owner) -> Vec<Command> {
        let mut out = Vec::new();
        owner.take_commands(&mut out);
        owner.check_invariants();
        out
    }

    #[test]
    fn the_oldest_go_first_and_before_them_what_empties_an_extent() {
        let mut owner = owner();
        let ids: Vec<ObjectId> = [at(1, 0), at(1, 1), at(2, 0), at(3, 0)].into_iter().map(|range| put(&mut owner, range)).collect();
        assert_eq!(picked(&mut owner, 2 * SIZE), ids[..2]);
        // Something else lives in extent 1: moving these two would give nothing back.
        let victims = owner.pick_victims(SIZE + 1, |extent| Some(if extent == ExtentId(1) { 3 * SIZE } else { SIZE }));
        assert_eq!(victims.iter().map(|victim| victim.id).collect::<Vec<_>>(), ids[2..]);
    }

    #[test]
    fn a_moved_object_is_found_at_its_new_place_and_the_old_one_is_free() {
        let mut owner = owner();
        let id = put(&mut owner, at(1, 0));
        let victims = owner.pick_victims(1, |_| None);
        assert_eq!(owner.moved(&[(victims[0], on_disk(0))]), [true]);
        assert_eq!(owner.value(id), Some(&Value::shm(on_disk(0))));
        assert_eq!(owner.add_view(id, at(1, 0)), on_disk(0), "who saw the old place gets a view of the new one");
        assert_eq!(commands(&mut owner), [Command::Free(at(1, 0))]);
        assert!(!owner.has_large());
        owner.release_view(id);
        owner.release_local(id);
        assert_eq!(commands(&mut owner), [Command::Free(on_disk(0))]);
    }

    #[test]
    fn what_is_viewed_or_lent_stays_also_when_that_begins_during_the_copy() {
        let mut owner = owner();
        let (viewed, lent) = (put(&mut owner, at(1, 0)), put(&mut owner, at(1, 1)));
        let victims = owner.pick_victims(u64::MAX, |_| None);
        assert_eq!(victims.len(), 2);
        owner.add_view(viewed, at(1, 0));
        let borrower = ProcId::new(1, NodeIndex::HEAD, 7);
        owner.on_peer(1, borrower, Peer::Borrow { ids: vec![lent], token: 0 });
        assert_eq!(owner.moved(&[(victims[0], on_disk(0)), (victims[1], on_disk(1))]), [false, false]);
        assert_eq!(picked(&mut owner, u64::MAX), []);
        owner.release_view(viewed);
        owner.on_peer(2, borrower, Peer::Release { ids: vec![(lent, 1)] });
        assert_eq!(picked(&mut owner, u64::MAX), [viewed, lent]);
    }

    #[test]
    fn a_borrower_that_died_keeps_the_object_where_it_is() {
        let mut owner = owner();
        let lent = put(&mut owner, at(1, 0));
        let borrower = ProcId::new(1, NodeIndex::HEAD, 7);
        owner.on_peer(1, borrower, Peer::Borrow { ids: vec![lent], token: 0 });
        let evidence = ray_proto::msg::Evidence { pid: 7, signal: 9, ..ray_proto::msg::Evidence::default() };
        owner.on_node(2, FromNode::ProcDied { proc_id: borrower, evidence });
        assert_eq!(picked(&mut owner, u64::MAX), []);
    }

    #[test]
    fn only_the_answer_to_the_request_on_its_way_counts() {
        let mut owner = owner();
        let (lender, foreign) = (ProcId::new(1, NodeIndex::HEAD, 7), ObjectId::new(ProcId::new(1, NodeIndex::HEAD, 7), 1, 0));
        let request = |owner: &mut Owner| {
            owner.add_local(foreign);
            owner.wait_start(&[foreign], 1, Default::default());
            let fetch = commands(owner).into_iter().find_map(|command| match command {
                Command::Peer { message: Peer::Fetch { ids }, .. } => Some(ids[0].1),
                _ => None,
            });
            fetch.expect("the value is asked for")
        };
        let answer = |request, range| Peer::Fetched { id: foreign, request, payload: Payload { value: Value::shm(range), refs: vec![] } };
        let first = request(&mut owner);
        owner.release_local(foreign);
        let second = request(&mut owner);
        owner.on_peer(1, lender, answer(first, at(1, 0)));
        assert!(!owner.is_ready(foreign), "the answer to a reference that is gone may tell of a place that is, too");
        owner.on_peer(2, lender, answer(second, on_disk(0)));
        assert_eq!(owner.value(foreign), Some(&Value::shm(on_disk(0))));
    }

    /// A call with `dep` as its argument and its body in shared memory; returns (call, body's object).
    fn submit(owner: &mut Owner, dep: ObjectId, body: ShmRange) -> (u64, ObjectId) {
        let class = owner.class_for(&Resources::from_f64([("CPU", 1.0)]), "", &Strategy::DEFAULT);
        let template = owner.template(Template {
            id: Default::default(),
            kind: CallKind::Task { class },
            name: "f".into(),
            payload: b"f"[..].into(),
            num_returns: 1,
            max_retries: 0,
            retry_raised: false,
            max_calls: 0,
            stream: None,
        });
        let body_id = put(owner, body);
        let args = CallArgs { body: Value::shm(body), body_id, deps: vec![dep], nested: vec![] };
        (owner.submit(1, &template, args).expect("accepted"), body_id)
    }

    #[test]
    fn arguments_of_queued_calls_move_and_those_of_calls_in_flight_stay() {
        let mut owner = owner();
        let dep = put(&mut owner, at(1, 0));
        let (call, body) = submit(&mut owner, dep, at(1, 1));
        let victims = owner.pick_victims(u64::MAX, |_| None);
        assert_eq!(victims.iter().map(|victim| victim.id).collect::<Vec<_>>(), [dep, body]);
        assert_eq!(owner.moved(&[(victims[0], on_disk(0)), (victims[1], on_disk(1))]), [true, true]);
        commands(&mut owner);
        let class = owner.class_for(&Resources::from_f64([("CPU", 1.0)]), "", &Strategy::DEFAULT);
        let worker = ProcId::new(1, NodeIndex::HEAD, 2);
        owner.on_node(2, FromNode::LeaseGrant { class, lease: LeaseId(1), worker, pid: 2, gpu_ids: vec![] });
        let sent = commands(&mut owner).into_iter().find_map(|command| match command {
            Command::Peer { message: Peer::Call { call }, .. } => Some(call.args),
            _ => None,
        });
        let args = sent.expect("the call is sent");
        assert_eq!((args.body, &args.deps[0].1.value), (Value::shm(on_disk(1)), &Value::shm(on_disk(0))));

        let other = put(&mut owner, at(2, 0));
        submit(&mut owner, other, at(2, 1));
        let reply = Reply {
            task: call,
            outcome: Outcome::Returned {},
            results: vec![Payload { value: Value::shm(at(5, 0)), refs: vec![] }],
            retained: vec![],
            leaving: false,
        };
        owner.on_peer(3, worker, Peer::Reply { reply: Box::new(reply) });
        commands(&mut owner);
        // The second call is in flight now; the first one's result is nobody's business but ours.
        assert_eq!(picked(&mut owner, u64::MAX), [ObjectId::new(owner.me(), call, 1)]);
    }
}
