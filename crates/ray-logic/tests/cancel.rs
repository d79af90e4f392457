//! Calls that are cancelled: wherever they are, they end once, nothing is tried again, and nothing is kept.

mod stage;

use ray_logic::exec::{Cancelling, Exec, Found, Queued};
use ray_logic::owner::{CallKind, CancelError, Command, Next};
use ray_proto::ids::{ACTOR_INDEX, END_INDEX};
use ray_proto::msg::{ActorState, Args, Call, Cancellation, Evidence, FromNode, Outcome, Peer, Reply};
use ray_proto::report::Fact;
use ray_proto::value::system_error_fields;
use ray_proto::{ActorId, ObjectId, ProcId, TemplateId, Value};
use stage::{evidence, on, plain, proc_on, Stage};

fn gently() -> Cancellation {
    Cancellation { force: false, recursive: true, by: "the test".into() }
}

fn by_force() -> Cancellation {
    Cancellation { force: true, ..gently() }
}

impl Stage {
    fn cancel(&mut self, id: ObjectId, how: &Cancellation) -> Result<(), CancelError> {
        let result = self.owner.cancel(self.now, id, how);
        self.settle();
        result
    }

    /// What is asked of `worker` since the last time.
    fn asked_of(&mut self, worker: ProcId) -> Vec<(u64, Cancellation)> {
        let of = |command: Command| match command {
            Command::Peer { to, message: Peer::Cancel { task, how }, urgent: true } if to == worker => Some((task, how)),
            _ => None,
        };
        self.taken().into_iter().filter_map(of).collect()
    }

    fn field(&self, id: ObjectId, name: &str) -> String {
        let Some(Value::Inline(bytes)) = self.owner.value(id) else { panic!("{:?} is no error", self.owner.get(id)) };
        system_error_fields(&bytes[1..]).into_iter().find(|(key, _)| key == name).map(|(_, text)| text).unwrap_or_default()
    }

    fn code(&self, id: ObjectId) -> String {
        self.field(id, "code")
    }

    fn ends_cancelled(&mut self, worker: ProcId, task: u64, started: bool) {
        let reply = Box::new(Reply { task, outcome: Outcome::Cancelled { started }, results: vec![], retained: vec![], leaving: false });
        self.owner.on_peer(self.now, worker, Peer::Reply { reply });
        self.settle();
    }

    fn worker_dies(&mut self, worker: ProcId, started: u64) {
        let evidence = Evidence { last_started: Some((self.owner.me(), started)), ..evidence(false) };
        self.owner.on_node(self.now, FromNode::ProcDied { proc_id: worker, evidence });
        self.settle();
    }

    /// A living actor of somebody else, which has answered once.
    fn actor(&mut self) -> (ActorId, ProcId) {
        let (actor, home) = (ObjectId::new(proc_on(0, 9), 1, ACTOR_INDEX), proc_on(0, 8));
        self.owner.add_local(actor);
        let first = self.method(actor, &[]);
        self.owner.on_node(self.now, FromNode::ActorChanged { actor, state: ActorState::Alive { proc_id: home, incarnation: 1 } });
        assert_eq!(self.sent_to(home).len(), 1);
        self.reply(home, first, vec![plain(Value::inline(b"\0v"))]);
        (actor, home)
    }

    fn method(&mut self, actor: ActorId, deps: &[ObjectId]) -> u64 {
        let template = self.template(CallKind::Method { actor, max_pending: -1, group: 0, unordered: false }, 1, -1, false);
        self.submit_to(&template, deps, &[])
    }
}

#[test]
fn call_that_waits_for_arguments_ends_at_once_and_lets_go_of_them() {
    let mut stage = Stage::new();
    let first = stage.submit(3, &[]);
    let argument = stage.ret(first, 1);
    let second = stage.submit(3, &[argument, argument]);
    let result = stage.ret(second, 1);
    stage.cancel(result, &gently()).expect("a task");
    assert_eq!(stage.code(result), "cancelled");
    assert_eq!(stage.field(result, "by"), "the test");
    assert!(stage.is_pending(argument));
    stage.runs(0, first, vec![plain(Value::inline(b"\0v"))]);
    stage.drop_all(&[argument, result]);
    stage.assert_empty();
}

