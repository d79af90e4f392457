use super::*;
use ray_proto::{ExtentId, NodeIndex};
use ray_shm::memory;
use ray_shm::now_us;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::{fstat, Timespec};
use rustix::io::pread;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

mod cuts;
mod figures;

const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

fn extent(number: u64) -> ExtentId {
    ExtentId::in_memory(NodeIndex(1), number)
}

/// Bytes that tell where they are from.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len.div_ceil(8)).flat_map(|at| ((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes()).take(len as usize).collect()
}

fn file_of(bytes: &[u8]) -> OwnedFd {
    let fd = memory::create("test", bytes.len() as u64).unwrap();
    memory::write_cold(fd.as_fd(), 0, bytes).unwrap();
    fd
}

fn content(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; fstat(fd).unwrap().st_size as usize];
    let mut at = 0;
    while at < bytes.len() {
        at += pread(fd, &mut bytes[at..], at as u64).unwrap();
    }
    bytes
}

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let other = listener.accept().unwrap().0;
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    (one, other)
}

/// A node that serves, as others connect to it.
fn server(files: &SharedFiles) -> Arc<Transfers> {
    let nobody = Box::new(|_: &str| Err(ConnectError::Refused("it pulls nothing".into())));
    Arc::new(Transfers::start(files.clone(), nobody).unwrap())
}

fn client(server: &Arc<Transfers>) -> Transfers {
    let server = server.clone();
    let connect = move |_: &str| {
        let (ours, theirs) = streams();
        server.serve(theirs.into());
        Ok(ours.into())
    };
    Transfers::start(SharedFiles::default(), Box::new(connect)).unwrap()
}

/// A client whose connections end at the test: it plays the server.
fn client_of_test(stall_us: u64) -> (Transfers, Receiver<TcpStream>) {
    let (sender, peers) = channel();
    let connect = move |_: &str| {
        let (ours, theirs) = streams();
        sender.send(theirs).map_err(|_| ConnectError::Refused("the test is over".into()))?;
        Ok(ours.into())
    };
    (Transfers::start_with(SharedFiles::default(), Box::new(connect), stall_us).unwrap(), peers)
}

fn range(extent: ExtentId, offset: u64, len: u64) -> ShmRange {
    ShmRange { extent, offset, len }
}

/// Start a pull. Its destination.
fn start(transfers: &Transfers, ticket: u64, source: ShmRange) -> OwnedFd {
    let into = memory::create("into", source.len).unwrap();
    transfers.pull(Pull { ticket, address: "node:1".into(), source, into: into.try_clone().unwrap() });
    into
}

fn wait(transfers: &Transfers, count: usize) -> Vec<Done> {
    let deadline = Instant::now() + DEADLINE;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < deadline, "{all:?}");
        poll(&mut [PollFd::new(&transfers.fd(), PollFlags::IN)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        all.extend(transfers.take_done());
    }
    all
}

fn result(transfers: &Transfers) -> Result<(), PullError> {
    wait(transfers, 1).remove(0).result
}

