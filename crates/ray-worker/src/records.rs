//! Records of calls for the timeline (ray_shm::events): what a process sends, and what it runs. Some stores into memory that is mapped anyway, by whoever
//! has the core lock at that moment; a clock is read twice per call for it.

use crate::exec::{ActorWork, CallWork};
use crate::library::{Core, Library};
use ray_proto::msg::{Call, Peer, ToNode};
use ray_proto::report::{Fact, RecordKind};
use ray_proto::{ProcId, Value};
use ray_shm::events::{Note, Ring};
use ray_shm::now_us;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

pub(crate) struct Recorder {
    ring: Ring,
    by: ProcId,
    pid: u32,
}

/// When a running call came to its next step; noted by the thread that runs it.
#[derive(Debug, Default)]
pub struct Marks {
    had_args: AtomicU64,
    had_result: AtomicU64,
    unwanted: AtomicBool,
}

impl Marks {
    /// Its arguments are here; now the user's code runs.
    pub fn note_args(&self) {
        self.had_args.store(now_us(), Relaxed);
    }

    /// The user's code is done.
    pub fn note_result(&self) {
        self.had_result.store(now_us(), Relaxed);
    }

    /// It is to be left out (enable_task_events=False).
    pub fn leave_out(&self) {
        self.unwanted.store(true, Relaxed);
    }
}

thread_local! {
    static THREAD: u32 = rustix::thread::gettid().as_raw_nonzero().get() as u32;
}

impl Recorder {
    pub(crate) fn new(ring: Ring, by: ProcId) -> Self {
        Recorder { ring, by, pid: std::process::id() }
    }

    pub(crate) fn ran(&self, work: &CallWork, began: u64, ended: u64, failed: bool) {
        let marks = &work.marks;
        if marks.unwanted.load(Relaxed) {
            return;
        }
        // A call that failed before its next step has no time for it.
        let had_result = Some(marks.had_result.load(Relaxed)).filter(|at| *at != 0).unwrap_or(ended);
        let had_args = Some(marks.had_args.load(Relaxed)).filter(|at| *at != 0).unwrap_or(had_result);
        let kind = RecordKind::Ran { began, had_args, had_result, ended, failed, construction: false };
        self.write(work.from, work.call.task, work.call.attempt, kind, &work.template.name);
    }

    fn sent(&self, submitted: Option<u64>, sent: u64, task: u64, attempt: u32) {
        let submitted = submitted.unwrap_or(sent);
        self.write(self.by, task, attempt, RecordKind::Sent { submitted, sent }, "");
    }

    fn write(&self, caller: ProcId, task: u64, attempt: u32, kind: RecordKind, name: &str) {
        self.ring.write(&Note { by: self.by, pid: self.pid, thread: THREAD.with(|id| *id), caller, task, attempt, kind, name });
    }
}

impl Core {
    /// A call goes to a worker. `now` is read when the first of several goes.
    pub(crate) fn note_call_sent(&self, now: &mut Option<u64>, call: &Call) {
        if let Some(recorder) = &self.recorder {
            recorder.sent(self.owner.submitted_at(call.task), *now.get_or_insert_with(now_us), call.task, call.attempt);
        }
    }

    pub(crate) fn note_peer_message(&self, now: &mut Option<u64>, message: &Peer) {
        if let Peer::Call { call } = message {
            self.note_call_sent(now, call);
        }
    }

    /// An actor is to be created.
    pub(crate) fn note_node_message(&self, now: &mut Option<u64>, message: &ToNode) {
        if let (Some(recorder), ToNode::ActorCreate { actor, .. }) = (&self.recorder, message) {
            recorder.sent(self.owner.submitted_at(actor.call()), *now.get_or_insert_with(now_us), actor.call(), 0);
        }
    }

    /// What this process recorded.
    pub(crate) fn report_records(&self) -> Vec<Fact> {
        let records = self.recorder.as_ref().map_or_else(Vec::new, |recorder| recorder.ring.read());
        vec![Fact::Records { records, next: None, epoch_offset_us: ray_shm::epoch_offset_us() }]
    }
}

impl Library {
    /// The constructor of an actor returned or, with an error, failed. `began` and `had_args`: as of a call.
    pub fn note_construction(&self, work: &ActorWork, name: &str, (began, had_args): (u64, u64), error: Option<&Value>) {
        let ended = now_us();
        let had_args = if had_args == 0 { ended } else { had_args };
        let kind = RecordKind::Ran { began, had_args, had_result: ended, ended, failed: error.is_some(), construction: true };
        let core = self.lock();
        if let Some(recorder) = &core.recorder {
            recorder.write(work.actor.owner, work.actor.call(), work.incarnation - 1, kind, name);
        }
    }
}
