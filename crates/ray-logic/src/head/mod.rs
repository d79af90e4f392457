//! The head: the one writer of the cluster's membership, jobs, actors, placement groups, names and key-value pairs.
//!
//! It lives inside the node of index 0 and speaks with its own node as with every other: `NodeMessage`s in, `NodeMessage`s out.
//!
//! Invariants (checked by `check_invariants`)
//! 1. What must not be forgotten is in `state`, and changes only by a change that the log has taken.
//! 2. An actor has at most one incarnation that is not over, on a living node; a word about an older one is ignored.
//! 3. A node that was declared dead is never heard again.
//! 4. An actor waits for a node only while no living one may take it.
//!
//! Files: `log` the five calls, `state` what must not be forgotten, `membership` nodes and their signs of life, `jobs` drivers, `actors` their lives,
//! `places` which node gets them, `groups` placement groups, `bundles` which nodes get theirs, `names` names and keys.

mod actors;
mod awaited;
mod bundles;
mod groups;
mod jobs;
mod log;
mod membership;
mod names;
mod places;
mod state;

pub use log::{Log, LogError, MemoryLog};
pub use membership::{HEARTBEAT, LEASE};
pub use state::{Change, State};

use crate::placing::Members;
use crate::Time;
use ray_proto::cluster::{NodeInfo, NodeMessage, NodeView};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::report::Fact;
use ray_proto::wire::Wire;
use ray_proto::{ActorId, NodeIndex, ProcId, Resources, UNIT};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries of the log are replaced by a snapshot when they are larger than this, and than twice the last one.
const SNAPSHOT_BYTES: usize = 1 << 20;
/// Processes that are remembered as gone.
const GONE: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct HeadConfig {
    /// Milliseconds since the epoch at the time 0 of the shell's clock.
    pub epoch_ms: u64,
    pub infeasible_is_error: bool,
}

pub struct Head {
    config: HeadConfig,
    log: Box<dyn Log>,
    epoch: u64,
    /// The log is replaced by a snapshot when it has so many bytes.
    snapshot_at: usize,
    state: State,
    /// Living nodes.
    members: Members,
    signs: BTreeMap<NodeIndex, membership::Signs>,
    views: BTreeMap<NodeIndex, NodeView>,
    actors: BTreeMap<ActorId, actors::Actor>,
    /// Actors that no living node may take.
    homeless: VecDeque<ActorId>,
    /// Actors that wait at a node for their turn.
    waiting: BTreeSet<ActorId>,
    groups: groups::Groups,
    /// Processes that are gone while their job runs on, the latest ones: what they owned is not waited for.
    gone: BTreeSet<ProcId>,
    gone_order: VecDeque<ProcId>,
    news: membership::News,
    /// Of the event in hand.
    now: Time,
    last_tick: Time,
    /// Nobody can have been silent for too long before this.
    look_at: Time,
    out: VecDeque<(NodeIndex, NodeMessage)>,
}

impl Head {
    /// A head that goes on where the log ends. Its own node joins first.
    pub fn new(config: HeadConfig, mut log: Box<dyn Log>) -> Self {
        let epoch = log.acquire_epoch();
        let snapshot = log.get_snapshot();
        let entries = log.read(snapshot.as_ref().map_or(0, |(at, _)| *at));
        let state = State::restored(snapshot.as_ref().map(|(_, bytes)| &bytes[..]), &entries).unwrap_or_default();
        // What a snapshot would cost is known from the last one; encoding the state at each change to find out would cost that each time.
        let snapshot_at = SNAPSHOT_BYTES.max(2 * snapshot.map_or(0, |(_, bytes)| bytes.len()));
        Head {
            config,
            log,
            epoch,
            snapshot_at,
            state,
            members: BTreeMap::new(),
            signs: BTreeMap::new(),
            views: BTreeMap::new(),
            actors: BTreeMap::new(),
            homeless: VecDeque::new(),
            waiting: BTreeSet::new(),
            groups: groups::Groups::default(),
            gone: BTreeSet::new(),
            gone_order: VecDeque::new(),
            news: membership::News::default(),
            now: 0,
            last_tick: 0,
            look_at: 0,
            out: VecDeque::new(),
        }
    }

