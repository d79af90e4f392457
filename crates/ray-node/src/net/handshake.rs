//! What goes before everything else on a TCP connection: both sides prove that they know the cluster's token. Bytes in, bytes out; no socket.
//!
//! ```text
//! connector                                    acceptor
//! HELLO  who I am, whom I want, nonce   ->
//!                                       <-     HELLO  who I am, nonce, or why not
//! PROOF  over both hellos               ->
//!                                       <-     VERDICT  code, proof over both hellos and the code
//! ```
//! Invariants
//! 1. All is of fixed size, and nobody reads beyond it: after the verdict the stream stands at its first byte. The size of a hello and its first twelve bytes (magic, protocol)
//!    are the same in every release, so that different releases can say so to each other.
//! 2. The token does not travel, nor anything made from it alone: proofs are HMAC-SHA256 over both nonces, both hellos and the side that speaks, so none can be
//!    sent back or used again. Who connects proves first: a port gives nothing to a stranger.
//! 3. Verdicts on a proof that was good are proven themselves. The others are hints for users; who gives them is anybody.
//!
//! It is no encryption: who sits on the wire can read, and can change what comes after.

use hmac::{Hmac, Mac};
use ray_proto::wire::PROTOCOL;
use ray_proto::{hex, NodeIndex};
use sha2::Sha256;

pub const CLUSTER: usize = 28;
/// Whichever cluster it is.
pub const ANY_CLUSTER: [u8; CLUSTER] = [0; CLUSTER];
/// No node's index (see `ray_proto::ids::NODES_MAX`): not known, or whichever.
pub const NO_NODE: NodeIndex = NodeIndex(u16::MAX);

const MAGIC: [u8; 8] = *b"\x93rays\r\n\x1a";
const NONCE: usize = 32;
const PROOF: usize = 32;
const HELLO: usize = 8 + 4 + 1 + 1 + 2 + 2 + 2 + CLUSTER + NONCE;
const VERDICT: usize = 1 + PROOF;

type Hello = [u8; HELLO];

/// The cluster's token. It is never shown.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(token: &[u8]) -> Self {
        Secret(token.to_vec())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn mac(&self, side: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length will do");
        mac.update(side.as_bytes());
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    let mut have = 0;
    while have < NONCE {
        // It fails only when interrupted before the kernel has any randomness.
        have += rustix::rand::getrandom(&mut nonce[have..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    nonce
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node that wants to join: one question, one answer.
    Join,
    /// Messages from one node to the other.
    Session { from: NodeIndex, to: NodeIndex },
    /// Bytes of objects.
    Bulk { from: NodeIndex, to: NodeIndex },
}

impl Kind {
    fn parts(self) -> (u8, NodeIndex, NodeIndex) {
        match self {
            Kind::Join => (1, NO_NODE, NO_NODE),
            Kind::Session { from, to } => (2, from, to),
            Kind::Bulk { from, to } => (3, from, to),
        }
    }

    fn of(tag: u8, from: NodeIndex, to: NodeIndex) -> Option<Self> {
        match tag {
            1 => Some(Kind::Join),
            2 => Some(Kind::Session { from, to }),
            3 => Some(Kind::Bulk { from, to }),
            _ => None,
        }
    }
}

/// The acceptor's word. The first three come instead of a question for the proof, the others after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Welcome,
    OtherProtocol,
    OtherCluster,
    WrongToken,
    /// Another node than the one that is wanted: that one is gone, and this one has its port.
    OtherNode,
    /// Who asks counts as dead here.
    Disowned,
    /// It does not know its own place yet.
    NotYet,
}

const VERDICTS: [Verdict; 7] =
    [Verdict::Welcome, Verdict::OtherProtocol, Verdict::OtherCluster, Verdict::WrongToken, Verdict::OtherNode, Verdict::Disowned, Verdict::NotYet];

/// Why there will be no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It speaks something else.
    NotOurs,
    /// The other side's protocol.
    Protocol(u32),
    Cluster {
        theirs: [u8; CLUSTER],
        asked: [u8; CLUSTER],
    },
    Token,
    OtherNode,
    Disowned,
    NotYet,
}

impl Failure {
    /// For users: what is wrong with `address`, and what to do.
    pub fn explain(&self, address: &str) -> String {
        match self {
            Failure::NotOurs => {
                format!("what listens at {address} is no node of a cluster: it does not speak its protocol.\nhint: check the address and the port")
            }
            Failure::Protocol(theirs) => format!(
                "the node at {address} speaks protocol {theirs}, this release speaks {PROTOCOL}.\nhint: install the same release on every machine of the cluster"
            ),
            Failure::Cluster { theirs, asked } => {
                format!("the node at {address} belongs to cluster {}, asked for was {}.\nhint: check the address", hex(theirs), hex(asked))
            }
            Failure::Token => {
                format!("the token is not that of the cluster at {address}.\nhint: every node needs the very token that the head was started with, in RAY_AUTH_TOKEN or ~/.ray/auth_token")
            }
            Failure::OtherNode => format!("the node that was at {address} is gone; another one has its port"),
            Failure::Disowned => format!("the node at {address} counts this one as dead"),
            Failure::NotYet => format!("the node at {address} is still joining its cluster"),
        }
    }
}

/// A message of fixed size as it comes in, in pieces.
#[derive(Debug)]
struct Intake<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Intake<N> {
    fn new() -> Self {
        Intake { bytes: [0; N], have: 0 }
    }

    fn wants(&self) -> usize {
        N - self.have
    }

    /// True: it is whole.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        let n = bytes.len().min(self.wants());
        self.bytes[self.have..self.have + n].copy_from_slice(&bytes[..n]);
        self.have += n;
        debug_assert!(n == bytes.len(), "read beyond the handshake");
        self.have == N
    }
}

