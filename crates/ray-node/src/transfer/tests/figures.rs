//! cargo test -p ray-node --release transfer::tests::figures -- --ignored --nocapture

use super::*;

const LEN: u64 = 100_000_000;
const ROUNDS: usize = 21;
const SMALL: u64 = 200_000;

/// Seconds for LEN bytes from memory to memory.
fn plain(buffers: Option<usize>) -> f64 {
    let (mut one, mut other) = streams();
    if let Some(size) = buffers {
        for stream in [&one, &other] {
            rustix::net::sockopt::set_socket_recv_buffer_size(stream, size).unwrap();
            rustix::net::sockopt::set_socket_send_buffer_size(stream, size).unwrap();
        }
    }
    let started = Instant::now();
    let sender = std::thread::spawn(move || {
        let buffer = vec![7; MIB as usize];
        let mut left = LEN as usize;
        while left > 0 {
            left -= one.write(&buffer[..left.min(MIB as usize)]).unwrap();
        }
        one
    });
    let mut buffer = vec![0; MIB as usize];
    let mut left = LEN as usize;
    while left > 0 {
        left -= other.read(&mut buffer).unwrap();
    }
    let took = started.elapsed().as_secs_f64();
    sender.join().unwrap();
    took
}

fn pull(client: &Transfers, source: ShmRange, into: &OwnedFd) -> f64 {
    let started = Instant::now();
    client.pull(Pull { ticket: 1, address: "node:1".into(), source, into: into.try_clone().unwrap() });
    assert_eq!(result(client), Ok(()));
    started.elapsed().as_secs_f64()
}

fn show(what: &str, mut seconds: Vec<f64>, len: u64) {
    seconds.sort_by(f64::total_cmp);
    let (best, median, worst) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let rate = |s: f64| len as f64 / s / 1e9;
    println!(
        "{what:<40} median {:>9.1} us, best {:>9.1} us, worst {:>9.1} us | {:.2} GB/s, best {:.2}",
        median * 1e6,
        best * 1e6,
        worst * 1e6,
        rate(median),
        rate(best)
    );
}

#[test]
#[ignore = "figures, not a check"]
fn throughput() {
    let files = SharedFiles::default();
    files.insert(extent(1), file_of(&pattern(1, LEN)));
    let client = client(&server(&files));
    let warm = file_of(&pattern(2, LEN));
    let small = file_of(&pattern(2, SMALL));
    pull(&client, range(extent(1), 0, LEN), &warm);
    let mut figures: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        figures[0].push(plain(None));
        figures[1].push(plain(Some(4 << 20)));
        figures[2].push(pull(&client, range(extent(1), 0, LEN), &warm));
        figures[3].push(pull(&client, range(extent(1), 0, LEN), &memory::create("cold", LEN).unwrap()));
    }
    let names = ["plain TCP, default buffers", "plain TCP, buffers of 4 MiB", "pull, warm destination", "pull, cold destination"];
    names.into_iter().zip(figures).for_each(|(name, seconds)| show(name, seconds, LEN));
    pull(&client, range(extent(1), 0, SMALL), &small);
    let seconds = (0..1000).map(|at| pull(&client, range(extent(1), at * 4096, SMALL), &small)).collect();
    show("pull of 200 KB, open connection", seconds, SMALL);
}
