//! The network side of a node that stands by itself: what the state machine has to say to others, and what they say.

use super::{boot, Daemon};
use crate::conn::Conn;
use crate::host;
use crate::net::{self, JoinError, Kind, Net, NetEvent, NetToken, Secret, ANY_CLUSTER, CLUSTER};
use crate::transfer::{self, Pull, PullError, Transfers};
use ray_logic::node::NodeCommand;
use ray_proto::cluster::{JobInfo, Joining, NodeInfo, NodeMessage};
use ray_proto::msg::{Boot, FromNode, NetworkBoot};
use ray_proto::wire::PROTOCOL;
use ray_proto::{ExtentId, NodeIndex, ShmRange};
use ray_shm::poll::{Poll, Ready};
use std::os::fd::AsFd;
use std::time::Duration;

/// A head that has not answered by then is not going to.
const JOIN_WITHIN: Duration = Duration::from_secs(20);
/// A connection for the bytes of objects is made within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// What is still to be said at the end is said within this.
const GOODBYE_US: u64 = 300_000;

pub(super) struct Network {
    net: Net,
    secret: Secret,
    cluster: [u8; CLUSTER],
    head: String,
    /// Started when the first byte of an object is to be moved.
    transfers: Option<Transfers>,
    /// Room for what is heard, kept between turns.
    events: Vec<NetEvent>,
}

/// What the head said to a node that it let in.
pub(super) struct Joined {
    pub index: NodeIndex,
    pub infos: Vec<NodeInfo>,
    pub jobs: Vec<JobInfo>,
}

impl Network {
    /// Listen, and join the cluster or begin one. None: it is begun here.
    pub(super) fn enter(poll: &Poll, wanted: &NetworkBoot, given: &Boot) -> Result<(Self, Option<Joined>), String> {
        let secret = Secret::new(&wanted.token);
        let cluster: [u8; CLUSTER] =
            if wanted.cluster.is_empty() { ANY_CLUSTER } else { wanted.cluster[..].try_into().map_err(|_| "a cluster's id has 28 bytes".to_owned())? };
        let mut net = Net::listen(poll, &wanted.ip, wanted.port, secret.clone(), cluster)?;
        let address = net.address();
        if wanted.head.is_empty() {
            net.set_index(NodeIndex::HEAD);
            return Ok((Network { net, secret, cluster, head: address, transfers: None, events: Vec::new() }, None));
        }
        let question = Joining::Join { protocol: PROTOCOL, release: wanted.release.clone(), info: boot::node_info(given, address) };
        let asked = (cluster != ANY_CLUSTER).then_some(cluster);
        let (answer, cluster) = net::join(&wanted.head, &secret, asked, &question, JOIN_WITHIN).map_err(|error| explain_join(&wanted.head, &error))?;
        let joined = match answer {
            Joining::Joined { index, infos, jobs } => Joined { index, infos, jobs },
            Joining::Refused { reason } => return Err(format!("could not join the cluster at {}: {reason}", wanted.head)),
            Joining::Join { .. } => return Err(format!("could not join the cluster at {}: it answered with a question", wanted.head)),
        };
        net.set_cluster(cluster);
        net.set_index(joined.index);
        Ok((Network { net, secret, cluster, head: wanted.head.clone(), transfers: None, events: Vec::new() }, Some(joined)))
    }

    pub(super) fn address(&self) -> String {
        self.net.address()
    }
}

fn explain_join(head: &str, error: &JoinError) -> String {
    let text = format!("could not join the cluster at {head}: {error}");
    match error {
        JoinError::Connect(net::ConnectError::Refused(_)) => format!("{text}\nhint: start a head there with ray start --head, or check the address"),
        JoinError::Connect(net::ConnectError::Unreachable(_)) => format!("{text}\nhint: check the address, and that no firewall is between the two machines"),
        _ => text,
    }
}

impl Daemon {
    /// The node is up: let drivers in, and tell who started it.
    pub(super) fn stand_up(&mut self, mut starter: Conn) -> Result<(), String> {
        self.open_door();
        self.start_template()?;
        self.carry_out();
        let Some(network) = &self.network else { return Ok(()) };
        let Some(info) = self.node.members().get(&self.node.index()).cloned() else { return Err("the node is no member of its own cluster".into()) };
        starter.writer.queue(&FromNode::Up { info, cluster: network.cluster.to_vec().into(), head: network.head.clone() });
        starter.writer.flush();
        Ok(())
    }

