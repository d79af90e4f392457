//! Random programs under faults keep every invariant; each planted bug is found.

use ray_sim::options::Options;
use ray_sim::run::{hush_panics, run_twice, run_with};
use ray_sim::sabotage::{Bug, Sabotage};

fn replay(seed: u64) -> String {
    format!("replay: cargo run -p ray-sim --release -- --seed {seed} --trace")
}

#[test]
fn seeds_random_programs_keep_every_invariant_and_repeat_exactly() {
    hush_panics();
    for seed in 1..=300 {
        let verdict = run_twice(seed);
        assert!(verdict.violation.is_none(), "seed {seed}: {}\n{}", verdict.violation.unwrap_or_default(), replay(seed));
    }
}

#[test]
fn kept_seeds_once_failing_stay_good() {
    hush_panics();
    let kept = include_str!("../seeds.txt");
    for line in kept.lines().filter(|line| !line.starts_with('#')) {
        let seed: u64 = line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a line starts with a seed");
        let verdict = run_twice(seed);
        assert!(verdict.violation.is_none(), "seed {seed}: {}\n{}", verdict.violation.unwrap_or_default(), replay(seed));
    }
}

/// How the first finding reads, within so many seeds.
fn first_finding(bug: Bug, seeds: u64) -> String {
    hush_panics();
    for seed in 1..=seeds {
        let mut options = Options { shm: 600, calls: 60, driver_steps: 40, actors: 2, ..Options::calm() };
        options.sabotage = Some(Sabotage::new(bug, (seed % 5) as u32));
        if let Some(violation) = run_with(seed, options, false).violation {
            return violation;
        }
    }
    format!("nothing found in {seeds} seeds")
}

#[test]
fn planted_lost_release_is_found() {
    let found = first_finding(Bug::LostRelease, 20);
    assert!(found.contains("still has, at rest"), "{found}");
}

#[test]
fn planted_double_grant_is_found() {
    let found = first_finding(Bug::DoubleGrant, 20);
    assert!(found.contains("double grant"), "{found}");
}

#[test]
fn planted_lost_wake_is_found() {
    let found = first_finding(Bug::LostWake, 20);
    assert!(found.contains("all is quiet"), "{found}");
}

#[test]
fn planted_reuse_under_a_pin_is_found() {
    let found = first_finding(Bug::FreeUnderPin, 20);
    assert!(found.contains("reused under a pin") || found.contains("finds another value") || found.contains("twice"), "{found}");
}

#[test]
fn planted_move_under_a_view_is_found() {
    hush_panics();
    for seed in 1..=200 {
        let mut options = Options { shm: 900, calls: 60, driver_steps: 60, store_bytes: 192 * 1024, disk_bytes: 1 << 30, ..Options::calm() };
        options.sabotage = Some(Sabotage::new(Bug::MoveUnderPin, 0));
        if let Some(found) = run_with(seed, options, false).violation {
            assert!(found.contains("reused under a pin") || found.contains("finds another value") || found.contains("twice"), "{found}");
            return;
        }
    }
    panic!("nothing found");
}
