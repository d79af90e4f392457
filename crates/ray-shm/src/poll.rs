//! epoll, an eventfd to wake it and a timer that is armed without waking it.

use rustix::event::{epoll, eventfd, EventfdFlags};
use rustix::io::Errno;
use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub struct Poll {
    epoll: OwnedFd,
}

/// A waiting thread stays awake for this at most: an answer to a short call comes sooner than a sleeping core wakes.
const AWAKE_US: u64 = 50;
/// A yield that takes longer gave the core to somebody who computes.
const CROWDED_US: u64 = 15;
/// How many times as long as such a yield took nobody stays awake: what others take is a twentieth at most.
const REST: u64 = 20;

/// When to stay awake: not while others want the core.
#[derive(Debug, Default)]
pub struct Vigil {
    rests_until: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

impl Poll {
    pub fn new() -> Result<Self, Errno> {
        Ok(Poll { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
    }

    /// Also report when `fd` can be written, or stop doing so.
    pub fn watch_writes(&self, fd: BorrowedFd<'_>, token: u64, on: bool) -> Result<(), Errno> {
        let flags = if on { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) {
        // It may have been closed by the other side of a race: gone is what was wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Like `wait`, but stay awake for a while first: waking a core that sleeps costs more than most calls.
    pub fn wait_awake(&self, vigil: &mut Vigil, timeout_us: Option<u64>, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        let started = crate::now_us();
        let awake_us = if started < vigil.rests_until { 0 } else { AWAKE_US.min(timeout_us.unwrap_or(u64::MAX)) };
        let mut last = started;
        while last < started + awake_us {
            self.wait(Some(0), ready)?;
            if !ready.is_empty() {
                return Ok(());
            }
            rustix::thread::sched_yield();
            let now = crate::now_us();
            if now - last > CROWDED_US {
                vigil.rests_until = now + REST * (now - last);
                break;
            }
            last = now;
        }
        self.wait(timeout_us.map(|timeout| timeout.saturating_sub(crate::now_us() - started)), ready)
    }

    /// Wait for events; `timeout_us` None = for ever.
    pub fn wait(&self, timeout_us: Option<u64>, ready: &mut Vec<Ready>) -> Result<(), Errno> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        let timeout = timeout_us.map(|us| Timespec { tv_sec: (us / 1_000_000) as i64, tv_nsec: ((us % 1_000_000) * 1_000) as _ });
        ready.clear();
        let (found, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(found) => found,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        let closed = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        ready.extend(found.iter().map(|event| {
            let (data, flags) = (event.data, event.flags);
            Ready { token: data.u64(), readable: flags.intersects(epoll::EventFlags::IN | closed), writable: flags.contains(epoll::EventFlags::OUT) }
        }));
        Ok(())
    }
}

/// Wakes a `Poll` from any thread.
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> Result<Self, Errno> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub fn wake(&self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// A one-shot timer. Arming costs one short syscall and wakes nobody before it is due.
pub struct Timer(OwnedFd);

impl Timer {
    pub fn new() -> Result<Self, Errno> {
        Ok(Timer(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// One that a thread sleeps on.
    pub fn blocking() -> Result<Self, Errno> {
        Ok(Timer(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?))
    }

    /// Until it is due. For a blocking one.
    pub fn sleep(&self) {
        // Interrupted is early: whoever sleeps here looks again.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub fn disarm(&self) {
        self.set(Timespec { tv_sec: 0, tv_nsec: 0 });
    }

    pub fn arm(&self, in_us: u64) {
        let in_us = in_us.max(1);
        self.set(Timespec { tv_sec: (in_us / 1_000_000) as i64, tv_nsec: ((in_us % 1_000_000) * 1_000) as _ });
    }

    fn set(&self, value: Timespec) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let armed = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: value });
        debug_assert!(armed.is_ok(), "timerfd_settime");
    }

    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}
