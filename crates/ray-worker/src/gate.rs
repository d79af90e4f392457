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

/// A counter that executors wait on for work. Who rings counts before he looks for sleepers, and who sleeps is a sleeper before the kernel looks at the count, in
/// one order for both (SeqCst): so one of them sees the other, and no ring is slept through.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU32,
    sleepers: AtomicU32,
}

impl Bell {
    pub(crate) fn now(&self) -> u32 {
        self.rung.load(Ordering::Acquire)
    }

    /// Wake so many sleepers at most. Returns whether there are any: without them it is no system call.
    pub(crate) fn ring(&self, most: u32) -> bool {
        self.rung.fetch_add(1, Ordering::SeqCst);
        let sleeps = self.sleepers.load(Ordering::SeqCst) > 0;
        if sleeps {
            let _ = futex::wake(&self.rung, futex::Flags::PRIVATE, most);
        }
        sleeps
    }

    /// Wait until it rings after `seen`, or a signal comes.
    pub(crate) fn wait(&self, seen: u32) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let _ = futex::wait(&self.rung, futex::Flags::PRIVATE, seen, None);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// One gives a piece of work at a time, and another one takes it: neither may miss the other, however their steps fall.
    #[test]
    fn no_ring_is_slept_through() {
        const PIECES: u32 = 200_000;
        let (bell, given, taken) = (Bell::default(), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while taken.load(Ordering::SeqCst) < PIECES {
                    let seen = bell.now();
                    if given.load(Ordering::SeqCst) == taken.load(Ordering::SeqCst) {
                        bell.wait(seen);
                        continue;
                    }
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            });
            for piece in 1..=PIECES {
                given.store(piece, Ordering::SeqCst);
                bell.ring(1);
                let since = Instant::now();
                while taken.load(Ordering::SeqCst) < piece {
                    std::hint::spin_loop();
                    if since.elapsed() > Duration::from_secs(20) {
                        bell.ring(u32::MAX);
                        taken.store(PIECES, Ordering::SeqCst);
                        panic!("piece {piece} was not taken");
                    }
                }
            }
        });
    }
}
