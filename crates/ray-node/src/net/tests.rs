//! Whole networks over loopback, most of them in one thread, with connections that are cut, strangers at the door, and nodes that are gone.

use super::doorway::STRANGERS_MAX;
use super::handshake::{nonce, Acceptor, Connector};
use super::*;
use rustix::net::{shutdown, Shutdown};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const OURS: [u8; CLUSTER] = [7; CLUSTER];
const SOON_US: u64 = 20_000_000;

pub(super) struct Host {
    poll: Poll,
    pub(super) net: Net,
    ready: Vec<Ready>,
    events: Vec<NetEvent>,
}

fn secret() -> Secret {
    Secret::new(b"open sesame")
}

impl Host {
    fn new(index: u16) -> Self {
        let poll = Poll::new().unwrap();
        let mut net = Net::listen(&poll, "127.0.0.1", 0, secret(), OURS).unwrap();
        net.set_index(NodeIndex(index));
        Host { poll, net, ready: Vec::new(), events: Vec::new() }
    }

    /// One turn of a daemon's loop.
    pub(super) fn turn(&mut self, timeout_us: u64) {
        self.net.tick(&self.poll, now_us());
        self.net.flush(&self.poll);
        let due = self.net.tick(&self.poll, now_us()).map_or(timeout_us, |at| at.saturating_sub(now_us()).min(timeout_us));
        self.poll.wait(Some(due), &mut self.ready).unwrap();
        for event in std::mem::take(&mut self.ready) {
            let Token::Net(number) = Token::unpack(event.token) else { panic!("not a token of the network") };
            self.net.ready(&self.poll, NetToken(number), event);
        }
        self.net.take_events(&mut self.events);
    }

