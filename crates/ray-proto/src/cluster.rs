//! What daemons say to each other (docs/design/011), and what nodes are to their users.

use crate::groups::GroupPlaces;
use crate::ids::{hex, ActorId, GroupId, NodeIndex, ObjectId, ProcId};
use crate::msg::{ActorSpec, Evidence, FromNode, ToNode};
use crate::resources::Resources;
use crate::value::{Blob, Value};
use crate::wire::Wire;
use crate::{wire_enum, wire_struct};
use std::collections::BTreeMap;

wire_struct! {
    /// A node as it joins. The head keeps it and tells everybody.
    pub struct NodeInfo {
        pub index: NodeIndex,
        /// 28 bytes, as users see it.
        pub node_id: Blob,
        /// `ip:port` where other daemons connect; empty for a session without a network.
        pub address: String,
        pub host: String,
        pub pid: u32,
        pub total: Resources,
        pub labels: BTreeMap<String, String>,
        /// Version of Python, "3.11": values are pickled.
        pub python: String,
        /// Milliseconds since the epoch, by its own clock.
        pub started_ms: u64,
        /// Why it is dead; empty while it lives.
        pub death: String,
    }

    /// How a node stands: a hint, never trusted for safety.
    pub struct NodeView {
        pub index: NodeIndex,
        /// Rises with each view of this node.
        pub version: u64,
        pub available: Resources,
        /// Leases asked for there and not granted, and actors that wait there.
        pub waiting: u32,
        pub store_used: u64,
        /// What each job's leases there hold, where there are several jobs.
        pub held: Vec<(u32, i64)>,
    }

    /// What a driver says of itself. Nodes need it to start workers for the job.
    pub struct JobSpec {
        /// One JSON text that the template passes on to workers: import path, namespace, settings.
        pub config: String,
        /// The job's environment: workers kept warm have it.
        pub env: String,
        pub log_to_driver: bool,
        pub entrypoint: String,
        pub namespace: String,
        /// Share in what is scarce, against other jobs; 100 is one share.
        pub weight: u32,
    }

    pub struct JobInfo {
        pub job: u32,
        pub driver: ProcId,
        pub spec: JobSpec,
        pub started_ms: u64,
        /// 0 while it runs.
        pub ended_ms: u64,
    }

    /// One condition on a node's labels.
    pub struct LabelTerm {
        pub key: String,
        /// Without `absent`: the label is one of these, or, with none, is there at all. With it: it is none of these, or not there.
        pub values: Vec<String>,
        pub absent: bool,
    }
}

impl Default for JobSpec {
    fn default() -> Self {
        let text = String::new;
        JobSpec { config: text(), env: text(), log_to_driver: true, entrypoint: text(), namespace: text(), weight: 100 }
    }
}

impl LabelTerm {
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key).is_some_and(|value| self.values.is_empty() || self.values.contains(value));
        found != self.absent
    }
}

/// A label that every node has: its id. Compat: Ray's name.
const NODE_ID_LABEL: &str = "ray.io/node-id";

impl NodeInfo {
    /// Whether a condition on its labels holds.
    pub fn meets(&self, term: &LabelTerm) -> bool {
        if term.key != NODE_ID_LABEL {
            return term.holds(&self.labels);
        }
        (term.values.is_empty() || term.values.contains(&hex(&self.node_id))) != term.absent
    }
}

wire_enum! {
    /// Where a call or an actor may go.
    pub enum Strategy {
        /// The own node first, then others.
        0 = Default {},
        /// The bytes of its arguments are there: before the own node, where there is room.
        1 = Near { node: NodeIndex },
        /// In turn over all nodes.
        2 = Spread {},
        /// That node. `soft`: another one when that is dead.
        3 = Node { node_id: Blob, soft: bool },
        /// Nodes whose labels meet every term of one of these; the earlier the one, the better.
        4 = Labels { any: Vec<Vec<LabelTerm>> },
        /// In that bundle of a placement group, or (-1) in any of its bundles. `capture`: what it starts goes to the group, too.
        5 = Group { group: GroupId, bundle: i32, capture: bool },
    }
}

impl Strategy {
    pub const DEFAULT: Strategy = Strategy::Default {};

    /// The place is in a placement group.
    pub fn is_group(&self) -> bool {
        matches!(self, Strategy::Group { .. })
    }