#[test]
fn call_in_line_for_a_worker_leaves_the_line_and_the_wish_for_a_worker_goes_with_it() {
    let mut stage = Stage::new();
    let calls: Vec<u64> = (0..3).map(|_| stage.submit(3, &[])).collect();
    assert_eq!(stage.wants[&stage.class], 3);
    for call in [calls[1], calls[2], calls[0]] {
        stage.cancel(stage.ret(call, 1), &gently()).expect("a task");
    }
    assert_eq!(stage.wants[&stage.class], 0);
    let results: Vec<ObjectId> = calls.iter().map(|call| stage.ret(*call, 1)).collect();
    assert!(results.iter().all(|id| stage.code(*id) == "cancelled"));
    stage.drop_all(&results);
    stage.assert_empty();
}

#[test]
fn running_call_is_told_and_ends_with_its_reply() {
    let mut stage = Stage::new();
    let call = stage.submit(-1, &[]);
    let (worker, _) = stage.start(0, call);
    let result = stage.ret(call, 1);
    stage.cancel(result, &gently()).expect("a task");
    assert_eq!(stage.asked_of(worker), vec![(call, gently())]);
    assert!(stage.is_pending(result));
    let facts = stage.owner.report_object(stage.now, result);
    assert!(facts.iter().any(|fact| matches!(fact, Fact::CancelAsked { by, force: false, .. } if by == "the test")), "{facts:?}");
    stage.ends_cancelled(worker, call, true);
    assert_eq!(stage.code(result), "cancelled");
    assert_eq!(stage.owner.sizes().2, 1, "the lease stays, for the next call");
    let next = stage.submit(0, &[]);
    assert_eq!(stage.sent_to(worker).len(), 1);
    stage.reply(worker, next, vec![plain(Value::inline(b"\0v"))]);
    stage.drop_all(&[result, stage.ret(next, 1)]);
    stage.assert_empty();
}

#[test]
fn worker_that_says_where_it_was_interrupted_is_heard() {
    let mut stage = Stage::new();
    let call = stage.submit(-1, &[]);
    let (worker, _) = stage.start(0, call);
    stage.cancel(stage.ret(call, 1), &gently()).expect("a task");
    let error = plain(ray_proto::value::system_error("interrupted", &[]));
    let reply = Box::new(Reply { task: call, outcome: Outcome::Cancelled { started: true }, results: vec![error], retained: vec![], leaving: false });
    stage.owner.on_peer(stage.now, worker, Peer::Reply { reply });
    stage.settle();
    assert_eq!(stage.code(stage.ret(call, 1)), "interrupted");
    stage.drop_all(&[stage.ret(call, 1)]);
    stage.assert_empty();
}

#[test]
fn value_that_crosses_the_cancellation_is_the_result() {
    let mut stage = Stage::new();
    let call = stage.submit(3, &[]);
    let (worker, _) = stage.start(0, call);
    let result = stage.ret(call, 1);
    stage.cancel(result, &gently()).expect("a task");
    stage.reply(worker, call, vec![plain(Value::inline(b"\0v"))]);
    assert_eq!(stage.owner.value(result), Some(&Value::inline(b"\0v")));
    stage.cancel(result, &by_force()).expect("nothing to do");
    assert_eq!(stage.owner.value(result), Some(&Value::inline(b"\0v")));
    stage.drop_all(&[result]);
    stage.assert_empty();
}

#[test]
fn call_queued_at_a_worker_says_nothing_of_those_before_it() {
    let mut stage = Stage::new();
    // Quick replies, so that the worker gets several at once; and no other worker is to be had.
    let template = stage.template(CallKind::Task { class: stage.class }, 1, 1, false);
    let calls: Vec<u64> = (0..40).map(|_| stage.submit_to(&template, &[], &[])).collect();
    let worker = stage.grant(stage.class, 0);
    let mut quick = calls[0];
    let mut sent = stage.sent_to(worker);
    while sent.len() < 3 {
        quick = sent[0].task;
        for call in std::mem::take(&mut sent) {
            stage.reply(worker, call.task, vec![plain(Value::inline(b"\0v"))]);
        }
        sent = stage.sent_to(worker);
    }
    let sent: Vec<u64> = sent.iter().map(|call| call.task).collect();
    let last = *sent.last().expect("three");
    stage.cancel(stage.ret(last, 1), &gently()).expect("a task");
    stage.ends_cancelled(worker, last, false);
    // The worker dies before it has started any of them: none has lost its attempt.
    stage.worker_dies(worker, quick);
    let (_, again) = stage.start(0, sent[0]);
    assert_eq!(again.attempt, 0);
    assert_eq!(stage.code(stage.ret(last, 1)), "cancelled");
}

