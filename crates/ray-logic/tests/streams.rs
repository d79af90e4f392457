//! A call with a stream of results, as events in and commands out.

use ray_logic::owner::{CallArgs, CallKind, Command, Limits, Next, Owner, StreamOptions, Template};
use ray_proto::ids::END_INDEX;
use ray_proto::msg::{Call, Evidence, FromNode, Outcome, Peer, Reply};
use ray_proto::value::{FLAG_PICKLE, FLAG_RAISED};
use ray_proto::{ClassId, LeaseId, ObjectId, Payload, ProcId, Resources, Value};

const ME: ProcId = ProcId(1);
const WORKER: ProcId = ProcId(2);

struct Stage {
    owner: Owner,
    now: u64,
    call: u64,
}

impl Stage {
    /// One call of a generator, on its worker.
    fn start(window: Option<u64>, max_retries: i32) -> (Self, Box<Call>) {
        let mut owner = Owner::new(ME, Resources::from_f64([("CPU", 4.0)]), Limits::default());
        let class = owner.class_for(&Resources::from_f64([("CPU", 1.0)]), "", &ray_proto::Strategy::DEFAULT);
        let template = owner.template(Template {
            id: Default::default(),
            kind: CallKind::Task { class },
            name: "count".into(),
            payload: b"code"[..].into(),
            num_returns: 0,
            stream: Some(StreamOptions { window, gather: false }),
            max_retries,
            retry_raised: false,
            max_calls: 0,
        });
        let args = CallArgs { body: Value::inline(b""), body_id: ObjectId::NIL, deps: vec![], nested: vec![] };
        let call = owner.submit(0, &template, args).expect("no limit");
        let mut stage = Stage { owner, now: 0, call };
        let sent = stage.lease(LeaseId(1), WORKER);
        (stage, sent)
    }

    fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        self.owner.take_commands(&mut commands);
        self.owner.check_invariants();
        commands
    }

    /// A worker is granted; the call that it gets.
    fn lease(&mut self, lease: LeaseId, worker: ProcId) -> Box<Call> {
        self.owner.on_node(self.now, FromNode::LeaseGrant { class: ClassId(0), lease, worker, pid: 7, gpu_ids: vec![] });
        let to_call = |command| match command {
            Command::Peer { to, message: Peer::Call { call }, .. } if to == worker => Some(call),
            _ => None,
        };
        self.commands().into_iter().find_map(to_call).expect("the call is sent")
    }

    /// Items from `first` on arrive; what is sent back.
    fn items(&mut self, from: ProcId, first: u64, count: u64) -> Vec<Command> {
        let items = (first..first + count).map(item).collect();
        self.owner.on_peer(self.now, from, Peer::StreamItems { task: self.call, first, items });
        self.commands()
    }

    fn ends(&mut self, results: Vec<Payload>) -> Vec<Command> {
        let reply = Reply { task: self.call, outcome: Outcome::Returned {}, results, retained: vec![], leaving: false };
        self.owner.on_peer(self.now, WORKER, Peer::Reply { reply: Box::new(reply) });
        self.commands()
    }

    fn dies(&mut self, worker: ProcId) -> Vec<Command> {
        let evidence = Evidence { pid: 7, signal: 9, last_started: Some((ME, self.call)), ..Evidence::default() };
        self.owner.on_node(self.now, FromNode::ProcDied { proc_id: worker, evidence });
        self.commands()
    }

    /// Read the next item, and let go of it.
    fn read(&mut self) -> Option<Value> {
        let Next::Item(id) = self.owner.stream_next(self.call) else { return None };
        let value = self.owner.value(id).cloned();
        self.owner.release_local(id);
        value
    }
}

fn item(index: u64) -> Payload {
    Payload { value: Value::inline(vec![FLAG_PICKLE, index as u8]), refs: vec![] }
}

fn credits(commands: &[Command]) -> Vec<u64> {
    let credit = |command: &Command| match command {
        Command::Peer { message: Peer::StreamCredit { until, .. }, .. } => Some(*until),
        _ => None,
    };
    commands.iter().filter_map(credit).collect()
}

fn closes(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Peer { to: WORKER, message: Peer::StreamClose { .. }, .. })).count()
}

#[test]
fn stream_items_are_read_in_order_and_then_it_is_over() {
    let (mut stage, sent) = Stage::start(None, 0);
    assert_eq!(sent.stream.expect("it streams").have, 0);
    assert_eq!(stage.owner.stream_next(stage.call), Next::Pending);
    stage.items(WORKER, 1, 2);
    stage.ends(vec![item(0)]);
    assert_eq!(stage.read(), Some(item(1).value));
    assert_eq!(stage.read(), Some(item(2).value));
    assert_eq!(stage.owner.stream_next(stage.call), Next::Over);
    assert!(stage.owner.is_ready(ObjectId::new(ME, stage.call, END_INDEX)));
    stage.owner.stream_dropped(stage.call);
    stage.commands();
    assert_eq!(stage.owner.sizes().0, 0, "{:?}", stage.owner.leftovers());
}

