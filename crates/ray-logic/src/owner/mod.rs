//! The owner: what one process keeps about the objects it owns or borrows, the calls it made, the workers it leases and the actors it calls.
//!
//! It does no I/O and does not know values from the inside: values are bytes, results arrive as events, and what is to be done leaves as `Command`s.
//!
//! Invariants (checked by `check_invariants`)
//! 1. An entry exists while anything counts it: `local`, `holds`, `covers`, or a borrower. It is removed in the call that drops the last count, unless
//!    lineage may need it (`lineage`).
//! 2. Each accepted call ends exactly once: its returns become ready, and its holds on arguments are dropped then.
//! 3. A call is in exactly one place: waiting for arguments, in its class's queue, in flight on one lease, or with its actor.
//! 4. `granted` of a borrowed entry is the number of grants the owner has counted for us and we have not released.
//!
//! Files: `objects` the table and its counts, `refs` the borrowing protocol, `waits` local waiters, `tasks` calls and their ends,
//! `tasks/cancel` ending them early, `backlog` how much of them may wait, `leases` pushing calls to workers, `ramp` how many of these where nothing else bounds it, `postponed` calls that wait for memory, `actors` calls to actors,
//! `callee` our side of calls made to us, `streams` and `yields` the two ends of calls that give their results one after another,
//! `lineage` calls that can be made again, and values that went with their node, `nodes` what the other nodes are to us,
//! `spilling` moving objects to disk, `waits/groups` placement groups that are waited for, `report` answers about what waits for what.

mod actors;
mod backlog;
mod callee;
mod holdings;
mod leases;
mod lineage;
mod nodes;
mod objects;
mod postponed;
mod ramp;
mod refs;
mod report;
mod spilling;
mod streams;
mod tasks;
mod waits;
mod yields;

pub use actors::ActorOptions;
pub use backlog::{Patience, Standing, Want};
pub use holdings::Holding;
pub use objects::{Object, State};
pub use spilling::Victim;
pub use streams::{Next, StreamOptions};
pub use tasks::{CallArgs, CallKind, CancelError, SubmitError, Template};
pub use waits::{WaitId, Waiting};

use crate::Time;
use ray_proto::msg::{ActorSpec, Evidence, FromNode, Peer, ToNode};
use ray_proto::{ActorId, ClassId, LeaseId, NodeIndex, ObjectId, ProcId, Resources, ShmRange};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Node(ToNode),
    /// `urgent`: the receiver has nothing to do, so do not batch.
    Peer {
        to: ProcId,
        message: Peer,
        urgent: bool,
    },
    Wake(WaitId),
    Free(ShmRange),
    /// What a call or a constructor that came in waited for is done (`Owner::accept_call`). `gone`: what nobody had kept, and its value.
    Start {
        token: u64,
        gone: Vec<(ObjectId, ray_proto::Value)>,
    },
    /// A message for the user, on the driver.
    Notice(String),
}

/// What we know of another process.
#[derive(Debug, Default)]
struct PeerState {
    dead: bool,
    templates: BTreeSet<u32>,
    /// Borrowed entries here that it owns.
    owned_by_them: usize,
    /// Grants of ours that it holds.
    granted_to_them: usize,
    /// Calls sent to the actor that lives there.
    actor_calls: u64,
}

/// Node capacity and tunables that the shell reads from the config table.
#[derive(Clone, Debug)]
pub struct Limits {
    pub idle_lease: Time,
    pub head_patience: Time,
    pub pipeline_depth: usize,
    /// Calls that have not ended may keep so much memory before submitters wait.
    pub pending_bytes: u64,
    /// A submitter that waits gives up when nothing has moved for so long.
    pub pending_patience: Time,
    /// What is kept to make lost values again may take so much memory; the oldest goes first.
    pub lineage_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle_lease: 100_000,
            head_patience: 5_000,
            pipeline_depth: 64,
            pending_bytes: u64::MAX,
            pending_patience: 30_000_000,
            lineage_bytes: 256 << 20,
        }
    }
}

