//! Many nodes without work, for figures: what each costs the head per second, and how much memory a node takes. Nodes and head are the real ones; links are
//! a queue.

use ray_logic::head::{Head, HeadConfig, MemoryLog};
use ray_logic::node::{MemoryRules, Node, NodeCommand, NodeConfig};
use ray_logic::Time;
use ray_proto::cluster::{Joining, NodeInfo, NodeMessage};
use ray_proto::msg::ToNode;
use ray_proto::wire::{Wire, PROTOCOL};
use ray_proto::{ExtentId, NodeIndex, ProcId, Resources};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// From one node to another.
const DELAY: Time = 200;
const SECOND: Time = 1_000_000;
/// So long is each phase.
const SECONDS: u64 = 10;

enum Event {
    Tick,
    Net(NodeIndex, NodeMessage),
    /// The node's store gets fuller or emptier: its view changes.
    Change,
}

/// What one side did.
#[derive(Clone, Copy, Default)]
struct Work {
    events: u64,
    time: Duration,
    messages: u64,
    bytes: u64,
}

struct Field {
    now: Time,
    nodes: Vec<Node>,
    ticks: Vec<Time>,
    queue: BTreeMap<(Time, u64), (usize, Event)>,
    posted: u64,
    guests: HashMap<usize, (ProcId, Vec<ExtentId>)>,
    head: Work,
    others: Work,
}

/// Prints the table.
pub fn print(count: u64) {
    let before = resident_kib();
    let mut field = Field::new(count as usize);
    println!("{count} nodes; per node and second, over {SECONDS} s of their time");
    println!("{:<44}{:>12}{:>12}{:>12}{:>12}{:>12}", "", "head events", "head us", "head out", "head bytes", "node us");
    field.report("joining, one after another, 1 ms apart", field.now as f64 / SECOND as f64);
    let empty = resident_kib();
    field.run(SECONDS, 0);
    field.report("at rest", SECONDS as f64);
    let rest = resident_kib();
    field.run(SECONDS, count as usize / 10);
    field.report("10 % of the nodes change once a second", SECONDS as f64);
    let busy = resident_kib();
    let per_node = |to: u64| to.saturating_sub(before) as f64 / count as f64;
    println!(
        "memory per node, head's share included: {:.0} KiB joined, {:.0} KiB at rest, {:.0} KiB with changing views",
        per_node(empty),
        per_node(rest),
        per_node(busy)
    );
}

/// Of this process, from the kernel.
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

fn total() -> Resources {
    Resources::from_f64([("CPU", 16.0), ("memory", 64e9), ("object_store_memory", 16e9)])
}

fn info(number: usize) -> NodeInfo {
    NodeInfo {
        index: NodeIndex::HEAD,
        node_id: (0..28).map(|at| (number >> (at % 3 * 8)) as u8).collect::<Vec<u8>>().into(),
        address: format!("10.0.{}.{}:6379", number / 256, number % 256),
        host: format!("worker-{number}.example"),
        pid: 1,
        total: total(),
        labels: BTreeMap::new(),
        python: "3".into(),
        started_ms: 0,
        death: String::new(),
    }
}

fn config(index: NodeIndex) -> NodeConfig {
    NodeConfig {
        index,
        total: total(),
        store_bytes: 1 << 34,
        job: None,
        warm_workers: 0,
        idle_worker: SECOND,
        infeasible_is_error: false,
        spill: None,
        memory: MemoryRules::default(),
    }
}

impl Field {
    fn new(count: usize) -> Self {
        let head = Head::new(HeadConfig::default(), Box::new(MemoryLog::default()));
        let first = Node::with_head(config(NodeIndex::HEAD), head, 1, info(0));
        let (head, others) = (Work::default(), Work::default());
        let mut field = Field { now: 1, nodes: vec![first], ticks: vec![0], queue: BTreeMap::new(), posted: 0, guests: HashMap::new(), head, others };
        for number in 1..count {
            field.join(number);
            field.run_until(field.now + 1_000);
        }
        field
    }