#[test]
fn call_that_comes_back_while_it_is_cancelled_is_not_sent_again() {
    let mut stage = Stage::new();
    let call = stage.submit(3, &[]);
    let (worker, _) = stage.start(0, call);
    let result = stage.ret(call, 1);
    stage.cancel(result, &gently()).expect("a task");
    stage.owner.on_peer(stage.now, worker, Peer::Returned { tasks: vec![call], blocked: true });
    stage.settle();
    assert_eq!(stage.code(result), "cancelled");
    assert!(stage.sent.is_empty());
}

#[test]
fn death_of_the_worker_ends_a_cancelled_call_without_a_retry() {
    for (how, started) in [(gently(), true), (gently(), false), (by_force(), true)] {
        let mut stage = Stage::new();
        let call = stage.submit(-1, &[]);
        let (worker, _) = stage.start(0, call);
        let result = stage.ret(call, 1);
        stage.cancel(result, &how).expect("a task");
        assert_eq!(stage.asked_of(worker), vec![(call, how)]);
        stage.worker_dies(worker, if started { call } else { 0 });
        assert_eq!(stage.code(result), "cancelled");
        assert_eq!(stage.wants.get(&stage.class).copied().unwrap_or(0), 0);
        stage.drop_all(&[result]);
        stage.assert_empty();
    }
}

#[test]
fn error_that_would_be_retried_is_the_result_of_a_cancelled_call() {
    let mut stage = Stage::new();
    let call = stage.submit(3, &[]);
    let (worker, _) = stage.start(0, call);
    stage.cancel(stage.ret(call, 1), &gently()).expect("a task");
    let error = plain(ray_proto::value::system_error("raised", &[]));
    let reply = Box::new(Reply { task: call, outcome: Outcome::Raised { retryable: true }, results: vec![error], retained: vec![], leaving: false });
    stage.owner.on_peer(stage.now, worker, Peer::Reply { reply });
    stage.settle();
    assert_eq!(stage.code(stage.ret(call, 1)), "raised");
}

#[test]
fn lost_result_that_is_made_again_can_be_cancelled() {
    let mut stage = Stage::new();
    let first = stage.made(1, 3, &[], 0);
    stage.node_dies(1);
    assert!(stage.is_pending(first));
    stage.cancel(first, &gently()).expect("a task");
    assert_eq!(stage.code(first), "cancelled");
    stage.drop_all(&[first]);
    stage.assert_empty();
}

#[test]
fn other_return_of_a_cancelled_repetition_is_not_made_again() {
    let mut stage = Stage::new();
    let template = stage.template(CallKind::Task { class: stage.class }, 2, 3, false);
    let call = stage.submit_to(&template, &[], &[]);
    stage.runs(1, call, vec![plain(on(1, 0)), plain(on(2, 0))]);
    stage.node_dies(1);
    stage.cancel(stage.ret(call, 1), &gently()).expect("a task");
    assert_eq!(stage.code(stage.ret(call, 1)), "cancelled");
    stage.node_dies(2);
    assert_eq!(stage.code(stage.ret(call, 2)), "object_lost");
}

#[test]
fn actor_call_that_is_not_sent_ends_and_the_next_one_goes_on() {
    let mut stage = Stage::new();
    let (actor, home) = stage.actor();
    let slow = stage.submit(0, &[]);
    let waits = stage.method(actor, &[stage.ret(slow, 1)]);
    let behind = stage.method(actor, &[]);
    assert!(stage.sent_to(home).is_empty());
    stage.cancel(stage.ret(waits, 1), &gently()).expect("a method");
    assert_eq!(stage.code(stage.ret(waits, 1)), "cancelled");
    let sent: Vec<u64> = stage.sent_to(home).iter().map(|call| call.task).collect();
    assert_eq!(sent, vec![behind]);
}

#[test]
fn actor_call_that_was_sent_is_told_and_force_is_refused() {
    let mut stage = Stage::new();
    let (actor, home) = stage.actor();
    let call = stage.method(actor, &[]);
    assert_eq!(stage.sent_to(home).len(), 1);
    let result = stage.ret(call, 1);
    assert_eq!(stage.cancel(result, &by_force()), Err(CancelError::ForceOnActor { name: "work".into() }));
    assert!(stage.asked_of(home).is_empty());
    stage.cancel(result, &gently()).expect("a method");
    assert_eq!(stage.asked_of(home), vec![(call, gently())]);
    stage.owner.on_node(stage.now, FromNode::ActorChanged { actor, state: ActorState::Restarting { cause: Value::inline(b"\x03code=actor_died") } });
    stage.settle();
    assert_eq!(stage.code(result), "cancelled", "a retry would run it again");
}