    /// To another node, by the shell itself.
    pub(super) fn say_to(&mut self, to: NodeIndex, message: &NodeMessage) {
        if let Some(network) = &mut self.network {
            network.net.send(to, message);
        }
    }

    pub(super) fn network_ready(&mut self, number: u32, event: Ready) {
        let Some(network) = &mut self.network else { return };
        network.net.ready(&self.poll, NetToken(number), event);
        self.hear();
    }

    /// Returns when the network has something to do by time.
    pub(super) fn network_tick(&mut self, now: u64) -> Option<u64> {
        let due = self.network.as_mut()?.net.tick(&self.poll, now);
        self.hear();
        if let Some(network) = &mut self.network {
            network.net.flush(&self.poll);
        }
        self.hear();
        due
    }

    fn hear(&mut self) {
        let Some(network) = &mut self.network else { return };
        let mut events = std::mem::take(&mut network.events);
        network.net.take_events(&mut events);
        for event in events.drain(..) {
            self.on_network(event);
            self.carry_out();
        }
        if let Some(network) = &mut self.network {
            network.events = events;
        }
    }

    fn on_network(&mut self, event: NetEvent) {
        let now = ray_shm::now_us();
        match event {
            NetEvent::Message { from, message } => self.node.on_node(now, from, message),
            NetEvent::Join { ticket, question } => self.answer_join(now, ticket, question),
            NetEvent::Bulk { stream, .. } => {
                if let Some(transfers) = self.transfers() {
                    transfers.serve(stream);
                }
            }
            NetEvent::Refused { to } => self.node.node_refused(now, to),
            NetEvent::Disowned { by } if by == NodeIndex::HEAD => self.node.fence("the head counts this node as dead"),
            NetEvent::Disowned { .. } => {}
            NetEvent::Garbled { from, why } => {
                host::note(&format!("the session with node {} can't go on: {why}", from.0));
                self.node.session_broke(now, from, &why);
            }
        }
    }

    fn answer_join(&mut self, now: u64, ticket: u32, question: Joining) {
        let Some(network) = &mut self.network else { return };
        let wanted = self.boot.network.as_ref();
        let (release, python) = wanted.map(|w| (w.release.as_str(), w.python.as_str())).unwrap_or_default();
        let answer = match self.node.head() {
            Some(head) => head.join(now, question, release, python),
            None => Joining::Refused { reason: format!("this is a node of the cluster, and not its head.\nhint: join at {}", network.head) },
        };
        network.net.answer_join(&self.poll, ticket, &answer);
    }

