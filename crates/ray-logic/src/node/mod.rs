//! The node: the one writer for its free resources, its workers and its shared-memory extents. The node of index 0 has the head inside.
//!
//! Invariants (checked by `check_invariants`)
//! 1. What leases and actors hold, minus the CPUs of those that block, plus what is available, is the node's total.
//! 2. A worker serves at most one lease or one actor at a time; an actor has at most one living incarnation.
//! 3. When nothing is starting, no request that fits is left waiting.
//!
//! 4. What is sent to other nodes, and what comes from them, is one node's word about its own facts (`peers`).
//!
//! Files: `bundles` what is set aside for placement groups, `groups` calls that go there; `procs` processes, links and watches; `sched` leases; `delegation` leases of other nodes; `fairness` between jobs; `actors` those that live here; `store` extents;
//! `copies` objects of other nodes; `pressure` what happens when they fill the memory; `peers` other nodes and the head; `memory` shortages of memory;
//! `growth` workers that leak; `report` answers about what waits for what.

mod actors;
mod bundles;
mod copies;
mod delegation;
mod fairness;
mod groups;
mod growth;
mod memory;
mod peers;
mod pressure;
mod procs;
mod report;
mod sched;
mod store;
#[cfg(test)]
mod tests;

pub use memory::{MemoryRules, MemorySample};

pub use pressure::SpillConfig;
pub(crate) use sched::explain_infeasible;

