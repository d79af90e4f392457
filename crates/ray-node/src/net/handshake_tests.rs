//! Both sides against each other, and against whatever else may come.

use super::*;

const CLUSTER_A: [u8; CLUSTER] = [7; CLUSTER];
const SESSION: Kind = Kind::Session { from: NodeIndex(3), to: NodeIndex(0) };

/// Whom a test may change on the way: the number of the message, and its bytes.
type Wire<'a> = &'a mut dyn FnMut(usize, &mut Vec<u8>);

struct Ends {
    connector: Result<Option<[u8; CLUSTER]>, Failure>,
    acceptor: Result<Option<Kind>, Failure>,
}

struct Sides<'a> {
    tokens: (&'a str, &'a str),
    kind: Kind,
    clusters: ([u8; CLUSTER], [u8; CLUSTER]),
    verdict: Verdict,
    step: usize,
}

impl Default for Sides<'_> {
    fn default() -> Self {
        Sides { tokens: ("open", "open"), kind: SESSION, clusters: (CLUSTER_A, CLUSTER_A), verdict: Verdict::Welcome, step: 1000 }
    }
}

/// Both machines, what is on its way to each, and what came of it.
struct Play {
    connector: Connector,
    acceptor: Acceptor,
    there: Vec<u8>,
    back: Vec<u8>,
    ends: Ends,
    verdict: Verdict,
}

impl Play {
    fn acceptor_hears(&mut self, step: usize, mut bytes: Vec<u8>) {
        while self.ends.acceptor == Ok(None) && !bytes.is_empty() {
            let piece: Vec<u8> = bytes.drain(..self.acceptor.wants().min(step).min(bytes.len())).collect();
            self.ends.acceptor = self.acceptor.feed(&piece, &mut self.back);
            if let Ok(Some(_)) = self.ends.acceptor {
                self.acceptor.answer(self.verdict, &mut self.back);
            }
        }
    }

    fn connector_hears(&mut self, step: usize, mut bytes: Vec<u8>) {
        while self.ends.connector == Ok(None) && !bytes.is_empty() {
            let piece: Vec<u8> = bytes.drain(..self.connector.wants().min(step).min(bytes.len())).collect();
            self.ends.connector = self.connector.feed(&piece, &mut self.there);
        }
    }
}

impl Sides<'_> {
    fn run(&self, wire: Wire<'_>) -> Ends {
        let (secret, other) = (Secret::new(self.tokens.0.as_bytes()), Secret::new(self.tokens.1.as_bytes()));
        let (connector, there) = Connector::new(&secret, self.kind, &self.clusters.0, &[1; NONCE]);
        let acceptor = Acceptor::new(&other, NodeIndex(0), &self.clusters.1, &[2; NONCE]);
        let ends = Ends { connector: Ok(None), acceptor: Ok(None) };
        let mut play = Play { connector, acceptor, there, back: Vec::new(), ends, verdict: self.verdict };
        for number in 0.. {
            let is_back = number % 2 == 1;
            let mut bytes = std::mem::take(if is_back { &mut play.back } else { &mut play.there });
            if bytes.is_empty() {
                break;
            }
            wire(number, &mut bytes);
            if is_back {
                play.connector_hears(self.step, bytes);
            } else {
                play.acceptor_hears(self.step, bytes);
            }
        }
        play.ends
    }
}

fn untouched(_: usize, _: &mut Vec<u8>) {}

#[test]
fn both_sides_agree_however_the_bytes_are_cut() {
    for step in [1, 2, 7, 79, 80, 81, 1000] {
        for kind in [Kind::Join, SESSION, Kind::Bulk { from: NodeIndex(9), to: NodeIndex(2) }] {
            let ends = Sides { kind, step, ..Sides::default() }.run(&mut untouched);
            assert_eq!((ends.connector, ends.acceptor), (Ok(Some(CLUSTER_A)), Ok(Some(kind))));
        }
    }
}

#[test]
fn who_joins_may_ask_for_whichever_cluster_and_nobody_else_may() {
    let clusters = (ANY_CLUSTER, CLUSTER_A);
    assert_eq!(Sides { kind: Kind::Join, clusters, ..Sides::default() }.run(&mut untouched).connector, Ok(Some(CLUSTER_A)));
    let ends = Sides { clusters, ..Sides::default() }.run(&mut untouched);
    assert!(ends.acceptor.is_err() && ends.connector.is_err());
}

