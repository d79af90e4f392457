//! What the head must not forget: a deterministic function of the changes applied, and nothing else.
//!
//! Invariant: only `apply` changes it. The log holds the changes; a state made again from them is equal.

use ray_proto::cluster::{JobInfo, NodeInfo};
use ray_proto::groups::GroupSpec;
use ray_proto::msg::ActorSpec;
use ray_proto::wire::{decode, Wire};
use ray_proto::{wire_enum, wire_struct, ActorId, Blob, GroupId, NodeIndex};
use std::collections::BTreeMap;

/// Dead nodes and ended jobs that are kept for those who ask.
const REMEMBERED: usize = 1_000;

wire_enum! {
    pub enum Change {
        0 = NodeJoined { info: NodeInfo },
        1 = NodeDied { index: NodeIndex, death: String },
        2 = JobStarted { info: JobInfo },
        3 = JobEnded { job: u32, at_ms: u64 },
        4 = ActorCreated { actor: ActorId, spec: Box<ActorSpec> },
        /// It will never live again.
        5 = ActorEnded { actor: ActorId },
        6 = NameTaken { namespace: String, name: String, actor: ActorId, payload: Blob },
        /// `None`: the key is deleted.
        7 = KeySet { key: Vec<u8>, value: Option<Blob> },
        8 = GroupCreated { group: GroupId, spec: Box<GroupSpec> },
        9 = GroupRemoved { group: GroupId },
    }
}

wire_struct! {
    pub struct State {
        pub next_index: u16,
        pub next_job: u32,
        /// The dead among them, too.
        pub nodes: BTreeMap<NodeIndex, NodeInfo>,
        pub jobs: BTreeMap<u32, JobInfo>,
        pub actors: BTreeMap<ActorId, Box<ActorSpec>>,
        /// By (namespace, name).
        pub names: BTreeMap<(String, String), (ActorId, Blob)>,
        pub keys: BTreeMap<Vec<u8>, Blob>,
        pub groups: BTreeMap<GroupId, Box<GroupSpec>>,
    }
}

impl Default for State {
    fn default() -> Self {
        let (nodes, jobs, actors, names, keys, groups) = Default::default();
        State { next_index: 0, next_job: 1, nodes, jobs, actors, names, keys, groups }
    }
}

impl State {
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::NodeJoined { info } => {
                self.next_index = self.next_index.max(info.index.0 + 1);
                self.nodes.insert(info.index, info);
                forget_oldest(&mut self.nodes, |info| !info.death.is_empty());
            }
            Change::NodeDied { index, death } => {
                self.nodes.entry(index).and_modify(|info| info.death = death);
            }
            Change::JobStarted { info } => {
                self.next_job = self.next_job.max(info.job + 1);
                self.jobs.insert(info.job, info);
                forget_oldest(&mut self.jobs, |info| info.ended_ms > 0);
            }
            Change::JobEnded { job, at_ms } => {
                self.jobs.entry(job).and_modify(|info| info.ended_ms = at_ms.max(1));
            }
            Change::ActorCreated { actor, spec } => {
                self.actors.insert(actor, spec);
            }
            Change::ActorEnded { actor } => {
                if self.actors.remove(&actor).is_none_or(|spec| !spec.name.is_empty()) {
                    self.names.retain(|_, (other, _)| *other != actor);
                }
            }
            Change::NameTaken { namespace, name, actor, payload } => {
                self.names.insert((namespace, name), (actor, payload));
            }
            Change::GroupCreated { group, spec } => {
                self.groups.insert(group, spec);
            }
            Change::GroupRemoved { group } => {
                self.groups.remove(&group);
            }
            Change::KeySet { key, value: Some(value) } => {
                self.keys.insert(key, value);
            }
            Change::KeySet { key, value: None } => {
                self.keys.remove(&key);
            }
        }
    }

    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// The state after a snapshot, if there is one, and the entries behind it. None: one of them is unreadable.
    pub fn restored(snapshot: Option<&[u8]>, entries: &[Vec<u8>]) -> Option<State> {
        let mut state = match snapshot {
            Some(bytes) => decode::<State>(bytes).ok()?,
            None => State::default(),
        };
        for entry in entries {
            state.apply(decode::<Change>(entry).ok()?);
        }
        Some(state)
    }
}

fn forget_oldest<K: Ord + Clone, V>(of: &mut BTreeMap<K, V>, is_over: impl Fn(&V) -> bool) {
    if of.len() > REMEMBERED && of.values().filter(|value| is_over(value)).count() > REMEMBERED {
        let oldest = of.iter().find(|(_, value)| is_over(value)).map(|(key, _)| key.clone());
        oldest.map(|key| of.remove(&key));
    }
}
