//! Values that are lost with a node, as events in and commands out.

mod stage;

use ray_logic::owner::{ActorOptions, CallArgs, CallKind, Command, Limits};
use ray_proto::msg::{ActorState, FromNode, Peer, ToNode};
use ray_proto::{ActorId, ExtentId, NodeIndex, ObjectId, Payload, ProcId, ShmRange, Value};

use stage::*;

#[test]
fn lost_result_is_made_again_by_another_attempt() {
    let mut stage = Stage::new();
    let id = stage.made(1, 3, &[], 0);
    assert_eq!(stage.owner.lineage_size().0, 1);
    stage.node_dies(1);
    assert!(stage.is_pending(id));
    let again = stage.runs(2, id.call(), vec![plain(on(2, 0))]);
    assert_eq!(again.attempt, 1);
    assert_eq!(stage.owner.value(id), Some(&on(2, 0)));
    stage.node_dies(2);
    assert_eq!(stage.runs(0, id.call(), vec![plain(on(0, 0))]).attempt, 2);
    stage.drop_all(&[id]);
    stage.assert_empty();
}

#[test]
fn lost_chain_is_made_again_from_its_freed_beginning() {
    let mut stage = Stage::new();
    let first = stage.made(1, 3, &[], 0);
    let second = stage.made(1, 3, &[first], 1);
    let third = stage.made(1, 3, &[second, second], 2);
    stage.taken();
    stage.drop_all(&[first, second]);
    let commands = stage.taken();
    let gone: Vec<&Command> = commands.iter().filter(|command| matches!(command, Command::Free(_))).collect();
    assert_eq!(gone.len(), 2, "lineage keeps no values: {commands:?}");
    assert_eq!(freed(&commands), [(first, NodeIndex(1)), (second, NodeIndex(1))]);
    assert_eq!(stage.owner.holdings().len(), 1, "ghosts are nobody's");
    stage.node_dies(1);
    assert!([first, second, third].into_iter().all(|id| stage.is_pending(id)));
    stage.runs(2, first.call(), vec![plain(on(2, 0))]);
    assert_eq!(stage.runs(2, second.call(), vec![plain(on(2, 1))]).args.deps[0].1.value, on(2, 0));
    stage.runs(2, third.call(), vec![plain(on(2, 2))]);
    assert_eq!(stage.owner.value(third), Some(&on(2, 2)));
    assert_eq!(stage.owner.lineage_size().0, 3, "it can happen again");
    assert_eq!(stage.owner.holdings().len(), 1);
    stage.drop_all(&[third]);
    stage.assert_empty();
}

#[test]
fn reference_dropped_while_its_object_is_made_again_leaves_nothing() {
    let mut stage = Stage::new();
    let first = stage.made(1, 3, &[], 0);
    let second = stage.made(1, 3, &[first], 1);
    stage.drop_all(&[first]);
    stage.node_dies(1);
    stage.drop_all(&[second]);
    stage.runs(2, first.call(), vec![plain(on(2, 0))]);
    stage.runs(2, second.call(), vec![plain(on(2, 1))]);
    stage.assert_empty();
}

#[test]
fn small_arguments_outlive_their_references_as_long_as_lineage_needs_them() {
    let mut stage = Stage::new();
    let put = stage.owner.put(plain(Value::inline(b"\0small")));
    let id = stage.made(1, 3, &[put], 0);
    stage.drop_all(&[put]);
    assert!(stage.owner.is_ready(put) && stage.owner.holdings().len() == 1);
    stage.node_dies(1);
    let again = stage.runs(2, id.call(), vec![plain(on(2, 0))]);
    assert_eq!(again.args.deps[0].1.value, Value::inline(b"\0small"));
    stage.drop_all(&[id]);
    stage.assert_empty();
}

