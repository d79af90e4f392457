//! Processes that workers started. The rule:
//!
//! 1. What a worker started ends with the worker, however that ends: children, their children, and those that left its session (`start_new_session`,
//!    `setsid`, daemons). With the setting `kill_child_processes_on_worker_exit` off, those that left the session stay until the node ends.
//! 2. A process that left the session and was started with an environment without our tag can't be told to be the worker's: it stays until the node ends.
//! 3. Nothing outlives the node.
//!
//! How: the daemon is a subreaper, so what a dead worker leaves behind becomes the daemon's child at once. Such a child belongs to the worker whose
//! session it is in or whose tag is in its environment. A child can't be mistaken for another process: its pid is taken until the daemon reaps it.

use ray_proto::ProcId;
use ray_shm::processes::{children, descendants, tag, tag_of, Process};
use rustix::process::{waitpid, Pid, WaitOptions};
use std::collections::{BTreeMap, BTreeSet};

/// A process in the middle of an `exec` shows no environment for a moment: it is looked at again after this, for so long.
const AGAIN_US: u64 = 10_000;
const UNCLEAR_US: u64 = 1_000_000;

struct Ended {
    tag: String,
    at: u64,
}

pub(crate) struct Strays {
    own_pid: u32,
    leavers_too: bool,
    /// Workers that have ended, by pid, while anything of theirs may be left.
    ended: BTreeMap<u32, Ended>,
    /// When to look again at what could not be told.
    due: Option<u64>,
}

enum Whose {
    /// A worker that has ended, by pid.
    Dead(u32),
    /// A living worker's, or nobody's.
    NotOurs,
    Unclear,
}

impl Strays {
    pub(crate) fn new(leavers_too: bool) -> Self {
        Strays { own_pid: std::process::id(), leavers_too, ended: BTreeMap::new(), due: None }
    }

    /// What a new template is tagged with, before a fork makes it a worker's.
    pub(crate) fn blank_tag() -> String {
        tag(std::process::id(), 0)
    }

    pub(crate) fn worker_ended(&mut self, pid: u32, id: ProcId) {
        self.ended.insert(pid, Ended { tag: tag(self.own_pid, id.0), at: ray_shm::now_us() });
    }

    pub(crate) fn due(&self) -> Option<u64> {
        self.due
    }

    /// One pass over our children: the dead are reaped, what belonged to workers that ended is ended. Called whenever a child ended, since a dead
    /// process's children become ours at that moment. `is_known` tells the template and the workers, whose ends are learnt elsewhere.
    pub(crate) fn sweep(&mut self, now: u64, is_known: impl Fn(u32) -> bool) {
        let (mut left, mut unclear) = (BTreeSet::new(), false);
        for stray in children(self.own_pid).into_iter().filter(|child| !is_known(child.pid)) {
            if stray.state == 'Z' {
                // It is dead and ours: this can't fail, and can't wait.
                let _ = Pid::from_raw(stray.pid as i32).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
                continue;
            }
            match self.worker_of(&stray) {
                Whose::Dead(worker) => {
                    descendants(stray.pid).iter().for_each(|process| {
                        process.kill();
                    });
                    stray.kill();
                    left.insert(worker);
                }
                Whose::Unclear => unclear = true,
                Whose::NotOurs => {}
            }
        }
        self.ended.retain(|worker, ended| left.contains(worker) || (unclear && now < ended.at + UNCLEAR_US));
        self.due = (unclear && !self.ended.is_empty()).then_some(now + AGAIN_US);
    }

    /// The ended worker that started a stray.
    fn worker_of(&self, stray: &Process) -> Whose {
        if self.ended.contains_key(&stray.session) {
            return Whose::Dead(stray.session);
        }
        if !self.leavers_too || self.ended.is_empty() {
            return Whose::NotOurs;
        }
        let Some(tag) = tag_of(stray.pid) else { return Whose::Unclear };
        self.ended.iter().find(|(_, ended)| ended.tag == tag).map_or(Whose::NotOurs, |(pid, _)| Whose::Dead(*pid))
    }
}
