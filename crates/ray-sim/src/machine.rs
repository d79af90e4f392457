//! A node on its machine: the shell around `Node`. It carries out what the node asks for, and decides nothing.

use crate::env::{daemon, Event, Fault, Packet};
use crate::net::Route;
use crate::options::{NodePlan, Options};
use crate::sabotage::Bug;
use crate::script::groups::{bays, RACK};
use crate::world::World;
use ray_logic::head::{Head, HeadConfig, MemoryLog};
use ray_logic::node::{MemoryRules, Node, NodeCommand, NodeConfig, SpillConfig};
use ray_logic::Time;
use ray_proto::cluster::{JobSpec, Joining, NodeInfo};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::wire::PROTOCOL;
use ray_proto::{Blob, ExtentId, NodeIndex, ProcId, Resources, ShmRange};
use std::collections::{BTreeMap, BTreeSet};

/// Of what placement groups take, on every node.
const BAYS: u32 = 3;
/// What a worker that leaks seems to use, and until when.
const LEAK: u64 = 1 << 30;
const LEAKS_UNTIL_US: u64 = 2_000_000;
/// Nodes go on so long after the last thing that happened: longer than it takes to find a node dead.
const QUIET: Time = 3_000_000;
pub const QUIET_CLUSTER: Time = 7_000_000;

pub struct Machine {
    pub node: Node,
    pub mortal: bool,
    /// The daemon does nothing until then.
    pub stopped_until: Time,
    /// For the others it is dead.
    pub is_lost: bool,
    /// Until when its workers may run, as they can read it.
    pub lease: Option<Time>,
    tick_at: Time,
}

impl Machine {
    pub fn new(node: Node, mortal: bool) -> Self {
        Machine { node, mortal, stopped_until: 0, is_lost: false, lease: None, tick_at: 0 }
    }
}

/// Objects on their way between nodes.
#[derive(Debug, Default)]
pub struct Transfers {
    running: BTreeMap<(NodeIndex, u64), Transfer>,
    /// Extents that are no more.
    closed: BTreeSet<ExtentId>,
}

#[derive(Clone, Copy, Debug)]
struct Transfer {
    from: NodeIndex,
    source: ShmRange,
    extent: ExtentId,
}

fn config(options: &Options, index: NodeIndex, total: Resources, job: Option<JobSpec>) -> NodeConfig {
    NodeConfig {
        index,
        total,
        store_bytes: options.store_bytes,
        job,
        warm_workers: 2,
        idle_worker: 1_000_000,
        infeasible_is_error: false,
        spill: (options.disk_bytes > 0).then(|| SpillConfig { place: "/disk".into(), quota: options.disk_bytes, batch: 32 * 1024 }),
        memory: MemoryRules { growth_bytes: (options.leaks > 0).then_some(LEAK / 2), growth_look: 2_000, ..MemoryRules::default() },
    }
}

pub fn first_config(options: &Options) -> NodeConfig {
    let mut total = Resources::from_f64([("CPU", f64::from(options.cpus)), ("GPU", f64::from(options.gpus))]);
    let cluster = !options.nodes.is_empty();
    if options.groups > 0 {
        total.add(&bays(BAYS));
    }
    if cluster {
        total.add(&Resources::from_f64([("gold", 1.0)]));
    }
    config(options, NodeIndex::HEAD, total, (!cluster).then(JobSpec::default))
}

pub fn first_node(config: NodeConfig) -> Node {
    let head = Head::new(HeadConfig::default(), Box::new(MemoryLog::default()));
    let info = info(0, config.total.clone());
    Node::with_head(config, head, 1, info)
}

fn info(number: usize, total: Resources) -> NodeInfo {
    NodeInfo {
        index: NodeIndex::HEAD,
        node_id: node_id(number),
        address: format!("10.0.0.{number}:1"),
        host: format!("host{number}"),
        pid: 1,
        total,
        labels: [(RACK.to_owned(), (number % 2).to_string())].into(),
        python: "3".into(),
        started_ms: 0,
        death: String::new(),
    }
}

fn node_id(number: usize) -> Blob {
    vec![number as u8 + 1; 28].into()
}

fn total_of(plan: &NodePlan) -> Resources {
    let gold = [("gold", f64::from(plan.gold))].into_iter().filter(|_| plan.gold > 0);
    Resources::from_f64([("CPU", f64::from(plan.cpus))].into_iter().chain(gold))
}