#[test]
fn borrowed_argument_is_asked_for_and_registered_again() {
    let mut stage = Stage::new();
    let lender = proc_on(2, 9);
    let foreign = ObjectId::new(lender, 1, 0);
    stage.owner.add_local(foreign);
    stage.owner.register_borrow(foreign);
    let call = stage.submit(3, &[foreign]);
    let request = fetches(&stage.taken())[0].1;
    stage.owner.on_peer(0, lender, Peer::Fetched { id: foreign, request, payload: plain(on(2, 5)) });
    stage.owner.on_peer(0, lender, Peer::BorrowAck { token: 2, gone: vec![] });
    stage.settle();
    stage.runs(1, call, vec![plain(on(1, 0))]);
    stage.drop_all(&[foreign]);
    assert!(stage.owner.get(foreign).is_none(), "a borrowed value is not kept for lineage");
    stage.taken();
    stage.node_dies(1);
    let commands = stage.taken();
    let borrows = commands.iter().position(|c| matches!(c, Command::Peer { message: Peer::Borrow { .. }, .. })).expect("registered");
    let asks = commands.iter().position(|c| matches!(c, Command::Peer { message: Peer::Fetch { .. }, .. })).expect("asked for");
    assert!(borrows < asks);
}

#[test]
fn what_can_not_be_made_again_is_an_error_that_says_why() {
    let mut stage = Stage::new();
    let put = stage.owner.put(plain(on(0, 0)));
    let (once, of_put) = (stage.made(1, 0, &[], 0), stage.made(1, 3, &[put], 1));
    let top = stage.made(1, 3, &[of_put], 2);
    let single = stage.made(1, 1, &[], 3);
    stage.drop_all(&[put, of_put]);
    stage.node_dies(1);
    let text = stage.error(once);
    for part in [&hex(once), "node 1", "no word from it", "max_retries=0", "\nhint: "] {
        assert!(text.contains(part), "{text}");
    }
    let text = stage.error(top);
    assert!(text.contains(&hex(put)) && text.contains("it was a put") && text.contains(&hex(top)), "{text}");
    stage.runs(2, single.call(), vec![plain(on(2, 0))]);
    stage.node_dies(2);
    assert!(stage.error(single).contains("no retries left"));
    stage.drop_all(&[once, top, single]);
    stage.assert_empty();
}

#[test]
fn lineage_above_its_budget_is_dropped_oldest_first() {
    let mut stage = Stage::with(Limits { lineage_bytes: 1200, ..Limits::default() });
    let ids: Vec<ObjectId> = (0..3).map(|slot| stage.made(1, 3, &[], slot)).collect();
    assert_eq!(stage.owner.lineage_size().0, 2);
    stage.node_dies(1);
    assert!(stage.error(ids[0]).contains("more than its budget"));
    assert!(stage.is_pending(ids[1]) && stage.is_pending(ids[2]));
}

#[test]
fn ghost_whose_record_is_dropped_goes_and_is_named_by_what_needed_it() {
    let mut stage = Stage::with(Limits { lineage_bytes: 1000, ..Limits::default() });
    let first = stage.made(1, 3, &[], 0);
    let second = stage.made(1, 3, &[first], 1);
    stage.drop_all(&[first]);
    let third = stage.made(1, 3, &[], 2);
    assert!(stage.owner.get(first).is_none());
    stage.node_dies(1);
    let text = stage.error(second);
    assert!(text.contains(&hex(first)) && text.contains("not on record"), "{text}");
    assert!(stage.is_pending(third));
}

#[test]
fn other_results_of_a_repeated_call_stay_as_they_are() {
    let mut stage = Stage::new();
    let template = stage.template(CallKind::Task { class: stage.class }, 3, -1, false);
    let call = stage.submit_to(&template, &[], &[]);
    stage.runs(1, call, vec![plain(on(1, 0)), plain(Value::inline(b"\0old")), plain(on(1, 1))]);
    let ids = [stage.ret(call, 1), stage.ret(call, 2), stage.ret(call, 3)];
    stage.drop_all(&[ids[2]]);
    stage.taken();
    stage.node_dies(1);
    stage.runs(2, call, vec![plain(on(2, 0)), plain(Value::inline(b"\0new")), plain(on(2, 1))]);
    assert_eq!((stage.owner.value(ids[0]), stage.owner.value(ids[1])), (Some(&on(2, 0)), Some(&Value::inline(b"\0old"))));
    assert!(stage.taken().contains(&Command::Free(range_on(2, 1))), "the third is nobody's");
    stage.drop_all(&ids[..2]);
    stage.assert_empty();
}

