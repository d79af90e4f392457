//! Memory of the node: events in, commands out.

use super::{MemoryRules, MemorySample, Node, NodeCommand, NodeConfig};
use crate::Time;
use ray_proto::msg::{ActorSpec, Args, Evidence, FromNode, MemoryKill, ToNode};
use ray_proto::{ActorId, Blob, ClassId, LeaseId, NodeIndex, ObjectId, ProcId, Resources, Strategy, Value};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 1000 * MIB;

/// The job of a driver that says nothing of itself.
pub(super) fn job() -> ray_proto::cluster::JobSpec {
    ray_proto::cluster::JobSpec::default()
}

struct Bench {
    node: Node,
    driver: ProcId,
    now: Time,
    commands: Vec<NodeCommand>,
}

fn resources(pairs: &[(&str, f64)]) -> Resources {
    Resources::from_f64(pairs.iter().copied())
}

impl Bench {
    fn new(memory: MemoryRules) -> Self {
        let config = NodeConfig {
            index: NodeIndex::HEAD,
            spill: None,
            total: resources(&[("CPU", 4.0), ("memory", 1e12)]),
            store_bytes: 0,
            job: Some(job()),
            warm_workers: 0,
            idle_worker: 1_000_000,
            infeasible_is_error: false,
            memory,
        };
        let mut bench = Bench { node: Node::alone(config), driver: ProcId::NODE, now: 0, commands: vec![] };
        bench.driver = bench.node.driver_connected(1, 100);
        bench
    }

    fn watching() -> Self {
        Self::new(MemoryRules { refresh: Some(250_000), ..MemoryRules::default() })
    }

    fn tell(&mut self, from: ProcId, message: ToNode) {
        self.node.on_message(self.now, from, message);
        self.settle();
    }

    /// Forks succeed at once.
    fn settle(&mut self) {
        let mut fresh = vec![];
        self.node.take_commands(&mut fresh);
        for command in fresh {
            if let NodeCommand::Fork { proc_id, .. } = command {
                self.node.on_message(self.now, proc_id, ToNode::Hello { protocol: 1, pid: 100 + proc_id.0 as u32 % 100, max_links: 100 });
                self.settle();
            } else {
                self.commands.push(command);
            }
        }
        self.node.check_invariants();
    }

    fn commands(&mut self) -> Vec<NodeCommand> {
        self.settle();
        std::mem::take(&mut self.commands)
    }

    fn tick(&mut self, after: Time) -> Option<Time> {
        self.now += after;
        let due = self.node.tick(self.now);
        self.settle();
        due
    }

    /// A worker that runs a task which asked for so much memory, and its lease.
    fn task(&mut self, class: u32, memory: u64) -> (ProcId, LeaseId) {
        let shape = resources(&[("CPU", 1.0), ("memory", memory as f64)]);
        self.tell(self.driver, ToNode::DefineClass { class: ClassId(class), shape, env: String::new(), strategy: Strategy::DEFAULT });
        self.lease(class, 0)
    }

    fn lease(&mut self, class: u32, granted: u64) -> (ProcId, LeaseId) {
        self.tell(self.driver, ToNode::LeaseWant { class: ClassId(class), granted, want: 1 });
        let granted = |command: &NodeCommand| match command {
            NodeCommand::Send { message: FromNode::LeaseGrant { worker, lease, .. }, .. } => Some((*worker, *lease)),
            _ => None,
        };
        self.commands().iter().find_map(granted).expect("a grant")
    }

