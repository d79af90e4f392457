//! One owner among nodes that die, driven at random: whatever comes in whichever order, its tables stay consistent, what can be made again is, and
//! nothing is left at the end.

mod stage;

use ray_logic::owner::{CallArgs, CallKind, Command, Limits, Owner, State, Template, WaitId};
use ray_proto::msg::{ActorState, Call, FromNode, Outcome, Peer, Reply, ToNode};
use ray_proto::value::{system_error, system_error_fields, FLAG_RAISED};
use ray_proto::{ActorId, ClassId, ExtentId, LeaseId, NodeIndex, ObjectId, Payload, ProcId, Resources, ShmRange, Strategy, Value};
use stage::{actor_options, evidence, plain, proc_on};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

struct World {
    owner: Owner,
    rng: Rng,
    now: u64,
    slot: u64,
    counter: u32,
    alive: Vec<u16>,
    next_node: u16,
    /// Deaths that the owner was told of.
    known_dead: BTreeSet<u16>,
    handles: Vec<ObjectId>,
    /// Objects that no loss may turn into an error.
    solid: BTreeSet<ObjectId>,
    /// Lineage has no budget.
    remembers_all: bool,
    templates: Vec<Arc<Template>>,
    methods: Arc<Template>,
    actor: ActorId,
    actor_at: ProcId,
    wants: BTreeMap<ClassId, u32>,
    /// Calls sent and not answered.
    sent: Vec<(ProcId, Box<Call>)>,
    workers: BTreeSet<ProcId>,
    news: Vec<VecDeque<FromNode>>,
    fetches: Vec<(ObjectId, u64)>,
    recalls: Vec<(ProcId, Vec<u64>)>,
    waits: BTreeMap<WaitId, Vec<ObjectId>>,
}

const LENDER: u16 = 900;