impl World {
    pub fn start_cluster(&mut self) {
        self.env.node_ids.push((NodeIndex::HEAD, node_id(0)));
        for at in 0..self.env.options.nodes.len() {
            match self.env.options.nodes[at].late {
                true => {
                    let when = self.env.rng.range(100, 60_000);
                    self.env.post(when, Event::Fault(Fault::Join(at)));
                }
                false => self.join(at),
            }
        }
        self.knock(NodeIndex::HEAD);
    }

    /// A node asks the head whether it may join.
    pub fn join(&mut self, at: usize) {
        let plan = self.env.options.nodes[at].clone();
        let mut total = total_of(&plan);
        if self.env.makes_groups() {
            total.add(&bays(BAYS));
        }
        let question = Joining::Join { protocol: PROTOCOL, release: "r".into(), info: info(at + 1, total.clone()) };
        let now = self.env.now;
        let answer = self.node(NodeIndex::HEAD).head().expect("the head").join(now, question, "r", "3");
        let Joining::Joined { index, infos, jobs } = answer else { panic!("{at} may not join: {answer:?}") };
        let mut node = Node::new(config(&self.env.options, index, total, None));
        node.joined(now, infos, jobs);
        let delay = self.env.rng.range(10, 5_000);
        self.env.note(daemon(index), || format!("joins: {plan:?}"));
        self.env.node_ids.push((index, node_id(at + 1)));
        self.machines.insert(index, Machine { stopped_until: now + delay, ..Machine::new(node, plan.mortal) });
        self.env.post(delay, Event::NodeTick(index));
        if self.env.options.second_driver == Some(at) {
            self.env.post(delay + 1, Event::Fault(Fault::Knock(index)));
        }
        self.after_node(NodeIndex::HEAD);
    }

    /// A driver comes through the door.
    pub fn knock(&mut self, index: NodeIndex) {
        let now = self.env.now;
        let guest = self.node(index).observer_connected(1);
        self.knocking.push(index);
        let hello = ToNode::HelloDriver { protocol: PROTOCOL, pid: 1, max_links: 4, job: Box::default() };
        self.node(index).on_message(now, guest, hello);
        self.after_node(index);
    }

    /// One event of one node, unless it is stopped or gone.
    pub fn unless_stopped(&mut self, index: NodeIndex, event: Event, act: impl FnOnce(&mut World)) {
        let Some(machine) = self.machines.get(&index) else { return };
        if machine.stopped_until > self.env.now {
            let wait = machine.stopped_until - self.env.now;
            return self.env.post(wait, event);
        }
        act(self);
        self.after_node(index);
    }

    pub fn arrives(&mut self, route: Route) {
        self.unless_stopped(route.1, Event::Net(route), |world| {
            if let Some(message) = world.env.net_take(route) {
                let now = world.env.now;
                world.node(route.1).on_node(now, route.0, message);
            }
        });
    }

    pub fn after_node(&mut self, index: NodeIndex) {
        let now = self.env.now;
        let cluster = self.is_cluster();
        let mut deadline = self.node(index).tick(now);
        self.carry_out_all(index);
        if cluster && self.machines.contains_key(&index) {
            // What was heard may have changed what is due.
            deadline = self.node(index).tick(now);
            self.carry_out_all(index);
        }
        if index == NodeIndex::HEAD {
            self.check_groups();
        }
        let Some(machine) = self.machines.get_mut(&index) else { return };
        machine.lease = machine.node.lease();
        if let Some(at) = deadline.filter(|_| cluster || now < self.env.busy_at + QUIET) {
            if machine.tick_at <= now || at < machine.tick_at {
                machine.tick_at = at.max(now + 1);
                self.env.post(machine.tick_at - now, Event::NodeTick(index));
            }
        }
    }

    pub fn is_cluster(&self) -> bool {
        !self.env.options.nodes.is_empty()
    }

    fn carry_out_all(&mut self, index: NodeIndex) {
        let mut commands = Vec::new();
        self.node(index).check_invariants();
        self.node(index).take_commands(&mut commands);
        while !commands.is_empty() {
            for command in commands.drain(..) {
                if self.machines.contains_key(&index) {
                    self.carry_out(index, command);
                }
            }
            // What the answers to some of them led to.
            if let Some(machine) = self.machines.get_mut(&index) {
                machine.node.take_commands(&mut commands);
            }
        }
    }

