//! Concurrency groups of an actor: in the worker's queue, and on the way there.

use ray_logic::exec::{Exec, Queued};
use ray_logic::owner::{CallArgs, CallKind, Command, Limits, Owner, Template};
use ray_proto::ids::ACTOR_INDEX;
use ray_proto::msg::{ActorState, Args, Call, FromNode, Outcome, Peer, Reply};
use ray_proto::value::{system_error, FLAG_PICKLE};
use ray_proto::{ActorId, ObjectId, Payload, ProcId, Resources, TemplateId, Value};
use std::sync::Arc;

const ME: ProcId = ProcId(1);
const HOME: ProcId = ProcId(2);
const NEW_HOME: ProcId = ProcId(3);
const CALLER: ProcId = ProcId(4);

fn actor(number: u64) -> ActorId {
    ObjectId::new(ProcId(9), number, ACTOR_INDEX)
}

fn call(task: u64) -> Box<Call> {
    let args = Args { body: Value::inline(b""), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
    let actor_seq = Some((actor(1), task));
    Box::new(Call { task, template: TemplateId(0), attempt: 0, num_returns: 1, actor_seq, gpu_ids: vec![], args, stream: None })
}

fn exec_with(groups: usize, calls: &[(usize, ProcId, u64)]) -> Exec {
    let mut exec = Exec::default();
    exec.set_groups(groups);
    for &(group, from, task) in calls {
        assert!(exec.push(group, Queued { from, call: call(task), after: None }).is_none());
    }
    exec
}

fn started(exec: &mut Exec, group: usize) -> Vec<u64> {
    std::iter::from_fn(|| exec.pop(group, 0)).map(|queued| queued.call.task).collect()
}

#[test]
fn exec_groups_give_their_own_calls_in_order() {
    let mut exec = exec_with(3, &[(0, ME, 1), (1, ME, 2), (1, ME, 3), (0, ME, 4), (1, CALLER, 5)]);
    assert_eq!(exec.queued(), 5);
    assert_eq!(started(&mut exec, 2), vec![]);
    assert_eq!(started(&mut exec, 1), vec![2, 3, 5]);
    assert!(exec.is_group_empty(1) && !exec.is_empty());
    assert_eq!(started(&mut exec, 0), vec![1, 4]);
    assert!(exec.is_empty());
    assert_eq!(exec.running(), 5);
}

#[test]
fn exec_calls_are_taken_back_from_every_group() {
    let mut exec = exec_with(2, &[(0, ME, 1), (1, ME, 2), (1, ME, 3), (1, CALLER, 4), (0, CALLER, 5)]);
    let taken = |calls: Vec<ray_logic::exec::Queued>| calls.into_iter().map(|queued| queued.call.task).collect::<Vec<_>>();
    assert_eq!(taken(exec.recall(ME, &[1, 3, 4])), vec![1, 3]);
    assert_eq!(taken(exec.forget_caller(CALLER)), vec![5, 4]);
    assert_eq!(taken(exec.drain()), vec![2]);
    assert!(exec.is_empty());
}

#[test]
fn exec_streams_are_closed_in_the_queue_of_any_group() {
    let mut exec = exec_with(2, &[]);
    let mut streaming = call(7);
    streaming.stream = Some(ray_proto::msg::StreamOpen { have: 0, until: 1, closed: false, gather: false, again: vec![] });
    exec.push(1, Queued { from: ME, call: streaming, after: None });
    exec.credit(ME, 7, 5);
    exec.close_stream(ME, 7);
    let stream = exec.pop(1, 0).and_then(|queued| queued.call.stream).expect("it streams");
    assert_eq!((stream.until, stream.closed), (5, true));
}

/// A caller of an actor that lives at `HOME`.
struct Stage {
    owner: Owner,
}

impl Stage {
    fn new() -> Self {
        Stage { owner: Owner::new(ME, Resources::from_f64([("CPU", 4.0)]), Limits::default()) }
    }

    fn method(&mut self, group: u32, unordered: bool) -> Arc<Template> {
        self.method_of(actor(1), group, unordered)
    }

    fn method_of(&mut self, actor: ActorId, group: u32, unordered: bool) -> Arc<Template> {
        self.owner.template(Template {
            id: Default::default(),
            kind: CallKind::Method { actor, max_pending: -1, group, unordered },
            name: "step".into(),
            payload: b"code"[..].into(),
            num_returns: 1,
            stream: None,
            max_retries: -1,
            retry_raised: false,
            max_calls: 0,
        })
    }

    fn submit(&mut self, method: &Arc<Template>, deps: Vec<ObjectId>) -> u64 {
        let args = CallArgs { body: Value::inline(b""), body_id: ObjectId::NIL, deps, nested: vec![] };
        self.owner.submit(0, method, args).expect("no limit")
    }

    /// What goes to the actor: calls, and the groups of their call sites.
    fn sent(&mut self) -> (Vec<u64>, Vec<u32>) {
        let mut commands = Vec::new();
        self.owner.take_commands(&mut commands);
        self.owner.check_invariants();
        let (mut calls, mut groups) = (vec![], vec![]);
        for command in commands {
            match command {
                Command::Peer { message: Peer::Call { call }, .. } => calls.push(call.task),
                Command::Peer { message: Peer::Template { group, .. }, .. } => groups.push(group),
                _ => {}
            }
        }
        (calls, groups)
    }

    fn state(&mut self, state: ActorState) {
        self.owner.on_node(0, FromNode::ActorChanged { actor: actor(1), state });
    }

    fn lives_at(&mut self, proc_id: ProcId) {
        self.state(ActorState::Alive { proc_id, incarnation: 1 });
    }

    fn replies(&mut self, task: u64) {
        let result = Payload { value: Value::inline(vec![FLAG_PICKLE]), refs: vec![] };
        let reply = Reply { task, outcome: Outcome::Returned {}, results: vec![result], retained: vec![], leaving: false };
        self.owner.on_peer(0, HOME, Peer::Reply { reply: Box::new(reply) });
    }

    /// An object that is not there yet: the result of a call to another actor.
    fn pending(&mut self) -> (ObjectId, u64) {
        let method = self.method_of(actor(2), 0, false);
        let call = self.submit(&method, vec![]);
        self.owner.on_node(0, FromNode::ActorChanged { actor: actor(2), state: ActorState::Alive { proc_id: HOME, incarnation: 1 } });
        self.sent();
        (ObjectId::new(ME, call, 1), call)
    }

    fn is_failed(&self, call: u64) -> bool {
        self.owner.value(ObjectId::new(ME, call, 1)).is_some_and(Value::is_error)
    }
}

#[test]
fn groups_do_not_wait_for_arguments_of_another() {
    let mut stage = Stage::new();
    let (plain, io) = (stage.method(0, false), stage.method(1, false));
    stage.submit(&plain, vec![]);
    stage.lives_at(HOME);
    stage.sent();
    let (argument, made_by) = stage.pending();
    let waits = stage.submit(&plain, vec![argument]);
    let behind = stage.submit(&plain, vec![]);
    let other = stage.submit(&io, vec![]);
    assert_eq!(stage.sent(), (vec![other], vec![1]));
    stage.replies(made_by);
    assert_eq!(stage.sent().0, vec![waits, behind]);
}

#[test]
fn unordered_calls_overtake_one_that_waits_for_arguments() {
    let mut stage = Stage::new();
    let method = stage.method(0, true);
    stage.submit(&method, vec![]);
    stage.lives_at(HOME);
    stage.sent();
    let (argument, made_by) = stage.pending();
    let waits = stage.submit(&method, vec![argument]);
    let (second, third) = (stage.submit(&method, vec![]), stage.submit(&method, vec![]));
    assert_eq!(stage.sent().0, vec![second, third]);
    stage.replies(made_by);
    assert_eq!(stage.sent().0, vec![waits]);
}

#[test]
fn restart_repeats_each_group_in_its_order() {
    let mut stage = Stage::new();
    let (plain, io) = (stage.method(0, false), stage.method(1, false));
    let calls: Vec<u64> = (0..6).map(|i| stage.submit(if i % 2 == 0 { &plain } else { &io }, vec![])).collect();
    stage.lives_at(HOME);
    let (even, odd) = (vec![calls[0], calls[2], calls[4]], vec![calls[1], calls[3], calls[5]]);
    assert_eq!(stage.sent().0, [even.clone(), odd.clone()].concat());
    stage.replies(calls[1]);
    stage.state(ActorState::Restarting { cause: system_error("actor_died", &[]) });
    let late = stage.submit(&io, vec![]);
    stage.lives_at(NEW_HOME);
    assert_eq!(stage.sent().0, [even, odd[1..].to_vec(), vec![late]].concat());
}

#[test]
fn death_fails_every_group_and_what_waits_for_arguments() {
    let mut stage = Stage::new();
    let (plain, io, loose) = (stage.method(0, false), stage.method(1, false), stage.method(2, true));
    stage.owner.add_local(actor(1));
    let running = stage.submit(&plain, vec![]);
    stage.lives_at(HOME);
    let (argument, _) = stage.pending();
    let calls = [running, stage.submit(&plain, vec![argument]), stage.submit(&io, vec![argument]), stage.submit(&loose, vec![argument])];
    stage.state(ActorState::Dead { cause: system_error("actor_died", &[]) });
    let late = stage.submit(&loose, vec![argument]);
    let failed: Vec<bool> = calls.iter().chain([&late]).map(|call| stage.is_failed(*call)).collect();
    assert_eq!(failed, [true; 5]);
    stage.sent();
}
