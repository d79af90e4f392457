//! The edge to the kernel: shared memory, the status board, framed links that pass descriptors, TCP sockets, epoll, signals, processes, forks, and what
//! a host refuses.
//! All `unsafe` of the engine outside the Python bindings stands in this crate, each use with its reason.

pub mod board;
pub mod door;
pub mod events;
pub mod fork;
pub mod host;
pub mod link;
pub mod memory;
pub mod poll;
pub mod processes;
pub mod signals;
pub mod tcp;

/// Microseconds on the monotonic clock. Every process of a host reads the same one.
pub fn now_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// What to add to `now_us` to get microseconds since 1970, by this host's idea of the date.
pub fn epoch_offset_us() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000 - now_us() as i64
}