    fn carry_out(&mut self, index: NodeIndex, command: NodeCommand) {
        let now = self.env.now;
        match command {
            NodeCommand::Send { to, message } => self.send_down(index, to, message),
            NodeCommand::Fork { proc_id, .. } => {
                self.unborn.insert(proc_id);
                let env = &mut self.env;
                match env.rng.permille(env.options.fork_failure) {
                    true => env.post(500, Event::ForkFailed(proc_id)),
                    false => {
                        let delay = env.rng.range(200, 8_000);
                        env.post(delay, Event::ForkDone(proc_id));
                    }
                }
            }
            NodeCommand::Kill { proc_id, reason } => self.end(proc_id, 9, &reason, true),
            NodeCommand::Link { a, b } => match self.env.rng.permille(self.env.options.link_failure) {
                true => self.node(index).link_failed(a, b),
                false => {
                    self.env.send(ProcId::NODE, a, Packet::Down(FromNode::Link { peer: b }));
                    self.env.send(ProcId::NODE, b, Packet::Down(FromNode::Link { peer: a }));
                }
            },
            NodeCommand::Measure { proc_id } => {
                // Not for ever: a worker that is needed and too large is looked at again and again.
                let leaks = now < LEAKS_UNTIL_US && self.env.rng.permille(self.env.options.leaks);
                self.node(index).footprint_measured(now, proc_id, Some(if leaks { LEAK } else { 0 }));
            }
            NodeCommand::LookAtMemory { .. } => panic!("the rules of this world ask for no look at memory"),
            NodeCommand::Shutdown => panic!("the node shuts down by itself"),
            NodeCommand::Adopt { .. } if !self.is_cluster() => {}
            NodeCommand::Adopt { driver, .. } => self.adopt(index, driver),
            NodeCommand::ReadRecords { to, token, .. } => self.node(index).answer(to, token, vec![]),
            NodeCommand::Show { .. } | NodeCommand::LinesShown { .. } => {}
            NodeCommand::Net { .. } | NodeCommand::Know { .. } | NodeCommand::Forget { .. } | NodeCommand::ProbeHead | NodeCommand::Fence { .. } => {
                self.carry_out_net(index, command);
            }
            NodeCommand::Copy { .. } | NodeCommand::CancelCopy { .. } => self.carry_out_copy(index, command),
            memory => self.carry_out_memory(index, memory),
        }
    }

    fn send_down(&mut self, index: NodeIndex, to: ProcId, message: FromNode) {
        let lease = match &message {
            FromNode::LeaseGrant { lease, .. } => Some(*lease),
            _ => None,
        };
        self.env.send(ProcId::NODE, to, Packet::Down(message));
        if let Some(lease) = lease.filter(|_| self.env.strikes(Bug::DoubleGrant)) {
            let now = self.env.now;
            self.node(index).on_message(now, to, ToNode::LeaseReturn { lease, leaving: false });
            self.after_node(index);
        }
    }

    fn adopt(&mut self, index: NodeIndex, driver: ProcId) {
        let at = self.knocking.iter().position(|door| *door == index).expect("somebody had knocked");
        self.knocking.remove(at);
        let total = self.node(index).total().clone();
        self.env.note(driver, || "is a driver".into());
        self.start_driver(driver, total);
    }

    fn carry_out_net(&mut self, index: NodeIndex, command: NodeCommand) {
        let now = self.env.now;
        match command {
            NodeCommand::Net { to, message } => self.env.net_send(index, to, message),
            NodeCommand::Forget { index: dead } => {
                self.env.net.forget(index, dead);
                if let Some(machine) = self.machines.get_mut(&dead).filter(|_| index == NodeIndex::HEAD) {
                    machine.is_lost = true;
                    self.env.oracle.lost_nodes.insert(dead);
                }
            }
            NodeCommand::ProbeHead => {
                let route = (index, NodeIndex::HEAD);
                let received = !self.env.net.is_cut(index, NodeIndex::HEAD) && !self.env.net.is_behind(now, route);
                self.env.whisper(daemon(index), || format!("asks whether the head's machine takes what it sends: {received}"));
                self.node(index).head_probed(now, received);
            }
            NodeCommand::Fence { reason } => {
                self.env.note(daemon(index), || format!("ends itself: {reason}"));
                self.end_machine(index, true, true);
            }
            _ => {}
        }
    }