/// The next request that came to the test.
fn request(peer: &mut TcpStream) -> [u64; 3] {
    let mut bytes = [0; REQUEST];
    peer.read_exact(&mut bytes).unwrap();
    [0, 8, 16].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

#[test]
fn pulls_of_every_size_bring_the_same_bytes() {
    let files = SharedFiles::default();
    let bytes = pattern(1, 40_000_000 + 4096);
    files.insert(extent(1), file_of(&bytes));
    let (server, sizes) = (server(&files), [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 40_000_000]);
    let client = client(&server);
    for (ticket, len) in sizes.into_iter().enumerate() {
        let into = start(&client, ticket as u64, range(extent(1), 4096, len));
        assert_eq!(wait(&client, 1), [Done { ticket: ticket as u64, result: Ok(()) }]);
        assert!(content(&into) == bytes[4096..4096 + len as usize], "{len} bytes");
    }
}

#[test]
fn a_file_on_disk_is_served_too() {
    let files = SharedFiles::default();
    let bytes = pattern(2, 2 * MIB);
    let file = memory::create_on_disk(&std::env::temp_dir(), 2 * MIB).unwrap();
    memory::write_cold(file.as_fd(), 0, &bytes).unwrap();
    files.insert(extent(1), file);
    let client = client(&server(&files));
    let into = start(&client, 1, range(extent(1), 0, 2 * MIB));
    assert_eq!(result(&client), Ok(()));
    assert!(content(&into) == bytes);
}

#[test]
fn ranges_that_are_not_there_are_gone_and_the_connection_goes_on() {
    let files = SharedFiles::default();
    files.insert(extent(1), file_of(&pattern(3, 5 * MIB)));
    let client = client(&server(&files));
    let bad = [range(extent(2), 0, 10), range(extent(1), 5 * MIB, 1), range(extent(1), u64::MAX - 5, 100), range(extent(1), MIB, 5 * MIB)];
    for source in bad {
        let _into = start(&client, 1, source);
        let result = result(&client);
        assert!(matches!(&result, Err(PullError::Gone(text)) if text.contains("node:1")), "{result:?}");
    }
    let into = start(&client, 1, range(extent(1), 0, 10));
    assert_eq!(result(&client), Ok(()));
    assert_eq!(content(&into), pattern(3, 10));
    files.remove(extent(1));
    let _into = start(&client, 1, range(extent(1), 0, 10));
    assert!(matches!(result(&client), Err(PullError::Gone(_))));
}

#[test]
fn eight_pulls_at_once_all_arrive() {
    let files = SharedFiles::default();
    let len = |number: u64| if number % 2 == 0 { 9 * MIB + number } else { 100_000 + number };
    (0..8).for_each(|number| files.insert(extent(number), file_of(&pattern(number, len(number)))));
    let client = client(&server(&files));
    let into: Vec<OwnedFd> = (0..8).map(|number| start(&client, number, range(extent(number), 0, len(number)))).collect();
    assert!(wait(&client, 8).iter().all(|done| done.result.is_ok()));
    for (number, fd) in (0..8).zip(&into) {
        assert!(content(fd) == pattern(number, len(number)), "pull {number}");
    }
}

#[test]
fn a_client_that_does_not_read_blocks_no_other() {
    let files = SharedFiles::default();
    let bytes = pattern(4, 20 * MIB);
    files.insert(extent(1), file_of(&bytes));
    let server = server(&files);
    let (mut slow, theirs) = streams();
    server.serve(theirs.into());
    for word in [extent(1).0, 0, 20 * MIB] {
        slow.write_all(&word.to_le_bytes()).unwrap();
    }
    let client = client(&server);
    let into = start(&client, 1, range(extent(1), 0, 20 * MIB));
    assert_eq!(result(&client), Ok(()));
    assert!(content(&into) == bytes);
    // It gets its bytes when it reads.
    let mut all = vec![0; 20 * MIB as usize + 1];
    slow.read_exact(&mut all).unwrap();
    assert!(all[0] == OK && all[1..] == bytes);
}

#[test]
fn a_flood_of_requests_ends_the_connection() {
    let files = SharedFiles::default();
    files.insert(extent(1), file_of(&pattern(5, 20 * MIB)));
    let server = server(&files);
    let (mut flood, theirs) = streams();
    server.serve(theirs.into());
    flood.set_write_timeout(Some(DEADLINE)).unwrap();
    // Nobody reads the answers, so the server has to give up at some time.
    let request = [extent(1).0, 0, 20 * MIB].map(u64::to_le_bytes).concat();
    let requests = request.repeat(4096);
    while flood.write_all(&requests).is_ok() {}
}

#[test]
fn a_destination_that_is_too_small_is_refused() {
    let client = client(&server(&SharedFiles::default()));
    let into = memory::create("into", 99).unwrap();
    client.pull(Pull { ticket: 5, address: "node:1".into(), source: range(extent(1), 0, 100), into });
    assert!(matches!(result(&client), Err(PullError::Destination(_))));
}

/// Small and large values come in different ways.
const BOTH_WAYS: [u64; 2] = [1000, 3 * MIB];

#[test]
fn nothing_is_written_after_a_cancelled_pull_is_done_even_when_its_ticket_is_used_again() {
    for len in BOTH_WAYS {
        let half = len as usize / 2;
        let (client, peers) = client_of_test(STALL_US);
        let first = start(&client, 1, range(extent(1), 0, len));
        let mut peer = peers.recv_timeout(DEADLINE).unwrap();
        assert_eq!(request(&mut peer), [extent(1).0, 0, len]);
        peer.write_all(&[vec![OK], vec![1; half]].concat()).unwrap();
        client.cancel(1);
        assert_eq!(wait(&client, 1), [Done { ticket: 1, result: Err(PullError::Cancelled) }]);
        let before = content(&first);
        let second = start(&client, 1, range(extent(2), 0, len));
        assert_eq!(request(&mut peer), [extent(2).0, 0, len]);
        peer.write_all(&[vec![1; half], vec![OK], vec![2; 2 * half]].concat()).unwrap();
        assert_eq!(wait(&client, 1), [Done { ticket: 1, result: Ok(()) }]);
        assert!((content(&first), content(&second)) == (before, vec![2; 2 * half]));
    }
}

#[test]
fn cancelling_what_is_not_in_hand_is_nothing() {
    let client = client(&server(&SharedFiles::default()));
    client.cancel(77);
    let _into = start(&client, 3, range(extent(3), 0, 0));
    client.cancel(3);
    assert_eq!(wait(&client, 1), [Done { ticket: 3, result: Ok(()) }]);
    assert!(client.take_done().is_empty());
}

#[test]
fn a_destination_that_can_not_be_written_fails_and_the_connection_goes_on() {
    let files = SharedFiles::default();
    files.insert(extent(1), file_of(&pattern(6, 20 * MIB)));
    let client = client(&server(&files));
    for len in [1000, 20 * MIB] {
        let into = memory::reopen_read_only(memory::create("into", len).unwrap().as_fd()).unwrap();
        client.pull(Pull { ticket: 1, address: "node:1".into(), source: range(extent(1), 0, len), into });
        assert!(matches!(result(&client), Err(PullError::Destination(_))));
        let into = start(&client, 2, range(extent(1), 0, len));
        assert_eq!(result(&client), Ok(()));
        assert!(content(&into) == pattern(6, len));
    }
}

#[test]
fn small_pulls_do_not_wait_behind_large_ones() {
    let (client, peers) = client_of_test(STALL_US);
    let _large = start(&client, 1, range(extent(1), 0, 100 * MIB));
    let mut peer = peers.recv_timeout(DEADLINE).unwrap();
    assert_eq!(request(&mut peer), [extent(1).0, 0, CHUNK]);
    let small = start(&client, 2, range(extent(2), 0, 3));
    let mut other = peers.recv_timeout(DEADLINE).unwrap();
    assert_eq!(request(&mut other), [extent(2).0, 0, 3]);
    other.write_all(&[OK, 7, 8, 9]).unwrap();
    assert_eq!(wait(&client, 1), [Done { ticket: 2, result: Ok(()) }]);
    assert_eq!(content(&small), [7, 8, 9]);
}

#[test]
fn large_pulls_take_turns() {
    let (client, peers) = client_of_test(STALL_US);
    let _into: Vec<OwnedFd> = (1..3).map(|number| start(&client, number, range(extent(number), 0, 3 * CHUNK))).collect();
    let mut peer = peers.recv_timeout(DEADLINE).unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let [id, at, len] = request(&mut peer);
        assert_eq!(len, CHUNK);
        seen.push((id, at / CHUNK));
        peer.write_all(&vec![OK; CHUNK as usize + 1]).unwrap();
    }
    let (one, two) = (extent(1).0, extent(2).0);
    // Which is connected for may be alone at first.
    assert!(seen[..4].iter().any(|(id, _)| *id == two), "{seen:?}");
    assert!((0..3).all(|at| seen.contains(&(one, at)) && seen.contains(&(two, at))), "{seen:?}");
    assert!(wait(&client, 2).iter().all(|done| done.result.is_ok()));
}

