//! This is the main loop of the simulator: nodes, drivers, their workers, and the faults.

use crate::env::{name, Env, Event, LinkId, Packet};
use crate::machine::Machine;
use crate::options::Options;
use crate::process::Process;
use ray_logic::node::Node;
use ray_proto::msg::{Evidence, ToNode};
use ray_proto::{ActorId, NodeIndex, ObjectId, ProcId};
use std::collections::{BTreeMap, BTreeSet};

/// A run that makes more events than this will never end.
const MOST_EVENTS: u64 = 400_000;

pub struct World {
    pub env: Env,
    pub machines: BTreeMap<NodeIndex, Machine>,
    pub procs: BTreeMap<ProcId, Process>,
    pub unborn: BTreeSet<ProcId>,
    pub drivers: Vec<ProcId>,
    /// Drivers that came through a door and wait for their names, by the node.
    pub knocking: Vec<NodeIndex>,
    pub transfers: crate::machine::Transfers,
}

impl World {
    pub fn new(seed: u64, options: Options, trace: bool) -> Self {
        let cluster = !options.nodes.is_empty();
        let config = crate::machine::first_config(&options);
        let total = config.total.clone();
        let mut node = match cluster {
            true => crate::machine::first_node(config),
            false => Node::alone(config),
        };
        let driver = (!cluster).then(|| node.driver_connected(1, 4));
        let env = Env::new(seed, options, trace);
        let mut world = World {
            env,
            machines: BTreeMap::from([(NodeIndex::HEAD, Machine::new(node, false))]),
            procs: BTreeMap::new(),
            unborn: BTreeSet::new(),
            drivers: vec![],
            knocking: vec![],
            transfers: Default::default(),
        };
        match driver {
            Some(driver) => world.start_driver(driver, total),
            None => world.start_cluster(),
        }
        world
    }

    pub fn start_driver(&mut self, driver: ProcId, total: ray_proto::Resources) {
        let mut process = Process::new(driver, total);
        process.is_driver = true;
        process.start_driver(&mut self.env);
        self.procs.insert(driver, process);
        self.drivers.push(driver);
    }

    /// The whole run: the program, then the end of everything that is kept for good, then the checks at rest.
    pub fn run(&mut self) {
        self.plan_faults();
        self.after_node(NodeIndex::HEAD);
        self.run_until_quiet();
        self.check_nobody_waits();
        self.check_groups_at_rest();
        for id in self.procs.keys().copied().collect::<Vec<_>>() {
            self.with(id, |process, env| process.let_go(env));
        }
        self.env.busy_at = self.env.now;
        self.end_orphans();
        self.end_groups();
        for index in self.machines.keys().copied().collect::<Vec<_>>() {
            self.after_node(index);
        }
        self.run_until_quiet();
        if self.end_orphans() {
            self.env.busy_at = self.env.now;
            self.run_until_quiet();
        }
        self.check_nobody_waits();
        self.check_rest();
    }

    /// Detached actors whose creators are gone have nobody else who ends them.
    fn end_orphans(&mut self) -> bool {
        let driver = self.drivers.first().copied();
        let orphans: Vec<ActorId> = self.env.named.iter().copied().filter(|actor| !self.procs.contains_key(&actor.owner)).collect();
        for actor in &orphans {
            self.env.oracle.doomed.insert(*actor);
            let driver = &self.procs[&driver.expect("a driver")];
            driver.to_node(&mut self.env, ToNode::ActorKill { actor: *actor, no_restart: true });
        }
        !orphans.is_empty()
    }

