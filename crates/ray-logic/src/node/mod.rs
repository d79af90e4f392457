//! The node: the one writer for its free resources, its workers, its actors and its shared-memory extents.
//!
//! Invariants (checked by `check_invariants`)
//! 1. What leases and actors hold, minus the CPUs of those that block, plus what is available, is the node's total.
//! 2. A worker serves at most one lease or one actor at a time; an actor has at most one living incarnation.
//! 3. When nothing is starting, no request that fits is left waiting.
//!
//! Files: `procs` processes, links and watches; `sched` leases; `actors`; `store` extents; `pressure` what happens when they fill the memory;
//! `memory` shortages of memory; `growth` workers that leak; `report` answers about what waits for what.

mod actors;
mod growth;
mod memory;
mod pressure;
mod procs;
mod report;
mod sched;
mod store;
#[cfg(test)]
mod tests;

pub use memory::{MemoryRules, MemorySample};

pub use pressure::SpillConfig;

use crate::Time;
use ray_proto::msg::{Evidence, FromNode, ToNode};
use ray_proto::{ActorId, ExtentId, LeaseId, NodeIndex, ProcId, Resources, ShmRange, UNIT};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug, PartialEq)]
pub enum NodeCommand {
    Send {
        to: ProcId,
        message: FromNode,
    },
    Fork {
        proc_id: ProcId,
        env: String,
    },
    /// SIGKILL to the process and its group; `reason` becomes evidence.
    Kill {
        proc_id: ProcId,
        reason: String,
    },
    /// Make a socketpair and send each end in a `FromNode::Link`.
    Link {
        a: ProcId,
        b: ProcId,
    },
    /// Make a memfd; answer with `ExtentGrant`, or `StoreFull` when the system refuses.
    NewExtent {
        to: ProcId,
        token: u64,
        extent: ExtentId,
        size: u64,
    },
    /// Make a file of the first of these sizes that the disk has room for, grant it with `ExtentGrant` and tell `segment_made`; or tell `segment_failed`.
    NewSegment {
        to: ProcId,
        token: u64,
        extent: ExtentId,
        sizes: Vec<u64>,
    },
    /// Give a range's blocks back to the disk.
    Punch {
        range: ShmRange,
    },
    OpenExtent {
        to: ProcId,
        token: u64,
        extent: ExtentId,
        size: u64,
    },
    CloseExtent {
        extent: ExtentId,
    },
    /// Answer with `memory_sampled`, with the size of each process if asked for.
    LookAtMemory {
        processes: bool,
    },
    /// Answer with `footprint_measured`.
    Measure {
        proc_id: ProcId,
    },
    /// The driver is done: end everything.
    Shutdown,
}

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub index: NodeIndex,
    pub total: Resources,
    pub store_bytes: u64,
    /// The job's environment: workers kept warm have it.
    pub job_env: String,
    pub warm_workers: u32,
    /// Idle workers above the number of CPUs end after this.
    pub idle_worker: Time,
    pub infeasible_is_error: bool,
    /// None: a full store is an error at once.
    pub spill: Option<SpillConfig>,
    pub memory: MemoryRules,
}

pub struct Node {
    config: NodeConfig,
    driver: ProcId,
    next_proc: u32,
    next_lease: u64,
    next_extent: u64,
    next_order: u64,
    procs: BTreeMap<ProcId, procs::Proc>,
    /// How the dead died, for watchers that come late. Bounded.
    graves: BTreeMap<ProcId, Evidence>,
    available: Resources,
    gpus: sched::Gpus,
    wants: BTreeMap<(ProcId, ray_proto::ClassId), sched::Want>,
    /// Requests in the order they are served: round robin over owners and classes.
    order: BTreeMap<u64, (ProcId, ray_proto::ClassId)>,
    leases: BTreeMap<LeaseId, sched::Lease>,
    actors: BTreeMap<ActorId, actors::Actor>,
    to_place: VecDeque<ActorId>,
    names: BTreeMap<(String, String), (ActorId, ray_proto::Blob)>,
    extents: BTreeMap<ExtentId, store::Extent>,
    store_used: u64,
    pressure: pressure::Pressure,
    links: BTreeSet<(ProcId, ProcId)>,
    /// A fork has just failed: none is tried before this, or before a process ends.
    forks_paused_until: Option<Time>,
    /// Workers in a row that ended before they said hello.
    failed_starts: u32,
    /// When the user was last told why workers are missing.
    fork_trouble_told: Option<Time>,
    /// Why the last fork failed; empty once a worker has come up since.
    fork_trouble: String,
    memory: memory::Memory,
    /// When workers are looked at for growth; None: nothing runs.
    growth_look: Option<Time>,
    out: Vec<NodeCommand>,
}

impl Node {
    pub fn new(config: NodeConfig) -> Self {
        let gpus = sched::Gpus::new(config.total.get("GPU"));
        let available = config.total.clone();
        Node {
            config,
            driver: ProcId::NODE,
            next_proc: 1,
            next_lease: 1,
            next_extent: 1,
            next_order: 1,
            procs: BTreeMap::new(),
            graves: BTreeMap::new(),
            available,
            gpus,
            wants: BTreeMap::new(),
            order: BTreeMap::new(),
            leases: BTreeMap::new(),
            actors: BTreeMap::new(),
            to_place: VecDeque::new(),
            names: BTreeMap::new(),
            extents: BTreeMap::new(),
            store_used: 0,
            pressure: pressure::Pressure::default(),
            links: BTreeSet::new(),
            forks_paused_until: None,
            failed_starts: 0,
            fork_trouble_told: None,
            fork_trouble: String::new(),
            memory: memory::Memory::default(),
            growth_look: None,
            out: Vec::new(),
        }
    }