    fn carry_out_memory(&mut self, index: NodeIndex, command: NodeCommand) {
        let now = self.env.now;
        let env = &mut self.env;
        match command {
            NodeCommand::NewExtent { to, token, extent, size } => match env.rng.permille(env.options.store_full) {
                true => {
                    env.send(ProcId::NODE, to, Packet::Down(FromNode::StoreFull { token, text: "the simulator says no".into(), disk: false }));
                    self.node(index).extent_failed(now, extent);
                    self.after_node(index);
                }
                false => env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentGrant { token, extent, size })),
            },
            NodeCommand::NewSegment { to, token, extent, sizes } => match env.rng.permille(env.options.disk_failure) {
                true => {
                    self.node(index).segment_failed(now, extent, "the simulator says no".into());
                    self.after_node(index);
                }
                false => {
                    let size = env.rng.pick(&sizes).expect("a size");
                    self.node(index).segment_made(extent, size);
                    // The daemon's own is for a copy, which goes on by itself.
                    if to != ProcId::NODE {
                        self.env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentGrant { token, extent, size }));
                    }
                }
            },
            NodeCommand::OpenExtent { to, token, extent, size } => env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentOpened { token, extent, size })),
            NodeCommand::CloseExtent { extent } => {
                self.transfers.closed.insert(extent);
            }
            _ => {}
        }
    }

    fn carry_out_copy(&mut self, index: NodeIndex, command: NodeCommand) {
        match command {
            NodeCommand::Copy { ticket, from, source, extent, size, .. } => {
                assert!(source.len <= size, "a copy of {source:?} has only {size} bytes of room");
                self.transfers.running.insert((index, ticket), Transfer { from, source, extent });
                self.env.oracle.transfer_starts((index, ticket), source);
                let env = &mut self.env;
                let delay = env.rng.range(100, 400) + source.len / 100 + if env.rng.permille(env.options.net_slow) { env.rng.range(1_000, 300_000) } else { 0 };
                env.note(daemon(index), || format!("copies {source:?} to {extent:?}"));
                env.post(delay, Event::Copied(index, ticket));
            }
            NodeCommand::CancelCopy { ticket } => {
                self.transfers.running.remove(&(index, ticket));
                self.env.oracle.transfer_ends((index, ticket));
            }
            _ => {}
        }
    }

    /// A transfer has had its time.
    pub fn transferred(&mut self, index: NodeIndex, ticket: u64) {
        let event = Event::Copied(index, ticket);
        let Some(transfer) = self.transfers.running.get(&(index, ticket)).copied() else { return };
        let is_late = |machine: &Machine| machine.stopped_until > self.env.now || self.env.net.is_cut(index, transfer.from);
        if self.machines.get(&transfer.from).is_some_and(is_late) {
            // It goes on at the byte where it stopped.
            return self.env.post(50_000, event);
        }
        self.unless_stopped(index, event, |world| world.end_transfer(index, ticket, transfer));
    }

    fn end_transfer(&mut self, index: NodeIndex, ticket: u64, transfer: Transfer) {
        let Transfer { from, source, extent } = transfer;
        let now = self.env.now;
        self.transfers.running.remove(&(index, ticket));
        let found = self.env.oracle.transfer_ends((index, ticket));
        let fails = self.env.rng.permille(self.env.options.copy_failure);
        let gone = !self.machines.contains_key(&from) || self.transfers.closed.contains(&source.extent);
        if gone || fails {
            self.env.note(daemon(index), || format!("copy {ticket} fails, gone: {gone}"));
            return self.node(index).copy_failed(now, ticket, gone, "the simulator says no");
        }
        self.env.note(daemon(index), || format!("copy {ticket} is here"));
        self.env.oracle.write(daemon(index), ShmRange { extent, offset: 0, len: source.len }, found);
        self.node(index).copied(now, ticket);
    }

    /// A node is no more, and all its processes with it.
    pub fn end_machine(&mut self, index: NodeIndex, loses: bool, tells: bool) {
        self.env.note(daemon(index), || "is gone".into());
        self.machines.remove(&index);
        let there: Vec<ProcId> = self.procs.keys().copied().filter(|id| id.node() == index).collect();
        for id in there {
            self.end(id, 9, "", true);
        }
        self.unborn.retain(|id| id.node() != index);
        self.knocking.retain(|door| *door != index);
        self.env.oracle.lost_nodes.insert(index);
        self.env.lose_node(index, loses);
        let lost: Vec<(NodeIndex, u64)> = self.transfers.running.keys().copied().filter(|(by, _)| *by == index).collect();
        for key in lost {
            self.transfers.running.remove(&key);
            self.env.oracle.transfer_ends(key);
        }
        if tells {
            let delay = self.env.rng.range(1_000, 300_000);
            self.env.post(delay, Event::Fault(Fault::Refused(index)));
        }
    }

    /// The state made again from the head's log is the head's state.
    pub fn check_log(&mut self) {
        let head = self.node(NodeIndex::HEAD).head().expect("the head");
        assert!(head.is_as_logged(), "the head's log, applied again, gives another state");
    }
}
