//! Connections that break at any byte, through a proxy.

use super::*;
use rustix::net::sockopt::set_socket_linger;

/// Bytes let through to the client, and connections made.
#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    connections: AtomicU64,
}

/// Carry answers until `cut` bytes have passed; then end it, `hard`: with all that the client has not read.
fn carry(client: &TcpStream, server: &TcpStream, cut: u64, hard: bool, counts: &Counts) {
    let (mut from, mut to, mut left) = (server, client, cut);
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let most = buffer.len().min(left as usize);
        let Ok(n @ 1..) = from.read(&mut buffer[..most]) else { break };
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        counts.bytes.fetch_add(n as u64, Ordering::Relaxed);
        left -= n as u64;
    }
    if !hard {
        // All that was let through still arrives: the client's requests are read until it closes its end.
        let _ = client.shutdown(Shutdown::Write);
        return;
    }
    set_socket_linger(client, Some(Duration::ZERO)).unwrap();
    // Either may be gone already.
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Read);
}

fn proxied(server: &Arc<Transfers>, hard: bool, counts: &Arc<Counts>) -> Transfers {
    let (server, counts) = (server.clone(), counts.clone());
    let connect = move |_: &str| {
        let ((ours, client), (upstream, theirs)) = (streams(), streams());
        server.serve(theirs.into());
        let number = counts.connections.fetch_add(1, Ordering::Relaxed);
        // From a few bytes to some chunks.
        let cut = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (40 + number % 16);
        let counts = counts.clone();
        std::thread::spawn(move || {
            std::thread::scope(|scope| {
                scope.spawn(|| std::io::copy(&mut &client, &mut &upstream));
                carry(&client, &upstream, cut, hard, &counts);
            });
        });
        Ok(ours.into())
    };
    Transfers::start(SharedFiles::default(), Box::new(connect)).unwrap()
}

fn pull_through_cuts(hard: bool) -> (u64, Arc<Counts>) {
    let files = SharedFiles::default();
    let lens = [30 * MIB + 5, 900_000];
    (0..2).for_each(|number| files.insert(extent(number), file_of(&pattern(number, lens[number as usize]))));
    let (server, counts) = (server(&files), Arc::new(Counts::default()));
    let client = proxied(&server, hard, &counts);
    let into: Vec<OwnedFd> = (0..2).map(|number| start(&client, number, range(extent(number), 0, lens[number as usize]))).collect();
    let done = wait(&client, 2);
    assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
    for (number, fd) in (0..2).zip(&into) {
        assert!(content(fd) == pattern(number, lens[number as usize]), "pull {number}");
    }
    (lens.iter().sum(), counts)
}

#[test]
fn a_pull_goes_on_at_the_byte_where_its_connection_was_cut() {
    let (len, counts) = pull_through_cuts(false);
    let (bytes, connections) = (counts.bytes.load(Ordering::Relaxed), counts.connections.load(Ordering::Relaxed));
    assert!(connections > 4, "{connections}");
    // Each answer has its status; of the values no byte came twice.
    let answers = len / CHUNK + 2 + 20 * connections;
    assert!(bytes >= len && bytes <= len + answers, "{bytes} bytes for {len} over {connections} connections");
}

#[test]
fn a_pull_survives_resets_that_take_received_bytes_with_them() {
    let (_, counts) = pull_through_cuts(true);
    assert!(counts.connections.load(Ordering::Relaxed) > 4);
}