    pub(super) fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Host) -> Option<T>) -> T {
        let deadline = now_us() + SOON_US;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(now_us() < deadline, "{what} did not happen; events: {:?}", self.events);
            self.turn(1_000);
        }
    }

    pub(super) fn say(&mut self, to: u16, seq: u64) {
        self.net.send(NodeIndex(to), &NodeMessage::Heartbeat { seq });
    }

    pub(super) fn heard(&mut self) -> Vec<u64> {
        let mut heard = Vec::new();
        self.events.retain(|event| match event {
            NetEvent::Message { message: NodeMessage::Heartbeat { seq }, .. } => {
                heard.push(*seq);
                false
            }
            _ => true,
        });
        heard
    }

    fn meet(&mut self, other: &Host, index: u16) {
        self.net.know(NodeIndex(index), &other.net.address()).unwrap();
    }

    fn cut(&self, to: u16) {
        let socket = self.net.peers.get(&NodeIndex(to)).and_then(|peer| peer.outbound.socket());
        if let Some(socket) = socket {
            // One that is not connected yet can't be cut.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }
}

pub(super) fn pair() -> (Host, Host) {
    let (mut a, mut b) = (Host::new(0), Host::new(1));
    a.meet(&b, 1);
    b.meet(&a, 0);
    (a, b)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Take what came, and check that it is what follows.
pub(super) fn check(host: &mut Host, next: &mut u64) {
    for seq in host.heard() {
        assert_eq!(seq, *next);
        *next += 1;
    }
    assert!(host.events.is_empty(), "{:?}", host.events);
}

#[test]
fn messages_wait_for_the_address_and_the_index_and_come_in_order() {
    let (mut a, mut b) = (Host::new(0), Host::new(1));
    b.net.me.index = None;
    (0..10).for_each(|seq| a.say(1, seq));
    assert_eq!(a.net.unacknowledged_by_kernel(NodeIndex(1)), Some(true));
    assert_eq!(a.net.unacknowledged_by_kernel(NodeIndex(2)), None);
    a.turn(0);
    a.meet(&b, 1);
    for _ in 0..50 {
        a.turn(1_000);
        b.turn(1_000);
    }
    assert!(b.heard().is_empty(), "who does not know his place hears nobody");
    b.net.set_index(NodeIndex(1));
    let mut next = 0;
    b.until("the messages", |b| {
        a.turn(0);
        check(b, &mut next);
        (next == 10).then_some(())
    });
    a.until("the kernel's word", |a| (a.net.unacknowledged_by_kernel(NodeIndex(1)) == Some(false)).then_some(()));
    assert!(a.events.is_empty());
}

#[test]
fn a_hundred_thousand_messages_both_ways_survive_cuts_anywhere() {
    const ALL: u64 = 100_000;
    let (mut a, mut b) = pair();
    let mut random = Random(3);
    let (mut said, mut heard, mut cuts) = ((0, 0), (0, 0), 0);
    let deadline = now_us() + 60_000_000;
    while heard.0 < ALL || heard.1 < ALL {
        for _ in 0..random.below(300) {
            if said.0 < ALL {
                a.say(1, said.0);
                said.0 += 1;
            }
        }
        for _ in 0..random.below(300) {
            if said.1 < ALL {
                b.say(0, said.1);
                said.1 += 1;
            }
        }
        match random.below(40) {
            0 => a.cut(1),
            1 => b.cut(0),
            _ => cuts -= 1,
        }
        cuts += 1;
        a.turn(if random.below(4) == 0 { 1_000 } else { 0 });
        b.turn(0);
        check(&mut a, &mut heard.1);
        check(&mut b, &mut heard.0);
        assert!(now_us() < deadline, "{said:?} said, {heard:?} heard, {cuts} cuts");
    }
    assert!(cuts > 10, "{cuts}");
}

/// Between two nodes: passes bytes on and cuts after random numbers of them, on either side of it.
fn bad_wire(to: String, seed: u64) -> String {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = door.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut random = Random(seed);
        while let Ok((near, _)) = door.accept() {
            let Ok(far) = TcpStream::connect(&to) else { return };
            let life = if random.below(3) == 0 { random.below(400) } else { random.below(300_000) };
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap(), life), (far, near, random.below(2_000))];
            for (mut from, mut into, life) in ways {
                std::thread::spawn(move || {
                    let mut left = life as usize;
                    let mut room = [0; 8192];
                    while left > 0 {
                        let most = left.min(room.len());
                        let Ok(n @ 1..) = from.read(&mut room[..most]) else { break };
                        if into.write_all(&room[..n]).is_err() {
                            break;
                        }
                        left -= n;
                    }
                    // Both ways end, as when a machine between them forgets the connection.
                    let _ = (from.shutdown(std::net::Shutdown::Both), into.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    at
}

#[test]
fn a_wire_that_cuts_after_any_number_of_bytes_loses_and_doubles_nothing() {
    const ALL: u64 = 100_000;
    let (mut a, mut b) = (Host::new(0), Host::new(1));
    a.net.know(NodeIndex(1), &bad_wire(b.net.address(), 5)).unwrap();
    b.net.know(NodeIndex(0), &bad_wire(a.net.address(), 6)).unwrap();
    let (mut said, mut heard) = (0, (0, 0));
    let deadline = now_us() + 120_000_000;
    while heard.0 < ALL || heard.1 < ALL {
        for _ in 0..200.min(ALL - said) {
            a.say(1, said);
            b.say(0, said);
            said += 1;
        }
        a.turn(100);
        b.turn(100);
        check(&mut a, &mut heard.1);
        check(&mut b, &mut heard.0);
        assert!(now_us() < deadline, "{said} said, {heard:?} heard");
    }
}

#[test]
fn large_frames_pass_and_survive_cuts() {
    let (mut a, mut b) = pair();
    let large = |n: u8| NodeMessage::Fenced { reason: String::from_utf8(vec![b'a' + n; 5 << 20]).unwrap() };
    (0..4).for_each(|n| a.net.send(NodeIndex(1), &large(n)));
    a.say(1, 99);
    let mut turns = 0;
    let got = b.until("large frames", |b| {
        a.turn(0);
        turns += 1;
        if turns % 40 == 0 && turns < 400 {
            a.cut(1);
        }
        (b.events.len() == 5).then(|| std::mem::take(&mut b.events))
    });
    for (n, event) in got.into_iter().take(4).enumerate() {
        let NetEvent::Message { from, message } = event else { panic!("{event:?}") };
        assert!(from == NodeIndex(0) && message == large(n as u8));
    }
}

#[test]
fn who_is_acknowledged_keeps_nothing() {
    let (mut a, mut b) = pair();
    (0..1000).for_each(|seq| a.say(1, seq));
    a.until("the acknowledgement", |a| {
        b.turn(0);
        let backlog = &a.net.peers[&NodeIndex(1)].outbound;
        (a.net.due == u64::MAX && backlog.is_empty()).then_some(())
    });
}

#[test]
fn a_question_to_join_is_answered_and_the_cluster_is_named() {
    let mut head = Host::new(0);
    let address = head.net.address();
    let question = Joining::Refused { reason: "a question, for once".into() };
    let asked = question.clone();
    let asker = std::thread::spawn(move || join(&address, &secret(), None, &asked, Duration::from_secs(20)));
    let ticket = head.until("the question", |head| match head.events.pop() {
        Some(NetEvent::Join { ticket, question: found }) => {
            assert_eq!(found, question);
            Some(ticket)
        }
        _ => None,
    });
    let answer = Joining::Refused { reason: "x".repeat(20 << 20) };
    head.net.answer_join(&head.poll, ticket, &answer);
    head.until("the end of the answer", |head| head.net.callers.is_empty().then_some(()));
    let (found, cluster) = asker.join().unwrap().unwrap();
    assert!(found == answer && cluster == OURS);
    head.net.answer_join(&head.poll, ticket, &answer);
}

/// What a blocking connection ends with, while the host runs.
fn connect_to(host: &mut Host, kind: Kind, token: &str, cluster: [u8; CLUSTER]) -> Result<OwnedFd, ConnectError> {
    let (address, secret) = (host.net.address(), Secret::new(token.as_bytes()));
    let guest = std::thread::spawn(move || connect_blocking(&address, kind, &secret, &cluster, Duration::from_secs(20)));
    host.until("the connection", |_| guest.is_finished().then_some(()));
    guest.join().unwrap().map(|(line, _)| line)
}

#[test]
fn a_transfer_begins_at_the_first_byte_of_its_stream() {
    let mut host = Host::new(4);
    let bulk = Kind::Bulk { from: NodeIndex(2), to: NodeIndex(4) };
    let guest = connect_to(&mut host, bulk, "open sesame", OURS).unwrap();
    rustix::io::write(&guest, b"which object").unwrap();
    let stream = host.until("the transfer", |host| match host.events.pop() {
        Some(NetEvent::Bulk { from: NodeIndex(2), stream }) => Some(stream),
        _ => None,
    });
    assert!(tcp::wait(&stream, false, SOON_US).unwrap());
    let mut room = [0; 64];
    assert_eq!(tcp::receive(&stream, &mut room), Ok(12));
    assert_eq!(&room[..12], b"which object");
    tcp::set_blocking(&stream, true).unwrap();
    rustix::io::write(&stream, b"this").unwrap();
    assert_eq!(rustix::io::read(&guest, &mut room).unwrap(), 4);
}

#[test]
fn strangers_are_told_why() {
    let mut host = Host::new(4);
    let bulk = |from, to| Kind::Bulk { from: NodeIndex(from), to: NodeIndex(to) };
    host.net.forget(NodeIndex(9));
    let text = |result: Result<OwnedFd, ConnectError>| match result {
        Err(ConnectError::Rejected(text)) => text,
        other => panic!("{other:?}"),
    };
    let found = text(connect_to(&mut host, Kind::Join, "guess", OURS));
    assert!(found.contains("token") && found.contains("hint:") && !found.contains("guess") && !found.contains("sesame"), "{found}");
    let found = text(connect_to(&mut host, Kind::Join, "open sesame", [9; CLUSTER]));
    assert!(found.contains(&"07".repeat(CLUSTER)) && found.contains(&"09".repeat(CLUSTER)), "{found}");
    assert!(text(connect_to(&mut host, Kind::Join, "", OURS)).contains("no token"));
    assert!(text(connect_to(&mut host, bulk(9, 4), "open sesame", OURS)).contains("dead"));
    assert!(matches!(connect_to(&mut host, bulk(2, 5), "open sesame", OURS), Err(ConnectError::Refused(_))));
    assert!(host.events.is_empty() && host.net.callers.is_empty());
}

#[test]
fn what_is_no_node_is_named_as_such() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut guest, _) = web.accept().unwrap();
        guest.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        drop(guest.read(&mut [0; 1000]));
        drop(web.accept());
        web
    });
    let ask = |address: &str| connect_blocking(address, Kind::Join, &secret(), &OURS, Duration::from_secs(20)).unwrap_err();
    assert!(matches!(ask(&address), ConnectError::Rejected(text) if text.contains("no node of a cluster")));
    assert!(matches!(ask(&address), ConnectError::Unreachable(text) if text.contains("closed the connection")));
    let listens = server.join().unwrap();
    let silent = connect_blocking(&address, Kind::Join, &secret(), &OURS, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(silent, ConnectError::Unreachable(text) if text.contains("in time")));
    drop(listens);
    assert!(matches!(ask(&address), ConnectError::Refused(_)));
    assert!(matches!(ask("nonsense"), ConnectError::Unreachable(text) if text.contains("host:port")));
}

#[test]
fn garbage_at_the_port_disturbs_nobody() {
    let (mut a, mut b) = pair();
    let mut random = Random(11);
    let mut next = 0;
    for round in 0..100 {
        let mut stranger = TcpStream::connect(b.net.address()).unwrap();
        let bytes: Vec<u8> = (0..random.below(5000)).map(|_| random.below(256) as u8).collect();
        // It may be thrown out before it is done.
        let _ = stranger.write_all(&bytes);
        a.say(1, round);
        b.until("the message", |b| {
            a.turn(0);
            check(b, &mut next);
            (next == round + 1).then_some(())
        });
    }
    b.until("the end of the strangers", |b| b.net.callers.is_empty().then_some(()));
}

#[test]
fn one_who_stalls_is_dropped_and_many_of_them_keep_nobody_out() {
    let (mut a, mut b) = pair();
    let (_, hello) = Connector::new(&secret(), Kind::Join, &OURS, &nonce());
    let stalled: Vec<TcpStream> = (0..200)
        .map(|n| {
            let mut stranger = TcpStream::connect(b.net.address()).unwrap();
            stranger.write_all(&hello[..n % hello.len()]).unwrap();
            stranger
        })
        .collect();
    b.until("full", |b| (b.net.strangers() == STRANGERS_MAX).then_some(()));
    a.say(1, 0);
    // Those before it in the kernel's queue have their time, as long as it is.
    let mut next = 0;
    b.until("the message", |b| {
        assert!(b.net.callers.len() <= STRANGERS_MAX);
        a.turn(0);
        check(b, &mut next);
        (next == 1).then_some(())
    });
    b.until("all dropped", |b| b.net.callers.is_empty().then_some(()));
    assert!(b.net.shut_until.is_none());
    drop(stalled);
}

#[test]
fn a_port_that_is_taken_and_an_address_that_is_not_ours_are_explained() {
    let host = Host::new(0);
    let port = host.net.address.port();
    let listen = |ip: &str, port| Net::listen(&host.poll, ip, port, secret(), OURS).err().unwrap();
    let taken = listen("127.0.0.1", port);
    assert!(taken.contains(&format!("127.0.0.1:{port}")) && taken.contains("taken") && taken.contains("hint:"), "{taken}");
    let foreign = listen("203.0.113.1", 0);
    assert!(foreign.contains("not one of this machine") && foreign.contains("hint:"), "{foreign}");
    assert!(listen("localhost", 0).contains("no IP address"));
    assert!(Net::listen(&host.poll, "127.0.0.1", 0, Secret::new(b""), OURS).err().unwrap().contains("token"));
}

#[test]
fn a_node_that_is_gone_is_refused_again_and_again_and_one_that_has_its_port_is_not_it() {
    let (mut a, mut b) = pair();
    a.say(1, 0);
    b.until("the message", |b| {
        a.turn(0);
        b.heard().pop()
    });
    let port = b.net.address.port();
    drop(b);
    let refused = |a: &mut Host| {
        a.until("a refusal", |a| match a.events.pop() {
            Some(NetEvent::Refused { to: NodeIndex(1) }) => Some(()),
            None => None,
            other => panic!("{other:?}"),
        });
    };
    // Nothing was sent since: the end of the connection is enough.
    (0..3).for_each(|_| refused(&mut a));
    assert_eq!(a.net.unacknowledged_by_kernel(NodeIndex(1)), Some(true));
    let poll = Poll::new().unwrap();
    let mut net = Net::listen(&poll, "127.0.0.1", port, secret(), OURS).unwrap();
    net.set_index(NodeIndex(2));
    let mut heir = Host { poll, net, ready: Vec::new(), events: Vec::new() };
    a.say(1, 1);
    a.events.clear();
    for _ in 0..3 {
        a.until("a refusal", |a| {
            heir.turn(0);
            a.events.pop()
        });
    }
    assert!(heir.heard().is_empty());
}

#[test]
fn who_is_forgotten_is_never_heard_again_and_told_so() {
    let (mut a, mut b) = pair();
    (0..10).for_each(|seq| b.say(0, seq));
    a.until("messages", |a| {
        b.turn(0);
        (!a.events.is_empty()).then_some(())
    });
    // One that is read and not taken yet counts as not heard.
    a.net.events.append(&mut a.events);
    a.net.forget(NodeIndex(1));
    b.say(0, 10);
    a.say(1, 0);
    b.until("the word", |b| {
        a.turn(0);
        b.events.iter().any(|event| matches!(event, NetEvent::Disowned { by: NodeIndex(0) })).then_some(())
    });
    assert!(a.events.is_empty() && a.net.peers.is_empty() && b.heard().is_empty());
    a.meet(&b, 1);
    assert!(a.net.peers.is_empty());
    assert!(a.net.know(NodeIndex(5), "nowhere").is_err());
}

#[test]
fn a_peer_that_speaks_nonsense_in_its_session_is_named_once() {
    let mut host = Host::new(0);
    let session = Kind::Session { from: NodeIndex(3), to: NodeIndex(0) };
    for nonsense in [&[255, 255, 255, 255][..], &[1, 0, 0, 0, 200][..]] {
        let guest = connect_to(&mut host, session, "open sesame", OURS).unwrap();
        rustix::io::write(&guest, nonsense).unwrap();
        host.until("the finding", |host| match host.events.pop() {
            Some(NetEvent::Garbled { from: NodeIndex(3), .. }) => Some(()),
            _ => None,
        });
        assert!(matches!(connect_to(&mut host, session, "open sesame", OURS), Err(ConnectError::Rejected(_))));
        assert!(host.events.is_empty());
        host.net.peers.clear();
    }
}

#[test]
fn a_receiver_that_names_a_position_that_never_was_ends_the_session() {
    let mut host = Host::new(0);
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    host.net.know(NodeIndex(3), &door.local_addr().unwrap().to_string()).unwrap();
    host.say(3, 0);
    let liar = std::thread::spawn(move || {
        let (mut line, _) = door.accept().unwrap();
        let mut acceptor = Acceptor::new(&secret(), NodeIndex(3), &OURS, &nonce());
        let mut out = Vec::new();
        loop {
            let mut room = vec![0; acceptor.wants()];
            line.read_exact(&mut room).unwrap();
            if acceptor.feed(&room, &mut out).unwrap().is_some() {
                break;
            }
            line.write_all(&std::mem::take(&mut out)).unwrap();
        }
        acceptor.answer(Verdict::Welcome, &mut out);
        out.extend_from_slice(&1000u64.to_le_bytes());
        line.write_all(&out).unwrap();
        (door, line)
    });
    host.until("the finding", |host| matches!(host.events.pop(), Some(NetEvent::Garbled { from: NodeIndex(3), .. })).then_some(()));
    host.say(3, 1);
    host.turn(0);
    let outbound = &host.net.peers[&NodeIndex(3)].outbound;
    assert!(outbound.is_empty() && outbound.socket().is_none());
    drop(liar.join().unwrap());
}

/// Packets of it may have been lost: what is only repeated by the kernel comes too late for a node that must be heard within four seconds.
#[test]
fn a_handshake_that_is_not_answered_is_begun_anew_well_before_a_node_would_fence_itself() {
    let mut host = Host::new(0);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    host.net.know(NodeIndex(3), &silent.local_addr().unwrap().to_string()).unwrap();
    host.say(3, 1);
    let mut callers = Vec::new();
    let mut since = 0;
    host.until("a second attempt", |_| {
        callers.extend(silent.accept().ok());
        if callers.len() == 1 && since == 0 {
            since = now_us();
        }
        (callers.len() == 2).then_some(())
    });
    assert!(now_us() - since < 3_000_000 && host.net.has_unsent(NodeIndex(3)));
}

#[test]
fn a_receiver_that_is_stopped_is_not_cut_off_and_keeps_its_connection() {
    let (mut a, mut b) = pair();
    a.say(1, 0);
    b.until("the message", |b| {
        a.turn(0);
        b.heard().pop()
    });
    // More than the sockets hold: probes of a full receiver are answered by its kernel.
    for _ in 0..40 {
        a.net.send(NodeIndex(1), &NodeMessage::Fenced { reason: "x".repeat(1 << 20) });
    }
    let since = now_us();
    let mut cut_off = 0;
    while now_us() < since + 2_500_000 {
        a.turn(10_000);
        cut_off += u32::from(a.net.unacknowledged_by_kernel(NodeIndex(1)) != Some(false));
    }
    assert!(cut_off == 0 && b.net.callers.is_empty());
    b.until("the rest", |b| {
        a.turn(0);
        (b.events.len() == 40).then_some(())
    });
    assert!(b.net.callers.is_empty() && b.net.last_caller == CALLER | 1, "one connection was enough");
}

/// `cargo test --release -p ray-node net::tests::figures -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn figures_of_a_session() {
    const ROUNDS: u64 = 20_000;
    const BURST: u64 = 1_000_000;
    let (mut a, mut b) = pair();
    let echo = std::thread::spawn(move || {
        let mut heard = 0;
        while heard < ROUNDS {
            b.turn(10_000);
            for seq in b.heard() {
                heard += 1;
                b.say(0, seq);
            }
        }
        let mut next = 0;
        while next < BURST {
            b.turn(10_000);
            check(&mut b, &mut next);
        }
        b.say(0, 0);
        b.until("the last word", |b| b.net.peers[&NodeIndex(0)].outbound.is_empty().then_some(()));
    });
    let started = now_us();
    for seq in 0..ROUNDS {
        a.say(1, seq);
        a.until("the echo", |a| a.heard().pop());
    }
    let round = (now_us() - started) as f64 / ROUNDS as f64;
    let started = now_us();
    for seq in 0..BURST {
        a.say(1, seq);
        if seq % 100 == 0 {
            a.turn(0);
        }
    }
    let queued = now_us() - started;
    a.until("the last echo", |a| a.heard().pop());
    let rate = BURST as f64 / (now_us() - started) as f64;
    println!("round trip {round:.1} us; {rate:.2} million messages/s; {:.0} ns to queue and write one", queued as f64 * 1000.0 / BURST as f64);
    a.until("the last acknowledgement", |a| echo.is_finished().then(|| a.turn(0)));
    echo.join().unwrap();
}