    fn actor(&mut self, max_restarts: i32) -> ProcId {
        let actor: ActorId = ObjectId::new(self.driver, 900 + max_restarts.unsigned_abs() as u64, ray_proto::ids::ACTOR_INDEX);
        let args = Args { body: Value::Inline(Blob::EMPTY), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        let spec = ActorSpec {
            given: vec![],
            class_name: "Keeper".into(),
            payload: Blob::EMPTY,
            args,
            held: Resources::default(),
            to_place: Resources::default(),
            env: String::new(),
            max_restarts,
            name: String::new(),
            namespace: String::new(),
            detached: false,
            strategy: Strategy::DEFAULT,
        };
        self.tell(self.driver, ToNode::ActorCreate { actor, spec: Box::new(spec) });
        let started = |command: &NodeCommand| match command {
            NodeCommand::Send { to, message: FromNode::ActorStart { .. } } => Some(*to),
            _ => None,
        };
        self.commands().iter().find_map(started).expect("a start")
    }

    fn sample(&mut self, used: u64, processes: &[(ProcId, u64)]) {
        let processes = Some(processes.iter().map(|(id, mib)| (*id, mib * MIB)).collect());
        let sample = MemorySample { used: used * MIB, limit: LIMIT, basis: "of the test".into(), processes };
        self.node.memory_sampled(self.now, &sample);
        self.settle();
    }

    fn killed(&mut self) -> Vec<(ProcId, String)> {
        let kill = |command| match command {
            NodeCommand::Kill { proc_id, reason } => Some((proc_id, reason)),
            _ => None,
        };
        self.commands().into_iter().filter_map(kill).collect()
    }

    fn asked_to_go(&mut self) -> Vec<ProcId> {
        let asked = |command| match command {
            NodeCommand::Send { to, message: FromNode::MayYouExit {} } => Some(to),
            _ => None,
        };
        self.commands().into_iter().filter_map(asked).collect()
    }

    fn measured(&mut self, id: ProcId, mib: u64) {
        self.node.footprint_measured(self.now, id, Some(mib * MIB));
        self.settle();
    }

    fn asks_to_measure(&mut self) -> Vec<ProcId> {
        let measure = |command| match command {
            NodeCommand::Measure { proc_id } => Some(proc_id),
            _ => None,
        };
        self.commands().into_iter().filter_map(measure).collect()
    }
}

fn dead(pid: u32) -> Evidence {
    Evidence { pid, signal: 9, ended_by_us: "for memory".into(), ..Evidence::default() }
}

#[test]
fn nothing_is_looked_at_while_nothing_runs() {
    let mut bench = Bench::watching();
    assert_eq!(bench.tick(1_000_000), None);
    let (_, lease) = bench.task(0, 0);
    assert_eq!(bench.tick(250_000), Some(bench.now + 250_000));
    assert_eq!(bench.commands(), [NodeCommand::LookAtMemory { processes: false }]);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    assert_eq!(bench.tick(250_000), None);
    assert_eq!(bench.commands(), []);
}

#[test]
fn sizes_are_asked_for_only_when_memory_is_short() {
    let mut bench = Bench::watching();
    bench.task(0, 0);
    let mut totals = MemorySample { used: 950 * MIB, limit: LIMIT, basis: String::new(), processes: None };
    bench.node.memory_sampled(0, &totals);
    assert_eq!(bench.commands(), []);
    totals.used += 1;
    bench.node.memory_sampled(0, &totals);
    assert_eq!(bench.commands(), [NodeCommand::LookAtMemory { processes: true }]);
}

#[test]
fn the_largest_goes_and_the_next_only_after_it_is_gone() {
    let mut bench = Bench::watching();
    let ((small, _), (large, _), (middle, _)) = (bench.task(0, 0), bench.task(1, 0), bench.task(2, 0));
    let sizes = [(small, 20), (large, 500), (middle, 430)];
    bench.sample(951, &sizes);
    let killed = bench.killed();
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0].0, large);
    for part in ["951 MiB were in use", "limit of 1000 MiB (of the test)", "It used 500 MiB", "430 MiB (a task)"] {
        assert!(killed[0].1.contains(part), "{}", killed[0].1);
    }
    bench.sample(970, &sizes);
    assert_eq!(bench.killed(), []);
    bench.node.proc_exited(bench.now, large, dead(7));
    bench.sample(960, &[(small, 20), (middle, 930)]);
    assert_eq!(bench.killed()[0].0, middle);
}

