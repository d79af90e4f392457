//! Cancelling calls: ours, those that run here, and those of which we only have a reference (docs/design/013).
//!
//! A task is interrupted by a signal to the main thread. Its handler runs there, under the GIL, and asks `take_interrupt` for the very call that the thread is
//! in: so an interruption that comes late finds nothing to interrupt, and never hits the next call.
//!
//! Invariants
//! 1. `Interrupts::untold` is not 0 while a task that runs here was cancelled and its code does not know. It is set before the signal is sent.
//! 2. A call that is cancelled before its code begins does not begin: who opens the window for interruptions looks at `untold` afterwards.

use crate::gate::Gate;
use crate::library::{Core, Failure, Library};
use crate::waits::Waiter;
use ray_logic::exec::Found;
use ray_logic::owner::CancelError;
use ray_proto::msg::{Cancellation, Outcome, Peer};
use ray_proto::{ObjectId, Payload, ProcId};
use ray_shm::signals::{end_own_group, interrupt_main_thread};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

/// What the main thread of a worker looks at without a lock.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// Running tasks whose code was not told of their cancellation.
    untold: AtomicU32,
    /// A signal was sent since the main thread last waited.
    sent: AtomicBool,
}

impl Interrupts {
    pub(crate) fn any_untold(&self) -> bool {
        self.untold.load(Ordering::Acquire) > 0
    }

    /// The reader is the main thread, and it has sent a signal to itself: no system call of its was interrupted by that.
    pub(crate) fn strikes_reader(&self) -> bool {
        self.sent.load(Ordering::Acquire) && rustix::thread::gettid() == rustix::process::getpid() && self.sent.swap(false, Ordering::AcqRel)
    }
}

/// A question to the owner of a call.
pub(crate) struct Ask {
    owner: ProcId,
    gate: Arc<Gate>,
    refused: String,
}

/// An answer that is awaited at `gate`. End it with `cancel_answer`.
pub struct Asked {
    pub gate: Arc<Gate>,
    token: u64,
}

pub enum Step {
    Done,
    /// Nothing was done, and why.
    Refused(String),
    Asked(Asked),
}

impl Library {
    /// Cancel the call that makes `id`. The call of another process is cancelled by that one, which is asked.
    pub fn cancel(&self, id: ObjectId, how: &Cancellation) -> Result<Step, Failure> {
        self.check()?;
        let now = ray_shm::now_us();
        let step = self.with(|core| {
            if id.owner == core.owner.me() {
                let step = core.cancel_own(now, id, how).map_or_else(Step::Refused, |()| Step::Done);
                core.flush_all();
                return step;
            }
            if core.owner.is_dead(id.owner) {
                return Step::Done;
            }
            let (token, gate) = (core.token(), Arc::new(Gate::default()));
            core.cancel_asks.insert(token, Ask { owner: id.owner, gate: gate.clone(), refused: String::new() });
            core.queue_peer(id.owner, Peer::CancelAsk { id, how: how.clone(), token }, true);
            core.flush_all();
            Step::Asked(Asked { gate, token })
        });
        // The session may have ended meanwhile: nobody would open the gate.
        if let (Step::Asked(asked), Err(failure)) = (&step, self.check()) {
            self.cancel_answer(asked);
            return Err(failure);
        }
        Ok(step)
    }

    /// Why the owner has refused; empty: it has not, or it is gone.
    pub fn cancel_answer(&self, asked: &Asked) -> String {
        self.lock().cancel_asks.remove(&asked.token).map(|ask| ask.refused).unwrap_or_default()
    }

    /// Some running call was cancelled whose code does not know, or never will.
    pub fn any_untold(&self) -> bool {
        self.interrupts.any_untold()
    }

    /// Who has cancelled this running call, if somebody has.
    pub fn cancelled_by(&self, (from, task): (ProcId, u64)) -> Option<String> {
        self.lock().exec.cancellation(from, task).map(|how| how.by.clone())
    }

    /// Whether this running task is to be interrupted now; true once for each time it was cancelled. Cheap while nothing is.
    pub fn take_interrupt(&self, (from, task): (ProcId, u64)) -> bool {
        if !self.any_untold() {
            return false;
        }
        let mut core = self.lock();
        let taken = core.exec.take_cancel(from, task);
        core.note_untold();
        taken
    }

