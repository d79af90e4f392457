//! Work for executors: calls, the construction of an actor, the end.

use crate::library::{Core, Library};
use crate::records::Marks;
use ray_logic::exec::{constructor_refs, Queued};
use ray_proto::groups::Within;
use ray_proto::msg::{ActorSpec, Call, Outcome, ToNode};
use ray_proto::{ActorId, Blob, Payload, ProcId, Resources, Value};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The reply of an actor's call waits this long for company while more calls are queued. A task's does not: if the next task ends the worker, what is done
/// must not be done again.
const REPLY_BATCH_US: u64 = 200;

const STOPPED: &str = "the actor ends itself";

/// A caller's description of a call site.
#[derive(Debug)]
pub struct WorkTemplate {
    pub name: String,
    pub payload: Blob,
    pub max_calls: u32,
    /// What the call's lease holds; nothing for methods, which use what their actor holds.
    pub held: Resources,
    /// Concurrency group of a method; 0 is the default one.
    pub group: u32,
    /// The placement group of a task.
    pub within: Option<Within>,
}

pub struct CallWork {
    pub from: ProcId,
    pub template: Arc<WorkTemplate>,
    pub call: Box<Call>,
    pub marks: Marks,
}

pub struct ActorWork {
    pub actor: ActorId,
    pub incarnation: u32,
    pub gpu_ids: Vec<u32>,
    pub spec: Box<ActorSpec>,
}

/// What the daemon tells the process itself to do; goes before calls.
pub(crate) enum Duty {
    Construct(Box<ActorWork>),
    Finish { reason: String },
}

pub enum Work {
    Call(CallWork),
    Construct(Box<ActorWork>),
    /// Leave: run exit handlers and end the process.
    Exit {
        reason: String,
    },
}

impl Library {
    /// The next piece of work for an executor of `group`, if there is one.
    pub fn try_work(&self, group: usize) -> Option<Work> {
        let mut core = self.lock();
        self.drain_drops(&mut core);
        if self.dismissed.load(Ordering::Acquire) {
            return None;
        }
        let work = core.next_work(group);
        core.constructing = matches!(work, Some(Work::Construct(_)));
        if let (Some(Work::Call(work)), Some((slot, board))) = (&work, &self.slot) {
            board.start(*slot, work.from.0, work.call.task);
        }
        if work.is_none() {
            core.flush_all();
        }
        self.settle(core);
        work
    }

    /// No further call starts, in any group: executors are told to end.
    pub fn stop_calls(&self) {
        self.lock().stopping = true;
        self.stations.ring_all(u32::MAX);
        self.rouse_reader();
    }

    /// Whether the process is to end now: it was told to, and no call waits in any group.
    pub fn try_end(&self) -> Option<String> {
        let mut core = self.lock();
        if core.stopping {
            return Some(STOPPED.into());
        }
        if !core.exec.is_empty() || !matches!(core.duties.front(), Some(Duty::Finish { .. })) {
            return None;
        }
        match core.duties.pop_front() {
            Some(Duty::Finish { reason }) => Some(reason),
            _ => None,
        }
    }

    /// Sleep until there may be work for `group`, or a signal comes. `seen` is from before `try_work`.
    pub fn wait_for_work(&self, group: usize, seen: u32) {
        self.wait_at_bell(group, seen);
    }

    pub fn work_seen(&self, group: usize) -> u32 {
        self.stations.of(group).bell.now()
    }

    /// A descriptor that is readable when work came for `group`, for an asyncio loop.
    pub fn work_fd(&self, group: usize) -> i32 {
        let waker = self.stations.of(group).waker.get_or_init(|| ray_shm::poll::Waker::new().expect("one descriptor for the event loop"));
        waker.wake();
        waker.fd().as_raw_fd()
    }

    pub fn clear_work_fd(&self, group: usize) {
        if let Some(waker) = self.stations.of(group).waker.get() {
            waker.clear();
        }
    }

    /// A call ended. Large results were stored for its caller by `store_for`.
    pub fn finish_call(&self, work: &CallWork, outcome: Outcome, results: Vec<Payload>, leaving: bool) {
        self.with(|core| {
            let Some(running) = core.exec.finish(work.from, work.call.task) else { return };
            let now = ray_shm::now_us();
            if let Some(recorder) = &core.recorder {
                recorder.ran(work, running.since, now, matches!(outcome, Outcome::Raised { .. }));
            }
            if core.interrupts.any_untold() {
                core.note_untold();
            }
            core.publish(work.from, &results);
            if leaving {
                core.leaving = true;
                let unstarted = core.exec.drain();
                core.owner.give_back(unstarted, false, ProcId::NODE);
            }
            core.owner.finish_call(work.from, work.call.task, &running.covered, outcome, results, leaving);
            let since = *core.replies_since.get_or_insert(now);
            if leaving || core.exec.is_empty() || work.call.actor_seq.is_none() || now >= since + REPLY_BATCH_US {
                core.flush_all();
            }
        });
    }