#[test]
fn the_watchers_learn_whether_others_took_part() {
    for (other, expected) in [(400, MemoryKill::Crowded { free_retries: -1 }), (100, MemoryKill::Alone {})] {
        let mut bench = Bench::watching();
        let ((large, _), (second, _)) = (bench.task(0, 0), bench.task(1, 0));
        let keeper = bench.actor(0);
        bench.tell(bench.driver, ToNode::Watch { proc_id: large });
        bench.sample(960, &[(large, 500), (second, other), (keeper, 300)]);
        bench.node.proc_exited(bench.now, large, dead(7));
        let told = bench.commands().into_iter().find_map(|command| match command {
            NodeCommand::Send { message: FromNode::ProcDied { evidence, .. }, .. } => Some(evidence.memory_kill),
            _ => None,
        });
        assert_eq!(told, Some(expected), "beside {other} MiB");
    }
}

#[test]
fn over_its_request_goes_first_and_within_it_last() {
    let mut bench = Bench::watching();
    let ((honest, _), (plain, _), (liar, _)) = (bench.task(0, 500 * MIB), bench.task(1, 0), bench.task(2, 100 * MIB));
    bench.sample(951, &[(honest, 450), (plain, 300), (liar, 200)]);
    let (id, reason) = bench.killed().remove(0);
    assert_eq!(id, liar);
    assert!(reason.contains("more than the 100 MiB that its memory= asked for"), "{reason}");
    bench.node.proc_exited(bench.now, liar, dead(7));
    bench.sample(951, &[(honest, 450), (plain, 300)]);
    assert_eq!(bench.killed()[0].0, plain);
}

#[test]
fn an_actor_that_cannot_come_back_is_spared_for_a_task_of_half_its_size() {
    for (task_mib, actor_goes) in [(260, false), (240, true)] {
        let mut bench = Bench::watching();
        let (task, _) = bench.task(0, 0);
        let keeper = bench.actor(0);
        bench.sample(960, &[(keeper, 500), (task, task_mib)]);
        assert_eq!(bench.killed()[0].0 == keeper, actor_goes);
    }
    let mut bench = Bench::watching();
    let (task, _) = bench.task(0, 0);
    let restartable = bench.actor(-1);
    bench.sample(960, &[(restartable, 500), (task, 300)]);
    assert_eq!(bench.killed()[0].0, restartable);
}

#[test]
fn the_innocent_are_spared_and_the_user_is_told_once() {
    let mut bench = Bench::watching();
    let ((one, _), (other, _)) = (bench.task(0, 0), bench.task(1, 0));
    for told in [1, 0] {
        bench.sample(990, &[(one, 40), (other, 12)]);
        let commands = bench.commands();
        let notices = commands.iter().filter(|c| matches!(c, NodeCommand::Send { message: FromNode::Notice { text }, .. } if text.contains("no worker")));
        assert_eq!((notices.count(), commands.len()), (told, told));
    }
}

#[test]
fn idle_workers_are_asked_before_anybody_is_killed() {
    let mut bench = Bench::watching();
    let ((idle, lease), (busy, _)) = (bench.task(0, 0), bench.task(1, 0));
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.commands();
    bench.sample(960, &[(idle, 100), (busy, 700)]);
    assert_eq!(bench.asked_to_go(), [idle]);
    // It owns something that others need: then it is not asked again, and the other one goes.
    bench.tell(idle, ToNode::IdleExitReply { may_exit: false });
    bench.sample(960, &[(idle, 100), (busy, 700)]);
    assert_eq!(bench.killed().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [busy]);
}

#[test]
fn requests_are_limits_when_enforced() {
    let mut bench = Bench::new(MemoryRules { refresh: Some(250_000), enforce_requests: true, ..MemoryRules::default() });
    let ((over, _), (within, _), (plain, _)) = (bench.task(0, 50 * MIB), bench.task(1, 50 * MIB), bench.task(2, 0));
    bench.tick(250_000);
    assert_eq!(bench.commands(), [NodeCommand::LookAtMemory { processes: true }]);
    for kills in [1, 0] {
        bench.sample(200, &[(over, 51), (within, 50), (plain, 99)]);
        let killed = bench.killed();
        assert_eq!(killed.len(), kills);
        assert!(killed.iter().all(|(id, reason)| *id == over && reason.contains("enforce_memory_requests")));
    }
}

