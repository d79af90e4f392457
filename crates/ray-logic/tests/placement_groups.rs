//! Placement groups over two nodes: what is asked of nodes, what they answer, and what becomes of a round that fails.

use ray_logic::head::{Head, HeadConfig, MemoryLog};
use ray_logic::node::{MemoryRules, Node, NodeCommand, NodeConfig};
use ray_proto::cluster::{JobSpec, Joining, NodeInfo, NodeMessage};
use ray_proto::groups::{GroupLife, GroupSpec, Packing};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::wire::PROTOCOL;
use ray_proto::{Blob, GroupId, NodeIndex, ProcId, Resources};
use std::collections::VecDeque;

const OTHER: NodeIndex = NodeIndex(1);
/// Longer than a reservation stands.
const LATER: u64 = 3_000_000;

struct Two {
    now: u64,
    nodes: [Node; 2],
    /// Messages on their way: from, to.
    wire: VecDeque<(usize, usize, NodeMessage)>,
    driver: ProcId,
    told: Vec<FromNode>,
}

fn config(index: NodeIndex, cpus: f64) -> NodeConfig {
    NodeConfig {
        index,
        total: Resources::from_f64([("CPU", cpus)]),
        store_bytes: 1 << 30,
        job: Some(JobSpec::default()),
        warm_workers: 0,
        idle_worker: 1_000_000,
        infeasible_is_error: false,
        spill: None,
        memory: MemoryRules::default(),
    }
}

fn info(number: u8, cpus: f64) -> NodeInfo {
    NodeInfo {
        index: NodeIndex::HEAD,
        node_id: Blob::from(vec![number; 28]),
        address: format!("10.0.0.{number}:1"),
        host: String::new(),
        pid: 1,
        total: Resources::from_f64([("CPU", cpus)]),
        labels: Default::default(),
        python: "3".into(),
        started_ms: 0,
        death: String::new(),
    }
}

fn spec(packing: Packing, cpus: &[f64]) -> Box<GroupSpec> {
    Box::new(GroupSpec {
        bundles: cpus.iter().map(|n| Resources::from_f64([("CPU", *n)])).collect(),
        selectors: vec![],
        packing,
        domain: String::new(),
        name: String::new(),
        namespace: String::new(),
        detached: false,
        soft_node: Blob::EMPTY,
        creator: None,
    })
}

impl Two {
    /// A head and another node, of so many CPUs each, and a driver at the head's.
    fn new(cpus: f64) -> Two {
        let head = Head::new(HeadConfig::default(), Box::new(MemoryLog::default()));
        let mut first = Node::with_head(config(NodeIndex::HEAD, cpus), head, 1, info(0, cpus));
        let driver = first.driver_connected(1, 4);
        let question = Joining::Join { protocol: PROTOCOL, release: "r".into(), info: info(1, cpus) };
        let Joining::Joined { index, infos, jobs } = first.head().expect("inside").join(1, question, "r", "3") else { panic!("refused") };
        assert_eq!(index, OTHER);
        let mut second = Node::new(config(OTHER, cpus));
        second.joined(1, infos, jobs);
        let mut two = Two { now: 1, nodes: [first, second], wire: VecDeque::new(), driver, told: vec![] };
        two.settle();
        two
    }

    fn take(&mut self) {
        for at in 0..2 {
            let mut commands = vec![];
            self.nodes[at].check_invariants();
            self.nodes[at].take_commands(&mut commands);
            for command in commands {
                match command {
                    NodeCommand::Net { to, message } => self.wire.push_back((at, usize::from(to.0), message)),
                    NodeCommand::Send { to, message } if to == self.driver => self.told.push(message),
                    _ => {}
                }
            }
        }
    }

    /// One message arrives. Views and heartbeats are not counted.
    fn step(&mut self) -> Option<NodeMessage> {
        self.take();
        loop {
            let (from, to, message) = self.wire.pop_front()?;
            self.nodes[to].on_node(self.now, NodeIndex(from as u16), message.clone());
            self.take();
            if !matches!(message, NodeMessage::View { .. } | NodeMessage::Nodes { .. } | NodeMessage::Heartbeat { .. } | NodeMessage::HeartbeatSeen { .. }) {
                return Some(message);
            }
        }
    }

    fn settle(&mut self) {
        while self.step().is_some() {}
    }