use crate::head::Head;
use crate::Time;
use ray_proto::cluster::{JobSpec, NodeMessage};
use ray_proto::msg::{Evidence, FromNode, ToNode};
use ray_proto::report::Subject;
use ray_proto::{ActorId, ExtentId, GroupId, LeaseId, NodeIndex, ProcId, Resources, ShmRange};
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
    /// Read what was recorded in the first slot from `slot` on, and hand it to `answer`.
    ReadRecords {
        to: ProcId,
        token: u64,
        slot: u32,
    },
    /// Answer with `memory_sampled`, with the size of each process if asked for.
    LookAtMemory {
        processes: bool,
    },
    /// Answer with `footprint_measured`.
    Measure {
        proc_id: ProcId,
    },
    /// To another node.
    Net {
        to: NodeIndex,
        message: NodeMessage,
    },
    /// A node listens there.
    Know {
        index: NodeIndex,
        address: String,
    },
    /// A node is dead: nothing of it is heard any more.
    Forget {
        index: NodeIndex,
    },
    /// Get the bytes of a range of another node into an extent of ours (`size` bytes; made now unless it is `warm`); answer with `copied` or `copy_failed`.
    Copy {
        ticket: u64,
        from: NodeIndex,
        source: ShmRange,
        extent: ExtentId,
        size: u64,
        warm: bool,
    },
    CancelCopy {
        ticket: u64,
    },
    /// Lines of workers on another node for a driver here.
    Show {
        driver: ProcId,
        from: NodeIndex,
        message: FromNode,
    },
    /// A driver elsewhere has shown lines of workers here.
    LinesShown {
        driver: ProcId,
        bytes: u64,
    },
    /// Answer with `head_probed`.
    ProbeHead,
    /// Who came through the door is a driver, under this name from now on.
    Adopt {
        guest: ProcId,
        driver: ProcId,
    },
    /// This node is not part of its cluster any more: end everything, at once.
    Fence {
        reason: String,
    },
    /// The driver is done, or somebody stops the node: end everything.
    Shutdown,
}

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub index: NodeIndex,
    pub total: Resources,
    pub store_bytes: u64,
    /// The one driver's job; None: drivers come and go.
    pub job: Option<JobSpec>,
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
    devices: sched::Devices,
    wants: BTreeMap<(ProcId, ray_proto::ClassId), sched::Want>,
    /// Requests in the order they are served: round robin over owners and classes.
    order: BTreeMap<u64, (ProcId, ray_proto::ClassId)>,
    leases: BTreeMap<LeaseId, sched::Lease>,
    bundles: BTreeMap<(GroupId, u32), bundles::Bundle>,
    /// Those of them that are not committed.
    unkept: BTreeSet<(GroupId, u32)>,
    known_groups: groups::Known,
    shares: fairness::Shares,
    hosted: BTreeMap<ActorId, actors::Hosted>,
    to_place: VecDeque<ActorId>,
    extents: BTreeMap<ExtentId, store::Extent>,
    store_used: u64,
    pressure: pressure::Pressure,
    copies: copies::Copies,
    peers: peers::Peers,
    head: Option<Box<Head>>,
    /// What this node has said to the head inside it, not heard yet.
    head_inbox: VecDeque<NodeMessage>,
    /// Time of the event in hand.
    now: Time,
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
        let devices = sched::Devices::new(&config.total);
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
            devices,
            wants: BTreeMap::new(),
            order: BTreeMap::new(),
            leases: BTreeMap::new(),
            bundles: BTreeMap::new(),
            unkept: BTreeSet::new(),
            known_groups: BTreeMap::new(),
            shares: fairness::Shares::new(),
            hosted: BTreeMap::new(),
            to_place: VecDeque::new(),
            extents: BTreeMap::new(),
            store_used: 0,
            pressure: pressure::Pressure::default(),
            copies: copies::Copies::default(),
            peers: peers::Peers::default(),
            head: None,
            head_inbox: VecDeque::new(),
            now: 0,
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

    /// A node with the head inside, which is its cluster's first member.
    pub fn with_head(config: NodeConfig, mut head: Head, now: Time, info: ray_proto::cluster::NodeInfo) -> Self {
        head.add_node(now, info.clone());
        let jobs = vec![];
        let mut node = Node::new(config);
        node.now = now;
        node.head = Some(Box::new(head));
        node.joined(now, vec![info], jobs);
        node
    }

    /// A node that is a cluster of its own, with a name of zeros.
    pub fn alone(config: NodeConfig) -> Self {
        let head =
            Head::new(crate::head::HeadConfig { epoch_ms: 0, infeasible_is_error: config.infeasible_is_error }, Box::new(crate::head::MemoryLog::default()));
        let info = ray_proto::cluster::NodeInfo {
            index: NodeIndex::HEAD,
            node_id: vec![0; 28].into(),
            address: String::new(),
            host: String::new(),
            pid: 0,
            total: config.total.clone(),
            labels: BTreeMap::new(),
            python: String::new(),
            started_ms: 0,
            death: String::new(),
        };
        Node::with_head(config, head, 0, info)
    }

    /// The head, where it is inside.
    pub fn head(&mut self) -> Option<&mut Head> {
        self.head.as_deref_mut()
    }

    pub fn take_commands(&mut self, into: &mut Vec<NodeCommand>) {
        self.settle(self.now);
        into.append(&mut self.out);
    }

    /// To a process of this node or another one.
    fn send(&mut self, to: ProcId, message: FromNode) {
        if to.node() != self.config.index {
            return self.say_to(to.node(), NodeMessage::Deliver { to, message: Box::new(message) });
        }
        if self.procs.get(&to).is_some_and(|proc| proc.is_connected()) {
            self.out.push(NodeCommand::Send { to, message });
        }
    }

    /// For the user: whose driver is here.
    fn notify(&mut self, text: &str) {
        let drivers: Vec<ProcId> = self.procs.iter().filter(|(_, proc)| proc.role == procs::Role::Driver).map(|(id, _)| *id).collect();
        for driver in drivers {
            self.send(driver, FromNode::Notice { text: text.to_owned() });
        }
    }

    /// A message of a process of this node.
    pub fn on_message(&mut self, now: Time, from: ProcId, message: ToNode) {
        self.now = now;
        match message {
            ToNode::Hello { pid, max_links, .. } => self.connected(now, from, pid, max_links),
            ToNode::HelloDriver { max_links, .. } => self.driver_knocked(from, max_links, message),
            ToNode::Blocked {} => self.worker_blocked(now, from, true),
            ToNode::Unblocked {} => self.worker_blocked(now, from, false),
            ToNode::ActorUp { actor } => self.actor_up(from, actor),
            ToNode::ActorFailed { actor, ref error } if self.actor_failed(now, from, actor, error) => {}
            ToNode::ActorLeaving { actor, reason } => self.say_to_head(NodeMessage::ActorLeaving { actor, reason }),
            ToNode::ExtentWant { token, sizes } => self.extent_wanted(now, from, token, sizes),
            ToNode::SegmentWant { token, sizes } => self.segment_wanted(now, from, token, &sizes),
            ToNode::SegmentFailed { extent, text } => self.segment_broke(from, extent, text),
            ToNode::Spilled { bytes, own } => self.spilled(from, bytes, own),
            ToNode::ExtentOpen { token, extent } => self.extent_open(from, token, extent),
            ToNode::ExtentDrop { extent } => self.extent_dropped(from, extent),
            ToNode::Published { range, owner } => self.range_published(from, range, owner),
            ToNode::Pull { token, id, range } => self.pull_wanted(now, from, token, id, range),
            ToNode::CopyDone { id } => self.copy_done(now, from, id),
            ToNode::Connect { proc_id } => self.connect(from, proc_id),
            ToNode::Relay { to, message } => self.send(to, FromNode::Relayed { from, message }),
            ToNode::IdleExitReply { may_exit } => self.idle_exit_answered(now, from, may_exit),
            ToNode::Shutdown {} if self.config.job.is_some() && from == self.driver => self.out.push(NodeCommand::Shutdown),
            ToNode::Stop { .. } if self.config.job.is_none() => self.out.push(NodeCommand::Shutdown),
            // The shell counts the lines.
            ToNode::Shutdown {} | ToNode::Stop { .. } | ToNode::Boot { .. } | ToNode::LinesShown { .. } => {}
            message => self.request(now, from, message),
        }
        self.make_room(now);
    }

    /// A request that processes of other nodes may make as well: of this node, of the one that it concerns, or of the head.
    fn request(&mut self, now: Time, from: ProcId, message: ToNode) {
        if let Some(node) = concerned(&message).filter(|node| *node != self.config.index) {
            return match message {
                ToNode::Watch { proc_id } => self.watch_remote(from, proc_id),
                message => self.ask_node(node, from, message),
            };
        }
        match message {
            ToNode::DefineClass { class, shape, env, strategy } => self.class_defined(from, class, shape, env, strategy),
            ToNode::LeaseWant { class, granted, want } => self.leases_wanted(now, from, class, granted, want),
            ToNode::LeaseReturn { lease, leaving } => self.lease_returned(now, from, lease, leaving),
            ToNode::FreeRange { range } => self.range_freed(range),
            ToNode::Watch { proc_id } => self.watch(from, proc_id),
            ToNode::Freed { ids } => self.objects_freed(now, from, ids),
            ToNode::Ask { token, subject: Subject::Records { slot, .. } } => self.out.push(NodeCommand::ReadRecords { to: from, token, slot }),
            ToNode::Ask { token, subject: subject @ Subject::Process { .. } } => {
                let facts = self.report(&subject, &[]);
                self.answer(from, token, facts);
            }
            message => self.ask_head(from, message),
        }
    }

    /// Time passed. Returns when to call again.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
        self.now = now;
        if self.forks_paused_until.is_some_and(|until| now >= until) {
            self.forks_paused_until = None;
            self.schedule(now);
        }
        let ticks = [self.reap_idle(now), self.memory_tick(now), self.growth_tick(now), self.forks_paused_until, self.tick_pressure(now)];
        let peers = [self.tick_copies(now), self.tick_peers(now), self.share_between_jobs(now), self.expire_bundles(now)];
        ticks.into_iter().chain(peers).flatten().min()
    }

    /// What keeps the node from being idle, one line each; for leak checks and for "why does it not end".
    pub fn leftovers(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.leases.iter().map(|(id, lease)| format!("{id:?}: {lease:?}")).collect();
        lines.extend(self.order.values().map(|key| format!("wanted by {key:?}: {:?}", self.wants[key])));
        lines.extend(self.hosted.iter().map(|(id, hosted)| format!("actor {id:?}: {hosted:?}")));
        lines.extend(self.bundle_leftovers());
        lines.extend(self.head.iter().flat_map(|head| head.leftovers()));
        lines.extend(self.copy_leftovers());
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

/// The node that a request is about, when it is about one.
fn concerned(message: &ToNode) -> Option<NodeIndex> {
    match message {
        ToNode::LeaseReturn { lease, .. } => Some(lease.node()),
        ToNode::FreeRange { range } => Some(range.extent.node()),
        ToNode::Watch { proc_id } => Some(proc_id.node()),
        ToNode::Ask { subject: Subject::Records { node, .. }, .. } => Some(*node),
        ToNode::Ask { subject: Subject::Process { proc_id }, .. } => Some(proc_id.node()),
        _ => None,
    }
}