#[test]
fn stream_reader_that_waits_is_woken_once_for_many_items() {
    let (mut stage, _) = Stage::start(None, 0);
    let awaited = stage.owner.stream_peek(stage.call);
    assert!(stage.owner.wait_start(&[awaited], 1, Default::default()).is_some());
    let woken = stage.items(WORKER, 1, 50).into_iter().filter(|command| matches!(command, Command::Wake(_))).count();
    assert_eq!(woken, 1);
}

#[test]
fn stream_dropped_by_its_reader_frees_items_and_stops_the_producer() {
    let (mut stage, _) = Stage::start(None, 0);
    stage.items(WORKER, 1, 3);
    stage.owner.stream_dropped(stage.call);
    assert_eq!(closes(&stage.commands()), 1);
    assert_eq!(stage.owner.sizes().0, 0, "{:?}", stage.owner.leftovers());
    stage.items(WORKER, 4, 3);
    assert_eq!(stage.owner.sizes().0, 0, "late items are thrown away");
    stage.ends(vec![]);
    assert_eq!(stage.owner.sizes().1, 0);
}

#[test]
fn stream_whose_end_is_still_referred_to_runs_on_without_a_reader() {
    let (mut stage, _) = Stage::start(Some(1), 0);
    let end = stage.owner.stream_end(stage.call);
    stage.items(WORKER, 1, 1);
    stage.owner.stream_dropped(stage.call);
    let commands = stage.commands();
    assert_eq!(closes(&commands), 0);
    assert_eq!(credits(&commands).len(), 1, "nobody will read, so nothing is waited for");
    stage.owner.release_local(end);
    assert_eq!(closes(&stage.commands()), 1);
}

#[test]
fn stream_with_a_window_gives_credit_as_items_are_read() {
    let (mut stage, sent) = Stage::start(Some(2), 0);
    assert_eq!(sent.stream.expect("it streams").until, 2);
    assert_eq!(credits(&stage.items(WORKER, 1, 2)), []);
    stage.read();
    assert_eq!(credits(&stage.commands()), [3]);
    stage.read();
    assert_eq!(credits(&stage.commands()), [4]);
}

#[test]
fn stream_without_a_window_gives_credit_in_large_steps() {
    let (mut stage, sent) = Stage::start(None, 0);
    let until = sent.stream.expect("it streams").until;
    let given: Vec<u64> = (0..until).flat_map(|at| credits(&stage.items(WORKER, at + 1, 1))).collect();
    assert!((1..=2).contains(&given.len()), "{given:?}");
    assert!(given.last().is_some_and(|last| *last > until));
}

#[test]
fn stream_is_tried_again_behind_what_has_arrived() {
    let (mut stage, _) = Stage::start(None, 1);
    stage.items(WORKER, 1, 3);
    stage.dies(WORKER);
    let again = stage.lease(LeaseId(2), ProcId(3));
    assert_eq!((again.attempt, again.stream.expect("it streams").have), (1, 3));
    // One that the first attempt had sent after all comes twice: once from each.
    stage.items(ProcId(3), 3, 2);
    let read: Vec<_> = std::iter::from_fn(|| stage.read()).collect();
    assert_eq!(read, (1..=4).map(|index| item(index).value).collect::<Vec<_>>());
}

#[test]
fn stream_without_retries_ends_with_the_error_behind_what_has_arrived() {
    let (mut stage, _) = Stage::start(None, 0);
    stage.items(WORKER, 1, 1);
    stage.dies(WORKER);
    assert_eq!(stage.read(), Some(item(1).value));
    assert!(stage.read().is_some_and(|value| value.is_error()));
    assert_eq!(stage.owner.stream_next(stage.call), Next::Over);
    assert!(stage.owner.value(ObjectId::new(ME, stage.call, END_INDEX)).is_some_and(Value::is_error));
}

#[test]
fn stream_that_nobody_wants_is_not_tried_again() {
    let (mut stage, _) = Stage::start(None, -1);
    stage.owner.stream_dropped(stage.call);
    stage.commands();
    stage.dies(WORKER);
    assert_eq!(stage.owner.sizes().1, 0, "{:?}", stage.owner.leftovers());
}

#[test]
fn stream_that_raises_gives_the_error_as_its_last_item_and_ends_well() {
    let (mut stage, _) = Stage::start(None, 0);
    stage.items(WORKER, 1, 1);
    let error = Payload { value: Value::inline(vec![FLAG_RAISED, 1]), refs: vec![] };
    stage.ends(vec![error.clone(), item(0)]);
    assert_eq!(stage.read(), Some(item(1).value));
    assert_eq!(stage.read(), Some(error.value));
    assert_eq!(stage.owner.value(ObjectId::new(ME, stage.call, END_INDEX)), Some(&item(0).value));
}