    fn ask(&mut self, message: ToNode) {
        self.nodes[0].on_message(self.now, self.driver, message);
        self.take();
    }

    fn create(&mut self, number: u64, spec: Box<GroupSpec>) -> GroupId {
        let group = GroupId { owner: self.driver, number };
        self.ask(ToNode::GroupCreate { token: 0, group, spec });
        group
    }

    fn lives(&mut self) -> Vec<GroupLife> {
        let life = |message: FromNode| if let FromNode::GroupIs { life, .. } = message { Some(life) } else { None };
        std::mem::take(&mut self.told).into_iter().filter_map(life).collect()
    }

    fn free(&self) -> [i64; 2] {
        [0, 1].map(|at: usize| self.nodes[at].available().get("CPU") / ray_proto::UNIT)
    }
}

#[test]
fn group_on_the_heads_own_node_is_there_in_one_event() {
    let mut two = Two::new(2.0);
    let group = two.create(1, spec(Packing::Pack {}, &[1.0, 1.0]));
    assert_eq!((two.lives(), two.free()), (vec![GroupLife::Created {}], [0, 2]));
    assert_eq!(two.step(), None);
    two.ask(ToNode::GroupRemove { group });
    assert!(matches!(&two.lives()[..], [GroupLife::Removed { .. }]));
    assert_eq!(two.free(), [2, 2]);
}

#[test]
fn group_on_two_nodes_takes_one_message_per_node_and_phase() {
    let mut two = Two::new(1.0);
    two.create(1, spec(Packing::StrictSpread {}, &[1.0, 1.0]));
    assert!(matches!(two.step(), Some(NodeMessage::ReserveBundles { commit: false, .. })));
    assert_eq!(two.lives(), []);
    assert!(matches!(two.step(), Some(NodeMessage::BundlesReserved { .. })));
    assert!(matches!(two.step(), Some(NodeMessage::CommitBundles { .. })));
    assert_eq!(two.lives(), []);
    assert!(matches!(two.step(), Some(NodeMessage::BundlesCommitted { .. })));
    assert_eq!((two.lives(), two.free()), (vec![GroupLife::Created {}], [0, 0]));
}

#[test]
fn refusal_of_one_node_gives_up_what_the_other_had_set_aside() {
    let mut two = Two::new(2.0);
    // The head does not know yet that the other node's CPUs are gone.
    let stranger = GroupId { owner: two.driver, number: 99 };
    let bundles = vec![(0, Resources::from_f64([("CPU", 2.0)]))];
    two.nodes[1].on_node(two.now, NodeIndex::HEAD, NodeMessage::ReserveBundles { group: stranger, round: 1, commit: true, bundles });
    two.create(1, spec(Packing::StrictSpread {}, &[1.0, 1.0]));
    assert_eq!(two.free(), [1, 0]);
    two.settle();
    assert_eq!((two.lives(), two.free()), (vec![], [2, 0]));
    two.nodes[1].on_node(two.now, NodeIndex::HEAD, NodeMessage::DropBundles { group: stranger, bundles: vec![0], reason: String::new() });
    two.now += LATER;
    two.nodes[1].tick(two.now);
    two.settle();
    assert_eq!((two.lives(), two.free()), (vec![GroupLife::Created {}], [1, 1]));
}

#[test]
fn removal_that_crosses_a_reservation_leaves_nothing_behind() {
    for steps in 0..5 {
        let mut two = Two::new(1.0);
        let group = two.create(1, spec(Packing::StrictSpread {}, &[1.0, 1.0]));
        (0..steps).for_each(|_| drop(two.step()));
        two.ask(ToNode::GroupRemove { group });
        two.settle();
        assert_eq!(two.free(), [1, 1], "removed after {steps} messages");
        assert!(two.nodes[0].head().expect("inside").leftovers().is_empty());
    }
}