    pub fn take_commands(&mut self, into: &mut Vec<NodeCommand>) {
        into.append(&mut self.out);
    }

    fn send(&mut self, to: ProcId, message: FromNode) {
        if self.procs.get(&to).is_some_and(|proc| proc.is_connected()) {
            self.out.push(NodeCommand::Send { to, message });
        }
    }

    pub fn on_message(&mut self, now: Time, from: ProcId, message: ToNode) {
        match message {
            ToNode::Hello { pid, max_links, .. } => self.connected(now, from, pid, max_links),
            ToNode::DefineClass { class, shape, env, strategy } => self.class_defined(from, class, shape, env, strategy),
            ToNode::LeaseWant { class, granted, want } => self.leases_wanted(now, from, class, granted, want),
            ToNode::LeaseReturn { lease, leaving } => self.lease_returned(now, from, lease, leaving),
            ToNode::Blocked {} => self.worker_blocked(now, from, true),
            ToNode::Unblocked {} => self.worker_blocked(now, from, false),
            ToNode::ActorCreate { actor, spec } => self.actor_create(now, from, actor, spec),
            ToNode::ActorSubscribe { actor } => self.actor_subscribe(from, actor),
            ToNode::ActorKill { actor, no_restart } => self.actor_kill(now, actor, no_restart),
            ToNode::ActorOutOfScope { actor } => self.actor_out_of_scope(now, actor),
            ToNode::ActorUp { actor } => self.actor_up(from, actor),
            ToNode::ActorFailed { actor, error } => self.actor_failed(now, from, actor, error),
            ToNode::ActorLeaving { actor, reason } => self.actor_leaving(actor, reason),
            ToNode::NameTake { token, name, namespace, actor, payload } => self.name_take(from, token, (namespace, name), (actor, payload)),
            ToNode::NameFind { token, name, namespace } => self.name_find(from, token, (namespace, name)),
            ToNode::NameList { token, all, namespace } => self.name_list(from, token, all, &namespace),
            ToNode::ExtentWant { token, sizes } => self.extent_wanted(now, from, token, sizes),
            ToNode::SegmentWant { token, sizes } => self.segment_wanted(now, from, token, &sizes),
            ToNode::SegmentFailed { extent, text } => self.segment_broke(from, extent, text),
            ToNode::Spilled { bytes, own } => self.spilled(from, bytes, own),
            ToNode::ExtentOpen { token, extent } => self.extent_open(from, token, extent),
            ToNode::ExtentDrop { extent } => self.extent_dropped(from, extent),
            ToNode::Published { range, owner } => self.range_published(from, range, owner),
            ToNode::FreeRange { range } => self.range_freed(range),
            ToNode::Watch { proc_id } => self.watch(from, proc_id),
            ToNode::Connect { proc_id } => self.connect(from, proc_id),
            ToNode::Relay { to, message } => self.send(to, FromNode::Relayed { from, message }),
            ToNode::ResourcesQuery { token } => {
                let (total, mut available) = (self.config.total.clone(), self.available.clone());
                if let Some(store) = available.0.get_mut("object_store_memory") {
                    *store -= self.store_used as i64 * UNIT;
                }
                self.send(from, FromNode::ResourcesAre { token, total, available });
            }
            ToNode::IdleExitReply { may_exit } => self.idle_exit_answered(now, from, may_exit),
            ToNode::Shutdown {} if from == self.driver => self.out.push(NodeCommand::Shutdown),
            // The shell answers questions with `report`: it knows which processes are stopped. It counts the lines, too.
            ToNode::Shutdown {} | ToNode::Boot { .. } | ToNode::Ask { .. } | ToNode::LinesShown { .. } => {}
            _ => {}
        }
        self.make_room(now);
    }

    /// Time passed. Returns when to call again.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
        if self.forks_paused_until.is_some_and(|until| now >= until) {
            self.forks_paused_until = None;
            self.schedule(now);
        }
        let ticks = [self.reap_idle(now), self.memory_tick(now), self.growth_tick(now), self.forks_paused_until, self.tick_pressure(now)];
        ticks.into_iter().flatten().min()
    }

    /// What keeps the node from being idle, one line each; for leak checks and for "why does it not end".
    pub fn leftovers(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.leases.iter().map(|(id, lease)| format!("{id:?}: {lease:?}")).collect();
        lines.extend(self.order.values().map(|key| format!("wanted by {key:?}: {:?}", self.wants[key])));
        lines.extend(self.actors.iter().filter(|(_, actor)| !actor.is_dead()).map(|(id, actor)| format!("actor {id:?}: {actor:?}")));
        lines.extend(self.extents.iter().filter(|(_, e)| e.is_busy()).map(|(id, extent)| format!("{id:?}: {extent:?}")));
        lines.extend(self.waiting_for_memory().map(|(id, bytes, since)| format!("{id:?} waits for {bytes} bytes of memory since {since}")));
        if self.available != self.config.total {
            lines.push(format!("available {} of {}", self.available, self.config.total));
        }
        lines
    }

    pub fn total(&self) -> &Resources {
        &self.config.total
    }

    pub fn available(&self) -> &Resources {
        &self.available
    }
}
