//! What all processes of a run share: the virtual clock, the event list, the links, the truth that the oracle keeps, the trace.

use crate::net::{Net, Route};
use crate::options::Options;
use crate::oracle::Oracle;
use crate::rng::{mix, Rng};
use crate::sabotage::Bug;
use crate::script::groups::Planned;
use ray_logic::exec::covered_refs;
use ray_logic::owner::WaitId;
use ray_logic::Time;
use ray_proto::msg::{Evidence, FromNode, Peer, ToNode};
use ray_proto::wire::Wire;
use ray_proto::{GroupId, NodeIndex, ObjectId, ProcId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug)]
pub enum Packet {
    Up(ToNode),
    Down(FromNode),
    Peer(Peer),
}

/// One direction of a link. The node is an end like any other: `ProcId::NODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId {
    pub from: ProcId,
    pub to: ProcId,
}

#[derive(Debug, Default)]
pub struct Link {
    queue: VecDeque<Packet>,
    /// When the last packet sent arrives.
    last: Time,
    /// Longest delay of this link.
    delay: Time,
}

#[derive(Clone, Debug)]
pub enum Event {
    Deliver(LinkId),
    Step(ProcId),
    Tick(ProcId),
    NodeTick(NodeIndex),
    /// A message between nodes arrives.
    Net(Route),
    /// A transfer between nodes is through: who asked for it, and under which ticket.
    Copied(NodeIndex, u64),
    Fault(Fault),
    /// The life of a placement group is over.
    GroupEnds(GroupId),
    Drops(ProcId),
    /// The next step of the thread that spills.
    Spill(ProcId),
    Timeout(ProcId, WaitId),
    ForkDone(ProcId),
    ForkFailed(ProcId),
    Reaped(ProcId),
    KillSomeone,
    StallSomeone,
}

impl Event {
    /// Nodes do this for ever.
    fn is_routine(&self) -> bool {
        matches!(self, Event::NodeTick(_) | Event::Net(_))
    }
}

/// What befalls nodes.
#[derive(Clone, Debug)]
pub enum Fault {
    Join(usize),
    /// A second driver comes through the door of a node.
    Knock(NodeIndex),
    /// A node of those that may, or the one: with its machine or only its daemon.
    Kill(Option<NodeIndex>),
    /// It ends in good order.
    Leave,
    /// The second driver leaves.
    DriverEnds,
    /// A daemon, or its whole machine, does nothing for so long.
    Stop {
        whole: bool,
        time: Time,
    },
    /// Two nodes hear nothing of each other for so long, or (0) for good.
    Cut {
        with_head: bool,
        time: Time,
    },
    Heal(NodeIndex, NodeIndex),
    /// The head's node finds that a node's port refuses connections.
    Refused(NodeIndex),
    /// A node's workers look at the time until which they may run.
    LeaseOver(NodeIndex),
    /// A node lives again after having been stopped.
    Resumed(NodeIndex),
}

pub struct Env {
    pub now: Time,
    pub rng: Rng,
    pub options: Options,
    pub oracle: Oracle,
    pub events: u64,
    pub hash: u64,
    pub trace: bool,
    /// How processes that are gone ended.
    pub corpses: BTreeMap<ProcId, Evidence>,
    /// References passed out of band, with the process that keeps them.
    pub mailbox: Vec<(ProcId, ObjectId)>,
    /// When something other than the node's question to idle workers happened last.
    pub busy_at: Time,
    pub net: Net,
    /// Nodes that have joined, with their names.
    /// Actors with names: the n-th is called "a<n>".
    pub named: Vec<ray_proto::ActorId>,
    pub node_ids: Vec<(NodeIndex, ray_proto::Blob)>,
    /// Placement groups that calls may name, and all.
    pub groups: Vec<Planned>,
    pub all_groups: BTreeSet<GroupId>,
    with_groups: bool,
    queue: BTreeMap<(Time, u64), Event>,
    posted: u64,
    /// Events to come that are no routine of nodes.
    pub pending: u64,
    links: BTreeMap<LinkId, Link>,
}

