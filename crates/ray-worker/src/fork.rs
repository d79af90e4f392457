//! A user's fork with the library up: `multiprocessing`, a data loader, `os.fork`.
//!
//! Invariants
//! 1. The parent goes on as if nothing had happened.
//! 2. The child has no engine thread and no session. It shares no socket with its parent: it can neither write to one nor keep one open, so that
//!    the parent's death is seen although the child lives on. Dropping references there does nothing; asking for anything is an error.
//! 3. Shared memory that the child sees is not used again while it lives.
//! 4. The forking thread holds every lock of the library over the fork, so the child finds its state whole and its locks free. The order is that of
//!    everybody else: core, wakers.

use crate::library::{Core, Library, Wakers};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

/// The library, held still while its process forks.
pub struct Held<'a> {
    library: &'a Library,
    core: MutexGuard<'a, Core>,
    wakers: MutexGuard<'a, Option<Wakers>>,
}

impl Library {
    /// Keep everybody else out until the fork is over. Nothing but the fork may happen meanwhile.
    pub fn hold(&self) -> Held<'_> {
        // A poisoned lock is told of elsewhere; a fork goes on in any case.
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        Held { library: self, core, wakers }
    }

    /// Keep `what` until the other end of the pipe is closed everywhere, or the session ends.
    pub fn keep_until_closed(&self, pipe: OwnedFd, what: Box<dyn Any + Send>) {
        if self.check().is_ok() {
            self.kept.push((pipe, what));
            self.with_wakers(|wakers| wakers.now.wake());
        }
    }

    /// Whether this is the child of a fork, and the library a copy of its parent's.
    pub fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Acquire)
    }
}

impl Held<'_> {
    /// In the child: the session is the parent's.
    pub fn part_from_parent(mut self) {
        self.library.forked.store(true, Ordering::Release);
        self.library.over.store(true, Ordering::Release);
        if let Some(wakers) = self.wakers.take() {
            let writers = self.core.direct.values().map(|direct| &direct.writer).chain([&self.core.node]);
            writers.filter_map(|writer| writer.fd()).for_each(|socket| ray_shm::fork::sever(socket, wakers.soon.fd()));
        }
        self.core.node.close();
        self.core.direct.clear();
    }
}