    fn run_until_quiet(&mut self) {
        while let Some(event) = self.env.next_event() {
            assert!(self.env.events < MOST_EVENTS, "the run never ends; now {event:?}\n{}", self.explain());
            self.handle(event);
            let is_quiet = self.env.pending == 0 && self.env.now > self.env.busy_at + crate::machine::QUIET_CLUSTER;
            if is_quiet && self.is_cluster() {
                return;
            }
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
            Event::NodeTick(index) => self.unless_stopped(index, event, |_| ()),
            Event::Net(route) => self.arrives(route),
            Event::Copied(index, ticket) => self.transferred(index, ticket),
            Event::Fault(fault) => self.strike(fault),
            Event::GroupEnds(group) => self.group_ends(group),
            Event::ForkDone(id) => self.born(id),
            Event::ForkFailed(id) => self.unless_stopped(id.node(), event, |world| {
                if world.unborn.remove(&id) {
                    let now = world.env.now;
                    world.node(id.node()).fork_failed(now, id, "the simulator says no");
                }
            }),
            Event::Reaped(id) => self.unless_stopped(id.node(), event, |world| {
                let evidence = world.env.corpses[&id].clone();
                let now = world.env.now;
                match world.drivers.contains(&id) {
                    true => world.node(id.node()).observer_left(now, id),
                    false => world.node(id.node()).proc_exited(now, id, evidence),
                }
            }),
            Event::KillSomeone => {
                let alive: Vec<ProcId> = self.procs.keys().copied().filter(|id| !self.drivers.contains(id)).collect();
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

    /// A living node.
    pub fn node(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.machines.get_mut(&index).expect("a living node").node
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
            return self.unless_stopped(link.from.node(), Event::Deliver(link), |world| {
                if let Some(Packet::Up(message)) = world.env.take_packet(link) {
                    let now = world.env.now;
                    world.node(link.from.node()).on_message(now, link.from, message);
                }
            });
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
        let (exited, forced) = (process.exited, process.forced);
        self.procs.insert(id, process);
        if forced {
            self.end(id, 9, "", true);
        } else if exited {
            self.end(id, 0, "", false);
        }
    }

    /// What an owner holds, the node knows of.
    fn check_leases(&self, process: &Process) {
        if self.env.oracle.frozen.contains(&process.id.node()) {
            return;
        }
        for worker in process.owner.leased_workers().filter(|worker| !self.env.oracle.dead.contains(worker)) {
            let given = self.machines.get(&worker.node()).and_then(|machine| machine.node.lease_owner(worker));
            assert!(given == Some(process.id), "double grant: {} uses {}, which the node has given to {given:?}", name(process.id), name(worker));
        }
    }

    fn born(&mut self, id: ProcId) {
        if !self.unborn.remove(&id) {
            return;
        }
        let total = self.node(id.node()).total().clone();
        let process = Process::new(id, total);
        process.to_node(&mut self.env, ToNode::Hello { protocol: 1, pid: (id.0 & 0xffff) as u32, max_links: 4 });
        self.procs.insert(id, process);
    }

    /// A process ends: killed, or by itself.
    pub fn end(&mut self, id: ProcId, signal: i32, why: &str, killed: bool) {
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
        let evidence = Evidence { pid: (id.0 & 0xffff) as u32, signal, ended_by_us: why.to_owned(), last_started, ..Evidence::default() };
        self.env.corpses.insert(id, evidence);
        let drained = self.env.drained_at(LinkId { from: id, to: ProcId::NODE }) - self.env.now;
        let delay = drained + self.env.rng.range(1, 2_000);
        self.env.post(delay, Event::Reaped(id));
    }

    /// What a dying process kept for others who have not registered with the owner yet.
    fn exposed_by(&self, dying: &Process) -> Vec<ObjectId> {
        let sent = self.env.on_the_way(dying.id);
        let early = self.procs.values().any(|p| p.early_from(dying.id));
        // What its actors get is with the head, which may start them before it hears.
        let given: BTreeSet<ObjectId> = self.env.oracle.given_by(dying.id);
        let is_exposed = |id: &ObjectId| {
            let Some(owner) = self.procs.get(&id.owner) else { return true };
            let registered: Vec<ProcId> = owner.owner.get(*id).into_iter().flat_map(|object| object.borrowers().map(|(p, _)| p)).collect();
            let users = self.procs.values().filter(|p| p.id != id.owner && p.owner.get(*id).is_some());
            early || sent.contains(id) || given.contains(id) || users.into_iter().any(|p| !registered.contains(&p.id))
        };
        dying.owner.ids().into_iter().filter(|id| id.owner != dying.id).filter(is_exposed).collect()
    }

    /// When all is quiet nothing runs and nothing waits.
    fn check_nobody_waits(&self) {
        let waits = |(id, p): (&ProcId, &Process)| (!p.frames.is_empty() || !p.exec.is_empty()).then(|| name(*id));
        let waiting: Vec<String> = self.procs.iter().filter_map(waits).collect();
        assert!(waiting.is_empty(), "all is quiet, and {waiting:?} still wait:\n{}", self.explain());
        for id in &self.drivers {
            assert!(self.procs.get(id).is_none_or(|driver| driver.done), "all is quiet, and the script of {} is not done", name(*id));
        }
        self.env.oracle.check_questions(|id| self.procs.contains_key(&id));
        assert!(self.knocking.is_empty(), "all is quiet, and a driver waits at the door of {:?}", self.knocking);
        for (index, machine) in &self.machines {
            assert!(!machine.is_lost, "all is quiet, and {index:?}, which is dead for the others, still runs");
        }
    }

    /// Nothing is left anywhere.
    fn check_rest(&mut self) {
        for (id, process) in &self.procs {
            let left = process.owner.leftovers();
            assert!(left.is_empty(), "{} still has, at rest:\n  {}\n{}", name(*id), left.join("\n  "), self.explain());
            assert!(process.exec.is_empty() && process.exec.running() == 0, "{} has calls at rest", name(*id));
            assert!(process.extents.live_bytes() + process.disk.live_bytes() == 0 || self.env.oracle.stranded_any, "{} has live ranges at rest", name(*id));
        }
        for (index, machine) in &self.machines {
            let left = machine.node.leftovers();
            assert!(left.is_empty(), "the node{} still has, at rest:\n  {}", index.0, left.join("\n  "));
        }
        self.check_log();
    }

    /// Who waits for what.
    pub fn explain(&self) -> String {
        let mut lines = vec![format!("now {}", self.env.now)];
        for (index, machine) in &self.machines {
            lines.push(format!("node{}: available {} of {}", index.0, machine.node.available(), machine.node.total()));
            lines.extend(machine.node.leftovers());
        }
        for (id, process) in &self.procs {
            let frame: Vec<_> = process.frames.iter().map(|f| (&f.role, &f.path, &f.waiting)).collect();
            lines.push(format!("{}: runs {frame:?}, queue empty: {}, leaving {}", name(*id), process.exec.is_empty(), process.leaving));
            lines.extend(process.owner.leftovers().into_iter().map(|line| format!("    {line}")));
        }
        lines.join("\n")
    }
}