#[test]
fn repeated_requests_get_the_same_answers_and_take_nothing_twice() {
    let mut two = Two::new(2.0);
    let group = GroupId { owner: two.driver, number: 1 };
    let bundles = vec![(0, Resources::from_f64([("CPU", 1.0)])), (1, Resources::from_f64([("CPU", 1.0)]))];
    for _ in 0..2 {
        let reserve = NodeMessage::ReserveBundles { group, round: 7, commit: false, bundles: bundles.clone() };
        two.nodes[1].on_node(two.now, NodeIndex::HEAD, reserve);
        assert_eq!(two.free(), [2, 0]);
    }
    for _ in 0..2 {
        two.nodes[1].on_node(two.now, NodeIndex::HEAD, NodeMessage::CommitBundles { group, round: 7 });
    }
    two.take();
    let answers: Vec<NodeMessage> = two.wire.drain(..).map(|(_, _, message)| message).filter(|message| !matches!(message, NodeMessage::View { .. })).collect();
    let (reserved, committed) = (NodeMessage::BundlesReserved { group, round: 7 }, NodeMessage::BundlesCommitted { group, round: 7 });
    assert_eq!(answers, [reserved.clone(), reserved, committed.clone(), committed]);
}

#[test]
fn reservation_that_nobody_commits_goes_back_and_a_late_commit_is_told_so() {
    let mut two = Two::new(1.0);
    let group = GroupId { owner: two.driver, number: 1 };
    let bundles = vec![(0, Resources::from_f64([("CPU", 1.0)]))];
    two.nodes[1].on_node(two.now, NodeIndex::HEAD, NodeMessage::ReserveBundles { group, round: 1, commit: false, bundles });
    assert_eq!(two.free(), [1, 0]);
    two.nodes[1].tick(two.now + LATER);
    assert_eq!(two.free(), [1, 1]);
    two.nodes[1].on_node(two.now + LATER, NodeIndex::HEAD, NodeMessage::CommitBundles { group, round: 1 });
    two.take();
    assert!(two.wire.iter().any(|(_, _, message)| *message == NodeMessage::BundlesExpired { group, round: 1 }));
}

#[test]
fn group_is_placed_anew_when_a_reservation_has_expired_before_its_commit() {
    let mut two = Two::new(1.0);
    two.create(1, spec(Packing::StrictSpread {}, &[1.0, 1.0]));
    assert!(matches!(two.step(), Some(NodeMessage::ReserveBundles { .. })));
    two.now += LATER;
    two.nodes[1].tick(two.now);
    assert_eq!(two.free()[1], 1);
    two.settle();
    assert_eq!((two.lives(), two.free()), (vec![GroupLife::Created {}], [0, 0]));
}

#[test]
fn death_of_a_node_in_every_phase_leaves_the_group_pending_and_nothing_reserved() {
    for steps in 0..5 {
        let mut two = Two::new(1.0);
        two.create(1, spec(Packing::StrictSpread {}, &[1.0, 1.0]));
        (0..steps).for_each(|_| drop(two.step()));
        let was_created = two.lives().contains(&GroupLife::Created {});
        let now = two.now;
        two.nodes[0].head().expect("inside").node_died(now, OTHER, "the test says so");
        two.wire.clear();
        two.take();
        // What had a place for good keeps it; what had not goes back.
        assert_eq!(two.free()[0], i64::from(!was_created), "died after {steps} messages");
        let last = if was_created { GroupLife::Rescheduling {} } else { GroupLife::Pending {} };
        assert_eq!(two.lives().last(), Some(&last));
    }
}

#[test]
fn group_that_is_watched_before_its_creation_has_come_is_pending_and_then_there() {
    let mut two = Two::new(2.0);
    let group = GroupId { owner: two.driver, number: 1 };
    two.ask(ToNode::GroupWatch { group });
    assert_eq!(two.lives(), [GroupLife::Pending {}]);
    two.create(1, spec(Packing::Pack {}, &[1.0]));
    assert_eq!(two.lives(), [GroupLife::Created {}]);
}

#[test]
fn group_that_is_removed_before_its_creation_has_come_holds_nothing() {
    let mut two = Two::new(2.0);
    let group = GroupId { owner: two.driver, number: 1 };
    two.ask(ToNode::GroupRemove { group });
    two.create(1, spec(Packing::Pack {}, &[1.0]));
    assert!(matches!(two.lives().last(), Some(GroupLife::Removed { .. })));
    assert_eq!(two.free(), [2, 2]);
}

#[test]
fn group_before_the_latest_of_its_creator_was_removed_or_never_is() {
    let mut two = Two::new(2.0);
    two.create(2, spec(Packing::Pack {}, &[1.0]));
    two.lives();
    two.ask(ToNode::GroupWatch { group: GroupId { owner: two.driver, number: 1 } });
    assert!(matches!(&two.lives()[..], [GroupLife::Removed { .. }]));
}
