//! This is the main loop of the simulator: one node, one driver, its workers, and the faults.

use crate::env::{name, Env, Event, LinkId, Packet};
use crate::options::Options;
use crate::process::Process;
use crate::sabotage::Bug;
use ray_logic::node::{MemoryRules, Node, NodeCommand, NodeConfig, SpillConfig};
use ray_logic::Time;
use ray_proto::msg::{Evidence, FromNode, MemoryKill, ToNode};
use ray_proto::{NodeIndex, ObjectId, ProcId, Resources};
use std::collections::{BTreeMap, BTreeSet};

/// A run that makes more events than this will never end.
const MOST_EVENTS: u64 = 400_000;
/// What a worker that leaks seems to use, and until when.
const LEAK: u64 = 1 << 30;
const LEAKS_UNTIL_US: u64 = 2_000_000;

pub struct World {
    pub env: Env,
    pub node: Node,
    procs: BTreeMap<ProcId, Process>,
    unborn: BTreeSet<ProcId>,
    driver: ProcId,
    node_tick_at: Time,
}

impl World {
    pub fn new(seed: u64, options: Options, trace: bool) -> Self {
        let total = Resources::from_f64([("CPU", f64::from(options.cpus)), ("GPU", f64::from(options.gpus))]);
        let config = NodeConfig {
            index: NodeIndex::HEAD,
            total: total.clone(),
            store_bytes: options.store_bytes,
            job: Some(Default::default()),
            warm_workers: 2,
            idle_worker: 1_000_000,
            infeasible_is_error: false,
            spill: (options.disk_bytes > 0).then(|| SpillConfig { place: "/disk".into(), quota: options.disk_bytes, batch: 32 * 1024 }),
            memory: MemoryRules { growth_bytes: (options.leaks > 0).then_some(LEAK / 2), growth_look: 2_000, ..MemoryRules::default() },
        };
        let mut node = Node::alone(config);
        let driver = node.driver_connected(1, 4);
        let env = Env::new(seed, options, trace);
        let mut world = World { env, node, procs: BTreeMap::new(), unborn: BTreeSet::new(), driver, node_tick_at: 0 };
        let mut process = Process::new(driver, total);
        process.start_driver(&mut world.env);
        world.procs.insert(driver, process);
        world
    }

    /// The whole run: the program, then the end of everything that is kept for good, then the checks at rest.
    pub fn run(&mut self) {
        self.plan_faults();
        self.after_node();
        self.run_until_quiet();
        self.check_nobody_waits();
        for id in self.procs.keys().copied().collect::<Vec<_>>() {
            self.with(id, |process, env| process.let_go(env));
        }
        self.env.busy_at = self.env.now;
        self.after_node();
        self.run_until_quiet();
        self.check_nobody_waits();
        self.check_rest();
    }

    fn plan_faults(&mut self) {
        let env = &mut self.env;
        for _ in 0..env.options.kills {
            let at = env.rng.below(env.options.horizon_us);
            env.post(at, Event::KillSomeone);
        }
        for _ in 0..env.options.stalls {
            let at = env.rng.below(env.options.horizon_us);
            env.post(at, Event::StallSomeone);
        }
    }

    fn run_until_quiet(&mut self) {
        while let Some(event) = self.env.next_event() {
            assert!(self.env.events < MOST_EVENTS, "the run never ends; now {event:?}\n{}", self.explain());
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver(link) => self.deliver(link),
            Event::Step(id) => self.unless_stalled(id, event, |process, env| process.step(env)),
            Event::Drops(id) => self.unless_stalled(id, event, |process, env| process.flush_drops(env)),
            Event::Spill(id) => self.unless_stalled(id, event, |process, env| process.spill_step(env)),
            Event::Tick(id) => self.unless_stalled(id, event, |_, _| ()),
            Event::Timeout(id, wait) => self.unless_stalled(id, event, |process, env| process.woken(env, wait)),
            Event::NodeTick => self.after_node(),
            Event::ForkDone(id) => self.born(id),
            Event::ForkFailed(id) => {
                if self.unborn.remove(&id) {
                    self.node.fork_failed(self.env.now, id, "the simulator says no");
                    self.after_node();
                }
            }
            Event::Reaped(id) => {
                let evidence = self.env.corpses[&id].clone();
                self.node.proc_exited(self.env.now, id, evidence);
                self.after_node();
            }
            Event::KillSomeone => {
                let alive: Vec<ProcId> = self.procs.keys().copied().filter(|id| *id != self.driver).collect();
                if let Some(id) = self.env.rng.pick(&alive) {
                    self.end(id, 9, "", true);
                }
            }
            Event::StallSomeone => {
                let alive: Vec<ProcId> = self.procs.keys().copied().collect();
                if let Some(id) = self.env.rng.pick(&alive) {
                    let until = self.env.now + self.env.rng.range(100, 300_000);
                    self.env.note(id, || format!("stops until {until}"));
                    self.procs.get_mut(&id).expect("picked").stalled_until = until;
                }
            }
        }
    }

