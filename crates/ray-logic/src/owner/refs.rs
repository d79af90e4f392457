//! The borrowing protocol: grants, registrations, releases (docs/design/001, "Reference counting").

use super::objects::{lost, State};
use super::{Command, Owner};
use ray_proto::msg::{Peer, Reply};
use ray_proto::{ObjectId, Payload, ProcId};
use std::collections::{BTreeMap, BTreeSet};

/// What to do once every owner has acknowledged a registration.
#[derive(Debug)]
pub(super) enum Then {
    /// A reference came out of band: nobody waits for the ack.
    Nothing,
    /// Tell the sender of a result that its hold may go.
    HoldDone { to: ProcId, task: u64, first: u64 },
    /// Drop the hold on the object whose value mentioned the references.
    Unhold(ObjectId),
    /// Send the reply that waited for it. `held`: what the receiver owns in it. Were it released before the reply leaves, the release would overtake it.
    Reply { to: ProcId, reply: Box<Reply>, held: Vec<ObjectId> },
    /// Send a message to the node that waited for it.
    Node(ray_proto::msg::ToNode),
    /// A call that came in may start.
    Start,
}

#[derive(Debug)]
pub(super) struct PendingBorrow {
    /// What each owner has not acknowledged yet.
    waiting_on: BTreeMap<ProcId, Vec<ObjectId>>,
    /// Other registrations whose consequence must come first.
    after: BTreeSet<u64>,
    /// What its owner had let go of already.
    gone: Vec<ObjectId>,
    then: Then,
}

impl PendingBorrow {
    /// Every object it holds, one entry per hold.
    pub(super) fn held(&self) -> &[ObjectId] {
        match &self.then {
            Then::Unhold(id) => std::slice::from_ref(id),
            Then::Reply { held, .. } => held,
            _ => &[],
        }
    }
}

impl Owner {
    /// We send `refs` to `to` in a message that registers it with us for those we own.
    pub(super) fn grant_refs(&mut self, to: ProcId, refs: &[ObjectId]) {
        for &id in refs {
            if id.owner == self.me {
                self.grant(to, id, 1);
            }
        }
    }

    pub(super) fn grant(&mut self, to: ProcId, id: ObjectId, count: u32) {
        if to == self.me || self.peer(to).dead {
            return;
        }
        let Some(object) = self.objects.get_mut(&id).filter(|object| object.state != State::Freed) else { return };
        *object.more().borrowers.entry(to).or_insert(0) += count;
        self.note_travel(to, id);
        self.peer(to).granted_to_them += count as usize;
    }

    /// A message of `from` brought references that one of our containers now holds. Returns those that must be registered with a third process.
    pub(super) fn adopt_refs(&mut self, from: ProcId, refs: &[ObjectId]) -> BTreeMap<ProcId, Vec<ObjectId>> {
        let mut unregistered: BTreeMap<ProcId, Vec<ObjectId>> = BTreeMap::new();
        for &id in refs {
            self.object(id).holds += 1;
            if id.owner == self.me {
                continue;
            }
            if id.owner == from {
                self.object(id).more().granted += 1;
            } else if !self.is_registered(id) {
                self.object(id).more().granted += 1;
                unregistered.entry(id.owner).or_default().push(id);
            }
        }
        unregistered
    }

    /// Results of a call, or its items from `first` on, leave for `to`: what they mention is granted, or held here until `to` has registered it.
    pub(super) fn lend(&mut self, to: ProcId, task: u64, first: u64, payloads: &[Payload]) {
        for payload in payloads {
            self.grant_refs(to, &payload.refs);
        }
        // A message to ourselves is on its way too: nothing else keeps what is in it.
        let third_party: Vec<ObjectId> =
            payloads.iter().flat_map(|p| &p.refs).filter(|id| to == self.me || id.owner != self.me && id.owner != to).copied().collect();
        if !third_party.is_empty() && !self.peer(to).dead {
            third_party.iter().for_each(|id| self.hold(*id));
            self.reply_holds.entry((to, task, first)).or_default().extend(third_party);
        }
    }