#[test]
fn a_peer_that_answers_nonsense_is_left_and_asked_again() {
    let (client, peers) = client_of_test(STALL_US);
    let into = start(&client, 1, range(extent(1), 0, 3));
    let mut peer = peers.recv_timeout(DEADLINE).unwrap();
    request(&mut peer);
    peer.write_all(&[77]).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0);
    let mut peer = peers.recv_timeout(DEADLINE).unwrap();
    assert_eq!(request(&mut peer), [extent(1).0, 0, 3]);
    peer.write_all(&[OK, 1, 2, 3]).unwrap();
    assert_eq!(result(&client), Ok(()));
    assert_eq!(content(&into), [1, 2, 3]);
}

#[test]
fn a_peer_that_stalls_or_never_answers_is_unreachable() {
    let (client, peers) = client_of_test(300_000);
    let _into = start(&client, 1, range(extent(1), 0, 3));
    let _peer = peers.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(result(&client), Err(PullError::Unreachable(_))));
    let (calls, refuse) = (Arc::new(AtomicU64::new(0)), "nobody is there");
    let counted = calls.clone();
    let connect = move |_: &str| {
        counted.fetch_add(1, Ordering::Relaxed);
        Err(ConnectError::Refused(refuse.into()))
    };
    let client = Transfers::start_with(SharedFiles::default(), Box::new(connect), 300_000).unwrap();
    let _into = start(&client, 1, range(extent(1), 0, 3));
    let result = result(&client);
    assert!(matches!(&result, Err(PullError::Unreachable(text)) if text.contains(refuse)), "{result:?}");
    assert!(calls.load(Ordering::Relaxed) > 1);
}

#[test]
fn a_rejected_connection_fails_at_once() {
    let connect = Box::new(|_: &str| Err(ConnectError::Rejected("another cluster".into())));
    let client = Transfers::start(SharedFiles::default(), connect).unwrap();
    let started = now_us();
    let _into = start(&client, 1, range(extent(1), 0, 3));
    assert!(matches!(result(&client), Err(PullError::Unreachable(text)) if text.contains("another cluster")));
    assert!(now_us() - started < STALL_US);
}

#[test]
fn the_thread_ends_with_its_owner_and_closes_what_it_served() {
    let server = server(&SharedFiles::default());
    let (mut ours, theirs) = streams();
    server.serve(theirs.into());
    drop(server);
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap_or(0), 0);
}
