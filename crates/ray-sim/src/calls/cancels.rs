//! Calls that are cancelled in random programs: by their callers and by borrowers, queued and running, with their children, by force.

use crate::env::Env;
use crate::frame::{Ending, Frame, Role, Waiting};
use crate::process::Process;
use ray_logic::exec::Found;
use ray_proto::ids::END_INDEX;
use ray_proto::msg::{Cancellation, Outcome, Peer, ToNode};
use ray_proto::report::Fact;
use ray_proto::{ObjectId, ProcId};

impl Process {
    /// One step: somebody's call is not wanted any more.
    pub fn cancel_some(&mut self, env: &mut Env, frame: &Frame) {
        let mut ids: Vec<ObjectId> = frame.refs().into_iter().filter(|id| !id.is_actor()).collect();
        ids.extend(frame.readers.iter().map(|reader| ObjectId::new(self.id, reader.call, END_INDEX)));
        let Some(id) = env.rng.pick(&ids) else { return };
        let how = Cancellation { force: env.rng.permille(200), recursive: env.rng.permille(700), by: "the program".into() };
        env.note(self.id, || format!("cancels {id:?}: {how:?}"));
        env.oracle.cancelled.insert((id.owner, id.call()));
        match id.owner == self.id {
            true => self.cancel_own(env, id, &how),
            false => self.send_peer(env, id.owner, Peer::CancelAsk { id, how, token: 0 }),
        }
    }

    pub fn cancel_own(&mut self, env: &mut Env, id: ObjectId, how: &Cancellation) {
        let attempt = self.owner.report_object(env.now, id).into_iter().find_map(|fact| match fact {
            Fact::Call { attempt, .. } => Some(attempt),
            _ => None,
        });
        if self.owner.cancel(env.now, id, how).is_ok() {
            if let Some(attempt) = attempt {
                env.oracle.last_attempts.insert((id.owner, id.call()), attempt);
            }
        }
    }

    /// A call was made inside of the one that runs.
    pub fn call_born(&mut self, env: &mut Env, frame: &Frame, call: u64) {
        let Role::Call { from, task } = frame.role else { return };
        self.owner.note_parent(call, (from, task));
        if let Some(how) = self.exec.untold(from, task).filter(|how| how.recursive).cloned() {
            self.owner.cancel_child(env.now, call, &how);
        }
    }

    /// A caller does not want its call any more.
    pub fn cancel_arrived(&mut self, env: &mut Env, from: ProcId, task: u64, how: &Cancellation) {
        match self.exec.cancel(from, task, how) {
            Found::Nowhere => {}
            Found::Queued(queued) => self.owner.refuse_cancelled(*queued),
            Found::Running { is_task } => {
                if how.recursive {
                    self.owner.cancel_children(env.now, (from, task), how);
                }
                if how.force && is_task {
                    env.note(self.id, || format!("ends: {task} of {from:?} is cancelled by force"));
                    self.forced = true;
                } else if env.rng.permille(700) {
                    self.interrupt(env, from, task);
                }
            }
        }
    }

    /// The user's code is told; what it waits for it waits for no longer.
    fn interrupt(&mut self, env: &mut Env, from: ProcId, task: u64) {
        let runs = |frame: &Frame| matches!(frame.role, Role::Call { from: f, task: t } if (f, t) == (from, task));
        let Some(at) = self.frames.iter().position(|frame| runs(frame) && frame.ending.is_none()) else { return };
        self.exec.take_cancel(from, task);
        let mut frame = self.frames.swap_remove(at);
        frame.interrupted = true;
        let blocked = match frame.waiting.take() {
            Some(Waiting::Objects { wait, ids, .. }) => {
                self.owner.wait_end(wait, &ids);
                true
            }
            Some(Waiting::Credit) => true,
            // An answer of the node is waited for in any case.
            other => {
                frame.waiting = other;
                false
            }
        };
        if let Some(peeked) = frame.peeked.take() {
            self.drop_handle(env, peeked);
        }
        if blocked && self.exec.unblock() {
            self.to_node(env, ToNode::Unblocked {});
        }
        self.keep(env, frame);
    }

    /// The interruption ends the call.
    pub fn end_cancelled(&mut self, env: &mut Env, frame: Frame) {
        let Role::Call { from, task } = frame.role else { unreachable!("only calls are cancelled") };
        let ending = Ending { outcome: Outcome::Cancelled { started: true }, results: vec![], leaving: frame.leave_after };
        self.reply(env, frame, from, task, ending);
    }
}