impl Env {
    pub fn new(seed: u64, options: Options, trace: bool) -> Self {
        Env {
            now: 1,
            rng: Rng::new(seed),
            oracle: Oracle::default(),
            with_groups: options.groups > 0,
            options,
            events: 0,
            hash: seed,
            trace,
            corpses: BTreeMap::new(),
            mailbox: Vec::new(),
            busy_at: 0,
            net: Net::default(),
            named: Vec::new(),
            node_ids: Vec::new(),
            groups: Vec::new(),
            all_groups: BTreeSet::new(),
            queue: BTreeMap::new(),
            posted: 0,
            pending: 0,
            links: BTreeMap::new(),
        }
    }

    pub fn makes_groups(&self) -> bool {
        self.with_groups
    }

    pub fn post(&mut self, delay: Time, event: Event) {
        self.posted += 1;
        self.pending += u64::from(!event.is_routine());
        self.queue.insert((self.now + delay, self.posted), event);
    }

    pub fn next_event(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        self.events += 1;
        self.pending -= u64::from(!event.is_routine());
        Some(event)
    }

    pub fn send(&mut self, from: ProcId, to: ProcId, packet: Packet) {
        let id = LinkId { from, to };
        if let Packet::Peer(Peer::Release { .. }) = &packet {
            if self.strikes(Bug::LostRelease) {
                return;
            }
        }
        if !self.links.contains_key(&id) {
            let delay = if self.rng.permille(self.options.slow_links) { self.rng.range(100, 5_000) } else { self.rng.range(2, 40) };
            self.links.insert(id, Link { delay, ..Link::default() });
        }
        let delay = self.rng.range(1, self.links[&id].delay);
        let now = self.now;
        let link = self.links.get_mut(&id).expect("made above");
        link.last = link.last.max(now + delay);
        link.queue.push_back(packet);
        let wait = link.last - now;
        self.post(wait, Event::Deliver(id));
    }

    pub fn take_packet(&mut self, id: LinkId) -> Option<Packet> {
        let packet = self.links.get_mut(&id)?.queue.pop_front()?;
        self.record(id, &packet);
        Some(packet)
    }

    /// The time by which everything sent on a link has arrived.
    pub fn drained_at(&self, id: LinkId) -> Time {
        self.links.get(&id).map_or(self.now, |link| link.last.max(self.now))
    }

    /// References in what `from` has sent and nobody has read yet.
    pub fn on_the_way(&self, from: ProcId) -> BTreeSet<ObjectId> {
        let mut ids = BTreeSet::new();
        let sent = self.links.iter().filter(|(id, _)| id.from == from).flat_map(|(_, link)| &link.queue);
        let relayed = self.links.iter().filter(|(id, _)| id.from == ProcId::NODE).flat_map(|(_, link)| &link.queue);
        for packet in sent.chain(relayed) {
            match packet {
                Packet::Peer(message) => mentioned(message, &mut ids),
                Packet::Up(ToNode::Relay { message, .. }) => mentioned(message, &mut ids),
                Packet::Down(FromNode::Relayed { from: sender, message }) if *sender == from => mentioned(message, &mut ids),
                _ => {}
            }
        }
        self.net.on_the_way(from, &mut ids);
        ids
    }

    /// A killed process loses any suffix of what is still on its way, on each link for itself.
    pub fn cut(&mut self, dead: ProcId, loses: bool) {
        let ids: Vec<LinkId> = self.links.keys().filter(|id| id.from == dead || id.to == dead).copied().collect();
        for id in ids {
            if id.to == dead {
                self.links.get_mut(&id).expect("listed").queue.clear();
                continue;
            }
            let len = self.links[&id].queue.len() as u64;
            if loses && len > 0 && self.rng.permille(500) {
                let keep = self.rng.below(len + 1) as usize;
                self.links.get_mut(&id).expect("listed").queue.truncate(keep);
            }
        }
    }

    pub fn strikes(&mut self, bug: Bug) -> bool {
        let strikes = self.options.sabotage.as_mut().is_some_and(|s| s.strikes(bug));
        if strikes {
            self.note(ProcId::NODE, || format!("!! planted bug strikes: {bug:?}"));
        }
        strikes
    }