    /// The other end of `lend`: every reference in `payloads` is held by its container from now on, and its owner gets to know.
    pub(super) fn take_in(&mut self, from: ProcId, task: u64, first: u64, payloads: &[Payload]) {
        if payloads.iter().all(|payload| payload.refs.is_empty()) {
            return;
        }
        let third_party = payloads.iter().flat_map(|p| &p.refs).any(|id| from == self.me || id.owner != self.me && id.owner != from);
        let mut unregistered: BTreeMap<ProcId, Vec<ObjectId>> = BTreeMap::new();
        for payload in payloads {
            for (owner, ids) in self.adopt_refs(from, &payload.refs) {
                unregistered.entry(owner).or_default().extend(ids);
            }
        }
        if third_party {
            self.borrow_then(unregistered, Then::HoldDone { to: from, task, first });
        }
    }

    /// The owner knows that we borrow it. While a registration is on its way it may not, and a second one is sent: whoever waits for its ack is safe.
    pub(super) fn is_registered(&self, id: ObjectId) -> bool {
        self.objects.get(&id).is_some_and(|object| object.granted() > 0) && !self.registering.contains_key(&id)
    }

    /// Register with the owners in `wanted` (granted already counted), then do `then`.
    pub(super) fn borrow_then(&mut self, wanted: BTreeMap<ProcId, Vec<ObjectId>>, then: Then) -> u64 {
        self.borrow_after(BTreeSet::new(), wanted, then)
    }

    /// Replies to `to` that wait for acks.
    pub(super) fn parked_replies(&self, to: ProcId) -> BTreeSet<u64> {
        let is_it = |then: &Then| matches!(then, Then::Reply { to: other, .. } if *other == to);
        self.pending_borrows.iter().filter(|(_, pending)| is_it(&pending.then)).map(|(token, _)| *token).collect()
    }

    /// Like `borrow_then`, and not before everything in `after` is done.
    pub(super) fn borrow_after(&mut self, after: BTreeSet<u64>, wanted: BTreeMap<ProcId, Vec<ObjectId>>, then: Then) -> u64 {
        let token = self.next_token();
        let mut waiting_on = BTreeMap::new();
        for (owner, ids) in wanted {
            if !self.peer(owner).dead {
                ids.iter().for_each(|id| *self.registering.entry(*id).or_insert(0) += 1);
                self.send(owner, Peer::Borrow { ids: ids.clone(), token }, true);
                waiting_on.insert(owner, ids);
            }
        }
        if waiting_on.is_empty() && after.is_empty() {
            self.run(token, then, vec![]);
        } else {
            self.pending_borrows.insert(token, PendingBorrow { waiting_on, after, gone: vec![], then });
        }
        token
    }

    /// A reference arrived out of band: register with its owner on our own account. Nobody waits for the ack.
    pub fn register_borrow(&mut self, id: ObjectId) {
        if id.owner == self.me || id.is_nil() {
            return;
        }
        let object = self.object(id);
        if object.granted() == 0 {
            object.more().granted = 1;
            self.borrow_then(BTreeMap::from([(id.owner, vec![id])]), Then::Nothing);
        }
    }

    pub(super) fn borrow_asked(&mut self, from: ProcId, ids: &[ObjectId], token: u64) {
        let is_gone = |id: &&ObjectId| self.objects.get(*id).is_none_or(|object| object.state == State::Freed);
        let gone = ids.iter().filter(is_gone).copied().collect();
        ids.iter().for_each(|id| self.grant(from, *id, 1));
        if token != 0 {
            self.send(from, Peer::BorrowAck { token, gone }, true);
        }
    }

    pub(super) fn borrow_acked(&mut self, from: ProcId, token: u64, gone: Vec<ObjectId>) {
        let Some(pending) = self.pending_borrows.get_mut(&token) else { return };
        pending.gone.extend(gone);
        for id in pending.waiting_on.remove(&from).unwrap_or_default() {
            let count = self.registering.get_mut(&id).expect("on its way");
            *count -= 1;
            if *count == 0 {
                self.registering.remove(&id);
            }
        }
        self.run_if_due(token);
    }

