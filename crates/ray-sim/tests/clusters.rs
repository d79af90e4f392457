//! Random programs on clusters, under faults of nodes and links, keep every invariant; each planted bug is found.

use ray_sim::options::{NodePlan, Options};
use ray_sim::run::{hush_panics, run_cluster, run_with, twice};
use ray_sim::sabotage::{Bug, Sabotage};

fn check(seed: u64) {
    let verdict = twice(|| run_cluster(seed, None, false));
    let replay = format!("replay: cargo run -p ray-sim --release -- --cluster --seed {seed} --trace");
    assert!(verdict.violation.is_none(), "seed {seed}: {}\n{replay}", verdict.violation.unwrap_or_default());
}

#[test]
fn seeds_programs_on_clusters_keep_every_invariant_and_repeat_exactly() {
    hush_panics();
    (1..=150).for_each(check);
}

#[test]
fn kept_seeds_of_clusters_stay_good() {
    hush_panics();
    let kept = include_str!("../cluster_seeds.txt");
    let seed = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a line starts with a seed");
    kept.lines().filter(|line| !line.starts_with('#')).map(seed).for_each(check);
}

/// How the first finding reads, within so many seeds.
fn first_finding(bug: Bug, seeds: u64, base: &Options) -> String {
    hush_panics();
    for seed in 1..=seeds {
        let mut options = base.clone();
        options.sabotage = Some(Sabotage::new(bug, (seed % 4) as u32));
        if let Some(violation) = run_with(seed, options, false).violation {
            return violation;
        }
    }
    format!("nothing found in {seeds} seeds")
}

/// Three nodes, no faults.
fn calm() -> Options {
    let plan = NodePlan { cpus: 2, gold: 0, mortal: true, late: false };
    Options { nodes: vec![plan.clone(), plan], shm: 700, calls: 80, driver_steps: 60, actors: 6, ..Options::calm() }
}

#[test]
fn planted_death_without_a_fence_is_found() {
    let base = Options { long_cuts: 2, slow_steps: 500, horizon_us: 100_000, ..calm() };
    let found = first_finding(Bug::NoFence, 60, &base);
    assert!(found.contains("two living incarnations") || found.contains("double grant") || found.contains("was freed while"), "{found}");
}

#[test]
fn planted_grant_counted_twice_is_found() {
    let found = first_finding(Bug::GrantTwice, 30, &calm());
    assert!(!found.contains("nothing found"), "{found}");
}

#[test]
fn planted_copy_reused_under_its_reader_is_found() {
    let base = Options { shm: 900, store_bytes: 256 * 1024, ..calm() };
    let found = first_finding(Bug::CopyDoneEarly, 200, &base);
    assert!(found.contains("reused under a pin"), "{found}");
}

#[test]
fn planted_lost_news_of_a_dead_node_is_found() {
    let base = Options { node_kills: 1, slow_steps: 300, horizon_us: 30_000, ..calm() };
    let found = first_finding(Bug::LostNodeDied, 60, &base);
    assert!(found.contains("all is quiet") || found.contains("still has"), "{found}");
}

/// Groups that go over nodes, and nothing else.
fn groups() -> Options {
    Options { groups: 20, ..calm() }
}

#[test]
fn planted_bundles_that_nobody_drops_are_found() {
    let found = first_finding(Bug::LostDrop, 60, &groups());
    assert!(found.contains("bundle"), "{found}");
}

#[test]
fn planted_half_reserved_group_is_found() {
    let found = first_finding(Bug::FalseReserve, 60, &groups());
    assert!(found.contains("is not set aside"), "{found}");
}
