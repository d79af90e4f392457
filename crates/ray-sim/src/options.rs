//! What may happen in a run: the size of the program and each misery, by name and probability (per mille), all derived from the seed.

use crate::rng::Rng;
use crate::sabotage::Sabotage;

#[derive(Clone, Debug)]
pub struct Options {
    pub cpus: u32,
    pub gpus: u32,
    pub store_bytes: u64,
    /// Calls the whole program may make.
    pub calls: u32,
    /// Steps of the driver's script.
    pub driver_steps: u32,
    pub actors: u32,
    /// An actor runs three calls at a time.
    pub threaded: u32,
    /// Actors that keep a CPU for life; always fewer than the CPUs.
    pub heavy_actors: u32,
    /// The most CPUs a task may ask for.
    pub widest: u32,
    /// A put or a result goes to shared memory.
    pub shm: u32,
    /// A call raises.
    pub raises: u32,
    /// A worker leaves after a few calls of one function.
    pub max_calls: u32,
    /// A step takes milliseconds instead of microseconds.
    pub slow_steps: u32,
    /// A link is slow: up to milliseconds.
    pub slow_links: u32,
    /// The direct link of two processes can't be made.
    pub link_failure: u32,
    /// A process has no room for its end of a direct link.
    pub lost_links: u32,
    pub fork_failure: u32,
    pub store_full: u32,
    /// Bytes of disk to spill to; 0: spilling is off.
    pub disk_bytes: u64,
    /// A segment can't be made.
    pub disk_failure: u32,
    /// Processes killed during the run.
    pub kills: u32,
    /// Processes stopped for a while during the run.
    pub stalls: u32,
    /// Kills, exits and failing constructors of actors that the program itself asks for.
    pub actor_ends: u32,
    /// A call site gives its results one after another.
    pub streams: u32,
    /// A worker looks as if it leaked memory.
    pub leaks: u32,
    /// Faults strike within this time.
    pub horizon_us: u64,
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// Each seed is a different mixture: half of the miseries are off in half of the runs.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0971_0115);
        let mut some = |on: u32, max: u64| if rng.permille(on) { 1 + rng.below(max) as u32 } else { 0 };
        let mut o = Options::calm();
        o.cpus = [1, 2, 2, 4][some(1000, 4) as usize - 1];
        o.calls = 5 + some(1000, 120);
        o.driver_steps = 5 + some(1000, 60);
        o.actors = some(650, 8);
        o.heavy_actors = some(300, 3).min(o.cpus - 1);
        o.widest = if o.heavy_actors == 0 { o.cpus.min(2) } else { 1 };
        o.shm = some(700, 500);
        o.raises = some(500, 200);
        o.max_calls = some(300, 300);
        o.slow_steps = some(500, 300);
        o.slow_links = some(600, 500);
        o.link_failure = some(200, 500);
        o.fork_failure = some(200, 100);
        o.store_full = some(200, 100);
        o.kills = some(400, 12);
        o.gpus = some(200, 2);
        o.threaded = some(500, 700);
        o.stalls = some(300, 8);
        o.actor_ends = some(500, 600);
        o.store_bytes = if some(150, 1) == 1 { 4 << 20 } else { 1 << 30 };
        o.horizon_us = [2_000, 10_000, 50_000, 200_000][some(1000, 4) as usize - 1];
        o.streams = some(500, 600);
        // Last: what is drawn before stays as it was for every seed.
        o.leaks = some(300, 500);
        o.lost_links = some(200, 500);
        if some(500, 1) == 1 {
            o.store_bytes = 64 * 1024 * u64::from(2 + some(1000, 10));
            o.disk_bytes = if some(300, 1) == 1 { 256 * 1024 } else { 1 << 40 };
            o.disk_failure = some(200, 600);
            o.shm = o.shm.max(some(1000, 700));
        }
        o
    }

    /// No faults, tasks only.
    pub fn calm() -> Self {
        Options {
            cpus: 2,
            gpus: 0,
            store_bytes: 1 << 30,
            calls: 40,
            driver_steps: 30,
            actors: 0,
            threaded: 0,
            heavy_actors: 0,
            widest: 1,
            shm: 0,
            raises: 0,
            max_calls: 0,
            slow_steps: 0,
            slow_links: 0,
            link_failure: 0,
            lost_links: 0,
            fork_failure: 0,
            store_full: 0,
            disk_bytes: 0,
            disk_failure: 0,
            kills: 0,
            stalls: 0,
            actor_ends: 0,
            streams: 0,
            leaks: 0,
            horizon_us: 10_000,
            sabotage: None,
        }
    }
}
