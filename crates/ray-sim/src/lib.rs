//! The seeded simulator: a node, a driver and workers made of the real state machines, random programs, named faults, an oracle.
//! Development only. `cargo run -p ray-sim --release -- --seeds 1..10000`; a failing seed is replayed with `--seed N --trace`.

mod calls;
mod env;
mod faults;
mod frame;
mod machine;
mod net;
pub mod options;
mod oracle;
mod process;
mod pulls;
pub mod rng;
pub mod run;
pub mod sabotage;
pub mod scale;
mod script;
mod spill;
mod streams;
mod world;
