//! Calls that mention objects of third parties start when these know of the callee.

mod stage;

use ray_logic::exec::{Exec, Queued};
use ray_logic::owner::{Command, Limits, Owner};
use ray_proto::msg::{Args, Call, Evidence, FromNode, Outcome, Peer};
use ray_proto::{ObjectId, Payload, ProcId, Resources, TemplateId, Value};
use stage::{on, plain, proc_on};

fn worker() -> Owner {
    Owner::new(proc_on(0, 5), Resources::from_f64([("CPU", 1.0)]), Limits::default())
}

fn caller() -> ProcId {
    proc_on(0, 2)
}

fn third() -> ProcId {
    proc_on(0, 1)
}

fn call(task: u64, dep: Option<ObjectId>, nested: &[ObjectId]) -> Box<Call> {
    let deps = dep.into_iter().map(|id| (id, plain(on(0, 0)))).collect();
    let args = Args { body: Value::inline(b"\0body"), body_id: ObjectId::NIL, deps, nested: nested.to_vec() };
    Box::new(Call { task, template: TemplateId(0), attempt: 0, num_returns: 1, actor_seq: Some((ObjectId::NIL, task)), gpu_ids: vec![], args, stream: None })
}

fn commands(owner: &mut Owner) -> Vec<Command> {
    let mut found = vec![];
    owner.take_commands(&mut found);
    owner.check_invariants();
    found
}

fn borrow_of(found: &[Command]) -> Option<(ProcId, Vec<ObjectId>, u64)> {
    found.iter().find_map(|command| match command {
        Command::Peer { to, message: Peer::Borrow { ids, token }, .. } => Some((*to, ids.clone(), *token)),
        _ => None,
    })
}

fn start_of(found: &[Command]) -> Option<(u64, Vec<(ObjectId, Value)>)> {
    found.iter().find_map(|command| match command {
        Command::Start { token, gone } => Some((*token, gone.clone())),
        _ => None,
    })
}

fn put_of(owner: ProcId, number: u64) -> ObjectId {
    ObjectId::new(owner, number, 0)
}

#[test]
fn call_without_third_parties_starts_at_once() {
    let mut owner = worker();
    let of_caller = put_of(caller(), 1);
    assert_eq!(owner.accept_call(caller(), &call(1, Some(of_caller), &[of_caller])), None);
    assert_eq!(borrow_of(&commands(&mut owner)), None);
}

#[test]
fn call_with_an_object_of_a_third_party_waits_for_its_owner() {
    let (mut owner, mut exec) = (worker(), Exec::default());
    let theirs = put_of(third(), 7);
    let call = call(1, Some(theirs), &[]);
    let after = owner.accept_call(caller(), &call);
    let token = after.expect("a registration");
    exec.push(0, Queued { from: caller(), call, after });
    assert!(!exec.can_start(0) && exec.pop(0, 0).is_none());
    assert_eq!(borrow_of(&commands(&mut owner)), Some((third(), vec![theirs], token)));
    owner.on_peer(0, third(), Peer::BorrowAck { token, gone: vec![] });
    let (started, gone) = start_of(&commands(&mut owner)).expect("it may start");
    assert_eq!((started, gone.len(), exec.registered(started, &gone)), (token, 0, Some(0)));
    let queued = exec.pop(0, 0).expect("a call");
    assert_eq!(queued.call.args.deps[0].1.value, on(0, 0));
    // The caller is gone, and the owner still has a borrower: us. It hears when the call has ended.
    owner.on_node(0, FromNode::ProcDied { proc_id: caller(), evidence: Evidence::default() });
    assert!(owner.get(theirs).is_some());
    owner.finish_call(caller(), 1, &[theirs], Outcome::Returned {}, vec![], false);
    let release = commands(&mut owner).into_iter().find_map(|command| match command {
        Command::Peer { to, message: Peer::Release { ids }, .. } => Some((to, ids)),
        _ => None,
    });
    assert_eq!(release, Some((third(), vec![(theirs, 1)])));
}

#[test]
fn value_that_its_owner_had_let_go_of_is_an_error() {
    let (mut owner, mut exec) = (worker(), Exec::default());
    let theirs = put_of(third(), 7);
    let call = call(1, Some(theirs), &[]);
    let after = owner.accept_call(caller(), &call);
    exec.push(0, Queued { from: caller(), call, after });
    let token = after.expect("a registration");
    owner.on_peer(0, third(), Peer::BorrowAck { token, gone: vec![theirs] });
    let (started, gone) = start_of(&commands(&mut owner)).expect("it may start");
    exec.registered(started, &gone);
    assert!(exec.pop(0, 0).expect("a call").call.args.deps[0].1.value.is_error());
}

#[test]
fn owner_knows_what_it_had_let_go_of() {
    let mut owner = worker();
    let kept = owner.put(Payload { value: Value::inline(b"\0kept"), refs: vec![] });
    let gone = put_of(owner.me(), 99);
    owner.on_peer(0, caller(), Peer::Borrow { ids: vec![kept, gone], token: 4 });
    let found = commands(&mut owner);
    assert!(found.contains(&Command::Peer { to: caller(), message: Peer::BorrowAck { token: 4, gone: vec![gone] }, urgent: true }), "{found:?}");
}

#[test]
fn other_callers_overtake_a_call_that_waits_and_its_own_caller_does_not() {
    let mut exec = Exec::default();
    let other = proc_on(0, 3);
    let queue = [(caller(), 1, Some(9)), (caller(), 2, None), (other, 1, None)];
    for (from, task, after) in queue {
        exec.push(0, Queued { from, call: call(task, None, &[]), after });
    }
    assert_eq!(exec.pop(0, 0).map(|queued| queued.from), Some(other));
    assert!(exec.pop(0, 0).is_none());
    assert_eq!(exec.registered(9, &[]), Some(0));
    let order: Vec<u64> = std::iter::from_fn(|| exec.pop(0, 0)).map(|queued| queued.call.task).collect();
    assert_eq!(order, [1, 2]);
}

#[test]
fn dead_owner_holds_up_nobody() {
    let mut owner = worker();
    let theirs = put_of(third(), 7);
    let token = owner.accept_call(caller(), &call(1, Some(theirs), &[])).expect("a registration");
    assert!(start_of(&commands(&mut owner)).is_none());
    owner.on_node(0, FromNode::ProcDied { proc_id: third(), evidence: Evidence::default() });
    assert_eq!(start_of(&commands(&mut owner)).map(|(started, _)| started), Some(token));
}
