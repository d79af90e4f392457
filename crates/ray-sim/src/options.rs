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
    /// A spilled object goes to storage beyond the node.
    pub stored: u32,
    /// Processes killed during the run.
    pub kills: u32,
    /// Processes stopped for a while during the run.
    pub stalls: u32,
    /// Kills, exits and failing constructors of actors that the program itself asks for.
    pub actor_ends: u32,
    /// A call site gives its results one after another.
    pub streams: u32,
    /// A step cancels a call.
    pub cancels: u32,
    /// A worker looks as if it leaked memory.
    pub leaks: u32,
    /// Faults strike within this time.
    pub horizon_us: u64,
    /// The nodes beside the one that is always there; none: a node alone.
    pub nodes: Vec<NodePlan>,
    /// A second driver comes to the node with this position.
    pub second_driver: Option<usize>,
    /// A link between nodes is slow: up to tens of milliseconds.
    pub net_slow: u32,
    /// A message between nodes, and all behind it, is held up for up to two seconds.
    pub net_stalls: u32,
    /// A transfer of an object fails on its reader's node.
    pub copy_failure: u32,
    /// Two nodes hear nothing of each other for less than the head's patience.
    pub cuts: u32,
    /// A node is cut off from the head for longer than that, or for good.
    pub long_cuts: u32,
    /// A daemon is stopped for less than the head's patience.
    pub stops: u32,
    /// A whole machine is, for any time.
    pub freezes: u32,
    pub node_kills: u32,
    pub node_leaves: u32,
    /// An actor is detached and has a name.
    pub detached: u32,
    /// The second driver leaves, or is killed.
    pub driver_ends: u32,
    /// Placement groups that the program may make.
    pub groups: u32,
    pub sabotage: Option<Sabotage>,
}

/// A node beside the head's.
#[derive(Clone, Debug)]
pub struct NodePlan {
    pub cpus: u32,
    /// Of a resource that few nodes have.
    pub gold: u32,
    /// It may die.
    pub mortal: bool,
    /// It joins while the program runs.
    pub late: bool,
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
            o.stored = some(300, 1000);
        }
        o.groups = some(400, 12);
        o.cancels = some(500, 150);
        o
    }

    /// The same for a cluster, of so many nodes if it is given.
    pub fn cluster_from_seed(seed: u64, nodes: Option<u64>) -> Self {
        let mut o = Options::from_seed(seed ^ 0xc105_7e12);
        let mut rng = Rng::new(seed ^ 0x00de_5000);
        let others = nodes.unwrap_or_else(|| if rng.permille(50) { rng.range(7, 20) } else { rng.range(2, 6) }).max(2) - 1;
        let least = o.heavy_actors + 1;
        let may_die = rng.permille(700);
        let late = if rng.permille(300) { 400 } else { 0 };
        for _ in 0..others {
            let cpus = least.max(rng.pick(&[1, 1, 2, 4]).expect("a number"));
            let mortal = may_die && rng.permille(600);
            let gold = if rng.permille(300) { rng.range(1, 2) as u32 } else { 0 };
            o.nodes.push(NodePlan { cpus, gold, mortal, late: rng.permille(late) });
        }
        let mut some = |on: u32, max: u64| if rng.permille(on) { 1 + rng.below(max) as u32 } else { 0 };
        if o.nodes.iter().any(|node| node.mortal) {
            o.node_kills = some(500, 2);
            o.long_cuts = some(400, 2);
            o.freezes = some(300, 2);
            o.node_leaves = some(200, 1);
        }
        o.net_slow = some(400, 400);
        o.net_stalls = some(200, 30);
        o.copy_failure = some(200, 200);
        o.cuts = some(400, 4);
        o.stops = some(300, 3);
        if some(350, 1) == 1 {
            o.second_driver = Some(some(1000, others) as usize - 1);
        }
        o.detached = some(400, 400);
        o.driver_ends = some(400, 1);
        o.shm = o.shm.max(some(600, 800));
        if some(300, 1) == 1 {
            // Long enough for failures to be found while it runs.
            o.slow_steps = o.slow_steps.max(some(1000, 700));
            o.horizon_us = 1_000_000;
        }
        o.widest = 1;
        o.groups = some(500, 30);
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
            stored: 0,
            kills: 0,
            stalls: 0,
            actor_ends: 0,
            streams: 0,
            cancels: 0,
            leaks: 0,
            horizon_us: 10_000,
            nodes: vec![],
            second_driver: None,
            net_slow: 0,
            net_stalls: 0,
            copy_failure: 0,
            cuts: 0,
            long_cuts: 0,
            stops: 0,
            freezes: 0,
            node_kills: 0,
            node_leaves: 0,
            detached: 0,
            driver_ends: 0,
            groups: 0,
            sabotage: None,
        }
    }
}
