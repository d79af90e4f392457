//! Calls here whose callers have cancelled them: one in the queue never starts, one that runs is told once for each time that it was asked.

use super::{Exec, Queued};
use ray_proto::msg::Cancellation;
use ray_proto::ProcId;

/// How far the cancellation of a running call has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cancelling {
    #[default]
    No,
    /// The user's code does not know yet.
    Asked(Cancellation),
    Told(Cancellation),
}

/// Where a call was found that is to be cancelled.
#[derive(Debug)]
pub enum Found {
    /// It is in the queue no more.
    Queued(Box<Queued>),
    Running {
        is_task: bool,
    },
    /// It has ended here, or was given back: its caller hears of that.
    Nowhere,
}

impl Exec {
    pub fn cancel(&mut self, from: ProcId, task: u64, how: &Cancellation) -> Found {
        if let Some(running) = self.running.get_mut(&(from, task)) {
            running.cancelling = Cancelling::Asked(how.clone());
            return Found::Running { is_task: running.is_task };
        }
        match self.recall(from, &[task]).pop() {
            Some(queued) => Found::Queued(Box::new(queued)),
            None => Found::Nowhere,
        }
    }

    /// Whether the cancellation of a running call was asked for, at any time, and as what.
    pub fn cancellation(&self, from: ProcId, task: u64) -> Option<&Cancellation> {
        match &self.running.get(&(from, task))?.cancelling {
            Cancelling::No => None,
            Cancelling::Asked(how) | Cancelling::Told(how) => Some(how),
        }
    }

    /// The call is about to be told. False: it was not asked for since the last time.
    pub fn take_cancel(&mut self, from: ProcId, task: u64) -> bool {
        let Some(running) = self.running.get_mut(&(from, task)) else { return false };
        match std::mem::take(&mut running.cancelling) {
            Cancelling::Asked(how) => {
                running.cancelling = Cancelling::Told(how);
                true
            }
            other => {
                running.cancelling = other;
                false
            }
        }
    }

    /// The cancellation that a running task was not told of yet. A method need never be.
    pub fn untold(&self, from: ProcId, task: u64) -> Option<&Cancellation> {
        match &self.running.get(&(from, task)).filter(|running| running.is_task)?.cancelling {
            Cancelling::Asked(how) => Some(how),
            _ => None,
        }
    }

    /// Every running call that was not told yet.
    pub fn all_untold(&self) -> impl Iterator<Item = (ProcId, u64)> + '_ {
        self.running.iter().filter(|(_, running)| matches!(running.cancelling, Cancelling::Asked(_))).map(|(key, _)| *key)
    }
}
