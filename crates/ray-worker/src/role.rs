//! Who reads: the engine (event_loop.rs) is run by one thread at a time, and that role changes hands.
//!
//! A thread that is about to wait takes the role when it is free, so that the event it waits for reaches it without waking a second thread. While no thread
//! waits, a background thread has the role: an owner answers others although its Python is busy.
//!
//! Invariants
//! 1. Only the holder of `engine` reads links and timers; everybody else waits at gates and bells, which the holder opens and rings.
//! 2. Whoever lets go arms the relief timer afterwards, and only a holder disarms it: a free role is taken by the background thread within `RELIEF_US`.
//! 3. The background thread never waits for `engine`. It lets go when what it has just done wakes the only thread that waited: that one reads its next event itself.
//!
//! 4. Who opens a gate without being the holder wakes the holder: it may be the one that waits at that gate.
//!
//! Locks: `engine` before `Library::core`, never the other way round.

use crate::event_loop::{Engine, Fate};
use crate::gate::{Gate, Woken};
use crate::library::{Library, Wakers};
use ray_shm::poll::Timer;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// A free role goes to the background thread after this. Long enough for what a program does between two calls, short against what others wait for.
const RELIEF_US: u64 = 200;

thread_local! {
    /// This thread is the reader.
    static READS: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn reads() -> bool {
    READS.get()
}

pub(crate) struct Role {
    /// None once the session is over.
    engine: Mutex<Option<Engine>>,
    /// Threads that wait while another one reads.
    waiting: AtomicU32,
    /// One of them was woken.
    woke: AtomicBool,
}

impl Role {
    pub(crate) fn new(engine: Engine) -> Arc<Role> {
        Arc::new(Role { engine: Mutex::new(Some(engine)), waiting: AtomicU32::new(0), woke: AtomicBool::new(false) })
    }

    /// The background thread.
    pub(crate) fn relieve(&self, library: &Library, relief: &Timer) {
        READS.set(true);
        relief.arm(1);
        loop {
            relief.sleep();
            let Some(mut held) = self.take() else {
                if library.check().is_err() {
                    return;
                }
                continue;
            };
            self.woke.store(false, Ordering::Relaxed);
            while !(self.woke.swap(false, Ordering::Acquire) && self.waiting.load(Ordering::Acquire) <= 1) {
                if held.is_none() {
                    return;
                }
                step(library, &mut held, None, false);
            }
            drop(held);
            relief.arm(RELIEF_US);
        }
    }

    /// A thread that waited was woken.
    pub(crate) fn note_woken(&self) {
        self.woke.store(true, Ordering::Release);
    }

    /// Let another thread read, and `sleep` meanwhile.
    fn wait(&self, sleep: impl FnOnce() -> Woken) -> Woken {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let woken = sleep();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        woken
    }

    fn take(&self) -> Option<MutexGuard<'_, Option<Engine>>> {
        match self.engine.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("the engine panicked; see stderr"),
        }
    }

    /// Read until `done`. None: somebody else has the role.
    fn serve(&self, library: &Library, done: impl Fn() -> bool, deadline: Option<u64>) -> Option<Woken> {
        let mut held = self.take()?;
        if held.is_none() {
            return None;
        }
        library.with_wakers(Wakers::disarm_relief);
        READS.set(true);
        let is_late = || deadline.is_some_and(|at| ray_shm::now_us() >= at);
        let woken = loop {
            if done() {
                break Woken::Open;
            }
            if is_late() {
                break Woken::TimedOut;
            }
            if held.is_none() || !step(library, &mut held, deadline, true) && !is_late() {
                break Woken::Interrupted;
            }
            // What it has just read may be the cancellation of its own call.
            if library.interrupts.strikes_reader() {
                break Woken::Interrupted;
            }
        };
        READS.set(false);
        drop(held);
        library.with_wakers(|wakers| wakers.arm_relief(RELIEF_US));
        Some(woken)
    }
}

/// Wait for events and handle them. False: a signal came, or nothing.
fn step(library: &Library, held: &mut Option<Engine>, deadline: Option<u64>, vigilant: bool) -> bool {
    let Some(engine) = held else { return false };
    match engine.step(deadline, vigilant) {
        Ok(any) => any,
        Err(Fate(why)) => {
            library.end(&why);
            library.close();
            *held = None;
            true
        }
    }
}

impl Library {
    /// Wait at a gate that the engine opens.
    pub fn wait_at(&self, gate: &Gate, timeout_us: Option<u64>) -> Woken {
        if gate.is_open() {
            return Woken::Open;
        }
        let deadline = timeout_us.map(|us| ray_shm::now_us().saturating_add(us));
        let role = self.role();
        role.serve(self, || gate.is_open(), deadline).unwrap_or_else(|| role.wait(|| gate.wait(timeout_us)))
    }

    /// Wait until the bell of a group's work rings after `seen`, or a signal comes.
    pub(crate) fn wait_at_bell(&self, group: usize, seen: u32) {
        let (role, bell) = (self.role(), &self.stations.of(group).bell);
        if role.serve(self, || bell.now() != seen, None).is_none() {
            role.wait(|| {
                bell.wait(seen);
                Woken::Interrupted
            });
        }
    }
}