    /// What of the state machine's commands concerns the network.
    pub(super) fn execute_on_network(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Net { to, message } => self.say_to(to, &message),
            NodeCommand::Know { index, address } => {
                if let Some(Err(why)) = self.network.as_mut().map(|network| network.net.know(index, &address)) {
                    host::note(&why);
                }
            }
            NodeCommand::Forget { index } => {
                if let Some(network) = &mut self.network {
                    network.net.flush(&self.poll);
                    network.net.forget(index);
                }
            }
            NodeCommand::Copy { ticket, from, source, extent, size, warm } => self.start_copy(ticket, from, source, (extent, size, warm)),
            NodeCommand::CancelCopy { ticket } => {
                if let Some(transfers) = self.network.as_mut().and_then(|network| network.transfers.as_mut()) {
                    transfers.cancel(ticket);
                }
            }
            NodeCommand::ProbeHead => {
                let cut_off = self.network.as_ref().and_then(|network| network.net.unacknowledged_by_kernel(NodeIndex::HEAD));
                self.node.head_probed(ray_shm::now_us(), cut_off == Some(false));
            }
            NodeCommand::Fence { reason } => {
                host::note(&format!("this node ends at once: {reason}"));
                (self.fenced, self.over) = (true, true);
            }
            _ => {}
        }
    }

    /// Tell the others that this node ends, if it has the time.
    pub(super) fn say_goodbye_to_cluster(&mut self) {
        if self.network.is_none() || self.fenced {
            return;
        }
        self.node.leave_cluster("it was stopped");
        self.carry_out();
        let deadline = ray_shm::now_us() + GOODBYE_US;
        let mut ready = Vec::with_capacity(64);
        while let Some(network) = self.network.as_mut() {
            network.net.flush(&self.poll);
            let said = !self.node.members().keys().any(|index| network.net.has_unsent(*index));
            let now = ray_shm::now_us();
            if said || now >= deadline || self.poll.wait(Some(deadline - now), &mut ready).is_err() {
                return;
            }
            for event in std::mem::take(&mut ready) {
                if let crate::conn::Token::Net(number) = crate::conn::Token::unpack(event.token) {
                    network.net.ready(&self.poll, NetToken(number), event);
                }
            }
        }
    }

    // ---- bytes of objects

    fn transfers(&mut self) -> Option<&mut Transfers> {
        let network = self.network.as_mut()?;
        if network.transfers.is_none() {
            match start_transfers(network, &self.files, &self.poll, self.node.index()) {
                Ok(transfers) => network.transfers = Some(transfers),
                Err(why) => host::note(&why),
            }
        }
        network.transfers.as_mut()
    }

    fn start_copy(&mut self, ticket: u64, from: NodeIndex, source: ShmRange, (extent, size, warm): (ExtentId, u64, bool)) {
        let into = match warm {
            true => self.files.share(extent).map_err(|error| error.to_string()),
            false => self.files.make_in_memory(extent, size),
        };
        let address = self.node.members().get(&from).map(|info| info.address.clone()).unwrap_or_default();
        let started = into.and_then(|into| match self.transfers() {
            Some(transfers) => {
                transfers.pull(Pull { ticket, address: format!("{}@{address}", from.0), source, into });
                Ok(())
            }
            None => Err("no thread could be started to fetch objects from other nodes".into()),
        });
        if let Err(text) = started {
            self.node.copy_failed(ray_shm::now_us(), ticket, false, &text);
        }
    }

    pub(super) fn copies_arrived(&mut self) {
        let Some(transfers) = self.network.as_mut().and_then(|network| network.transfers.as_mut()) else { return };
        let now = ray_shm::now_us();
        for done in transfers.take_done() {
            match done.result {
                Ok(()) => self.node.copied(now, done.ticket),
                Err(PullError::Gone(text) | PullError::Unreachable(text)) => self.node.copy_failed(now, done.ticket, true, &text),
                Err(PullError::Destination(text)) => self.node.copy_failed(now, done.ticket, false, &text),
                // Nobody waits for it any more.
                Err(PullError::Cancelled) => self.node.copy_failed(now, done.ticket, true, "the transfer was given up"),
            }
        }
        self.carry_out();
    }
}

fn start_transfers(network: &Network, files: &crate::extent_files::ExtentFiles, poll: &Poll, me: NodeIndex) -> Result<Transfers, String> {
    let (secret, cluster) = (network.secret.clone(), network.cluster);
    let connect = move |place: &str| connect_for_bytes(me, place, &secret, &cluster);
    let transfers = Transfers::start(files.shared(), Box::new(connect))?;
    poll.add(transfers.fd().as_fd(), crate::conn::Token::Copied.pack()).map_err(|error| error.to_string())?;
    Ok(transfers)
}

/// `place`: the number of a node, "@" and its address.
fn connect_for_bytes(me: NodeIndex, place: &str, secret: &Secret, cluster: &[u8; CLUSTER]) -> Result<std::os::fd::OwnedFd, transfer::ConnectError> {
    let parsed = place.split_once('@').and_then(|(index, address)| Some((NodeIndex(index.parse().ok()?), address)));
    let Some((to, address)) = parsed else { return Err(transfer::ConnectError::Rejected(format!("{place} is no address of a node"))) };
    net::connect_blocking(address, Kind::Bulk { from: me, to }, secret, cluster, CONNECT_WITHIN).map(|(line, _)| line).map_err(|error| match error {
        net::ConnectError::Refused(text) => transfer::ConnectError::Refused(text),
        net::ConnectError::Unreachable(text) => transfer::ConnectError::Unreachable(text),
        net::ConnectError::Rejected(text) => transfer::ConnectError::Rejected(text),
    })
}
