//! The sans-IO state machines. Events go in as method calls, commands come out of a list; nothing here knows a clock, a socket or a thread.
//!
//! `owner`: what every driver and worker keeps about the objects, calls, leases and actors it uses.
//! `exec`: the queue of calls inside a worker. `node`: the daemon's resources, workers, actors and extents. `head`: what a cluster has one of.

pub mod evidence;
pub mod exec;
pub mod extents;
pub mod head;
pub mod node;
pub mod owner;
pub mod packing;
pub mod placing;

/// Microseconds on a monotonic clock that the shell supplies.
pub type Time = u64;