#[test]
fn generator_ends_with_the_cancellation_behind_the_items_that_came() {
    let mut stage = Stage::new();
    let template = stage.template(CallKind::Task { class: stage.class }, 0, 3, true);
    let call = stage.submit_to(&template, &[], &[]);
    let (worker, _) = stage.start(0, call);
    stage.owner.on_peer(stage.now, worker, Peer::StreamItems { task: call, first: 1, items: vec![plain(Value::inline(b"\0a"))] });
    stage.cancel(stage.ret(call, END_INDEX), &gently()).expect("a task");
    stage.ends_cancelled(worker, call, true);
    let Next::Item(first) = stage.owner.stream_next(call) else { panic!("one item came") };
    assert_eq!(stage.owner.value(first), Some(&Value::inline(b"\0a")));
    let Next::Item(second) = stage.owner.stream_next(call) else { panic!("the error is an item") };
    assert_eq!(stage.code(second), "cancelled");
    assert_eq!(stage.owner.stream_next(call), Next::Over);
    stage.owner.stream_dropped(call);
    stage.drop_all(&[first, second]);
    stage.assert_empty();
}

#[test]
fn children_of_a_cancelled_call_are_cancelled_and_no_others() {
    let mut stage = Stage::new();
    let (actor, home) = stage.actor();
    let parent = (proc_on(0, 2), 77);
    let (task, other) = (stage.submit(3, &[]), stage.submit(3, &[]));
    let method = stage.method(actor, &[]);
    for call in [task, method] {
        stage.owner.note_parent(call, parent);
    }
    stage.owner.note_parent(other, (parent.0, 78));
    stage.taken();
    stage.owner.cancel_children(stage.now, parent, &by_force());
    stage.settle();
    assert_eq!(stage.code(stage.ret(task, 1)), "cancelled");
    assert!(stage.is_pending(stage.ret(other, 1)));
    let asked = stage.asked_of(home);
    assert_eq!(asked, vec![(method, gently())], "an actor is not ended by force");
}

#[test]
fn puts_and_unknown_objects_are_left_alone() {
    let mut stage = Stage::new();
    let id = stage.owner.put(plain(Value::inline(b"\0v")));
    stage.cancel(id, &by_force()).expect("nothing to do");
    assert_eq!(stage.owner.value(id), Some(&Value::inline(b"\0v")));
    stage.cancel(stage.ret(999, 1), &gently()).expect("nothing to do");
    stage.drop_all(&[id]);
    stage.assert_empty();
}

// ---- the worker's side

fn call(task: u64) -> Box<Call> {
    let args = Args { body: Value::inline(b""), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
    Box::new(Call { task, template: TemplateId(0), attempt: 0, num_returns: 1, actor_seq: None, gpu_ids: vec![], args, stream: None })
}

#[test]
fn exec_queued_call_is_taken_out_and_a_running_one_is_told_once() {
    let (mut exec, from) = (Exec::default(), ProcId(4));
    for task in [1, 2, 3] {
        assert!(exec.push(0, Queued { from, call: call(task), after: None }).is_none());
    }
    exec.pop(0, 0);
    assert!(matches!(exec.cancel(from, 2, &gently()), Found::Queued(queued) if queued.call.task == 2));
    assert_eq!(exec.queued(), 1);
    assert!(exec.cancellation(from, 1).is_none() && !exec.take_cancel(from, 1));
    assert!(matches!(exec.cancel(from, 1, &gently()), Found::Running { is_task: true }));
    assert_eq!(exec.untold(from, 1), Some(&gently()));
    assert!(exec.take_cancel(from, 1) && !exec.take_cancel(from, 1), "told once");
    assert!(exec.cancellation(from, 1) == Some(&gently()) && exec.untold(from, 1).is_none());
    assert!(matches!(exec.cancel(from, 1, &gently()), Found::Running { .. }));
    assert!(exec.take_cancel(from, 1), "and once more when asked again");
    assert_eq!(exec.finish(from, 1).expect("it ran").cancelling, Cancelling::Told(gently()));
    assert!(matches!(exec.cancel(from, 1, &gently()), Found::Nowhere));
}
