//! Items of generators that are lost with a node, as events in and commands out.

mod stage;

use ray_logic::owner::{CallKind, Command, Next};
use ray_proto::ids::END_INDEX;
use ray_proto::msg::{Outcome, Peer, Reply};
use ray_proto::{ObjectId, Payload, ProcId, Value};
use stage::*;

fn none() -> Payload {
    plain(Value::inline(b"\0none"))
}

/// A generator that nothing has run yet.
fn generator(stage: &mut Stage, max_retries: i32) -> u64 {
    let template = stage.template(CallKind::Task { class: stage.class }, 1, max_retries, true);
    stage.submit_to(&template, &[], &[])
}

fn yields(stage: &mut Stage, worker: ProcId, task: u64, first: u64, values: Vec<Value>) {
    let items = values.into_iter().map(plain).collect();
    stage.owner.on_peer(stage.now, worker, Peer::StreamItems { task, first, items });
    stage.settle();
}

fn next(stage: &mut Stage, call: u64) -> ObjectId {
    let Next::Item(id) = stage.owner.stream_next(call) else { panic!("no item of call {call}") };
    stage.settle();
    id
}

/// A generator that has given three items, on `node`, and ended; the worker it ran on.
fn ended(stage: &mut Stage, node: u16, max_retries: i32) -> u64 {
    let call = generator(stage, max_retries);
    let (worker, _) = stage.start(node, call);
    yields(stage, worker, call, 1, (0..3).map(|slot| on(node, slot)).collect());
    stage.reply(worker, call, vec![none()]);
    stage.owner.return_idle_leases();
    stage.settle();
    call
}

fn closes(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Peer { message: Peer::StreamClose { .. }, .. })).count()
}

#[test]
fn lost_items_are_made_again_and_no_others() {
    let mut stage = Stage::new();
    let call = ended(&mut stage, 1, 3);
    let (first, second) = (next(&mut stage, call), next(&mut stage, call));
    stage.drop_all(&[first]);
    stage.node_dies(1);
    assert!(stage.is_pending(second), "it was read, and somebody has it");
    let (worker, sent) = stage.start(2, call);
    let open = sent.stream.expect("a stream");
    assert_eq!((open.have, open.again, sent.attempt), (3, vec![(2, 3)], 1));
    assert_eq!(stage.owner.stream_next(call), Next::Item(stage.ret(call, 3)), "what was not read waits for its value");
    assert_eq!(stage.owner.stream_next(call), Next::Over);
    stage.taken();
    yields(&mut stage, worker, call, 2, vec![on(2, 1)]);
    yields(&mut stage, worker, call, 3, vec![on(2, 2)]);
    assert_eq!(closes(&stage.taken()), 1, "the rest of the generator is for nobody");
    stage.reply(worker, call, vec![none()]);
    let third = stage.ret(call, 3);
    assert_eq!((stage.owner.value(second), stage.owner.value(third)), (Some(&on(2, 1)), Some(&on(2, 2))));
    assert_eq!(stage.owner.lineage_size().0, 1, "it can happen again");
    stage.drop_all(&[second, third]);
    stage.owner.stream_dropped(call);
    stage.settle();
    stage.assert_empty();
}

#[test]
fn items_lost_while_their_generator_runs_are_asked_for_afterwards() {
    let mut stage = Stage::new();
    let call = generator(&mut stage, 3);
    let (worker, _) = stage.start(2, call);
    yields(&mut stage, worker, call, 1, vec![on(1, 0), on(2, 1)]);
    stage.node_dies(1);
    let first = next(&mut stage, call);
    assert!(stage.is_pending(first));
    yields(&mut stage, worker, call, 3, vec![on(2, 2)]);
    stage.reply(worker, call, vec![none()]);
    let (worker, sent) = stage.start(2, call);
    assert_eq!(sent.stream.expect("a stream").again, [(1, 1)]);
    yields(&mut stage, worker, call, 1, vec![on(2, 3)]);
    assert_eq!(stage.owner.value(first), Some(&on(2, 3)));
    stage.reply(worker, call, vec![none()]);
    stage.owner.stream_dropped(call);
    stage.drop_all(&[first]);
    stage.owner.return_idle_leases();
    stage.settle();
    stage.assert_empty();
}