    fn unless_stalled(&mut self, id: ProcId, event: Event, act: impl FnOnce(&mut Process, &mut Env)) {
        let Some(process) = self.procs.get(&id) else { return };
        match process.stalled_until > self.env.now {
            true => {
                let wait = process.stalled_until - self.env.now;
                self.env.post(wait, event);
            }
            false => self.with(id, act),
        }
    }

    fn deliver(&mut self, link: LinkId) {
        if link.to == ProcId::NODE {
            if let Some(Packet::Up(message)) = self.env.take_packet(link) {
                self.node.on_message(self.env.now, link.from, message);
                self.after_node();
            }
            return;
        }
        if !self.procs.contains_key(&link.to) {
            self.env.take_packet(link);
            return;
        }
        self.unless_stalled(link.to, Event::Deliver(link), |process, env| {
            if let Some(packet) = env.take_packet(link) {
                process.receive(env, link.from, packet);
            }
        });
    }

    /// One event of one process, its commands, the checks.
    fn with(&mut self, id: ProcId, act: impl FnOnce(&mut Process, &mut Env)) {
        let Some(mut process) = self.procs.remove(&id) else { return };
        act(&mut process, &mut self.env);
        process.pump(&mut self.env);
        process.settle(&mut self.env);
        self.env.oracle.check_alive(&process.owner);
        self.check_leases(&process);
        let exited = process.exited;
        self.procs.insert(id, process);
        if exited {
            self.end(id, 0, "", false);
        }
    }

    /// What an owner holds, the node knows of.
    fn check_leases(&self, process: &Process) {
        for worker in process.owner.leased_workers() {
            let known = self.env.oracle.dead.contains(&worker) || self.node.lease_owner(worker) == Some(process.id);
            assert!(known, "double grant: {} uses {}, which the node has given to {:?}", name(process.id), name(worker), self.node.lease_owner(worker));
        }
    }

    fn after_node(&mut self) {
        let deadline = self.node.tick(self.env.now);
        self.node.check_invariants();
        let mut commands = Vec::new();
        self.node.take_commands(&mut commands);
        while !commands.is_empty() {
            commands.drain(..).for_each(|command| self.carry_out(command));
            // What the answers to some of them led to.
            self.node.take_commands(&mut commands);
        }
        let now = self.env.now;
        if let Some(at) = deadline.filter(|_| now < self.env.busy_at + 3_000_000) {
            if self.node_tick_at <= now || at < self.node_tick_at {
                self.node_tick_at = at.max(now + 1);
                self.env.post(self.node_tick_at - now, Event::NodeTick);
            }
        }
    }

