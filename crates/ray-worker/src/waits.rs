//! Waiting: for objects (get, wait, futures) and for answers of the node.

use crate::gate::Gate;
use crate::library::{Answer, Core, Failure, Library};
use ray_logic::owner::{Owner, WaitId, Waiting};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{ObjectId, ProcId, Value};
use ray_shm::poll::Waker;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Who is told when a wait is over.
pub(crate) enum Waiter {
    Gate(Arc<Gate>),
    Completion(Arc<CompletionQueue>, u64),
}

impl Waiter {
    pub(crate) fn wake(self) {
        match self {
            Waiter::Gate(gate) => gate.open(),
            Waiter::Completion(queue, token) => queue.complete(token),
        }
    }
}

/// A started wait. End it with `wait_end`.
pub struct Ticket {
    pub gate: Arc<Gate>,
    wait: WaitId,
    /// It told the node that this worker's call blocks.
    blocks: bool,
}

/// Finished objects for an event loop or a thread of futures: many completions, one wake-up.
pub struct CompletionQueue {
    done: Mutex<Vec<u64>>,
    waker: Waker,
}

impl CompletionQueue {
    pub fn new() -> Result<Self, Failure> {
        let waker = Waker::new().map_err(|error| Failure::System(format!("no descriptor left for futures: {error}")))?;
        Ok(CompletionQueue { done: Mutex::new(Vec::new()), waker })
    }

    /// Readable when something is done.
    pub fn fd(&self) -> i32 {
        self.waker.fd().as_raw_fd()
    }

    /// `token` is done.
    pub fn complete(&self, token: u64) {
        let mut done = self.done.lock().expect("no panic while held");
        done.push(token);
        if done.len() == 1 {
            self.waker.wake();
        }
    }

    /// Make the descriptor readable although nothing is done.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The tokens done since the last call.
    pub fn take(&self) -> Vec<u64> {
        let mut done = self.done.lock().expect("no panic while held");
        self.waker.clear();
        std::mem::take(&mut done)
    }
}

impl Library {
    /// The values, if all are ready.
    pub fn values(&self, ids: &[ObjectId]) -> Option<Vec<Value>> {
        let mut core = self.lock();
        self.drain_drops(&mut core);
        let values = ids.iter().map(|id| core.owner.value(*id).cloned()).collect();
        self.settle(core);
        values
    }

    pub fn is_ready(&self, id: ObjectId) -> bool {
        self.lock().owner.is_ready(id)
    }

    /// Which of `ids` are ready, at most `most`, by position. With `fetch`, borrowed ones are asked for.
    pub fn ready_among(&self, ids: &[ObjectId], most: usize) -> Vec<usize> {
        let core = self.lock();
        (0..ids.len()).filter(|at| core.owner.is_ready(ids[*at])).take(most).collect()
    }

    /// Begin to wait until `need` of `ids` are ready; None: they are. `call`: a worker's running call, which blocks meanwhile.
    pub fn wait_start(&self, ids: &[ObjectId], need: usize, call: Option<(ProcId, u64)>) -> Result<Option<Ticket>, Failure> {
        self.begin_wait(ids, call, |owner, who| owner.wait_start(ids, need, who))
    }

    pub(crate) fn begin_wait(
        &self,
        ids: &[ObjectId],
        call: Option<(ProcId, u64)>,
        begin: impl FnOnce(&mut Owner, Waiting) -> Option<WaitId>,
    ) -> Result<Option<Ticket>, Failure> {
        self.check()?;
        let who = Waiting { since: ray_shm::now_us(), blocks: true, call };
        let ticket = self.with(|core| {
            let wait = begin(&mut core.owner, who)?;
            let gate = Arc::new(Gate::default());
            core.waiters.insert(wait, Waiter::Gate(gate.clone()));
            if call.is_some() {
                core.call_blocks();
            }
            core.flush_all();
            Some(Ticket { gate, wait, blocks: call.is_some() })
        });
        // The session may have ended between the check and the registration.
        if let (Some(ticket), Err(failure)) = (&ticket, self.check()) {
            self.wait_end(ticket, ids);
            return Err(failure);
        }
        Ok(ticket)
    }

    pub fn wait_end(&self, ticket: &Ticket, ids: &[ObjectId]) {
        self.with(|core| {
            core.waiters.remove(&ticket.wait);
            core.owner.wait_end(ticket.wait, ids);
            if ticket.blocks && core.exec.unblock() {
                core.queue_node(ToNode::Unblocked {});
            }
        });
    }

    /// Tell `queue` when `id` is ready; `call` is on whose behalf. Ends by itself then, or with `unwatch`. None: it is ready already, and nobody is told.
    pub fn watch(&self, id: ObjectId, queue: &Arc<CompletionQueue>, token: u64, call: Option<(ProcId, u64)>) -> Option<WaitId> {
        let who = Waiting { since: ray_shm::now_us(), blocks: false, call };
        self.with(|core| {
            let wait = core.owner.wait_start(&[id], 1, who)?;
            core.waiters.insert(wait, Waiter::Completion(queue.clone(), token));
            core.flush_all();
            Some(wait)
        })
    }

    /// Nobody wants to be told of `id` any more. It may have been told already.
    pub fn unwatch(&self, id: ObjectId, wait: WaitId) {
        self.with(|core| {
            if core.waiters.remove(&wait).is_some() {
                core.owner.wait_end(wait, &[id]);
            }
        });
    }

    /// Ask the node and register the gate its answer opens.
    pub fn ask(&self, question: impl FnOnce(u64) -> ToNode) -> Result<(u64, Arc<Gate>), Failure> {
        self.check()?;
        let gate = Arc::new(Gate::default());
        let token = self.with(|core| {
            let token = core.token();
            core.answers.insert(token, Answer::Waiting(gate.clone()));
            core.queue_node(question(token));
            core.flush_all();
            token
        });
        self.check()?;
        Ok((token, gate))
    }

    /// The answer once its gate is open.
    pub fn answer(&self, token: u64) -> Result<(FromNode, Option<OwnedFd>), Failure> {
        // Not in the `match`: the lock would be held in its arms, too, and `check` takes it.
        let answer = self.lock().answers.remove(&token);
        match answer {
            Some(Answer::Here(message, fd)) => Ok((*message, fd)),
            _ => {
                self.check()?;
                Err(Failure::System("the wait for the daemon's answer was given up".into()))
            }
        }
    }

    /// Ask and wait. For callers that don't hold the GIL and can't be interrupted halfway.
    pub fn ask_and_wait(&self, question: impl FnOnce(u64) -> ToNode) -> Result<(FromNode, Option<OwnedFd>), Failure> {
        let (token, gate) = self.ask(question)?;
        while self.wait_at(&gate, None) != crate::Woken::Open {}
        self.answer(token)
    }
}

impl Core {
    /// The running call waits: its CPU and everything queued behind it go back.
    pub(crate) fn call_blocks(&mut self) {
        let caller = self.exec.callers().next().unwrap_or(ProcId::NODE);
        if let Some(unstarted) = self.exec.block() {
            self.owner.give_back(unstarted, true, caller);
            self.queue_node(ToNode::Blocked {});
        }
    }
}