    /// Running calls of a group whose cancellation their event loop has not heard of.
    pub fn take_cancelled(&self, group: usize) -> Vec<(ProcId, u64)> {
        if !self.any_untold() {
            return vec![];
        }
        let mut core = self.lock();
        let mut keys: Vec<(ProcId, u64)> = core.exec.all_untold().collect();
        keys.retain(|(from, task)| core.running_group(*from, *task) == Some(group) && core.exec.take_cancel(*from, *task));
        core.note_untold();
        keys
    }

    /// A running call ends as its caller wished. `results`: as after an error, or none.
    pub fn finish_cancelled(&self, work: &crate::CallWork, results: Vec<Payload>, leaving: bool) {
        self.finish_call(work, Outcome::Cancelled { started: true }, results, leaving);
    }
}

impl Core {
    pub(crate) fn cancel_own(&mut self, now: u64, id: ObjectId, how: &Cancellation) -> Result<(), String> {
        self.owner.cancel(now, id, how).map_err(|CancelError::ForceOnActor { name }| {
            format!("force=True can't be used on a call of an actor, here {name}: it would end the actor, and with it the calls of others\nhint: use ray.cancel(ref) without force, or ray.kill(actor)")
        })
    }

    /// A caller does not want its call any more.
    pub(crate) fn cancel_arrived(&mut self, now: u64, from: ProcId, task: u64, how: &Cancellation) {
        match self.exec.cancel(from, task, how) {
            Found::Nowhere => {}
            Found::Queued(queued) => self.owner.refuse_cancelled(*queued),
            Found::Running { is_task } => {
                self.note_untold();
                if how.recursive {
                    self.owner.cancel_children(now, (from, task), &of_child(how));
                }
                if how.force && is_task {
                    // What was decided so far leaves with the process.
                    self.flush_all();
                    end_own_group();
                }
                match is_task {
                    true => {
                        self.interrupts.sent.store(true, Ordering::Release);
                        interrupt_main_thread();
                    }
                    false => {
                        let group = self.running_group(from, task).unwrap_or(0);
                        self.arrived[group] += 1;
                        self.feed(from, task);
                    }
                }
            }
        }
    }

    pub(crate) fn cancel_told(&mut self, token: u64, refused: String) {
        if let Some(ask) = self.cancel_asks.get_mut(&token) {
            ask.refused = refused;
            self.woken.push(Waiter::Gate(ask.gate.clone()));
        }
    }

    /// Owners that are asked and will not answer.
    pub(crate) fn give_up_asks(&self, is_gone: impl Fn(ProcId) -> bool) -> Vec<Waiter> {
        self.cancel_asks.values().filter(|ask| is_gone(ask.owner)).map(|ask| Waiter::Gate(ask.gate.clone())).collect()
    }

    /// A call was submitted inside of a running one. If that one is being cancelled together with its calls, and does not know yet, the new one goes, too.
    pub(crate) fn born(&mut self, now: u64, call: u64, parent: (ProcId, u64)) {
        self.owner.note_parent(call, parent);
        if let Some(how) = self.exec.untold(parent.0, parent.1).filter(|how| how.recursive).map(of_child) {
            self.owner.cancel_child(now, call, &how);
        }
    }

    /// Tell the threads that run calls whether they have to look.
    pub(crate) fn note_untold(&self) {
        self.interrupts.untold.store(self.exec.all_untold().count() as u32, Ordering::Release);
    }

    fn running_group(&self, from: ProcId, task: u64) -> Option<usize> {
        let template = self.exec.all_running().find(|(caller, call, _)| (*caller, *call) == (from, task)).map(|(_, _, running)| running.template)?;
        Some(self.group_of(from, template))
    }
}

/// What becomes of the calls of a call that is cancelled.
fn of_child(how: &Cancellation) -> Cancellation {
    let by = match how.by.ends_with(WITH_CALLER) {
        true => how.by.clone(),
        false => format!("{}{WITH_CALLER}", how.by),
    };
    Cancellation { by, ..how.clone() }
}

const WITH_CALLER: &str = ", together with the call that made it";
