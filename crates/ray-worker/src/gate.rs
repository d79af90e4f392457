//! A one-shot gate that a thread waits at: a futex, so that a signal ends the wait and Ctrl-C works everywhere.

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug, Default)]
pub struct Gate(AtomicU32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    Open,
    TimedOut,
    /// A signal came: let its handler run, then wait again.
    Interrupted,
}

impl Gate {
    pub fn open(&self) {
        if self.0.swap(1, Ordering::Release) == 0 {
            // Nobody waiting is no error.
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, u32::MAX);
        }
    }

    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == 1
    }

    pub fn wait(&self, timeout_us: Option<u64>) -> Woken {
        let timeout = timeout_us.map(|us| Timespec { tv_sec: (us / 1_000_000) as i64, tv_nsec: ((us % 1_000_000) * 1_000) as _ });
        if self.is_open() {
            return Woken::Open;
        }
        match futex::wait(&self.0, futex::Flags::PRIVATE, 0, timeout.as_ref()) {
            Err(Errno::INTR) if !self.is_open() => Woken::Interrupted,
            Err(Errno::TIMEDOUT) if !self.is_open() => Woken::TimedOut,
            _ if self.is_open() => Woken::Open,
            _ => Woken::Interrupted,
        }
    }
}

/// A counter that executors wait on for work.
#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicU32);

impl Bell {
    pub(crate) fn now(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn ring(&self, sleepers: u32) {
        self.0.fetch_add(1, Ordering::Release);
        if sleepers > 0 {
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, sleepers);
        }
    }

    /// Wait until it rings after `seen`, or a signal comes.
    pub(crate) fn wait(&self, seen: u32) {
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, seen, None);
    }
}