#[test]
fn large_argument_body_is_held_by_lineage_and_may_move_to_disk() {
    let mut stage = Stage::new();
    let template = stage.template(CallKind::Task { class: stage.class }, 1, 3, false);
    let body_id = stage.owner.put(plain(on(0, 0)));
    let args = CallArgs { body: on(0, 0), body_id, deps: vec![], nested: vec![] };
    let call = stage.owner.submit(0, &template, args).expect("no limit");
    stage.drop_all(&[body_id]);
    stage.runs(1, call, vec![plain(on(1, 0))]);
    let victims = stage.owner.pick_victims(1, |_| None);
    assert_eq!(victims[0].id, body_id);
    let on_disk = ShmRange { extent: ExtentId::on_disk(NodeIndex(0), 9), offset: 0, len: SIZE };
    assert_eq!(stage.owner.moved(&[(victims[0], on_disk)]), [true]);
    stage.node_dies(1);
    let again = stage.runs(2, call, vec![plain(on(2, 0))]);
    assert_eq!(again.args.body, Value::shm(on_disk));
    let id = stage.ret(call, 1);
    stage.taken();
    stage.drop_all(&[id]);
    let commands = stage.taken();
    assert!(freed(&commands).contains(&(body_id, NodeIndex(0))), "it was read elsewhere: {commands:?}");
    stage.assert_empty();
}

#[test]
fn queued_call_whose_argument_is_lost_waits_and_goes_on() {
    let mut stage = Stage::new();
    let dep = stage.made(1, 3, &[], 0);
    let call = stage.submit(3, &[dep, dep]);
    let other = stage.submit(3, &[]);
    stage.node_dies(1);
    // What does not need it is not held up, and the call that makes it comes first.
    let (worker, _) = stage.start(2, dep.call());
    assert_eq!(stage.start(2, other).1.task, other);
    assert!(stage.sent.is_empty() && stage.wants.values().all(|want| *want == 0));
    stage.reply(worker, dep.call(), vec![plain(on(0, 0))]);
    let sent = stage.start(2, call).1;
    assert!(sent.args.deps.iter().all(|(_, payload)| payload.value == on(0, 0)));
}

#[test]
fn queued_call_whose_argument_is_gone_for_good_fails_with_its_error() {
    let mut stage = Stage::new();
    let dep = stage.made(1, 0, &[], 0);
    let call = stage.submit(3, &[dep]);
    stage.node_dies(1);
    assert!(stage.error(stage.ret(call, 1)).contains(&hex(dep)));
    stage.drop_all(&[dep, stage.ret(call, 1)]);
    stage.assert_empty();
}

#[test]
fn call_in_flight_on_the_dead_node_is_tried_again_whichever_news_comes_first() {
    for node_first in [true, false] {
        let mut stage = Stage::new();
        let dep = stage.made(1, 3, &[], 0);
        let call = stage.submit(1, &[dep]);
        let (worker, _) = stage.start(1, call);
        if node_first {
            stage.node_dies(1);
        }
        stage.proc_dies(worker);
        stage.node_dies(1);
        assert!(stage.is_pending(dep));
        stage.runs(2, dep.call(), vec![plain(on(2, 0))]);
        let again = stage.runs(2, call, vec![plain(Value::inline(b"\0"))]);
        assert_eq!((again.attempt, &again.args.deps[0].1.value), (1, &on(2, 0)), "node first: {node_first}");
        stage.drop_all(&[dep, stage.ret(call, 1)]);
        stage.assert_empty();
    }
}