    /// The next message to a node.
    pub fn pop_out(&mut self) -> Option<(NodeIndex, NodeMessage)> {
        self.out.pop_front()
    }

    fn send(&mut self, to: NodeIndex, message: NodeMessage) {
        if self.members.contains_key(&to) {
            self.out.push_back((to, message));
        }
    }

    fn send_all(&mut self, message: &NodeMessage) {
        for to in self.members.keys() {
            self.out.push_back((*to, message.clone()));
        }
    }

    /// To a process, through its node.
    fn tell(&mut self, to: ProcId, message: FromNode) {
        self.send(to.node(), NodeMessage::Deliver { to, message: Box::new(message) });
    }

    fn commit(&mut self, change: Change) {
        let mut entry = Vec::new();
        change.put(&mut entry);
        // A log that refuses has a new head: whatever this one still says is fenced by its epoch.
        let Ok(at) = self.log.append(self.epoch, &entry) else { return };
        self.state.apply(change);
        if self.log.pending_bytes() > self.snapshot_at {
            let snapshot = self.state.snapshot();
            self.snapshot_at = SNAPSHOT_BYTES.max(2 * snapshot.len());
            // Refused only by a new head: see above.
            let _ = self.log.put_snapshot(self.epoch, at, &snapshot);
        }
    }

    fn wall_ms(&self, now: Time) -> u64 {
        self.config.epoch_ms + now / 1000
    }

    pub fn on_message(&mut self, now: Time, from: NodeIndex, message: NodeMessage) {
        if !self.members.contains_key(&from) {
            return;
        }
        self.now = now;
        self.heard(now, from);
        match message {
            NodeMessage::Heartbeat { seq } => self.send(from, NodeMessage::HeartbeatSeen { seq }),
            NodeMessage::View { view } => self.viewed(now, view),
            NodeMessage::ToHead { from: asker, message } => self.asked(now, asker, *message),
            NodeMessage::ActorUp { actor, incarnation, proc_id } => self.actor_up(actor, incarnation, proc_id),
            NodeMessage::ActorUnplaced { actor, incarnation } => self.actor_unplaced(actor, incarnation),
            NodeMessage::ActorEnded { actor, incarnation, evidence } => self.actor_ended(actor, incarnation, &evidence),
            NodeMessage::ActorFailed { actor, incarnation, error } => self.actor_failed(actor, incarnation, &error),
            NodeMessage::ActorLeaving { actor, reason } => self.actor_leaving(actor, reason),
            NodeMessage::BundlesReserved { group, round } => self.bundles_reserved(from, group, round),
            NodeMessage::BundlesCommitted { group, round } => self.bundles_committed(from, group, round),
            NodeMessage::BundlesRefused { group, round, view } => self.bundles_refused(from, group, round, view),
            NodeMessage::BundlesExpired { group, round } => self.bundles_expired(from, group, round),
            NodeMessage::GroupWanted { group } => self.group_wanted(from, group),
            NodeMessage::OwnerGone { proc_id } => self.process_gone(now, proc_id),
            NodeMessage::NodeLeaving { reason } => self.node_died(now, from, &reason),
            _ => {}
        }
    }

