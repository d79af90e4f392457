//! Command line of the simulator: `--seeds A..B`, `--seed N [--trace]`, `--twice`, `--stop` (at the first violation), `--calm`; `--cluster`
//! for several nodes, `--nodes N` for so many; `--scale 1000` for figures of so many.

use ray_sim::options::Options;
use ray_sim::run::{hush_panics, run_cluster, run_seed, run_twice, run_with, twice, Verdict};
use std::time::Instant;

struct Arguments {
    from: u64,
    to: u64,
    trace: bool,
    twice: bool,
    stop: bool,
    calm: bool,
    cluster: bool,
    nodes: Option<u64>,
    scale: Option<u64>,
}

fn parse() -> Result<Arguments, String> {
    let mut parsed = Arguments { from: 1, to: 1000, trace: false, twice: false, stop: false, calm: false, cluster: false, nodes: None, scale: None };
    let mut words = std::env::args().skip(1);
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
    while let Some(word) = words.next() {
        match word.as_str() {
            "--trace" => parsed.trace = true,
            "--twice" => parsed.twice = true,
            "--stop" => parsed.stop = true,
            "--calm" => parsed.calm = true,
            "--cluster" => parsed.cluster = true,
            "--nodes" => {
                parsed.cluster = true;
                parsed.nodes = Some(number(&words.next().unwrap_or_default())?);
            }
            "--scale" => parsed.scale = Some(number(&words.next().unwrap_or_default())?),
            "--seed" => {
                parsed.from = number(&words.next().unwrap_or_default())?;
                parsed.to = parsed.from;
            }
            "--seeds" => {
                let text = words.next().unwrap_or_default();
                let (from, to) = text.split_once("..").ok_or(format!("{text} is no range like 1..100"))?;
                (parsed.from, parsed.to) = (number(from)?, number(to.trim_start_matches('='))?);
            }
            other => {
                return Err(format!(
                    "unknown argument {other}; hint: --seeds 1..1000, --seed 7 --trace, --twice, --stop, --calm, --cluster, --nodes 4, --scale 1000"
                ))
            }
        }
    }
    Ok(parsed)
}

fn verdict(arguments: &Arguments, seed: u64) -> Verdict {
    if arguments.cluster {
        let run = || run_cluster(seed, arguments.nodes, arguments.trace);
        return if arguments.twice { twice(run) } else { run() };
    }
    match (arguments.twice, arguments.calm) {
        (_, true) => run_with(seed, Options::calm(), arguments.trace),
        (true, _) => run_twice(seed),
        (false, _) => run_seed(seed, arguments.trace),
    }
}

fn main() {
    let arguments = parse().unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(2);
    });
    if let Some(count) = arguments.scale {
        return ray_sim::scale::print(count);
    }
    hush_panics();
    let start = Instant::now();
    let (mut seeds, mut events, mut violations) = (0u64, 0u64, 0u64);
    for seed in arguments.from..=arguments.to {
        let verdict = verdict(&arguments, seed);
        seeds += 1;
        events += verdict.events;
        if let Some(violation) = verdict.violation {
            violations += 1;
            let first: String = if arguments.trace { violation } else { violation.lines().take(3).collect::<Vec<_>>().join(" | ") };
            let cluster = if arguments.cluster { "--cluster " } else { "" };
            println!("seed {seed}: {first}\n    replay: cargo run -p ray-sim --release -- {cluster}--seed {seed} --trace");
            if arguments.stop {
                break;
            }
        }
    }
    let wall = start.elapsed().as_secs_f64();
    println!("{seeds} seeds, {events} events, {wall:.1} s ({:.0} seeds/s), {violations} violations", seeds as f64 / wall.max(1e-9));
    std::process::exit(i32::from(violations > 0));
}