    fn record(&mut self, id: LinkId, packet: &Packet) {
        if !matches!(packet, Packet::Up(ToNode::IdleExitReply { .. }) | Packet::Down(FromNode::MayYouExit {})) {
            self.busy_at = self.now;
        }
        let mut bytes = Vec::new();
        match packet {
            Packet::Up(m) => m.put(&mut bytes),
            Packet::Down(m) => m.put(&mut bytes),
            Packet::Peer(m) => m.put(&mut bytes),
        }
        self.hash_bytes(mix(id.from.0, id.to.0), &bytes);
        if self.trace {
            let text = format!("{packet:?}");
            let (from, to) = (end_of(id.from, id.to), end_of(id.to, id.from));
            println!("{:>8} {} -> {}  {}", self.now, name(from), name(to), shorten(&text));
        }
    }

    pub fn hash_bytes(&mut self, ends: u64, bytes: &[u8]) {
        let body = bytes.chunks(8).fold(0, |h, chunk| mix(h, chunk.iter().fold(0, |n, b| (n << 8) | u64::from(*b))));
        self.hash = mix(self.hash, mix(self.now, mix(ends, body)));
    }

    pub fn note(&mut self, who: ProcId, text: impl FnOnce() -> String) {
        self.busy_at = self.now;
        self.whisper(who, text);
    }

    /// What happens for ever keeps no run going.
    pub fn whisper(&mut self, who: ProcId, text: impl FnOnce() -> String) {
        self.hash = mix(self.hash, mix(self.now, who.0));
        if self.trace {
            println!("{:>8} {}: {}", self.now, name(who), shorten(&text()));
        }
    }
}

pub fn mentioned(message: &Peer, ids: &mut BTreeSet<ObjectId>) {
    match message {
        Peer::Call { call } => ids.extend(covered_refs(call)),
        Peer::Reply { reply } => ids.extend(reply.results.iter().flat_map(|p| &p.refs).chain(&reply.retained)),
        Peer::StreamItems { items, .. } => ids.extend(items.iter().flat_map(|p| &p.refs)),
        Peer::Fetched { id, payload, .. } => ids.extend(payload.refs.iter().chain([id])),
        _ => {}
    }
}

/// A node's daemon, as a name.
pub fn daemon(index: NodeIndex) -> ProcId {
    ProcId::new(0, index, 0)
}

/// One end of a link, when the other one is known.
fn end_of(id: ProcId, other: ProcId) -> ProcId {
    if id == ProcId::NODE {
        daemon(other.node())
    } else {
        id
    }
}

pub fn name(id: ProcId) -> String {
    let (node, counter) = (id.node().0, id.0 & 0xff_ffff);
    match (node, counter) {
        (0, 0) => "node".to_owned(),
        (0, 1) => "driver".to_owned(),
        (0, n) => format!("p{n}"),
        (node, 0) => format!("node{node}"),
        (node, n) => format!("p{node}:{n}"),
    }
}

/// Debug forms of ids are long: ProcId(281474976710657) is p1, ObjectId is p1/call.index.
fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("ProcId(") {
        let (head, tail) = rest.split_at(at);
        let digits: String = tail[7..].chars().take_while(char::is_ascii_digit).collect();
        out.push_str(head.strip_suffix("ObjectId { owner: ").unwrap_or(head));
        out.push_str(&name(ProcId(digits.parse::<u64>().unwrap_or(0))));
        rest = &tail[7 + digits.len() + 1..];
        if let Some(seq) = rest.strip_prefix(", seq: ").filter(|_| head.ends_with("ObjectId { owner: ")) {
            let digits: String = seq.chars().take_while(char::is_ascii_digit).collect();
            let n = digits.parse::<u64>().unwrap_or(0);
            out.push_str(&format!("/{}.{}", n >> 24, n & 0xff_ffff));
            rest = seq[digits.len()..].strip_prefix(" }").unwrap_or(&seq[digits.len()..]);
        }
    }
    out.push_str(rest);
    if out.len() > 600 {
        let mut at = 600;
        while !out.is_char_boundary(at) {
            at -= 1;
        }
        out.truncate(at);
    }
    out
}
