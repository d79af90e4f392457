//! Our side of calls that others made to us: covers while a call runs, registrations before it starts and when it ends.
//!
//! While a call runs its caller keeps what is in it. What neither of the two owns would be let go of by its owner if the caller ended meanwhile, so we register
//! for that ourselves, and the call starts when the owners have answered (docs/design/014).

use super::refs::Then;
use super::Owner;
use crate::exec::{covered_refs, Queued};
use ray_proto::msg::{Call, Outcome, Peer, Reply, ToNode};
use ray_proto::{ObjectId, Payload, ProcId};
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, BTreeSet};

impl Owner {
    /// A call arrived. While it is here its caller keeps every reference in it. Some: it may not start before the `Command::Start` with this number.
    pub fn accept_call(&mut self, from: ProcId, call: &Call) -> Option<u64> {
        self.peer(from);
        self.cover(from, &covered_refs(call))
    }

    /// The same for a constructor's arguments, which the creator `from` keeps.
    pub fn cover(&mut self, from: ProcId, refs: &[ObjectId]) -> Option<u64> {
        for id in refs {
            self.object(*id).more().covers += 1;
        }
        let mut unregistered: BTreeMap<ProcId, Vec<ObjectId>> = BTreeMap::new();
        let (me, mut listed) = (self.me, FxHashSet::default());
        for &id in refs.iter().filter(|id| id.owner != from && id.owner != me) {
            if !self.is_registered(id) && listed.insert(id) {
                self.object(id).more().granted += 1;
                unregistered.entry(id.owner).or_default().push(id);
            }
        }
        (!unregistered.is_empty()).then(|| self.borrow_then(unregistered, Then::Start))
    }

    /// Unstarted calls leave us again.
    pub fn give_back(&mut self, calls: Vec<Queued>, blocked: bool, answer: ProcId) {
        let mut tasks: BTreeMap<ProcId, Vec<u64>> = BTreeMap::new();
        if answer != ProcId::NODE {
            tasks.entry(answer).or_default();
        }
        for queued in calls {
            self.drop_covers(&covered_refs(&queued.call));
            tasks.entry(queued.from).or_default().push(queued.call.task);
        }
        for (to, tasks) in tasks {
            self.send(to, Peer::Returned { tasks, blocked }, true);
        }
    }

    /// A call that has not started is cancelled: its caller gets the one reply of it.
    pub fn refuse_cancelled(&mut self, queued: Queued) {
        let covered = covered_refs(&queued.call);
        self.finish_call(queued.from, queued.call.task, &covered, Outcome::Cancelled { started: false }, vec![], false);
    }

    /// An unstarted call goes: what an ended one left here is registered, what a running one uses is covered by that one.
    fn drop_covers(&mut self, refs: &[ObjectId]) {
        for id in refs {
            if let Some(object) = self.objects.get_mut(id) {
                object.more().covers -= 1;
                self.free_if_unused(*id);
            }
        }
    }

    /// A call ended: drop its covers. References that we still use and that are not registered are returned by owner, already counted as granted.
    /// Covers of other calls don't excuse them: two processes that call each other would each rely on the other.
    fn uncover(&mut self, refs: &[ObjectId]) -> BTreeMap<ProcId, Vec<ObjectId>> {
        let mut unregistered: BTreeMap<ProcId, Vec<ObjectId>> = BTreeMap::new();
        let mut listed = FxHashSet::default();
        for &id in refs {
            let (me, registered) = (self.me, self.is_registered(id));
            let Some(object) = self.objects.get_mut(&id) else { continue };
            if id.owner != me && !registered && (object.local > 0 || object.holds > 0) && listed.insert(id) {
                object.more().granted += 1;
                unregistered.entry(id.owner).or_default().push(id);
            }
        }
        self.drop_covers(refs);
        unregistered
    }

    /// A call ended. The reply leaves now, or once every reference that we keep is registered with its owner.
    pub fn finish_call(&mut self, to: ProcId, task: u64, covered: &[ObjectId], outcome: Outcome, results: Vec<Payload>, leaving: bool) {
        self.end_yields(to, task);
        self.lend(to, task, 0, &results);
        let mut unregistered = self.uncover(covered);
        let retained = unregistered.remove(&to).unwrap_or_default();
        // After a leaving reply the caller starts whatever is not answered elsewhere: it must be the last.
        let after = if leaving { self.parked_replies(to) } else { BTreeSet::new() };
        if unregistered.is_empty() && after.is_empty() {
            let reply = Box::new(Reply { task, outcome, results, retained, leaving });
            return self.send(to, Peer::Reply { reply }, false);
        }
        let inside = results.iter().flat_map(|p| &p.refs).filter(|id| id.owner == to);
        let held: Vec<ObjectId> = inside.chain(&retained).copied().collect();
        held.iter().for_each(|id| self.hold(*id));
        let reply = Box::new(Reply { task, outcome, results, retained, leaving });
        self.borrow_after(after, unregistered, Then::Reply { to, reply, held });
    }

    /// A constructor ended well: register what the actor keeps of its arguments, then tell the node.
    pub fn finish_creation(&mut self, covered: &[ObjectId], message: ToNode) {
        let unregistered = self.uncover(covered);
        self.borrow_then(unregistered, Then::Node(message));
    }
}