    /// Equal strategies have equal keys.
    pub fn key(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
}

wire_enum! {
    /// One step on the head's key-value pairs.
    pub enum KvStep {
        0 = Put { key: Blob, value: Blob, overwrite: bool },
        1 = Get { key: Blob },
        2 = Delete { key: Blob, is_prefix: bool },
        3 = Exists { key: Blob },
        4 = Keys { prefix: Blob },
    }
}

wire_enum! {
    pub enum NodeMessage {
        // ---- between any two nodes
        /// A process of the sender's node asks something of the receiver.
        0 = Request { from: ProcId, message: Box<ToNode> },
        /// For a process of the receiver's node.
        1 = Deliver { to: ProcId, message: Box<FromNode> },
        /// A process of the sender's node that had asked something of the receiver is gone.
        2 = ProcGone { proc_id: ProcId, evidence: Evidence },
        /// These are freed: copies of them are of no use.
        3 = CopiesStale { ids: Vec<ObjectId> },
        /// The receiver's node got a copy of this object of the sender's.
        4 = CopyMade { id: ObjectId },
        /// A driver of the sender's node has shown so many bytes of lines that came from the receiver.
        5 = LinesShown { driver: ProcId, bytes: u64 },
        // ---- to the head
        10 = Heartbeat { seq: u64 },
        11 = View { view: NodeView },
        /// A process of the sender's node asks something of the head.
        12 = ToHead { from: ProcId, message: Box<ToNode> },
        13 = ActorUp { actor: ActorId, incarnation: u32, proc_id: ProcId },
        /// It has not started and will not, there.
        14 = ActorUnplaced { actor: ActorId, incarnation: u32 },
        15 = ActorEnded { actor: ActorId, incarnation: u32, evidence: Evidence },
        /// Its constructor raised.
        16 = ActorFailed { actor: ActorId, incarnation: u32, error: Value },
        17 = ActorLeaving { actor: ActorId, reason: String },
        /// The node ends in good order.
        18 = NodeLeaving { reason: String },
        /// A process of the sender's node is gone that the head may know.
        19 = OwnerGone { proc_id: ProcId },
        /// All bundles of this round are set aside.
        20 = BundlesReserved { group: GroupId, round: u32 },
        /// They don't fit, and nothing is set aside. `view`: how the sender stands.
        21 = BundlesRefused { group: GroupId, round: u32, view: NodeView },
        22 = BundlesCommitted { group: GroupId, round: u32 },
        /// They were to be committed and are not set aside any more.
        23 = BundlesExpired { group: GroupId, round: u32 },
        /// The sender wants to know where the bundles are, from now on.
        24 = GroupWanted { group: GroupId },
        // ---- from the head
        30 = HeartbeatSeen { seq: u64 },
        /// What changed about nodes: those that joined or died, and views.
        31 = Nodes { infos: Vec<NodeInfo>, views: Vec<NodeView> },
        /// `restartable`: another life may follow this one.
        32 = PlaceActor { actor: ActorId, incarnation: u32, restartable: bool, spec: Box<ActorSpec> },
        33 = UnplaceActor { actor: ActorId, incarnation: u32 },
        /// `reason` becomes evidence.
        34 = KillActor { actor: ActorId, incarnation: u32, reason: String },
        /// Nobody calls it any more: it ends when its calls are done.
        35 = FinishActor { actor: ActorId, incarnation: u32 },
        36 = JobStarted { info: JobInfo },
        /// Its workers end, but those of detached actors.
        37 = JobEnded { job: u32 },
        /// The receiver counts as dead.
        38 = Fenced { reason: String },
        /// Set these bundles aside, all or none. `commit`: there are no others to wait for.
        39 = ReserveBundles { group: GroupId, round: u32, commit: bool, bundles: Vec<(u32, Resources)> },
        /// Those of this round may be used.
        40 = CommitBundles { group: GroupId, round: u32 },
        /// These bundles end, whatever their state, and what uses them with them. `reason` becomes evidence.
        41 = DropBundles { group: GroupId, bundles: Vec<u32>, reason: String },
        42 = GroupPlaced { group: GroupId, places: Box<GroupPlaces> },
    }
}

wire_enum! {
    /// The one question of a node that wants to join, and the answers.
    pub enum Joining {
        0 = Join { protocol: u32, release: String, info: NodeInfo },
        1 = Joined { index: NodeIndex, infos: Vec<NodeInfo>, jobs: Vec<JobInfo> },
        2 = Refused { reason: String },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(values: &[&str], absent: bool) -> LabelTerm {
        LabelTerm { key: "zone".into(), values: values.iter().map(|v| (*v).to_owned()).collect(), absent }
    }

    #[test]
    fn label_terms_read_as_in_not_in_exists_and_does_not_exist() {
        let here = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let nowhere = BTreeMap::new();
        let cases =
            [(term(&["a", "b"], false), true, false), (term(&["b"], true), true, true), (term(&[], false), true, false), (term(&[], true), false, true)];
        for (term, with, without) in cases {
            assert_eq!((term.holds(&here), term.holds(&nowhere)), (with, without), "{term:?}");
        }
    }
}