impl World {
    fn new(seed: u64) -> Self {
        let cpus = |n: f64| Resources::from_f64([("CPU", n)]);
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let lineage_bytes = if seed % 3 == 0 { 4000 } else { u64::MAX };
        let mut owner = Owner::new(proc_on(0, 1), cpus(4.0), Limits { lineage_bytes, ..Limits::default() });
        owner.on_node(0, FromNode::Capacity { total: cpus(8.0), nodes: 4 });
        let class = owner.class_for(&cpus(1.0), "", &Strategy::DEFAULT);
        let actor = owner.new_actor_id();
        let mut template = |kind, num_returns, max_retries| Template {
            id: Default::default(),
            kind,
            name: "work".into(),
            payload: b"code"[..].into(),
            num_returns,
            max_retries,
            retry_raised: rng.chance(50),
            max_calls: 0,
            stream: None,
        };
        let mut templates = Vec::new();
        for (returns, retries) in [(1, -1), (2, -1), (3, -1), (1, 0), (1, 1), (2, 3)] {
            templates.push(owner.template(template(CallKind::Task { class }, returns, retries)));
        }
        let kind = CallKind::Method { actor, max_pending: -1, group: 0, unordered: seed % 2 == 0 };
        let methods = owner.template(template(kind, 1, 4));
        let args = CallArgs { body: Value::inline(b"\0"), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        owner.create_actor(0, actor, actor_options(), args);
        World {
            owner,
            rng,
            now: 0,
            slot: 0,
            counter: 100,
            alive: vec![1, 2, 3],
            next_node: 4,
            known_dead: BTreeSet::new(),
            handles: vec![],
            solid: BTreeSet::new(),
            remembers_all: lineage_bytes == u64::MAX,
            templates,
            methods,
            actor,
            actor_at: ProcId::NODE,
            wants: BTreeMap::new(),
            sent: vec![],
            workers: BTreeSet::new(),
            news: vec![],
            fetches: vec![],
            recalls: vec![],
            waits: BTreeMap::new(),
        }
    }

    fn settle(&mut self) {
        self.now += 1 + self.rng.below(4000) as u64;
        let mut commands = Vec::new();
        self.owner.take_commands(&mut commands);
        self.owner.check_invariants();
        for command in commands {
            match command {
                Command::Peer { to, message: Peer::Call { call }, .. } => {
                    let fine = |payload: &Payload| !self.is_known_dead(&payload.value) && !payload.value.is_error();
                    assert!(call.args.deps.iter().all(|(_, payload)| fine(payload)), "a call leaves with a lost argument");
                    // What goes to the dead is lost.
                    if self.alive.contains(&to.node().0) || to.node().0 == 0 {
                        self.sent.push((to, call));
                    }
                }
                Command::Peer { to, message: Peer::Recall { tasks }, .. } => self.recalls.push((to, tasks)),
                Command::Peer { message: Peer::Fetch { ids }, .. } => self.fetches.extend(ids),
                Command::Peer { to, message: Peer::Borrow { token, .. }, .. } => self.owner.on_peer(self.now, to, Peer::BorrowAck { token, gone: vec![] }),
                Command::Node(ToNode::LeaseWant { class, want, .. }) => _ = self.wants.insert(class, want),
                Command::Wake(wait) => {
                    let ids = self.waits.remove(&wait).expect("woken once");
                    self.owner.wait_end(wait, &ids);
                    ids.into_iter().for_each(|id| self.owner.release_local(id));
                }
                _ => {}
            }
        }
        for id in self.owner.ids() {
            if let Some(value) = self.owner.value(id) {
                assert!(!self.is_known_dead(value), "{id:?} is on a dead node");
                if let (Value::Inline(bytes), true) = (value, value.is_error() && self.solid.contains(&id)) {
                    assert!(bytes[0] == FLAG_RAISED, "{id:?}: {:?}", system_error_fields(&bytes[1..]));
                }
            }
        }
    }

    fn is_known_dead(&self, value: &Value) -> bool {
        matches!(value, Value::Shm(range) if self.known_dead.contains(&range.extent.node().0))
    }

    fn shm(&mut self, node: u16) -> Value {
        self.slot += 1;
        let len = 4096 << self.rng.below(12);
        Value::shm(ShmRange { extent: ExtentId::in_memory(NodeIndex(node), 1), offset: self.slot << 32, len })
    }

    fn value(&mut self, node: u16) -> Value {
        match self.rng.chance(35) {
            true => Value::inline(b"\0small"),
            false => self.shm(node),
        }
    }

    fn some_handles(&mut self, most: usize) -> Vec<ObjectId> {
        let count = if self.handles.is_empty() { 0 } else { self.rng.below(most + 1) };
        (0..count).map(|_| self.handles[self.rng.below(self.handles.len())]).collect()
    }

    fn submits(&mut self) {
        let mut deps = self.some_handles(3);
        deps.retain(|id| !id.is_actor());
        let nested = self.some_handles(1);
        let is_method = self.rng.chance(20);
        let template = if is_method { self.methods.clone() } else { self.templates[self.rng.below(self.templates.len())].clone() };
        let mut args = CallArgs { body: Value::inline(b"\0body"), body_id: ObjectId::NIL, deps, nested };
        if self.rng.chance(10) {
            args.body = self.shm(0);
            args.body_id = self.owner.put(plain(args.body.clone()));
        }
        let solid = template.max_retries < 0 && args.deps.iter().chain(&args.nested).all(|id| self.solid.contains(id));
        let body_id = args.body_id;
        let call = self.owner.submit(self.now, &template, args).expect("no limit");
        if !body_id.is_nil() {
            self.owner.release_local(body_id);
        }
        for index in 1..=u64::from(template.num_returns) {
            let id = ObjectId::new(self.owner.me(), call, index);
            self.handles.push(id);
            if solid && self.remembers_all {
                self.solid.insert(id);
            }
        }
    }

    fn puts(&mut self) {
        let refs = if self.rng.chance(30) { self.some_handles(2) } else { vec![] };
        let value = self.value(0);
        let solid = refs.is_empty() && matches!(value, Value::Inline(_));
        let id = self.owner.put(Payload { value, refs });
        if solid {
            self.solid.insert(id);
        }
        self.handles.push(id);
    }

    fn borrows(&mut self) {
        let id = ObjectId::new(proc_on(LENDER, 1), 1 + self.rng.below(5) as u64, 0);
        self.owner.add_local(id);
        self.owner.register_borrow(id);
        self.handles.push(id);
    }

    fn drops(&mut self) {
        if !self.handles.is_empty() {
            let at = self.rng.below(self.handles.len());
            let id = self.handles.swap_remove(at);
            self.owner.release_local(id);
        }
    }

    fn waits(&mut self) {
        let ids = self.some_handles(9);
        if let Some(wait) = self.owner.wait_start(&ids, ids.len(), Default::default()) {
            ids.iter().for_each(|id| self.owner.add_local(*id));
            self.waits.insert(wait, ids);
        }
    }

    fn grants(&mut self) -> bool {
        let wanted: Vec<ClassId> = self.wants.iter().filter(|(_, want)| **want > 0).map(|(class, _)| *class).collect();
        if wanted.is_empty() {
            return false;
        }
        let class = wanted[self.rng.below(wanted.len())];
        *self.wants.get_mut(&class).expect("listed") -= 1;
        let node = if self.rng.chance(20) { 0 } else { self.alive[self.rng.below(self.alive.len())] };
        self.counter += 1;
        let (worker, lease) = (proc_on(node, self.counter), LeaseId::new(NodeIndex(node), u64::from(self.counter)));
        self.workers.insert(worker);
        self.owner.on_node(self.now, FromNode::LeaseGrant { class, lease, worker, pid: 7, gpu_ids: vec![] });
        true
    }

    fn answers(&mut self) -> bool {
        if self.sent.is_empty() {
            return false;
        }
        let at = self.rng.below(self.sent.len());
        let (worker, call) = self.sent.remove(at);
        if call.actor_seq.is_none() && self.sent[..at].iter().any(|(to, _)| *to == worker) && self.rng.chance(60) {
            // Not started: an earlier one runs.
            let later = self.sent[at..].iter().filter(|(to, _)| *to == worker).map(|(_, call)| call.task);
            let tasks: Vec<u64> = [call.task].into_iter().chain(later).collect();
            self.sent.retain(|(to, call)| *to != worker || !tasks.contains(&call.task));
            self.owner.on_peer(self.now, worker, Peer::Returned { tasks, blocked: true });
            return true;
        }
        // What was made once can be made again.
        let failed = call.attempt == 0 && self.rng.chance(6);
        let mut results: Vec<Payload> = Vec::new();
        for _ in 0..if failed { 1 } else { call.num_returns } {
            let value = if failed { Value::inline(vec![FLAG_RAISED, 1]) } else { self.value(worker.node().0) };
            let mut refs = Vec::new();
            if !failed && self.rng.chance(20) {
                refs.extend(call.args.nested.iter().chain(call.args.deps.iter().map(|(id, _)| id)).filter(|id| id.owner == self.owner.me()));
            }
            results.push(Payload { value, refs });
        }
        let outcome = if failed { Outcome::Raised { retryable: true } } else { Outcome::Returned {} };
        let leaving = self.rng.chance(3) && call.actor_seq.is_none();
        let reply = Box::new(Reply { task: call.task, outcome, results, retained: vec![], leaving });
        if leaving {
            self.sent.retain(|(to, _)| *to != worker);
            self.workers.remove(&worker);
        }
        self.owner.on_peer(self.now, worker, Peer::Reply { reply });
        true
    }

    fn node_dies(&mut self) {
        let node = self.alive.swap_remove(self.rng.below(self.alive.len()));
        self.alive.push(self.next_node);
        self.next_node += 1;
        self.sent.retain(|(to, _)| to.node().0 != node);
        let dead: Vec<ProcId> = self.workers.iter().filter(|worker| worker.node().0 == node).copied().collect();
        for proc_id in dead {
            self.workers.remove(&proc_id);
            self.news.push(VecDeque::from([FromNode::ProcDied { proc_id, evidence: evidence(true) }]));
        }
        self.news.push(VecDeque::from([FromNode::NodeDied { node: NodeIndex(node), text: "silence".into() }]));
        if self.actor_at.node().0 == node {
            self.news.push(VecDeque::from([FromNode::ProcDied { proc_id: self.actor_at, evidence: evidence(true) }]));
            self.actor_restarts();
        }
    }

    fn actor_restarts(&mut self) {
        self.counter += 1;
        self.actor_at = proc_on(self.alive[self.rng.below(self.alive.len())], self.counter);
        let changed = |state| FromNode::ActorChanged { actor: self.actor, state };
        let restarting = ActorState::Restarting { cause: system_error("actor_unavailable", &[]) };
        let alive = ActorState::Alive { proc_id: self.actor_at, incarnation: self.counter };
        self.news.push(VecDeque::from([changed(restarting), changed(alive)]));
    }

    fn hears(&mut self) -> bool {
        if self.news.is_empty() {
            return false;
        }
        let at = self.rng.below(self.news.len());
        // The actor's news keep their order.
        let at = if matches!(self.news[at][0], FromNode::ActorChanged { .. }) {
            self.news.iter().position(|queue| matches!(queue[0], FromNode::ActorChanged { .. })).expect("one at least")
        } else {
            at
        };
        let message = self.news[at].pop_front().expect("not empty");
        if self.news[at].is_empty() {
            self.news.remove(at);
        }
        if let FromNode::NodeDied { node, .. } = &message {
            self.known_dead.insert(node.0);
        }
        self.owner.on_node(self.now, message);
        true
    }

    /// What was asked back and has not started leaves its worker.
    fn gives_back(&mut self) -> bool {
        let Some((worker, asked)) = self.recalls.pop() else { return false };
        if self.workers.contains(&worker) {
            let there: Vec<u64> = self.sent.iter().filter(|(to, _)| *to == worker).map(|(_, call)| call.task).collect();
            let tasks: Vec<u64> = there.into_iter().skip(1).filter(|task| asked.contains(task)).collect();
            self.sent.retain(|(to, call)| *to != worker || !tasks.contains(&call.task));
            self.owner.on_peer(self.now, worker, Peer::Returned { tasks, blocked: false });
        }
        true
    }

    fn lender_answers(&mut self) -> bool {
        let Some((id, request)) = self.fetches.pop() else { return false };
        let node = [0, LENDER, self.alive[0]][self.rng.below(3)];
        let value = self.value(node);
        self.owner.on_peer(self.now, id.owner, Peer::Fetched { id, request, payload: plain(value) });
        true
    }

    fn reads_in_vain(&mut self) {
        for id in self.some_handles(1) {
            if let Some(Value::Shm(range)) = self.owner.value(id).cloned() {
                let is_hopeless = self.known_dead.contains(&range.extent.node().0) || range.extent.node().0 == 0;
                if !is_hopeless && id.index() != 0 {
                    self.owner.value_lost(self.now, id, *range);
                }
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=21 => self.submits(),
            22..=27 => self.puts(),
            28..=29 => self.borrows(),
            30..=46 => self.drops(),
            47..=50 => self.waits(),
            51..=61 => _ = self.grants(),
            62..=84 => _ = self.answers(),
            85..=93 => _ = self.hears(),
            94 => _ = self.lender_answers(),
            95 => _ = self.gives_back(),
            96 => self.reads_in_vain(),
            97 => _ = self.owner.tick(self.now),
            98 => self.owner.return_idle_leases(),
            _ => self.node_dies(),
        }
        self.settle();
    }

    fn drain(&mut self) {
        for _ in 0..200_000 {
            let any = self.hears() | self.lender_answers() | self.gives_back() | self.answers() | self.grants();
            self.settle();
            if !any && self.sent.is_empty() && self.news.is_empty() {
                break;
            }
        }
        assert!(self.waits.is_empty(), "never woken: {:?}\n{}", self.waits, self.owner.leftovers().join("\n"));
        for id in std::mem::take(&mut self.handles) {
            let is_over = id.owner != self.owner.me() || self.owner.get(id).is_some_and(|object| object.state != State::Pending);
            assert!(is_over, "{id:?} never became ready\n{}", self.owner.leftovers().join("\n"));
            self.owner.release_local(id);
            self.settle();
        }
        self.owner.return_idle_leases();
        self.owner.release_local(self.actor);
        let over = ActorState::Dead { cause: system_error("actor_died", &[]) };
        self.owner.on_node(self.now, FromNode::ActorChanged { actor: self.actor, state: over });
        self.settle();
        let sizes = self.owner.sizes();
        assert_eq!((sizes.0, sizes.1, self.owner.lineage_size()), (0, 0, (0, 0)), "left over:\n{}", self.owner.leftovers().join("\n"));
    }
}

#[test]
fn random_losses_leave_consistent_tables_and_nothing_at_the_end() {
    let seeds = option_env!("SEEDS").and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 1..=seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.actor_restarts();
            (0..1500).for_each(|_| world.step());
            world.drain();
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}