fn leaking() -> Bench {
    Bench::new(MemoryRules { growth_bytes: Some(100 * MIB), ..MemoryRules::default() })
}

#[test]
fn a_worker_that_grew_is_replaced_once_it_is_idle() {
    let mut bench = leaking();
    let (worker, lease) = bench.task(0, 0);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.tick(1_000_000);
    assert_eq!(bench.asks_to_measure(), [worker]);
    bench.measured(worker, 50);
    // Once per idle time.
    assert_eq!(bench.tick(1_000_000), None);
    assert_eq!(bench.asks_to_measure(), []);

    let (again, lease) = bench.lease(0, 1);
    assert_eq!(again, worker);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.tick(1_000_000);
    bench.measured(worker, 151);
    assert_eq!(bench.asked_to_go(), [worker]);
    bench.tell(worker, ToNode::IdleExitReply { may_exit: true });
    assert_eq!(bench.asks_to_measure(), [worker]);
    bench.measured(worker, 151);
    assert!(matches!(&bench.commands()[..], [NodeCommand::Send { message: FromNode::Exit { reason }, .. }] if reason.contains("grown by 101 MiB")));
}

#[test]
fn a_worker_that_gives_its_free_pages_back_stays() {
    let mut bench = leaking();
    let (worker, lease) = bench.task(0, 0);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.tick(1_000_000);
    bench.measured(worker, 50);
    let (_, lease) = bench.lease(0, 1);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.tick(1_000_000);
    bench.measured(worker, 300);
    bench.tell(worker, ToNode::IdleExitReply { may_exit: true });
    bench.commands();
    bench.measured(worker, 60);
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.lease(0, 2).0, worker);
}

#[test]
fn a_worker_under_a_long_lease_is_taken_off_it_and_looked_at_before_anybody_gets_it() {
    let mut bench = leaking();
    let (worker, lease) = bench.task(0, 0);
    bench.tick(1_000_000);
    bench.measured(worker, 50);
    bench.commands();
    bench.tick(1_000_000);
    bench.measured(worker, 200);
    let reclaims = |command: &NodeCommand| matches!(command, NodeCommand::Send { message: FromNode::LeaseReclaim { lease: one }, .. } if *one == lease);
    assert_eq!(bench.commands().iter().filter(|c| reclaims(c)).count(), 1);
    bench.tick(1_000_000);
    assert_eq!(bench.commands(), []);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    assert_eq!(bench.asks_to_measure(), [worker]);
    // The call was large, the worker is not.
    bench.measured(worker, 70);
    assert_eq!(bench.lease(0, 1).0, worker);
}

#[test]
fn a_worker_whose_objects_are_needed_is_asked_again_later() {
    let mut bench = leaking();
    let (worker, lease) = bench.task(0, 0);
    bench.tick(1_000_000);
    bench.measured(worker, 50);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    bench.tick(1_000_000);
    bench.measured(worker, 200);
    bench.commands();
    bench.tell(worker, ToNode::IdleExitReply { may_exit: false });
    bench.tick(1_000_000);
    // A call ends the wait.
    let (other, lease) = bench.lease(0, 1);
    bench.tell(bench.driver, ToNode::LeaseReturn { lease, leaving: false });
    assert_eq!(other, worker);
    bench.tick(1_000_000);
    assert_eq!(bench.asks_to_measure(), [worker]);
    bench.measured(worker, 200);
    bench.commands();
    bench.tell(worker, ToNode::IdleExitReply { may_exit: false });
    bench.tick(9_000_000);
    assert_eq!(bench.asks_to_measure(), []);
    bench.tick(1_000_000);
    assert_eq!(bench.asks_to_measure(), [worker]);
    bench.measured(worker, 200);
    assert_eq!(bench.asked_to_go(), [worker]);
}

#[test]
fn actors_are_never_measured_for_growth() {
    let mut bench = leaking();
    bench.actor(0);
    assert_eq!(bench.tick(60_000_000), None);
    assert_eq!(bench.asks_to_measure(), []);
}
