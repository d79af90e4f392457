//! What daemons say to each other over TCP (docs/design/011): one port per node, a handshake before everything, sessions that survive the end of a
//! connection, the question of a node that joins. Bytes of objects only come through the door here, and are another module's from then on.
//!
//! `handshake` who may speak; `doorway` who is let in; `callers` connections that were accepted and are nothing yet; `outbound` and `inbound` the halves of a session;
//! `backlog` what is not acknowledged; `line` a socket in the poll set; `client` connections that a thread waits for.
//!
//! Invariants
//! 1. No call blocks, and none reads a clock but `ready`, `flush` and `answer_join`, once each.
//! 2. Between two incarnations messages arrive once, whole and in the order of `send`, or the one who sent them is told that the other is gone and forgets it.
//! 3. A node that was forgotten is never heard again: no event is about it, and its connections are turned away.

mod backlog;
mod callers;
mod client;
mod doorway;
mod handshake;
mod inbound;
mod line;
#[cfg(test)]
mod outage_tests;
mod outbound;
#[cfg(test)]
mod tests;

pub use client::{connect_blocking, join, ConnectError, JoinError};
pub use handshake::{Kind, Secret, ANY_CLUSTER, CLUSTER};

use crate::conn::Token;
use callers::Caller;
use handshake::Verdict;
use inbound::Inbound;
use outbound::Outbound;
use ray_proto::cluster::{Joining, NodeMessage};
use ray_proto::NodeIndex;
use ray_shm::host::explain;
use ray_shm::now_us;
use ray_shm::poll::{Poll, Ready};
use ray_shm::tcp;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Names a socket of the network to the poll set: `Token::Net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetToken(pub u32);

/// What a number means stands in its two upper bits. The numbers of a peer's lines stay the same from connection to connection: an event that is late is harmless.
enum Place {
    Door,
    Out(NodeIndex),
    In(NodeIndex),
    Caller(u32),
}

const DOOR: u32 = 0;
const OUT: u32 = 1 << 30;
const IN: u32 = 2 << 30;
const CALLER: u32 = 3 << 30;

impl Place {
    fn of(number: u32) -> Self {
        let index = NodeIndex(number as u16);
        match number & CALLER {
            DOOR => Place::Door,
            OUT => Place::Out(index),
            IN => Place::In(index),
            _ => Place::Caller(number),
        }
    }
}

#[derive(Debug)]
pub enum NetEvent {
    Message {
        from: NodeIndex,
        message: NodeMessage,
    },
    /// A node wants to join: `answer_join` is due.
    Join {
        ticket: u32,
        question: Joining,
    },
    /// A node wants bytes of objects. The socket does not block and stands at its first byte.
    Bulk {
        from: NodeIndex,
        stream: OwnedFd,
    },
    /// The node's machine says that nobody listens, or somebody else: its daemon is gone. Once per attempt.
    Refused {
        to: NodeIndex,
    },
    /// That node counts us as dead. Once per attempt.
    Disowned {
        by: NodeIndex,
    },
    /// The node sends what no release sends, and is not heard any more; or a message to it can't be sent. A session can't go on.
    Garbled {
        from: NodeIndex,
        why: String,
    },
}

impl NetEvent {
    fn peer(&self) -> Option<NodeIndex> {
        match self {
            NetEvent::Message { from, .. } | NetEvent::Bulk { from, .. } | NetEvent::Garbled { from, .. } => Some(*from),
            NetEvent::Refused { to } => Some(*to),
            NetEvent::Disowned { by } => Some(*by),
            NetEvent::Join { .. } => None,
        }
    }
}

/// Who we are, to those who make connections.
struct Me {
    secret: Secret,
    cluster: [u8; CLUSTER],
    index: Option<NodeIndex>,
}

struct Identity<'a> {
    poll: &'a Poll,
    secret: &'a Secret,
    cluster: &'a [u8; CLUSTER],
    index: Option<NodeIndex>,
    now: u64,
}

impl Me {
    fn at<'a>(&'a self, poll: &'a Poll, now: u64) -> Identity<'a> {
        Identity { poll, secret: &self.secret, cluster: &self.cluster, index: self.index, now }
    }

    fn judge(&self, kind: Kind, is_shunned: &dyn Fn(NodeIndex) -> bool) -> Verdict {
        let Some(index) = self.index else { return Verdict::NotYet };
        match kind {
            Kind::Session { to, .. } | Kind::Bulk { to, .. } if to != index => Verdict::OtherNode,
            Kind::Session { from, .. } | Kind::Bulk { from, .. } if from == index || is_shunned(from) => Verdict::Disowned,
            Kind::Join | Kind::Session { .. } | Kind::Bulk { .. } => Verdict::Welcome,
        }
    }
}

struct Peer {
    outbound: Outbound,
    inbound: Inbound,
}

impl Peer {
    fn new(index: NodeIndex) -> Self {
        Peer { outbound: Outbound::new(index, OUT | u32::from(index.0)), inbound: Inbound::default() }
    }

    /// Something has come in from it. When to `tick`.
    fn hear(&mut self, me: &Identity<'_>, events: &mut Vec<NetEvent>, ready: impl FnOnce(&mut Inbound, &mut Vec<NetEvent>) -> u64) -> u64 {
        let due = ready(&mut self.inbound, events);
        due.min(self.outbound.heard(me, events))
    }
}

pub struct Net {
    me: Me,
    door: OwnedFd,
    address: SocketAddr,
    /// The door is not in the poll set before then.
    shut_until: Option<u64>,
    callers: BTreeMap<u32, Caller>,
    last_caller: u32,
    peers: BTreeMap<NodeIndex, Peer>,
    dead: BTreeSet<NodeIndex>,
    /// Peers that have something to write.
    dirty: Vec<NodeIndex>,
    events: Vec<NetEvent>,
    /// Nothing is to be done before then but what the poll set reports.
    due: u64,
}

impl Net {
    /// `cluster`: `ANY_CLUSTER` while it is not known, and then `set_cluster`.
    pub fn listen(poll: &Poll, ip: &str, port: u16, secret: Secret, cluster: [u8; CLUSTER]) -> Result<Net, String> {
        if secret.is_empty() {
            return Err("a node that listens needs the token of its cluster, and there is none".into());
        }
        let what = format!("the node can't listen at {ip}:{port}");
        let parsed: IpAddr = ip.parse().map_err(|_| format!("{what}: {ip} is no IP address.\nhint: give a numeric address of this machine, as in 10.0.0.1"))?;
        let (door, address) = tcp::listen(SocketAddr::new(parsed, port)).map_err(|error| explain_listen(&what, error))?;
        poll.add(door.as_fd(), Token::Net(DOOR).pack()).map_err(|error| explain(&what, error))?;
        Ok(Net {
            me: Me { secret, cluster, index: None },
            door,
            address,
            shut_until: None,
            callers: BTreeMap::new(),
            last_caller: 0,
            peers: BTreeMap::new(),
            dead: BTreeSet::new(),
            dirty: Vec::new(),
            events: Vec::new(),
            due: u64::MAX,
        })
    }

    /// `ip:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Which node this is. Before it is known nobody is let in, and no session begins.
    pub fn set_index(&mut self, index: NodeIndex) {
        self.me.index = Some(index);
        let known: Vec<NodeIndex> = self.peers.keys().copied().collect();
        known.into_iter().for_each(|peer| self.mark(peer));
    }

    pub fn set_cluster(&mut self, cluster: [u8; CLUSTER]) {
        self.me.cluster = cluster;
    }

    /// Where a node listens; our own entry in a list of nodes means nothing here. Err: it is no address.
    pub fn know(&mut self, index: NodeIndex, address: &str) -> Result<(), String> {
        let parsed = address.parse().map_err(|_| format!("node {} says that it listens at {address:?}, which is no ip:port", index.0))?;
        if !self.dead.contains(&index) && self.me.index != Some(index) {
            self.peers.entry(index).or_insert_with(|| Peer::new(index)).outbound.know(parsed);
            self.mark(index);
        }
        Ok(())
    }

    /// It is dead, for ever.
    pub fn forget(&mut self, index: NodeIndex) {
        self.dead.insert(index);
        self.peers.remove(&index);
        self.events.retain(|event| event.peer() != Some(index));
    }

    /// Queue it; `flush` writes. For one who is not known yet it waits; for one who is dead it is dropped.
    pub fn send(&mut self, to: NodeIndex, message: &NodeMessage) {
        debug_assert_ne!(Some(to), self.me.index, "nobody sends to himself");
        if self.dead.contains(&to) {
            return;
        }
        let peer = self.peers.entry(to).or_insert_with(|| Peer::new(to));
        if let Err(why) = peer.outbound.queue(message) {
            self.events.push(NetEvent::Garbled { from: to, why });
        }
        if !std::mem::replace(&mut peer.outbound.dirty, true) {
            self.dirty.push(to);
        }
    }

    fn mark(&mut self, index: NodeIndex) {
        let Some(peer) = self.peers.get_mut(&index) else { return };
        if !std::mem::replace(&mut peer.outbound.dirty, true) {
            self.dirty.push(index);
        }
    }

    /// Write what was queued. Once per turn of the loop, after `tick`.
    pub fn flush(&mut self, poll: &Poll) {
        if self.dirty.is_empty() {
            return;
        }
        let me = self.me.at(poll, now_us());
        for index in self.dirty.drain(..) {
            let Some(peer) = self.peers.get_mut(&index) else { continue };
            peer.outbound.dirty = false;
            self.due = self.due.min(peer.outbound.flush(&me, &mut self.events));
        }
    }

    pub fn ready(&mut self, poll: &Poll, token: NetToken, event: Ready) {
        let now = now_us();
        let me = self.me.at(poll, now);
        let due = match Place::of(token.0) {
            Place::Door => return self.let_in(poll, now),
            Place::Caller(number) => return self.hear(poll, now, number),
            Place::Out(index) => self.peers.get_mut(&index).map(|peer| peer.outbound.ready(&me, event, &mut self.events)),
            Place::In(index) => {
                self.peers.get_mut(&index).map(|peer| peer.hear(&me, &mut self.events, |inbound, events| inbound.ready(&me, event, events, index)))
            }
        };
        self.due = self.due.min(due.unwrap_or(u64::MAX));
    }

    /// What is due by time. Returns when the next is.
    pub fn tick(&mut self, poll: &Poll, now: u64) -> Option<u64> {
        if now >= self.due {
            self.sweep(poll, now);
        }
        (self.due < u64::MAX).then_some(self.due)
    }

    fn sweep(&mut self, poll: &Poll, now: u64) {
        let me = self.me.at(poll, now);
        self.callers.retain(|_, caller| caller.deadline > now);
        let mut due = self.callers.values().map(|caller| caller.deadline).min().unwrap_or(u64::MAX);
        for peer in self.peers.values_mut() {
            due = due.min(peer.outbound.tick(&me, &mut self.events)).min(peer.inbound.tick(&me));
        }
        self.due = due.min(self.shut_until.unwrap_or(u64::MAX));
        if self.shut_until.is_some() {
            self.let_in(poll, now);
        }
    }

    pub fn take_events(&mut self, into: &mut Vec<NetEvent>) {
        into.append(&mut self.events);
    }

    /// Something that was sent has not been handled there yet, as far as is known.
    pub fn has_unsent(&self, to: NodeIndex) -> bool {
        self.peers.get(&to).is_some_and(|peer| peer.outbound.has_work())
    }

    /// Whether bytes that were written for a node have not reached its machine. True, too, where there is no connection; None: nothing was ever to be sent there.
    pub fn unacknowledged_by_kernel(&self, to: NodeIndex) -> Option<bool> {
        self.peers.get(&to).map(|peer| peer.outbound.is_cut_off())
    }
}

fn explain_listen(what: &str, error: Errno) -> String {
    match error {
        Errno::ADDRINUSE => format!("{what}: the port is taken.\nhint: another node or program listens there; end it, choose another port, or 0 for any"),
        Errno::ADDRNOTAVAIL => format!("{what}: the address is not one of this machine.\nhint: `ip addr` shows those it has"),
        Errno::ACCESS | Errno::PERM => format!("{what}: this user may not use the port ({error}).\nhint: choose one above 1023"),
        error => explain(what, error),
    }
}
