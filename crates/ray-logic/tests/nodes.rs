//! What an owner tells of values that travel, and where it sends calls among several nodes: events in, commands out.

mod stage;

use ray_logic::owner::{Command, Limits, Owner};
use ray_proto::msg::{FromNode, Peer, ToNode};
use ray_proto::{ClassId, NodeIndex, ObjectId, Payload, ProcId, Resources, Strategy, Value};

use stage::*;

#[test]
fn freed_objects_that_others_may_have_copies_of_are_told_once_per_event() {
    let mut stage = Stage::new();
    let (local, remote) = (stage.owner.put(plain(on(0, 0))), stage.made(1, 0, &[], 0));
    let (lent, near) = (stage.owner.put(plain(on(0, 1))), stage.owner.put(plain(on(0, 2))));
    for (borrower, id) in [(proc_on(2, 9), lent), (proc_on(0, 9), near)] {
        stage.owner.on_peer(0, borrower, Peer::Borrow { ids: vec![id], token: 0 });
        stage.owner.on_peer(0, borrower, Peer::Release { ids: vec![(id, 1)] });
    }
    stage.owner.add_view(remote, range_on(1, 0));
    stage.owner.note_copied(remote);
    stage.owner.release_view(remote);
    let inside = vec![local, remote, lent, near];
    let container = stage.owner.put(Payload { value: Value::inline(b"\0"), refs: inside.clone() });
    stage.drop_all(&inside);
    assert_eq!(freed(&stage.taken()), []);
    stage.drop_all(&[container]);
    let commands = stage.taken();
    assert_eq!(commands.iter().filter(|command| matches!(command, Command::Node(ToNode::Freed { .. }))).count(), 1);
    let mut told = freed(&commands);
    told.sort_unstable();
    assert_eq!(told, [(remote, NodeIndex(1)), (lent, NodeIndex(0))]);
    let done = |command: &&Command| matches!(command, Command::Node(ToNode::CopyDone { .. }));
    assert_eq!(commands.iter().filter(done).collect::<Vec<_>>(), [&Command::Node(ToNode::CopyDone { id: remote })]);
    stage.assert_empty();
}

#[test]
fn copy_of_a_borrowed_object_is_done_when_its_entry_goes() {
    let mut stage = Stage::new();
    let foreign = ObjectId::new(proc_on(1, 9), 1, 0);
    stage.owner.add_view(foreign, range_on(1, 0));
    stage.owner.note_copied(foreign);
    stage.taken();
    stage.owner.release_view(foreign);
    assert_eq!(stage.taken(), [Command::Node(ToNode::CopyDone { id: foreign })]);
}

fn classes(commands: &[Command]) -> Vec<(ClassId, Strategy)> {
    let of = |command: &Command| match command {
        Command::Node(ToNode::DefineClass { class, strategy, .. }) => Some((*class, strategy.clone())),
        _ => None,
    };
    commands.iter().filter_map(of).collect()
}

fn wants(commands: &[Command]) -> Vec<(ClassId, u32)> {
    let of = |command: &Command| match command {
        Command::Node(ToNode::LeaseWant { class, want, .. }) => Some((*class, *want)),
        _ => None,
    };
    commands.iter().filter_map(of).collect()
}

#[test]
fn call_goes_to_the_bytes_of_its_arguments_and_anywhere_when_their_node_dies() {
    let mut stage = Stage::new();
    let far = stage.made(1, 3, &[], 0);
    let here = stage.owner.put(plain(on(0, 0)));
    stage.submit(3, &[far, here]);
    stage.taken();
    stage.submit(3, &[far]);
    let commands = stage.taken();
    let (near, strategy) = classes(&commands).pop().expect("a class near the bytes");
    assert_eq!(strategy, Strategy::Near { node: NodeIndex(1) });
    assert_eq!(wants(&commands), [(near, 1)]);
    stage.submit(3, &[far]);
    assert_eq!((classes(&stage.commands), wants(&stage.commands)), (vec![], vec![(near, 2)]), "the class is known by now");
    stage.taken();
    stage.node_dies(1);
    let commands = stage.taken();
    assert!(wants(&commands).contains(&(near, 0)), "nothing waits there: {commands:?}");
    stage.runs(2, far.call(), vec![plain(Value::inline(b"\0"))]);
    assert_eq!((stage.sent.len(), wants(&stage.taken()).last()), (1, Some(&(stage.class, 2))), "the worker has the first of three");
}

#[test]
fn call_returned_from_the_neighbourhood_of_a_dead_node_is_queued_with_the_others() {
    let mut stage = Stage::new();
    let far = stage.made(1, 3, &[], 0);
    stage.taken();
    let call = stage.submit(0, &[far]);
    let near = classes(&stage.commands)[0].0;
    // Nearby was no room.
    let worker = stage.grant(near, 2);
    assert_eq!(stage.sent_to(worker)[0].task, call);
    stage.node_dies(1);
    stage.runs(2, far.call(), vec![plain(on(2, 0))]);
    stage.taken();
    stage.owner.on_peer(stage.now, worker, Peer::Returned { tasks: vec![call], blocked: true });
    assert_eq!(wants(&stage.taken()), [(stage.class, 1)]);
}

#[test]
fn capacity_of_the_cluster_bounds_workers_also_of_calls_that_need_nothing() {
    let cpu = |n: f64| Resources::from_f64([("CPU", n)]);
    let owner = Owner::new(proc_on(0, 1), cpu(1.0), Limits::default());
    let mut stage = Stage::of(owner, &Resources::default());
    let class = stage.class;
    let calls: Vec<u64> = (0..1000).map(|_| stage.submit(0, &[])).collect();
    assert_eq!(wants(&stage.taken()).last(), Some(&(class, 8)));
    stage.owner.on_node(0, FromNode::Capacity { total: cpu(64.0), nodes: 2 });
    assert_eq!(wants(&stage.taken()), [(class, 256)]);
    stage.owner.on_node(0, FromNode::Capacity { total: cpu(1.0), nodes: 1 });
    stage.settle();
    let workers: Vec<ProcId> = (0..8).map(|_| stage.grant(class, 0)).collect();
    assert!(workers.iter().all(|worker| stage.sent_to(*worker).len() == 1));
    assert_eq!(stage.wants[&class], 0);
    // Those that block let others in.
    stage.owner.on_peer(0, workers[0], Peer::Returned { tasks: vec![], blocked: true });
    stage.settle();
    assert_eq!((stage.wants[&class], calls.len()), (1, 1000));
}