impl Intake<HELLO> {
    fn is_foreign(&self) -> bool {
        let n = self.have.min(MAGIC.len());
        self.bytes[..n] != MAGIC[..n]
    }
}

fn hello(tag: u8, code: Verdict, ends: (NodeIndex, NodeIndex), cluster: &[u8; CLUSTER], nonce: &[u8; NONCE]) -> Hello {
    let mut out = Vec::with_capacity(HELLO);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&PROTOCOL.to_le_bytes());
    out.extend_from_slice(&[tag, code as u8]);
    out.extend_from_slice(&ends.0 .0.to_le_bytes());
    out.extend_from_slice(&ends.1 .0.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(cluster);
    out.extend_from_slice(nonce);
    out.try_into().expect("a hello's size")
}

fn protocol_of(hello: &Hello) -> u32 {
    u32::from_le_bytes([hello[8], hello[9], hello[10], hello[11]])
}

fn ends_of(hello: &Hello) -> (NodeIndex, NodeIndex) {
    (NodeIndex(u16::from_le_bytes([hello[14], hello[15]])), NodeIndex(u16::from_le_bytes([hello[16], hello[17]])))
}

fn cluster_of(hello: &Hello) -> [u8; CLUSTER] {
    hello[20..20 + CLUSTER].try_into().expect("a cluster's size")
}

/// Tag of an acceptor's hello: no connector's.
const ANSWER: u8 = 0x80;

/// Who connects.
#[derive(Debug)]
pub struct Connector {
    secret: Secret,
    mine: Hello,
    theirs: Intake<HELLO>,
    verdict: Intake<VERDICT>,
}

impl Connector {
    /// And the first bytes to send. `cluster` must be known but for `Kind::Join`.
    pub fn new(secret: &Secret, kind: Kind, cluster: &[u8; CLUSTER], nonce: &[u8; NONCE]) -> (Self, Vec<u8>) {
        let (tag, from, to) = kind.parts();
        let mine = hello(tag, Verdict::Welcome, (from, to), cluster, nonce);
        (Connector { secret: secret.clone(), mine, theirs: Intake::new(), verdict: Intake::new() }, mine.to_vec())
    }

    /// How many bytes may be read now; 0 once it is over.
    pub fn wants(&self) -> usize {
        match self.theirs.wants() {
            0 => self.verdict.wants(),
            n => n,
        }
    }