    /// The constructor returned: from now on the actor takes calls.
    pub fn actor_is_up(&self, work: &ActorWork) {
        let covered = constructor_refs(&work.spec);
        self.with(|core| {
            core.constructing = false;
            core.owner.finish_creation(&covered, ToNode::ActorUp { actor: work.actor });
            core.flush_all();
        });
    }

    /// The session is over. At rest: stop taking calls, so that the executor runs the user's exit handlers and ends the process; nothing of the session
    /// can be used any more. Otherwise the user's code would hold everybody up: end at once.
    pub(crate) fn dismiss(&self) {
        let mut core = self.lock();
        if core.exec.running() > 0 || core.constructing {
            ray_shm::signals::end_own_group();
        }
        core.over.get_or_insert_with(|| "the driver has ended the session".into());
        self.dismissed.store(true, Ordering::Release);
        self.over.store(true, Ordering::Release);
        drop(core);
        self.stations.ring_all(u32::MAX);
    }

    /// Wait until no other process needs an object of this one. Called by a worker that takes no more calls.
    pub fn wait_until_unneeded(&self) {
        while self.check().is_ok() {
            let seen = self.work_seen(0);
            let free = self.with(|core| {
                core.leaving = true;
                core.flush_all();
                core.owner.may_leave() && !core.owner.lends()
            });
            if free {
                return;
            }
            self.wait_for_work(0, seen);
        }
    }
}

impl Core {
    fn next_work(&mut self, group: usize) -> Option<Work> {
        if self.stopping {
            return Some(Work::Exit { reason: STOPPED.into() });
        }
        if let Some(duty) = self.duties.pop_front() {
            return match duty {
                Duty::Construct(work) => Some(Work::Construct(work)),
                // Calls that arrived before it are still done, whoever runs them.
                Duty::Finish { reason } if self.exec.is_empty() => Some(Work::Exit { reason }),
                finish => {
                    self.duties.push_back(finish);
                    self.next_call(group)
                }
            };
        }
        self.next_call(group)
    }

    fn next_call(&mut self, group: usize) -> Option<Work> {
        let Queued { from, call, .. } = self.exec.pop(group, ray_shm::now_us())?;
        let template = self.templates.get(&(from, call.template)).cloned();
        let unknown = || WorkTemplate { name: "?".into(), payload: Blob::EMPTY, max_calls: 0, held: Resources::default(), group: 0, within: None };
        let template = template.unwrap_or_else(|| Arc::new(unknown()));
        Some(Work::Call(CallWork { from, template, call, marks: Marks::default() }))
    }

    /// Results for another owner that lie in shared memory are announced. The node has to know of a range before its owner does: a kill in between
    /// would lose it.
    pub(crate) fn publish(&mut self, to: ProcId, results: &[Payload]) {
        let mut published = false;
        for payload in results {
            if let (Value::Shm(range), true) = (&payload.value, to != self.owner.me()) {
                self.queue_node(ToNode::Published { range: **range, owner: to });
                published = true;
            }
        }
        if published {
            self.flush(ProcId::NODE);
        }
    }

    /// Nothing runs, nothing waits, and no live object is owned or lent here.
    pub(crate) fn is_spare(&self) -> bool {
        let (objects, tasks, _, _) = self.owner.sizes();
        objects == 0 && tasks == 0 && self.exec.is_empty() && self.exec.running() == 0
    }

    /// Callers that died: what they queued is not wanted any more.
    pub(crate) fn forget_caller(&mut self, caller: ProcId) {
        let dropped = self.exec.forget_caller(caller);
        let mut by_caller: BTreeMap<ProcId, Vec<Queued>> = BTreeMap::new();
        dropped.into_iter().for_each(|queued| by_caller.entry(queued.from).or_default().push(queued));
        by_caller.into_values().for_each(|calls| self.owner.give_back(calls, false, ProcId::NODE));
        self.templates.retain(|(from, _), _| *from != caller);
        let starved: Vec<_> = self.starved.range((caller, 0)..=(caller, u64::MAX)).map(|(key, _)| *key).collect();
        starved.into_iter().for_each(|(from, task)| self.feed(from, task));
    }
}
