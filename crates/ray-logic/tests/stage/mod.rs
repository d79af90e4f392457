//! A driver on the first of three nodes, with everything that it hears told by the test. Invariants are checked after each event.

#![allow(dead_code, reason = "each test file uses a part")]

use ray_logic::owner::{ActorOptions, CallArgs, CallKind, Command, Limits, Owner, State, StreamOptions, Template};
use ray_proto::msg::{Call, Evidence, FromNode, Outcome, Peer, Reply, ToNode};
use ray_proto::value::system_error_fields;
use ray_proto::{ClassId, ExtentId, LeaseId, NodeIndex, ObjectId, Payload, ProcId, Resources, ShmRange, Strategy, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SIZE: u64 = 4 << 20;

pub fn proc_on(node: u16, counter: u32) -> ProcId {
    ProcId::new(1, NodeIndex(node), counter)
}

/// A value in memory of `node`.
pub fn on(node: u16, slot: u64) -> Value {
    Value::shm(range_on(node, slot))
}

pub fn range_on(node: u16, slot: u64) -> ShmRange {
    ShmRange { extent: ExtentId::in_memory(NodeIndex(node), 1), offset: slot * SIZE, len: SIZE }
}

pub fn plain(value: Value) -> Payload {
    Payload { value, refs: vec![] }
}

pub fn evidence(node_lost: bool) -> Evidence {
    Evidence { pid: 7, signal: 9, node_lost, ..Evidence::default() }
}

/// An actor that needs nothing and always restarts.
pub fn actor_options() -> ActorOptions {
    ActorOptions {
        class_name: "A".into(),
        payload: b"a"[..].into(),
        held: Resources::default(),
        to_place: Resources::default(),
        env: String::new(),
        max_restarts: -1,
        name: String::new(),
        namespace: String::new(),
        detached: false,
        strategy: Strategy::DEFAULT,
    }
}

pub struct Stage {
    pub owner: Owner,
    pub now: u64,
    pub granted: u32,
    pub class: ClassId,
    /// Leases asked for and not granted.
    pub wants: BTreeMap<ClassId, u32>,
    /// Calls sent and not looked at.
    pub sent: Vec<(ProcId, Box<Call>)>,
    /// Other commands.
    pub commands: Vec<Command>,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    /// A driver on node 0 of three.
    pub fn with(limits: Limits) -> Self {
        let cpus = |n: f64| Resources::from_f64([("CPU", n)]);
        let mut stage = Self::of(Owner::new(proc_on(0, 1), cpus(4.0), limits), &cpus(1.0));
        stage.owner.on_node(0, FromNode::Capacity { total: cpus(12.0), nodes: 3 });
        stage
    }

    pub fn of(mut owner: Owner, shape: &Resources) -> Self {
        let class = owner.class_for(shape, "", &Strategy::DEFAULT);
        Stage { owner, now: 0, granted: 0, class, wants: BTreeMap::new(), sent: vec![], commands: vec![] }
    }

    /// What the last events led to.
    pub fn settle(&mut self) {
        self.now += 1;
        let mut commands = Vec::new();
        self.owner.take_commands(&mut commands);
        self.owner.check_invariants();
        for command in commands {
            match command {
                Command::Peer { to, message: Peer::Call { call }, .. } => self.sent.push((to, call)),
                command => {
                    if let Command::Node(ToNode::LeaseWant { class, want, .. }) = &command {
                        self.wants.insert(*class, *want);
                    }
                    self.commands.push(command);
                }
            }
        }
    }

    pub fn taken(&mut self) -> Vec<Command> {
        self.settle();
        std::mem::take(&mut self.commands)
    }

    pub fn template(&mut self, kind: CallKind, num_returns: u32, max_retries: i32, stream: bool) -> Arc<Template> {
        let stream = stream.then_some(StreamOptions { window: None, gather: false });
        self.owner.template(Template {
            id: Default::default(),
            kind,
            name: "work".into(),
            payload: b"code"[..].into(),
            num_returns,
            max_retries,
            retry_raised: false,
            max_calls: 0,
            stream,
        })
    }

    pub fn submit_to(&mut self, template: &Arc<Template>, deps: &[ObjectId], nested: &[ObjectId]) -> u64 {
        let args = CallArgs { body: Value::inline(b"\0body"), body_id: ObjectId::NIL, deps: deps.to_vec(), nested: nested.to_vec() };
        let call = self.owner.submit(self.now, template, args).expect("no limit");
        self.settle();
        call
    }

    pub fn submit(&mut self, max_retries: i32, deps: &[ObjectId]) -> u64 {
        let template = self.template(CallKind::Task { class: self.class }, 1, max_retries, false);
        self.submit_to(&template, deps, &[])
    }

    pub fn ret(&self, call: u64, index: u64) -> ObjectId {
        ObjectId::new(self.owner.me(), call, index)
    }

    /// A worker of `node` for the class.
    pub fn grant(&mut self, class: ClassId, node: u16) -> ProcId {
        self.granted += 1;
        let (lease, worker) = (LeaseId::new(NodeIndex(node), u64::from(self.granted)), proc_on(node, 100 + self.granted));
        *self.wants.entry(class).or_insert(1) -= 1;
        self.owner.on_node(self.now, FromNode::LeaseGrant { class, lease, worker, pid: 7, gpu_ids: vec![] });
        self.settle();
        worker
    }

    pub fn sent_to(&mut self, worker: ProcId) -> Vec<Call> {
        self.settle();
        let (found, rest) = std::mem::take(&mut self.sent).into_iter().partition(|(to, _)| *to == worker);
        self.sent = rest;
        Vec::into_iter(found).map(|(_, call)| *call).collect()
    }

    /// Workers of `node` are granted until one of them gets that very call.
    pub fn start(&mut self, node: u16, call: u64) -> (ProcId, Box<Call>) {
        for _ in 0..20 {
            if let Some(at) = self.sent.iter().position(|(_, sent)| sent.task == call) {
                return self.sent.remove(at);
            }
            let wanted = self.wants.iter().find(|(_, want)| **want > 0).map(|(class, _)| *class);
            self.grant(wanted.expect("a worker is wanted"), node);
        }
        panic!("call {call} is not sent");
    }

    pub fn reply(&mut self, worker: ProcId, task: u64, results: Vec<Payload>) {
        let reply = Box::new(Reply { task, outcome: Outcome::Returned {}, results, retained: vec![], leaving: false });
        self.owner.on_peer(self.now, worker, Peer::Reply { reply });
        self.settle();
    }

    /// A worker of `node` runs the call.
    pub fn runs(&mut self, node: u16, call: u64, results: Vec<Payload>) -> Box<Call> {
        let (worker, sent) = self.start(node, call);
        self.reply(worker, call, results);
        self.owner.return_idle_leases();
        self.settle();
        sent
    }

    /// A task that has ended, with its value on `node`; its one return.
    pub fn made(&mut self, node: u16, max_retries: i32, deps: &[ObjectId], slot: u64) -> ObjectId {
        let call = self.submit(max_retries, deps);
        self.runs(node, call, vec![plain(on(node, slot))]);
        self.ret(call, 1)
    }

    pub fn node_dies(&mut self, node: u16) {
        self.owner.on_node(self.now, FromNode::NodeDied { node: NodeIndex(node), text: "no word from it for 4.5 s".into() });
        self.settle();
    }

    pub fn proc_dies(&mut self, proc_id: ProcId) {
        self.owner.on_node(self.now, FromNode::ProcDied { proc_id, evidence: evidence(true) });
        self.settle();
    }

    pub fn is_pending(&self, id: ObjectId) -> bool {
        self.owner.get(id).is_some_and(|object| object.state == State::Pending)
    }

    pub fn error(&self, id: ObjectId) -> String {
        let Some(Value::Inline(bytes)) = self.owner.value(id) else { panic!("{:?} is no error", self.owner.get(id)) };
        let fields = system_error_fields(&bytes[1..]);
        assert_eq!(fields[0], ("code".to_owned(), "object_lost".to_owned()));
        fields.into_iter().find(|(key, _)| key == "message").expect("a message").1
    }

    pub fn drop_all(&mut self, ids: &[ObjectId]) {
        for id in ids {
            self.owner.release_local(*id);
            self.settle();
        }
    }

    pub fn assert_empty(&self) {
        let (objects, tasks, _, _) = self.owner.sizes();
        assert_eq!((objects, tasks, self.owner.lineage_size()), (0, 0, (0, 0)), "{:?}", self.owner.leftovers());
    }
}

pub fn hex(id: ObjectId) -> String {
    ray_proto::hex(&id.bytes())
}

pub fn freed(commands: &[Command]) -> Vec<(ObjectId, NodeIndex)> {
    let of = |command: &Command| match command {
        Command::Node(ToNode::Freed { ids }) => Some(ids.clone()),
        _ => None,
    };
    commands.iter().filter_map(of).flatten().collect()
}

pub fn fetches(commands: &[Command]) -> Vec<(ObjectId, u64)> {
    let of = |command: &Command| match command {
        Command::Peer { message: Peer::Fetch { ids }, .. } => Some(ids.clone()),
        _ => None,
    };
    commands.iter().filter_map(of).flatten().collect()
}