    fn run_if_due(&mut self, token: u64) {
        let due = |pending: &PendingBorrow| pending.waiting_on.is_empty() && pending.after.is_empty();
        if !self.pending_borrows.get(&token).is_some_and(due) {
            return;
        }
        let pending = self.pending_borrows.remove(&token).expect("looked up above");
        self.run(token, pending.then, pending.gone);
        let behind: Vec<u64> = self.pending_borrows.iter_mut().filter_map(|(other, p)| p.after.remove(&token).then_some(*other)).collect();
        behind.into_iter().for_each(|token| self.run_if_due(token));
    }

    fn run(&mut self, token: u64, then: Then, gone: Vec<ObjectId>) {
        match then {
            Then::Start => {
                let why = "its owner had let go of it before the call that takes it began: the caller, which had kept it, is gone";
                let gone = gone.into_iter().map(|id| (id, lost(id, why))).collect();
                self.out.push(Command::Start { token, gone });
            }
            Then::HoldDone { to, task, first } => self.send(to, Peer::HoldDone { task, first }, false),
            Then::Unhold(id) => self.unhold(id),
            Then::Nothing => {}
            Then::Reply { to, reply, held } => {
                self.send(to, Peer::Reply { reply }, true);
                held.into_iter().for_each(|id| self.unhold(id));
            }
            Then::Node(message) => self.out.push(Command::Node(message)),
        }
    }

    /// `proc_id` died: its acks will never come.
    pub(super) fn drop_borrows_on(&mut self, proc_id: ProcId) {
        let waiting: Vec<u64> = self.pending_borrows.iter().filter(|(_, p)| p.waiting_on.contains_key(&proc_id)).map(|(token, _)| *token).collect();
        waiting.into_iter().for_each(|token| self.borrow_acked(proc_id, token, vec![]));
    }

    pub(super) fn released_by(&mut self, from: ProcId, ids: &[(ObjectId, u32)]) {
        for &(id, count) in ids {
            let Some(object) = self.objects.get_mut(&id) else { continue };
            let borrowers = &mut object.more().borrowers;
            let Some(grants) = borrowers.get_mut(&from) else { continue };
            let dropped = count.min(*grants);
            *grants -= dropped;
            if *grants == 0 {
                borrowers.remove(&from);
            }
            self.peer(from).granted_to_them -= dropped as usize;
            self.free_if_unused(id);
        }
    }

    /// `proc_id` died: it borrows nothing any more.
    pub(super) fn drop_grants_of(&mut self, proc_id: ProcId) {
        if std::mem::take(&mut self.peer(proc_id).granted_to_them) == 0 {
            return;
        }
        let mut lent: Vec<ObjectId> = self.objects.iter().filter(|(_, o)| o.borrowers().any(|(p, _)| p == proc_id)).map(|(id, _)| *id).collect();
        lent.sort_unstable();
        for id in lent {
            let more = self.object(id).more();
            more.borrowers.remove(&proc_id);
            more.lost_track = true;
            self.free_if_unused(id);
        }
    }

    pub(super) fn hold_done(&mut self, from: ProcId, task: u64, first: u64) {
        for id in self.reply_holds.remove(&(from, task, first)).unwrap_or_default() {
            self.unhold(id);
        }
    }

    /// Grants of `from` that came with a value we drop.
    fn return_grants(&mut self, from: ProcId, refs: &[ObjectId]) {
        for &id in refs.iter().filter(|id| id.owner == from) {
            match self.objects.get_mut(&id) {
                Some(object) => object.more().granted += 1,
                None => self.releases.entry(from).or_default().push((id, 1)),
            }
        }
    }

    /// The answer to our fetch. References inside are granted by the owner or registered while we hold the outer object.
    pub(super) fn fetched(&mut self, from: ProcId, id: ObjectId, request: u64, payload: Payload) {
        if self.objects.get(&id).is_none_or(|object| object.is_ready() || object.fetch() != request) {
            // Nobody here wants it any more. Its shared-memory range is the owner's to free.
            return self.return_grants(from, &payload.refs);
        }
        let unregistered = self.adopt_refs(from, &payload.refs);
        if !unregistered.is_empty() {
            self.hold(id);
            self.borrow_then(unregistered, Then::Unhold(id));
        }
        self.set_ready(id, payload);
    }
}