#[test]
fn every_call_in_flight_on_a_lost_node_counts_as_started() {
    for (node_lost, failed) in [(true, true), (false, false)] {
        let mut stage = Stage::new();
        let calls: Vec<u64> = (0..40).map(|_| stage.submit(0, &[])).collect();
        let (worker, _) = stage.start(1, calls[0]);
        stage.reply(worker, calls[0], vec![plain(Value::inline(b"\0"))]);
        assert_eq!(stage.sent_to(worker).len(), 2);
        stage.owner.on_node(stage.now, FromNode::ProcDied { proc_id: worker, evidence: evidence(node_lost) });
        stage.settle();
        for call in &calls[1..3] {
            assert_eq!(stage.owner.value(stage.ret(*call, 1)).is_some_and(Value::is_error), failed, "call {call}");
        }
    }
}

#[test]
fn call_elsewhere_that_comes_back_waits_for_the_argument_that_was_lost_meanwhile() {
    let mut stage = Stage::new();
    let dep = stage.made(1, 3, &[], 0);
    let call = stage.submit(0, &[dep]);
    let (worker, _) = stage.start(2, call);
    stage.node_dies(1);
    stage.owner.on_peer(stage.now, worker, Peer::Returned { tasks: vec![call], blocked: true });
    stage.settle();
    stage.runs(2, dep.call(), vec![plain(on(2, 0))]);
    assert_eq!(stage.start(2, call).1.args.deps[0].1.value, on(2, 0));
}

#[test]
fn waits_for_many_count_a_lost_object_again() {
    let mut stage = Stage::new();
    let calls: Vec<u64> = (0..6).map(|_| stage.submit(3, &[])).collect();
    let ids: Vec<ObjectId> = calls.iter().map(|call| stage.ret(*call, 1)).collect();
    let wait = stage.owner.wait_start(&ids, 6, Default::default()).expect("nothing is ready");
    for &call in &calls[..5] {
        stage.runs(1, call, vec![plain(on(1, call))]);
    }
    stage.node_dies(1);
    for &call in &calls {
        assert!(!stage.commands.contains(&Command::Wake(wait)), "before all are ready again");
        stage.runs(2, call, vec![plain(Value::inline(b"\0"))]);
    }
    assert!(stage.commands.contains(&Command::Wake(wait)));
}

#[test]
fn borrowed_value_on_a_dead_node_is_asked_for_again_and_old_answers_do_not_count() {
    let mut stage = Stage::new();
    let lender = proc_on(2, 9);
    let foreign = ObjectId::new(lender, 1, 1);
    stage.owner.add_local(foreign);
    stage.owner.wait_start(&[foreign], 1, Default::default());
    let first = fetches(&stage.taken())[0].1;
    let answer = |request, value| Peer::Fetched { id: foreign, request, payload: plain(value) };
    stage.owner.on_peer(0, lender, answer(first, on(1, 0)));
    stage.settle();
    stage.node_dies(1);
    assert!(stage.is_pending(foreign));
    assert_eq!(fetches(&stage.taken()), [], "nobody asks");
    stage.owner.on_peer(0, lender, answer(first, on(1, 0)));
    assert!(stage.is_pending(foreign));
    assert!(stage.owner.wait_start(&[foreign], 1, Default::default()).is_some());
    let second = fetches(&stage.taken())[0].1;
    stage.owner.on_peer(0, lender, answer(second, on(2, 0)));
    assert_eq!(stage.owner.value(foreign), Some(&on(2, 0)));
    // The reader finds nothing there; the owner may know more.
    stage.owner.value_lost(0, foreign, range_on(1, 0));
    assert_eq!(stage.owner.value(foreign), Some(&on(2, 0)), "that was another place");
    stage.owner.value_lost(0, foreign, range_on(2, 0));
    assert_eq!(fetches(&stage.taken()).len(), 1);
    stage.owner.value_lost(0, foreign, range_on(2, 0));
    assert_eq!(fetches(&stage.taken()), [], "it is asked for already");
}