    fn join(&mut self, number: usize) {
        let now = self.now;
        let question = Joining::Join { protocol: PROTOCOL, release: "r".into(), info: info(number) };
        let started = Instant::now();
        let answer = self.nodes[0].head().expect("the head").join(now, question, "r", "3");
        self.head.time += started.elapsed();
        let Joining::Joined { index, infos, jobs } = answer else { panic!("node {number} may not join: {answer:?}") };
        let mut node = Node::new(config(index));
        node.joined(now, infos, jobs);
        self.nodes.push(node);
        self.ticks.push(0);
        self.settle(0);
        self.settle(number);
    }

    fn post(&mut self, at: Time, to: usize, event: Event) {
        self.posted += 1;
        self.queue.insert((at, self.posted), (to, event));
    }

    /// So many of the nodes change once a second.
    fn run(&mut self, seconds: u64, changing: usize) {
        for at in 0..changing {
            let gap = SECOND / changing as u64;
            for second in 0..seconds {
                self.post(self.now + second * SECOND + at as u64 * gap, 1 + at, Event::Change);
            }
        }
        self.run_until(self.now + seconds * SECOND);
    }

    fn run_until(&mut self, until: Time) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), (to, event)) = entry.remove_entry();
            self.now = at;
            match event {
                Event::Tick => {}
                Event::Net(from, message) => {
                    self.timed(to, |node, now| node.on_node(now, from, message));
                    self.work(to).events += 1;
                }
                Event::Change => self.change(to),
            }
            self.settle(to);
        }
        self.now = until;
    }

    fn timed(&mut self, at: usize, act: impl FnOnce(&mut Node, Time)) {
        let started = Instant::now();
        act(&mut self.nodes[at], self.now);
        self.work(at).time += started.elapsed();
    }

    fn work(&mut self, at: usize) -> &mut Work {
        if at == 0 {
            &mut self.head
        } else {
            &mut self.others
        }
    }

    fn change(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let (guest, extents) = self.guests.entry(at).or_insert_with(|| (node.observer_connected(1), vec![]));
        let message = match extents.pop() {
            Some(extent) => ToNode::ExtentDrop { extent },
            None => ToNode::ExtentWant { token: 1, sizes: vec![1 << 20] },
        };
        node.on_message(now, *guest, message);
    }

    /// Time and commands of a node, as after each event.
    fn settle(&mut self, at: usize) {
        let (mut commands, mut deadline) = (Vec::new(), None);
        self.timed(at, |node, now| {
            node.tick(now);
            node.take_commands(&mut commands);
            deadline = node.tick(now);
            node.take_commands(&mut commands);
        });
        let from = self.nodes[at].index();
        for command in commands {
            match command {
                NodeCommand::Net { to, message } => self.send(from, to, message),
                NodeCommand::NewExtent { extent, .. } => _ = self.guests.get_mut(&at).map(|(_, extents)| extents.push(extent)),
                NodeCommand::Fence { reason } => panic!("node {at} ends itself: {reason}"),
                _ => {}
            }
        }
        if let Some(due) = deadline.filter(|due| self.ticks[at] <= self.now || *due < self.ticks[at]) {
            self.ticks[at] = due.max(self.now + 1);
            self.post(self.ticks[at], at, Event::Tick);
        }
    }

    fn send(&mut self, from: NodeIndex, to: NodeIndex, message: NodeMessage) {
        let started = Instant::now();
        let mut bytes = Vec::new();
        message.put(&mut bytes);
        let work = self.work(usize::from(from.0));
        work.time += started.elapsed();
        work.messages += 1;
        work.bytes += bytes.len() as u64;
        self.post(self.now + DELAY, usize::from(to.0), Event::Net(from, message));
    }

    fn report(&mut self, what: &str, seconds: f64) {
        let share = self.nodes.len() as f64 * seconds;
        let (head, others) = (std::mem::take(&mut self.head), std::mem::take(&mut self.others));
        let us = |work: &Work| work.time.as_secs_f64() * 1e6 / share;
        let (events, messages, bytes) = (head.events as f64 / share, head.messages as f64 / share, head.bytes as f64 / share);
        println!("{what:<44}{events:>12.1}{:>12.1}{messages:>12.1}{bytes:>12.0}{:>12.1}", us(&head), us(&others));
    }
}