    /// A process asks something that only the head knows.
    fn asked(&mut self, now: Time, from: ProcId, message: ToNode) {
        match message {
            ToNode::HelloDriver { job, .. } => {
                self.start_job(now, from, *job);
            }
            ToNode::ActorCreate { actor, spec } => self.actor_create(from, actor, spec),
            ToNode::ActorSubscribe { actor } => self.actor_subscribe(from, actor),
            ToNode::ActorKill { actor, no_restart } => self.actor_kill(actor, no_restart),
            ToNode::ActorOutOfScope { actor } => self.actor_out_of_scope(actor),
            ToNode::ActorFailed { actor, error } => self.actor_never_was(actor, error),
            ToNode::NameTake { token, name, namespace, actor, payload } => self.name_take(from, token, (namespace, name), (actor, payload)),
            ToNode::NameFind { token, name, namespace } => self.name_find(from, token, &(namespace, name)),
            ToNode::NameList { token, all, namespace } => self.name_list(from, token, all, &namespace),
            ToNode::GroupCreate { token, group, spec } => self.group_create(from, token, group, spec),
            ToNode::GroupRemove { group } => self.group_remove(group, groups::REMOVED),
            ToNode::GroupWatch { group } => self.group_watch(from, group),
            ToNode::GroupsQuery { token, group, name } => self.groups_asked(from, token, group, name),
            ToNode::Kv { token, step } => self.kv(from, token, step),
            ToNode::NodesQuery { token } => {
                let (nodes, views) = self.all_nodes();
                self.tell(from, FromNode::NodesAre { token, nodes, views });
            }
            ToNode::JobsQuery { token } => {
                let jobs = self.state.jobs.values().cloned().collect();
                self.tell(from, FromNode::JobsAre { token, jobs });
            }
            ToNode::ResourcesQuery { token } => {
                let (total, available) = self.resources();
                self.tell(from, FromNode::ResourcesAre { token, total, available });
            }
            ToNode::Ask { token, subject: ray_proto::report::Subject::Actor { actor } } => {
                let facts = vec![self.report_actor(actor)];
                self.tell(from, FromNode::Told { token, facts });
            }
            ToNode::Ask { token, subject: ray_proto::report::Subject::Group { group } } => {
                let facts = vec![self.report_group(group)];
                self.tell(from, FromNode::Told { token, facts });
            }
            _ => {}
        }
    }

    fn remember_gone(&mut self, proc_id: ProcId) {
        if self.gone.insert(proc_id) {
            self.gone_order.push_back(proc_id);
        }
        if self.gone_order.len() > GONE {
            self.gone_order.pop_front().map(|oldest| self.gone.remove(&oldest));
        }
    }

    /// Of all living nodes together: what there is, and what is free as far as is known.
    fn resources(&self) -> (Resources, Resources) {
        let (mut total, mut available) = (Resources::default(), Resources::default());
        self.members.values().for_each(|info| total.add(&info.total));
        for view in self.views.values() {
            available.add(&view.available);
            if let Some(store) = available.0.get_mut("object_store_memory") {
                *store -= view.store_used as i64 * UNIT;
            }
        }
        (total, available)
    }

    /// Every node known, dead ones included, and the views of the living.
    fn all_nodes(&self) -> (Vec<NodeInfo>, Vec<NodeView>) {
        (self.state.nodes.values().cloned().collect(), self.views.values().cloned().collect())
    }

    /// What is known of an actor, for `ray why`.
    pub fn report_actor(&self, actor: ActorId) -> Fact {
        self.actors.get(&actor).map_or(Fact::Unknown {}, actors::Actor::report)
    }

    /// Time passed. Returns when to call again.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
        self.now = now;
        let due = [self.check_signs(now), self.spread_news(now)].into_iter().flatten().min();
        self.last_tick = now;
        due
    }

    /// What keeps the head from being idle, one line each.
    pub fn leftovers(&self) -> Vec<String> {
        let mut lines = self.group_leftovers();
        lines.extend(self.actors.iter().filter(|(_, actor)| !actor.is_dead()).map(|(id, actor)| format!("the head knows actor {id:?}: {actor:?}")));
        lines
    }

    /// The state made again from the log is this one.
    pub fn is_as_logged(&self) -> bool {
        let snapshot = self.log.get_snapshot();
        let entries = self.log.read(snapshot.as_ref().map_or(0, |(at, _)| *at));
        State::restored(snapshot.as_ref().map(|(_, bytes)| &bytes[..]), &entries).is_some_and(|state| state.snapshot() == self.state.snapshot())
    }

    pub fn check_invariants(&self) {
        for info in self.members.values() {
            assert!(info.death.is_empty() && self.state.nodes.contains_key(&info.index), "a member is alive and known: {info:?}");
        }
        self.check_actors();
        self.check_groups();
    }
}