#[test]
fn covered_argument_without_bytes_is_asked_for() {
    let mut stage = Stage::new();
    let foreign = ObjectId::new(proc_on(2, 9), 1, 1);
    stage.owner.cover(foreign.owner, &[foreign]);
    stage.owner.value_lost(0, foreign, range_on(1, 0));
    assert_eq!(fetches(&stage.taken()).len(), 1);
}

#[test]
fn owner_that_hears_of_lost_bytes_makes_that_object_again() {
    let mut stage = Stage::new();
    let (lost, other) = (stage.made(1, 3, &[], 0), stage.made(1, 3, &[], 1));
    stage.owner.value_lost(0, lost, range_on(1, 0));
    stage.settle();
    assert!(stage.is_pending(lost) && stage.owner.is_ready(other));
}

#[test]
fn what_a_lost_value_mentioned_is_there_for_the_call_that_makes_it_again() {
    let mut stage = Stage::new();
    let put = stage.owner.put(plain(on(0, 0)));
    let template = stage.template(CallKind::Task { class: stage.class }, 1, 3, false);
    let call = stage.submit_to(&template, &[], &[put]);
    stage.runs(1, call, vec![Payload { value: on(1, 0), refs: vec![put] }]);
    stage.drop_all(&[put]);
    stage.node_dies(1);
    stage.runs(2, call, vec![Payload { value: on(2, 0), refs: vec![put] }]);
    assert!(stage.owner.is_ready(put));
    stage.drop_all(&[stage.ret(call, 1)]);
    stage.assert_empty();
}

#[test]
fn stream_items_on_a_dead_node_are_errors_without_retries() {
    let mut stage = Stage::new();
    let template = stage.template(CallKind::Task { class: stage.class }, 0, 0, true);
    let call = stage.submit_to(&template, &[], &[]);
    let (worker, _) = stage.start(1, call);
    stage.owner.on_peer(0, worker, Peer::StreamItems { task: call, first: 1, items: vec![plain(on(1, 0))] });
    stage.node_dies(1);
    assert!(stage.error(stage.ret(call, 1)).contains("max_retries=0"));
}