pub struct Owner {
    me: ProcId,
    limits: Limits,
    node_total: Resources,
    next_call: u64,
    next_token: u64,
    objects: FxHashMap<ObjectId, Object>,
    tasks: FxHashMap<u64, tasks::Task>,
    backlog: backlog::Backlog,
    cancels: tasks::Cancels,
    templates: Vec<Arc<Template>>,
    class_ids: FxHashMap<(Resources, String, Vec<u8>), ClassId>,
    classes: Vec<leases::Class>,
    leases: BTreeMap<LeaseId, leases::Lease>,
    leased_workers: FxHashMap<ProcId, LeaseId>,
    actors: FxHashMap<ActorId, actors::ActorClient>,
    creating: BTreeMap<u64, (ActorId, Box<ActorSpec>)>,
    /// Detached actors that have to copy what they were given, and what becomes ready then.
    births: BTreeMap<ActorId, ObjectId>,
    peers: BTreeMap<ProcId, PeerState>,
    waits: FxHashMap<WaitId, waits::Wait>,
    /// Those of them that wait for many objects.
    many_waits: Vec<WaitId>,
    pending_borrows: BTreeMap<u64, refs::PendingBorrow>,
    /// Borrowed objects with registrations on their way: how many.
    registering: BTreeMap<ObjectId, u32>,
    /// Third-party references inside results we returned, until their receiver has registered: by receiver, call and first item (0: the reply).
    reply_holds: BTreeMap<(ProcId, u64, u64), Vec<ObjectId>>,
    /// Calls of ours with a stream of results that runs or is read.
    streams: FxHashMap<u64, streams::Stream>,
    /// What of them was lost with its node and is made again.
    lost_items: BTreeMap<u64, lineage::Lost>,
    /// Items that running calls of others yielded, by caller and call.
    yields: BTreeMap<(ProcId, u64), yields::Yields>,
    /// Some of those items have not left.
    unsent: bool,
    /// Releases and fetches of the current event, one message per owner.
    releases: BTreeMap<ProcId, Vec<(ObjectId, u32)>>,
    fetches: BTreeMap<ProcId, Vec<(ObjectId, u64)>>,
    /// Objects of ours whose value is in shared memory (not on disk), oldest first.
    large: BTreeSet<ObjectId>,
    postponed: postponed::Postponed,
    lineage: lineage::Lineage,
    nodes: nodes::Nodes,
    groups: waits::groups::Groups,
    /// Objects of the current event of which other nodes may have copies, with the nodes of their bytes: they are freed.
    freed: Vec<(ObjectId, NodeIndex)>,
    out: Vec<Command>,
}

impl Owner {
    pub fn new(me: ProcId, node_total: Resources, limits: Limits) -> Self {
        Owner {
            me,
            limits,
            node_total,
            next_call: 1,
            next_token: 1,
            objects: FxHashMap::default(),
            tasks: FxHashMap::default(),
            backlog: backlog::Backlog::default(),
            cancels: Default::default(),
            templates: Vec::new(),
            class_ids: FxHashMap::default(),
            classes: Vec::new(),
            leases: BTreeMap::new(),
            leased_workers: FxHashMap::default(),
            actors: FxHashMap::default(),
            creating: BTreeMap::new(),
            births: BTreeMap::new(),
            peers: BTreeMap::new(),
            waits: FxHashMap::default(),
            many_waits: Vec::new(),
            pending_borrows: BTreeMap::new(),
            registering: BTreeMap::new(),
            reply_holds: BTreeMap::new(),
            streams: FxHashMap::default(),
            lost_items: BTreeMap::new(),
            yields: BTreeMap::new(),
            unsent: false,
            releases: BTreeMap::new(),
            fetches: BTreeMap::new(),
            large: BTreeSet::new(),
            postponed: Default::default(),
            lineage: Default::default(),
            nodes: Default::default(),
            groups: Default::default(),
            freed: Vec::new(),
            out: Vec::new(),
        }
    }

    pub fn me(&self) -> ProcId {
        self.me
    }

    /// Commands since the last call, in order. The shell carries them out before it feeds the next event.
    pub fn take_commands(&mut self, into: &mut Vec<Command>) {
        if self.out.is_empty() && self.fetches.is_empty() && self.releases.is_empty() && self.freed.is_empty() {
            return;
        }
        for (to, ids) in std::mem::take(&mut self.fetches) {
            self.send(to, Peer::Fetch { ids }, true);
        }
        for (to, ids) in std::mem::take(&mut self.releases) {
            self.send(to, Peer::Release { ids }, false);
        }
        if !self.freed.is_empty() {
            let ids = std::mem::take(&mut self.freed);
            self.out.push(Command::Node(ToNode::Freed { ids }));
        }
        into.append(&mut self.out);
    }