    fn carry_out(&mut self, command: NodeCommand) {
        let env = &mut self.env;
        match command {
            NodeCommand::Send { to, message } => {
                let lease = match &message {
                    FromNode::LeaseGrant { lease, .. } => Some(*lease),
                    _ => None,
                };
                env.send(ProcId::NODE, to, Packet::Down(message));
                if let Some(lease) = lease.filter(|_| env.strikes(Bug::DoubleGrant)) {
                    self.node.on_message(env.now, to, ToNode::LeaseReturn { lease, leaving: false });
                    self.after_node();
                }
            }
            NodeCommand::Fork { proc_id, .. } => {
                self.unborn.insert(proc_id);
                match env.rng.permille(env.options.fork_failure) {
                    true => env.post(500, Event::ForkFailed(proc_id)),
                    false => {
                        let delay = env.rng.range(200, 8_000);
                        env.post(delay, Event::ForkDone(proc_id));
                    }
                }
            }
            NodeCommand::Kill { proc_id, reason } => self.end(proc_id, 9, &reason, true),
            NodeCommand::Link { a, b } if env.rng.permille(env.options.link_failure) => self.node.link_failed(a, b),
            NodeCommand::Link { a, b } => {
                env.send(ProcId::NODE, a, Packet::Down(FromNode::Link { peer: b }));
                env.send(ProcId::NODE, b, Packet::Down(FromNode::Link { peer: a }));
            }
            NodeCommand::NewExtent { to, token, extent, size } => match env.rng.permille(env.options.store_full) {
                true => {
                    env.send(ProcId::NODE, to, Packet::Down(FromNode::StoreFull { token, text: "the simulator says no".into(), disk: false }));
                    self.node.extent_failed(self.env.now, extent);
                    self.after_node();
                }
                false => env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentGrant { token, extent, size })),
            },
            NodeCommand::NewSegment { to, token, extent, sizes } => match env.rng.permille(env.options.disk_failure) {
                true => {
                    self.node.segment_failed(env.now, extent, "the simulator says no".into());
                    self.after_node();
                }
                false => {
                    let size = env.rng.pick(&sizes).expect("a size");
                    self.node.segment_made(extent, size);
                    self.env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentGrant { token, extent, size }));
                }
            },
            NodeCommand::Punch { .. } => {}
            NodeCommand::OpenExtent { to, token, extent, size } => env.send(ProcId::NODE, to, Packet::Down(FromNode::ExtentOpened { token, extent, size })),
            NodeCommand::CloseExtent { .. } => {}
            NodeCommand::LookAtMemory { .. } => panic!("the rules of this world ask for no look at memory"),
            NodeCommand::Measure { proc_id } => {
                // Not for ever: a worker that is needed and too large is looked at again and again.
                let leaks = env.now < LEAKS_UNTIL_US && env.rng.permille(env.options.leaks);
                self.node.footprint_measured(env.now, proc_id, Some(if leaks { LEAK } else { 0 }));
            }
            NodeCommand::Adopt { .. } => {}
            NodeCommand::Shutdown => panic!("the node shuts down by itself"),
            other => panic!("a node alone speaks to nobody: {other:?}"),
        }
    }

    fn born(&mut self, id: ProcId) {
        if !self.unborn.remove(&id) {
            return;
        }
        let process = Process::new(id, self.node.total().clone());
        process.to_node(&mut self.env, ToNode::Hello { protocol: 1, pid: (id.0 & 0xffff) as u32, max_links: 4 });
        self.procs.insert(id, process);
    }

    /// A process ends: killed, or by itself.
    fn end(&mut self, id: ProcId, signal: i32, why: &str, killed: bool) {
        let process = self.procs.remove(&id);
        if process.is_none() && !self.unborn.remove(&id) {
            return;
        }
        let last_started = process.as_ref().and_then(|p| p.last_started);
        self.env.note(id, || format!("ends, signal {signal} {why}"));
        if let Some(process) = &process {
            let exposed = self.exposed_by(process);
            self.env.oracle.process_died(&process.owner, killed && why.is_empty(), exposed);
            self.env.cut(id, killed);
            if killed {
                self.env.oracle.lossy.insert(id);
            }
        }
        let evidence = Evidence {
            pid: (id.0 & 0xffff) as u32,
            signal,
            exit_code: 0,
            ended_by_us: why.to_owned(),
            oom_kill: false,
            memory_kill: MemoryKill::No {},
            peak_rss_kib: 0,
            stderr_tail: String::new(),
            last_started,
            node_lost: false,
        };
        self.env.corpses.insert(id, evidence);
        let drained = self.env.drained_at(LinkId { from: id, to: ProcId::NODE }) - self.env.now;
        let delay = drained + self.env.rng.range(1, 2_000);
        self.env.post(delay, Event::Reaped(id));
    }

    /// What a dying process kept for others who have not registered with the owner yet.
    fn exposed_by(&self, dying: &Process) -> Vec<ObjectId> {
        let sent = self.env.on_the_way(dying.id);
        let early = self.procs.values().any(|p| p.early_from(dying.id));
        let is_exposed = |id: &ObjectId| {
            let Some(owner) = self.procs.get(&id.owner) else { return true };
            let registered: Vec<ProcId> = owner.owner.get(*id).into_iter().flat_map(|object| object.borrowers().map(|(p, _)| p)).collect();
            let users = self.procs.values().filter(|p| p.id != id.owner && p.owner.get(*id).is_some());
            early || sent.contains(id) || users.into_iter().any(|p| !registered.contains(&p.id))
        };
        dying.owner.ids().into_iter().filter(|id| id.owner != dying.id).filter(is_exposed).collect()
    }

    /// When all is quiet nothing runs and nothing waits.
    fn check_nobody_waits(&self) {
        let waits = |(id, p): (&ProcId, &Process)| (!p.frames.is_empty() || !p.exec.is_empty()).then(|| name(*id));
        let waiting: Vec<String> = self.procs.iter().filter_map(waits).collect();
        assert!(waiting.is_empty(), "all is quiet, and {waiting:?} still wait:\n{}", self.explain());
        assert!(self.procs[&self.driver].done, "all is quiet, and the driver's script is not done");
    }

    /// Nothing is left anywhere.
    fn check_rest(&self) {
        for (id, process) in &self.procs {
            let left = process.owner.leftovers();
            assert!(left.is_empty(), "{} still has, at rest:\n  {}\n{}", name(*id), left.join("\n  "), self.explain());
            assert!(process.exec.is_empty() && process.exec.running() == 0, "{} has calls at rest", name(*id));
            assert!(process.extents.live_bytes() + process.disk.live_bytes() == 0 || self.env.oracle.stranded_any, "{} has live ranges at rest", name(*id));
        }
        let left = self.node.leftovers();
        assert!(left.is_empty(), "the node still has, at rest:\n  {}", left.join("\n  "));
    }

    /// Who waits for what.
    pub fn explain(&self) -> String {
        let mut lines = vec![format!("now {}, available {} of {}", self.env.now, self.node.available(), self.node.total())];
        lines.extend(self.node.leftovers());
        for (id, process) in &self.procs {
            let frame: Vec<_> = process.frames.iter().map(|f| (&f.role, &f.path, &f.waiting)).collect();
            lines.push(format!("{}: runs {frame:?}, queue empty: {}, leaving {}", name(*id), process.exec.is_empty(), process.leaving));
            lines.extend(process.owner.leftovers().into_iter().map(|line| format!("    {line}")));
        }
        lines.join("\n")
    }
}