fn actor(stage: &mut Stage, at: ProcId) -> ActorId {
    let actor = stage.owner.new_actor_id();
    let args = CallArgs { body: Value::inline(b"\0"), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
    stage.owner.create_actor(0, actor, actor_options(), args);
    stage.owner.on_node(0, FromNode::ActorChanged { actor, state: ActorState::Alive { proc_id: at, incarnation: 0 } });
    stage.settle();
    actor
}

#[test]
fn results_of_methods_are_made_again_in_their_order_when_the_actor_is_back() {
    for ordered in [true, false] {
        let mut stage = Stage::new();
        let before = proc_on(1, 5);
        let actor = actor(&mut stage, before);
        let kind = CallKind::Method { actor, max_pending: -1, group: 0, unordered: !ordered };
        let template = stage.template(kind, 1, 2, false);
        let first = stage.submit_to(&template, &[], &[]);
        let second = stage.submit_to(&template, &[stage.ret(first, 1)], &[]);
        stage.reply(before, first, vec![plain(on(1, 0))]);
        stage.reply(before, second, vec![plain(on(1, 1))]);
        assert_eq!(stage.sent_to(before).len(), 2);
        stage.drop_all(&[stage.ret(first, 1)]);
        stage.node_dies(1);
        assert_eq!(stage.sent_to(before).len(), 0, "nobody is there");
        stage.proc_dies(before);
        let changed = |state| FromNode::ActorChanged { actor, state };
        stage.owner.on_node(0, changed(ActorState::Restarting { cause: Value::inline(b"\x03code=actor_unavailable") }));
        let after = proc_on(2, 6);
        stage.owner.on_node(0, changed(ActorState::Alive { proc_id: after, incarnation: 1 }));
        let sent = stage.sent_to(after);
        assert_eq!(sent.iter().map(|call| (call.task, call.attempt)).collect::<Vec<_>>(), [(first, 1)]);
        stage.reply(after, first, vec![plain(on(2, 0))]);
        let sent = stage.sent_to(after);
        assert_eq!(sent.iter().map(|call| (call.task, call.attempt)).collect::<Vec<_>>(), [(second, 1)]);
        stage.reply(after, second, vec![plain(on(2, 1))]);
        assert_eq!(stage.owner.value(stage.ret(second, 1)), Some(&on(2, 1)));
        stage.drop_all(&[stage.ret(second, 1), actor]);
        assert_eq!(stage.owner.lineage_size(), (0, 0));
    }
}

#[test]
fn result_of_a_method_is_lost_when_its_actor_is_out_of_scope() {
    let mut stage = Stage::new();
    let at = proc_on(1, 5);
    let actor = actor(&mut stage, at);
    let template = stage.template(CallKind::Method { actor, max_pending: -1, group: 0, unordered: false }, 1, 2, false);
    let call = stage.submit_to(&template, &[], &[]);
    stage.reply(at, call, vec![plain(on(1, 0))]);
    stage.drop_all(&[actor]);
    stage.node_dies(1);
    assert!(stage.error(stage.ret(call, 1)).contains("last handle of the actor"));
}

/// Its arguments are the new attempt's until that is answered.
#[test]
fn reply_of_a_process_that_the_actor_has_left_is_too_late() {
    let mut stage = Stage::new();
    let (before, after) = (proc_on(1, 5), proc_on(2, 6));
    let actor = actor(&mut stage, before);
    let template = stage.template(CallKind::Method { actor, max_pending: -1, group: 0, unordered: false }, 1, 2, false);
    let call = stage.submit_to(&template, &[], &[]);
    let changed = |state| FromNode::ActorChanged { actor, state };
    stage.owner.on_node(0, changed(ActorState::Restarting { cause: Value::inline(b"\x03code=actor_unavailable") }));
    stage.owner.on_node(0, changed(ActorState::Alive { proc_id: after, incarnation: 1 }));
    assert_eq!(stage.sent_to(after).len(), 1);
    stage.reply(before, call, vec![plain(Value::inline(b"\0old"))]);
    assert!(stage.is_pending(stage.ret(call, 1)));
    stage.reply(after, call, vec![plain(Value::inline(b"\0new"))]);
    assert_eq!(stage.owner.value(stage.ret(call, 1)), Some(&Value::inline(b"\0new")));
}

/// A detached actor waits for what its arguments mention. When an argument is lost, only it knows what it will mention when it is back.
#[test]
fn creation_that_waits_for_what_a_lost_argument_mentioned_looks_again() {
    let mut stage = Stage::new();
    let mentioned = stage.submit(3, &[]);
    let inner = stage.ret(mentioned, 1);
    let maker = stage.submit(3, &[]);
    let argument = Payload { value: on(1, 0), refs: vec![inner] };
    stage.runs(1, maker, vec![argument]);
    let actor = stage.owner.new_actor_id();
    let args = CallArgs { body: Value::inline(b"\0"), body_id: ObjectId::NIL, deps: vec![stage.ret(maker, 1)], nested: vec![] };
    stage.owner.create_actor(0, actor, ActorOptions { detached: true, ..actor_options() }, args);
    stage.drop_all(&[inner]);
    let given = |stage: &mut Stage| {
        stage.taken().into_iter().find_map(|command| match command {
            Command::Node(ToNode::ActorCreate { spec, .. }) => Some(spec.given),
            _ => None,
        })
    };
    assert_eq!(given(&mut stage), None, "the inner value has not come");
    stage.node_dies(1);
    stage.runs(2, maker, vec![plain(on(2, 0))]);
    assert_eq!(given(&mut stage), Some(vec![]), "this time it mentions nothing");
}
