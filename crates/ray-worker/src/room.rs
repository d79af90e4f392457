//! Waiting for room: submitters of calls above the budget, and putters into a full store (docs/design/005). What is counted and when waiting is
//! hopeless, ray-logic decides.

use crate::library::{Failure, Library};
use crate::waits::Ticket;
use ray_logic::owner::{Patience, Standing, Want};
use ray_proto::ProcId;
use std::sync::atomic::Ordering;

impl Library {
    /// The calls that have not ended keep more than the budget: whoever submits waits first. One load, for every call's path.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    pub fn standing(&self) -> Standing {
        self.with(|core| core.owner.standing())
    }

    /// How many calls have not ended, of what, and what they keep.
    pub fn describe_backlog(&self) -> String {
        self.with(|core| core.owner.describe_backlog())
    }

    /// Begin to wait for `want`; None: it is so already. `call`: a worker's running call, which blocks meanwhile.
    pub fn backlog_wait(&self, want: Want, call: Option<(ProcId, u64)>) -> Result<Option<Ticket>, Failure> {
        self.begin_wait(&[], call, |owner, _| owner.backlog_wait_start(want))
    }

    pub fn patience(&self) -> Patience {
        self.with(|core| core.owner.patience(ray_shm::now_us()))
    }

    pub fn room_is_hopeless(&self, patience: &mut Patience) -> bool {
        patience.room_is_hopeless(ray_shm::now_us(), self.standing())
    }

    pub fn store_is_hopeless(&self, patience: &mut Patience) -> bool {
        patience.store_is_hopeless(ray_shm::now_us(), self.standing())
    }
}
