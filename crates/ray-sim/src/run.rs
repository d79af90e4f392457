//! One seed, from options to verdict.

use crate::options::Options;
use crate::world::World;
use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, AssertUnwindSafe};

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub seed: u64,
    pub events: u64,
    /// Of everything that was sent and noted, with its times.
    pub hash: u64,
    pub violation: Option<String>,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static IN_RUN: Cell<bool> = const { Cell::new(false) };
}

/// Panics inside a run are verdicts: keep their text and place, print nothing.
pub fn hush_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !IN_RUN.get() {
            return default(info);
        }
        let text = info.payload().downcast_ref::<String>().cloned().or_else(|| info.payload().downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let place = info.location().map_or(String::new(), |l| format!("{}:{}", l.file(), l.line()));
        LAST_PANIC.with(|last| *last.borrow_mut() = format!("{place}: {}", text.unwrap_or_default()));
    }));
}

pub fn run_seed(seed: u64, trace: bool) -> Verdict {
    run_with(seed, Options::from_seed(seed), trace)
}

pub fn run_with(seed: u64, options: Options, trace: bool) -> Verdict {
    let mut world = World::new(seed, options, trace);
    IN_RUN.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    IN_RUN.set(false);
    let violation = result.err().map(|_| LAST_PANIC.with(|last| last.borrow().clone()));
    Verdict { seed, events: world.env.events, hash: world.env.hash, violation }
}

pub fn run_cluster(seed: u64, nodes: Option<u64>, trace: bool) -> Verdict {
    run_with(seed, Options::cluster_from_seed(seed, nodes), trace)
}

pub fn run_twice(seed: u64) -> Verdict {
    twice(|| run_seed(seed, false))
}

/// The same seed twice: the same verdict, or a violation of its own.
pub fn twice(run: impl Fn() -> Verdict) -> Verdict {
    let (first, second) = (run(), run());
    match first == second {
        true => first,
        false => Verdict { violation: Some(format!("two runs differ: {first:?} and {second:?}")), ..first },
    }
}