    /// At most as many bytes as it wants. What it has to say to them is put on `out`. The cluster, once both sides are proven.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<[u8; CLUSTER]>, Failure> {
        if self.theirs.wants() > 0 {
            if self.theirs.feed(bytes) {
                self.judge_hello()?;
                out.extend_from_slice(&self.secret.mac("connector", &[&self.mine, &self.theirs.bytes]).finalize().into_bytes());
            } else if self.theirs.is_foreign() {
                return Err(Failure::NotOurs);
            }
            return Ok(None);
        }
        if !self.verdict.feed(bytes) {
            return Ok(None);
        }
        self.judge_verdict().map(|()| Some(cluster_of(&self.theirs.bytes)))
    }

    fn judge_hello(&self) -> Result<(), Failure> {
        let theirs = &self.theirs.bytes;
        if self.theirs.is_foreign() {
            return Err(Failure::NotOurs);
        }
        if protocol_of(theirs) != PROTOCOL {
            return Err(Failure::Protocol(protocol_of(theirs)));
        }
        let (cluster, asked) = (cluster_of(theirs), cluster_of(&self.mine));
        match VERDICTS.get(usize::from(theirs[13])) {
            _ if theirs[12] != ANSWER => Err(Failure::NotOurs),
            Some(Verdict::NotYet) => Err(Failure::NotYet),
            Some(Verdict::Welcome | Verdict::OtherCluster) if asked != ANY_CLUSTER && asked != cluster => Err(Failure::Cluster { theirs: cluster, asked }),
            Some(Verdict::Welcome) => Ok(()),
            _ => Err(Failure::NotOurs),
        }
    }

    fn judge_verdict(&self) -> Result<(), Failure> {
        let (code, proof) = self.verdict.bytes.split_at(1);
        let verdict = VERDICTS.get(usize::from(code[0]));
        if verdict == Some(&Verdict::WrongToken) {
            return Err(Failure::Token);
        }
        // One who can't prove his verdict has a token of his own, or none.
        self.secret.mac("acceptor", &[&self.mine, &self.theirs.bytes, code]).verify_slice(proof).map_err(|_| Failure::Token)?;
        match verdict {
            Some(Verdict::Welcome) => Ok(()),
            Some(Verdict::OtherNode) => Err(Failure::OtherNode),
            Some(Verdict::Disowned) => Err(Failure::Disowned),
            Some(Verdict::NotYet) => Err(Failure::NotYet),
            _ => Err(Failure::NotOurs),
        }
    }
}

/// Who is connected to.
#[derive(Debug)]
pub struct Acceptor {
    secret: Secret,
    mine: Hello,
    theirs: Intake<HELLO>,
    proof: Intake<PROOF>,
}

impl Acceptor {
    /// `cluster` may be `ANY_CLUSTER` while it is not known: everybody is told to come again.
    pub fn new(secret: &Secret, index: NodeIndex, cluster: &[u8; CLUSTER], nonce: &[u8; NONCE]) -> Self {
        let mine = hello(ANSWER, Verdict::Welcome, (index, NO_NODE), cluster, nonce);
        Acceptor { secret: secret.clone(), mine, theirs: Intake::new(), proof: Intake::new() }
    }

    /// How many bytes may be read now; 0 once it is over.
    pub fn wants(&self) -> usize {
        match self.theirs.wants() {
            0 => self.proof.wants(),
            n => n,
        }
    }

    /// At most as many bytes as it wants. What it has to say to them is put on `out`, also before an error. Once the other side is proven, what it wants: `answer` is due.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Kind>, Failure> {
        if self.theirs.wants() > 0 {
            let whole = self.theirs.feed(bytes);
            if self.theirs.is_foreign() {
                return Err(Failure::NotOurs);
            }
            if whole {
                let judged = self.judge_hello();
                self.mine[13] = judged.as_ref().err().map_or(Verdict::Welcome, |(verdict, _)| *verdict) as u8;
                out.extend_from_slice(&self.mine);
                judged.map_err(|(_, failure)| failure)?;
            }
            return Ok(None);
        }
        if !self.proof.feed(bytes) {
            return Ok(None);
        }
        let is_good = self.secret.mac("connector", &[&self.theirs.bytes, &self.mine]).verify_slice(&self.proof.bytes).is_ok();
        match self.kind() {
            Some(kind) if is_good => Ok(Some(kind)),
            _ => {
                out.push(Verdict::WrongToken as u8);
                out.extend_from_slice(&[0; PROOF]);
                Err(Failure::Token)
            }
        }
    }

    /// The last bytes to send.
    pub fn answer(&self, verdict: Verdict, out: &mut Vec<u8>) {
        let code = [verdict as u8];
        out.extend_from_slice(&code);
        out.extend_from_slice(&self.secret.mac("acceptor", &[&self.theirs.bytes, &self.mine, &code]).finalize().into_bytes());
    }

    fn kind(&self) -> Option<Kind> {
        let (from, to) = ends_of(&self.theirs.bytes);
        Kind::of(self.theirs.bytes[12], from, to)
    }

    fn judge_hello(&self) -> Result<(), (Verdict, Failure)> {
        let theirs = protocol_of(&self.theirs.bytes);
        if theirs != PROTOCOL {
            return Err((Verdict::OtherProtocol, Failure::Protocol(theirs)));
        }
        let (asked, cluster) = (cluster_of(&self.theirs.bytes), cluster_of(&self.mine));
        match self.kind() {
            None => Err((Verdict::OtherProtocol, Failure::NotOurs)),
            Some(_) if cluster == ANY_CLUSTER => Err((Verdict::NotYet, Failure::NotYet)),
            Some(Kind::Join) if asked == ANY_CLUSTER => Ok(()),
            Some(_) if asked != cluster => Err((Verdict::OtherCluster, Failure::Cluster { theirs: cluster, asked })),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