#[test]
fn generator_that_went_with_its_items_makes_them_again_and_goes_on() {
    let mut stage = Stage::new();
    let call = generator(&mut stage, 1);
    let (worker, _) = stage.start(1, call);
    yields(&mut stage, worker, call, 1, vec![on(1, 0), on(1, 1)]);
    let first = next(&mut stage, call);
    stage.drop_all(&[first]);
    stage.node_dies(1);
    stage.proc_dies(worker);
    let (worker, sent) = stage.start(2, call);
    let open = sent.stream.expect("a stream");
    assert_eq!((open.have, open.again), (2, vec![(2, 2)]));
    yields(&mut stage, worker, call, 2, vec![on(2, 1)]);
    yields(&mut stage, worker, call, 3, vec![on(2, 2)]);
    assert_eq!(closes(&stage.taken()), 0, "its reader wants what follows");
    stage.reply(worker, call, vec![none()]);
    let rest = [next(&mut stage, call), next(&mut stage, call)];
    assert_eq!(rest.map(|id| stage.owner.value(id).cloned()), [Some(on(2, 1)), Some(on(2, 2))]);
    assert_eq!(stage.owner.stream_next(call), Next::Over);
}

#[test]
fn items_of_a_generator_without_retries_become_errors() {
    let mut stage = Stage::new();
    let call = ended(&mut stage, 1, 0);
    let first = next(&mut stage, call);
    stage.node_dies(1);
    assert!(stage.error(first).contains("max_retries=0"));
}

#[test]
fn item_that_the_second_run_does_not_make_becomes_an_error() {
    let mut stage = Stage::new();
    let call = ended(&mut stage, 1, 3);
    let first = next(&mut stage, call);
    stage.node_dies(1);
    let (worker, _) = stage.start(2, call);
    stage.reply(worker, call, vec![none()]);
    assert!(stage.error(first).contains("ended without it"));
}

#[test]
fn lost_list_of_all_items_is_made_again_with_them() {
    let mut stage = Stage::new();
    let template = stage.owner.template(ray_logic::owner::Template {
        id: Default::default(),
        kind: CallKind::Task { class: stage.class },
        name: "work".into(),
        payload: b"code"[..].into(),
        num_returns: 1,
        max_retries: 3,
        retry_raised: false,
        max_calls: 0,
        stream: Some(ray_logic::owner::StreamOptions { window: None, gather: true }),
    });
    let call = stage.submit_to(&template, &[], &[]);
    let items = [stage.ret(call, 1), stage.ret(call, 2)];
    let list = |node: u16| Payload { value: on(node, 9), refs: items.to_vec() };
    let (worker, _) = stage.start(1, call);
    yields(&mut stage, worker, call, 1, vec![on(1, 0), on(1, 1)]);
    let reply = |stage: &mut Stage, worker: ProcId, results: Vec<Payload>| {
        let reply = Box::new(Reply { task: call, outcome: Outcome::Returned {}, results, retained: vec![], leaving: false });
        stage.owner.on_peer(stage.now, worker, Peer::Reply { reply });
        stage.settle();
    };
    reply(&mut stage, worker, vec![list(1)]);
    let end = stage.ret(call, END_INDEX);
    assert!(stage.owner.is_ready(end) && stage.owner.is_ready(items[0]));
    stage.node_dies(1);
    assert!(stage.is_pending(end));
    let (worker, sent) = stage.start(2, call);
    assert_eq!(sent.stream.expect("a stream").again, [(1, 2)]);
    yields(&mut stage, worker, call, 1, vec![on(2, 0), on(2, 1)]);
    reply(&mut stage, worker, vec![list(2)]);
    assert_eq!(stage.owner.value(end), Some(&on(2, 9)));
    assert_eq!(stage.owner.value(items[1]), Some(&on(2, 1)));
    stage.owner.return_idle_leases();
    stage.drop_all(&[end]);
    stage.assert_empty();
}