#[test]
fn failures_are_told_apart_and_explained_without_the_token() {
    let b = [9; CLUSTER];
    let cases = [
        (Sides { tokens: ("wrong", "open"), ..Sides::default() }, Failure::Token, "hint: every node"),
        (Sides { tokens: ("", "open"), ..Sides::default() }, Failure::Token, "not that of the cluster"),
        (Sides { clusters: (b, CLUSTER_A), ..Sides::default() }, Failure::Cluster { theirs: CLUSTER_A, asked: b }, "belongs to cluster 0707"),
        (Sides { clusters: (b, ANY_CLUSTER), ..Sides::default() }, Failure::NotYet, "still joining"),
        (Sides { verdict: Verdict::OtherNode, ..Sides::default() }, Failure::OtherNode, "another one has its port"),
        (Sides { verdict: Verdict::Disowned, ..Sides::default() }, Failure::Disowned, "as dead"),
        (Sides { verdict: Verdict::NotYet, ..Sides::default() }, Failure::NotYet, "still joining"),
    ];
    for (sides, failure, part) in cases {
        let found = sides.run(&mut untouched).connector.unwrap_err();
        let text = found.explain("10.0.0.1:99");
        assert_eq!(found, failure);
        assert!(text.contains(part) && text.contains("10.0.0.1:99") && !text.contains("wrong"), "{text}");
    }
    assert_eq!(format!("{:?}", Secret::new(b"open")), "Secret(..)");
}

#[test]
fn another_protocol_is_named_on_both_sides() {
    let ends = Sides::default().run(&mut |number, bytes| {
        if number == 0 {
            bytes[8] = 99;
        }
    });
    assert_eq!(ends.acceptor, Err(Failure::Protocol(99)));
    // What it would be told by one of that release.
    let ends = Sides::default().run(&mut |number, bytes| {
        if number == 1 {
            bytes[8] = 98;
        }
    });
    assert_eq!(ends.connector, Err(Failure::Protocol(98)));
    let text = Failure::Protocol(98).explain("a:1");
    assert!(text.contains("protocol 98") && text.contains(&PROTOCOL.to_string()), "{text}");
}

#[test]
fn no_changed_bit_passes() {
    for message in 0..4 {
        let size = [HELLO, HELLO, PROOF, VERDICT][message];
        for bit in 0..size * 8 {
            let ends = Sides::default().run(&mut |number, bytes| {
                if number == message {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            });
            assert!(!matches!(ends.connector, Ok(Some(_))), "message {message}, bit {bit}");
            // The acceptor has spoken last: it can't know what becomes of its verdict.
            assert!(message == 3 || !matches!(ends.acceptor, Ok(Some(_))), "message {message}, bit {bit}");
        }
    }
}

#[test]
fn what_is_cut_short_is_not_taken() {
    for message in 0..4 {
        let size = [HELLO, HELLO, PROOF, VERDICT][message];
        for keep in 0..size {
            let ends = Sides::default().run(&mut |number, bytes| {
                if number == message {
                    bytes.truncate(keep);
                }
            });
            assert_eq!(ends.connector, Ok(None));
        }
    }
}

#[test]
fn garbage_is_refused_at_its_first_wrong_byte() {
    let secret = Secret::new(b"open");
    let mut acceptor = Acceptor::new(&secret, NodeIndex(0), &CLUSTER_A, &[2; NONCE]);
    let mut out = Vec::new();
    assert_eq!(acceptor.feed(b"GET / HTTP/1.1\r\n", &mut out), Err(Failure::NotOurs));
    assert!(out.is_empty());
    let (mut connector, _) = Connector::new(&secret, SESSION, &CLUSTER_A, &[1; NONCE]);
    assert_eq!(connector.feed(b"HTTP/1.1 400 Bad Request\r\n", &mut out), Err(Failure::NotOurs));
    // After a good beginning, too.
    let mut random = 1u64;
    for _ in 0..10_000 {
        let (mut connector, mut bytes) = Connector::new(&secret, SESSION, &CLUSTER_A, &[1; NONCE]);
        for byte in &mut bytes[12..] {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (random >> 33) as u8;
        }
        let mut acceptor = Acceptor::new(&secret, NodeIndex(0), &CLUSTER_A, &[2; NONCE]);
        assert_ne!(acceptor.feed(&bytes, &mut out).map(|_| ()), Ok(()));
        assert_ne!(connector.feed(&bytes, &mut out).map(|_| ()), Ok(()));
    }
}

#[test]
fn nothing_can_be_sent_back_or_used_again() {
    let secret = Secret::new(b"open");
    // A mirror: it sends back what it is sent.
    let (mut connector, hello) = Connector::new(&secret, SESSION, &CLUSTER_A, &[1; NONCE]);
    assert_eq!(connector.feed(&hello, &mut Vec::new()), Err(Failure::NotOurs));
    // A recording, played to an acceptor with a new nonce.
    let mut recorded = Vec::new();
    assert!(Sides::default().run(&mut |number, bytes| recorded.push((number, bytes.clone()))).acceptor.is_ok());
    let mut acceptor = Acceptor::new(&secret, NodeIndex(0), &CLUSTER_A, &[3; NONCE]);
    let mut out = Vec::new();
    assert_eq!(acceptor.feed(&recorded[0].1, &mut out), Ok(None));
    assert_eq!(acceptor.feed(&recorded[2].1, &mut out), Err(Failure::Token));
    assert_ne!(nonce(), nonce());
}
