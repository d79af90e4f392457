//! Planted bugs: what the checks must find. Each strikes from its n-th opportunity on, once.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A borrower's release never arrives.
    LostRelease,
    /// The node's grant reaches a second owner too.
    DoubleGrant,
    /// A woken waiter is not woken.
    LostWake,
    /// A range is free for its creator while somebody reads it.
    FreeUnderPin,
    /// An object is moved to disk although somebody may read the old place.
    MoveUnderPin,
    /// The head takes a node that it does not hear for dead before that node can have fenced itself.
    NoFence,
    /// A lease given by another node is counted twice.
    GrantTwice,
    /// A copy that a process still reads is given back, as of a freed object.
    CopyDoneEarly,
    /// A node does not hear that another node is dead.
    LostNodeDied,
    /// A node is not told to give up what it has set aside for a placement group.
    LostDrop,
    /// A placement group counts as reserved on a node that was not asked.
    FalseReserve,
}

#[derive(Clone, Copy, Debug)]
pub struct Sabotage {
    pub bug: Bug,
    /// Opportunities to let pass.
    pub skip: u32,
    pub done: bool,
}

impl Sabotage {
    pub fn new(bug: Bug, skip: u32) -> Self {
        Sabotage { bug, skip, done: false }
    }

    /// Whether the bug strikes here.
    pub fn strikes(&mut self, bug: Bug) -> bool {
        if self.bug != bug || self.done {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.done = true;
        true
    }
}
