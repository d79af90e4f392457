//! The node's daemon. It decides nothing: ray-logic's `Node` does; this crate turns sockets, timers and process ends into its events and carries out its commands.
//!
//! `event_loop` the main loop; `conn` one process: link, output pipes, last words; `template` the process that forks workers; `extent_files` memory and
//! disk; `oom` the kernel's counters; `memory` what is used and what there is; `strays` what workers started; `host` what a machine must offer;
//! `net` links to other daemons; `transfer` the bytes of objects between nodes.

mod conn;
mod event_loop;
mod extent_files;
mod host;
mod memory;
pub mod net;
mod oom;
mod strays;
mod template;
pub mod transfer;

pub use event_loop::run;