    fn next_call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call - 1
    }

    fn next_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token - 1
    }

    fn send(&mut self, to: ProcId, message: Peer, urgent: bool) {
        if !self.peer(to).dead {
            self.out.push(Command::Peer { to, message, urgent });
        }
    }

    /// The record of another process; the first mention asks the node to tell us of its death.
    fn peer(&mut self, proc_id: ProcId) -> &mut PeerState {
        let out = &mut self.out;
        self.peers.entry(proc_id).or_insert_with(|| {
            out.push(Command::Node(ToNode::Watch { proc_id }));
            PeerState::default()
        })
    }

    pub fn is_dead(&self, proc_id: ProcId) -> bool {
        self.peers.get(&proc_id).is_some_and(|peer| peer.dead)
    }

    /// A message of the node that concerns ownership; others belong to the shell.
    pub fn on_node(&mut self, now: Time, message: FromNode) {
        match message {
            FromNode::LeaseGrant { class, lease, worker, pid, gpu_ids } => self.lease_granted(now, class, lease, worker, pid, gpu_ids),
            FromNode::LeaseReclaim { lease } => self.lease_reclaimed(now, lease),
            FromNode::Infeasible { class, text, code } => self.class_infeasible(class, text, &code),
            FromNode::GroupIs { group, life } => self.group_changed(group, life),
            FromNode::ActorChanged { actor, state } => self.actor_changed(actor, state),
            FromNode::ProcDied { proc_id, evidence } => self.proc_died(now, proc_id, &evidence),
            FromNode::OrphanRanges { ranges } => self.free_unknown(ranges),
            FromNode::NodeDied { node, text } => self.node_died(now, node, &text),
            FromNode::Capacity { total, nodes } => self.capacity_changed(now, total, nodes),
            _ => {}
        }
    }

    /// A message of another process. Calls go to the shell's queue through `accept_call`, not here.
    pub fn on_peer(&mut self, now: Time, from: ProcId, message: Peer) {
        match message {
            Peer::Reply { reply } => self.replied(now, from, *reply),
            Peer::Returned { tasks, blocked } => self.returned(now, from, &tasks, blocked),
            Peer::Fetch { ids } => self.fetch_asked(from, &ids),
            Peer::Fetched { id, request, payload } => self.fetched(from, id, request, payload),
            Peer::Borrow { ids, token } => self.borrow_asked(from, &ids, token),
            Peer::BorrowAck { token, gone } => self.borrow_acked(from, token, gone),
            Peer::Release { ids } => self.released_by(from, &ids),
            Peer::HoldDone { task, first } => self.hold_done(from, task, first),
            Peer::StreamItems { task, first, items } => self.items_arrived(from, task, first, items),
            Peer::Template { .. } | Peer::Call { .. } | Peer::Recall { .. } | Peer::Switch {} | Peer::Ask { .. } | Peer::Told { .. } => {}
            Peer::StreamCredit { .. } | Peer::StreamClose { .. } | Peer::Arrived {} => {}
            Peer::Cancel { .. } | Peer::CancelAsk { .. } | Peer::CancelTold { .. } => {}
        }
    }

    fn proc_died(&mut self, now: Time, proc_id: ProcId, evidence: &Evidence) {
        if std::mem::replace(&mut self.peer(proc_id).dead, true) {
            return;
        }
        self.lease_worker_died(now, proc_id, evidence);
        self.drop_grants_of(proc_id);
        self.owner_died(proc_id, evidence);
        self.drop_borrows_on(proc_id);
        let held: Vec<_> = self.reply_holds.range((proc_id, 0, 0)..=(proc_id, u64::MAX, u64::MAX)).map(|(key, _)| *key).collect();
        held.into_iter().for_each(|(from, task, first)| self.hold_done(from, task, first));
        self.yields.retain(|(to, _), _| *to != proc_id);
    }

    /// The id that the next `put` gives: the value may be written before it is put.
    pub fn next_put_id(&self) -> ObjectId {
        ObjectId::new(self.me, self.next_call, 0)
    }

    /// Every object in the table, in order.
    pub fn ids(&self) -> Vec<ObjectId> {
        let mut ids: Vec<ObjectId> = self.objects.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The workers that this process leases.
    pub fn leased_workers(&self) -> impl Iterator<Item = ProcId> + '_ {
        self.leases.values().map(|lease| lease.worker())
    }

    /// Nobody depends on a message that this process still has to send or answer: it may exit without harm to others but the loss of what it owns.
    pub fn may_leave(&self) -> bool {
        self.reply_holds.is_empty() && self.pending_borrows.is_empty()
    }

    /// Another process holds a reference to an object of ours.
    pub fn lends(&self) -> bool {
        self.peers.values().any(|peer| !peer.dead && peer.granted_to_them > 0)
    }

    /// What keeps the tables from being empty, one line each; for leak checks and for "why does it not end".
    pub fn leftovers(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.ids().iter().map(|id| format!("object {id:?}: {:?}", self.objects[id])).collect();
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_unstable_by_key(|(call, _)| **call);
        lines.extend(tasks.iter().map(|(call, task)| format!("call {call}: {} {:?}, {} arguments missing", task.template.name, task.place, task.unresolved)));
        lines.extend(self.leases.iter().map(|(id, lease)| format!("{id:?}: {lease:?}")));
        let mut waits: Vec<_> = self.waits.iter().collect();
        waits.sort_unstable_by_key(|(id, _)| **id);
        lines.extend(waits.iter().map(|(id, wait)| format!("{id:?}: {wait:?}")));
        lines.extend(self.pending_borrows.iter().map(|(token, pending)| format!("registration {token}: {pending:?}")));
        lines.extend(self.stream_leftovers());
        lines.extend(self.reply_holds.iter().map(|(key, ids)| format!("held until {key:?} has registered: {ids:?}")));
        lines
    }

    /// Counts for introspection and leak checks: (objects, tasks, leases, waits).
    pub fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.objects.len(), self.tasks.len(), self.leases.len(), self.waits.len())
    }
}
