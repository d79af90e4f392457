//! Workers that end before they have said hello: events in, commands out.

use ray_logic::node::{MemoryRules, Node, NodeCommand, NodeConfig};
use ray_proto::msg::{Evidence, FromNode, ToNode};
use ray_proto::{ClassId, NodeIndex, ProcId, Resources, Strategy};

fn node() -> (Node, ProcId) {
    let config = NodeConfig {
        index: NodeIndex::HEAD,
        total: Resources::from_f64([("CPU", 1.0)]),
        store_bytes: 1 << 30,
        job: Some(Default::default()),
        warm_workers: 0,
        idle_worker: 1_000_000,
        infeasible_is_error: false,
        spill: None,
        memory: MemoryRules { refresh: None, growth_bytes: None, ..MemoryRules::default() },
    };
    let mut node = Node::alone(config);
    let driver = node.driver_connected(1, 16);
    let class = ClassId(1);
    node.on_message(0, driver, ToNode::DefineClass { class, shape: Resources::from_f64([("CPU", 1.0)]), env: String::new(), strategy: Strategy::DEFAULT });
    node.on_message(0, driver, ToNode::LeaseWant { class, granted: 0, want: 1 });
    (node, driver)
}

fn failed(pid: u32) -> Evidence {
    Evidence { pid, exit_code: 1, stderr_tail: "no more threads".into(), ..Evidence::default() }
}

/// The workers asked for and what the driver was told, since the last time.
fn asked(node: &mut Node) -> (Vec<ProcId>, Vec<String>) {
    let mut commands = Vec::new();
    node.take_commands(&mut commands);
    let (mut forks, mut notices) = (vec![], vec![]);
    for command in commands {
        match command {
            NodeCommand::Fork { proc_id, .. } => forks.push(proc_id),
            NodeCommand::Send { message: FromNode::Notice { text }, .. } => notices.push(text),
            _ => {}
        }
    }
    (forks, notices)
}

#[test]
fn workers_that_end_before_their_hello_are_replaced_twice_at_once_and_then_once_a_second() {
    let (mut node, _) = node();
    let mut now = 0;
    for round in 0..2 {
        let (forks, notices) = asked(&mut node);
        assert_eq!((forks.len(), notices.len()), (1, 0), "round {round}");
        node.proc_exited(now, forks[0], failed(7));
    }
    let (forks, _) = asked(&mut node);
    node.proc_exited(now, forks[0], failed(8));
    let (forks, notices) = asked(&mut node);
    assert!(forks.is_empty());
    assert!(notices[0].contains("exited with code 1") && notices[0].contains("no more threads"), "{notices:?}");
    for _ in 0..10 {
        let due = node.tick(now).expect("it will try again");
        assert!(due >= now + 1_000_000);
        now = due;
        node.tick(now);
        let (forks, notices) = asked(&mut node);
        assert_eq!((forks.len(), notices.len()), (1, 0));
        node.proc_exited(now, forks[0], failed(9));
    }
}

#[test]
fn a_worker_that_says_hello_ends_the_count() {
    let (mut node, driver) = node();
    for granted in 1..=5 {
        let (forks, notices) = asked(&mut node);
        assert_eq!((forks.len(), notices.len()), (1, 0));
        node.proc_exited(0, forks[0], failed(7));
        let (forks, _) = asked(&mut node);
        node.on_message(0, forks[0], ToNode::Hello { protocol: 1, pid: 9, max_links: 1 });
        node.proc_exited(0, forks[0], failed(9));
        let (wanted, _) = asked(&mut node);
        // The lease ended with its worker: the owner asks again.
        assert!(wanted.is_empty());
        node.on_message(0, driver, ToNode::LeaseWant { class: ClassId(1), granted, want: 1 });
    }
}
