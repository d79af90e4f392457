//! Other nodes: what is known of them, what is said to them and to their processes, their end and our own.
//!
//! Invariant: a process of another node that asked something of us is a stranger until its node says that it is gone, or is gone itself.

use super::{Node, NodeCommand};
use crate::head::HEARTBEAT;
use crate::Time;
use ray_proto::cluster::{JobInfo, NodeInfo, NodeMessage, NodeView};
use ray_proto::msg::{Evidence, FromNode, ToNode};
use ray_proto::{NodeIndex, ProcId, Resources};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A node ends itself when the head acknowledged nothing that was sent in this time. Less than the head's patience, so that nobody else runs what still runs here.
const FENCE: Time = 4_000_000;
/// Its processes end by themselves so much later, if it has not: still before the head's patience is over.
const SPARE: Time = 300_000;
/// How often it looks whether the head's machine still takes what is sent.
const PROBE: Time = 250_000;
/// The head has ended; it gets so long to come back.
const HEAD_GONE: Time = 3_000_000;
/// A view is told at most so often.
const VIEW_EVERY: Time = 20_000;
/// Ended jobs that are remembered.
const ENDED_JOBS: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Living nodes, this one included.
    pub members: BTreeMap<NodeIndex, NodeInfo>,
    pub views: BTreeMap<NodeIndex, NodeView>,
    /// Why each dead node is dead.
    pub deaths: BTreeMap<NodeIndex, String>,
    pub jobs: BTreeMap<u32, JobInfo>,
    /// The head has told of every node up to this one: who of them is no member is dead.
    told_up_to: NodeIndex,
    /// Nodes that others know already, and we don't.
    newcomers: BTreeMap<NodeIndex, Newcomer>,
    /// Processes of other nodes that asked something of us.
    strangers: BTreeSet<ProcId>,
    /// Nodes that a process of ours asked something of.
    asked_by: BTreeMap<ProcId, BTreeSet<NodeIndex>>,
    /// Processes of other nodes that processes of ours watch.
    watched: BTreeMap<ProcId, BTreeSet<ProcId>>,
    told_version: u64,
    told: Option<NodeView>,
    tell_at: Time,
    seq: u64,
    /// Heartbeats on their way: number and when it was sent.
    beats: VecDeque<(u64, Time)>,
    /// The last one that the head has answered.
    answered: u64,
    next_beat: Time,
    fence_at: Option<Time>,
    probe_at: Time,
    refused_since: Option<Time>,
    pub over: bool,
}

/// A node that the head has not told us of yet: everything about it waits for that.
#[derive(Debug, Default)]
struct Newcomer {
    heard: Vec<NodeMessage>,
    to_say: Vec<NodeMessage>,
    pulls: Vec<(ProcId, ToNode)>,
}

impl Node {
    /// The node has its place in a cluster: `infos` are all living nodes.
    pub fn joined(&mut self, now: Time, infos: Vec<NodeInfo>, jobs: Vec<JobInfo>) {
        jobs.into_iter().for_each(|info| {
            self.peers.jobs.insert(info.job, info);
        });
        self.peers.fence_at = (!self.is_head()).then_some(now + FENCE);
        self.nodes_changed(now, infos, vec![]);
    }

    pub(super) fn is_head(&self) -> bool {
        self.head.is_some()
    }

    pub fn index(&self) -> NodeIndex {
        self.config.index
    }

    pub fn members(&self) -> &BTreeMap<NodeIndex, NodeInfo> {
        &self.peers.members
    }

    pub(super) fn is_alone(&self) -> bool {
        self.peers.members.len() <= 1
    }

    /// What workers of a job are started with.
    pub fn job_config(&self, job: u32) -> Option<&str> {
        self.peers.jobs.get(&job).map(|info| info.spec.config.as_str())
    }

    pub fn job(&self, job: u32) -> Option<&JobInfo> {
        self.peers.jobs.get(&job)
    }

    // ---- saying

    pub(super) fn say_to(&mut self, to: NodeIndex, message: NodeMessage) {
        if self.peers.members.contains_key(&to) {
            self.out.push(NodeCommand::Net { to, message });
        } else if self.is_newcomer(to) {
            self.peers.newcomers.entry(to).or_default().to_say.push(message);
        }
    }

    /// It is not known here, and not dead for all that is known.
    fn is_newcomer(&self, index: NodeIndex) -> bool {
        index > self.peers.told_up_to && !self.peers.members.contains_key(&index)
    }

    /// Why a node is dead, if it is.
    pub(super) fn death_of(&self, index: NodeIndex) -> Option<String> {
        let dead = !self.peers.members.contains_key(&index) && !self.is_newcomer(index);
        let unknown = || format!("node {} was dead before this one joined the cluster", index.0);
        dead.then(|| self.peers.deaths.get(&index).cloned().unwrap_or_else(unknown))
    }

    /// The bytes are on a node that is not known yet. True: the request waits for that.
    pub(super) fn awaits_newcomer(&mut self, source: NodeIndex, from: ProcId, message: ToNode) -> bool {
        let waits = self.is_newcomer(source);
        if waits {
            self.peers.newcomers.entry(source).or_default().pulls.push((from, message));
        }
        waits
    }

    /// To the head: by a call when it is here. Handled when the event in hand is done.
    pub(super) fn say_to_head(&mut self, message: NodeMessage) {
        match self.is_head() {
            true => self.head_inbox.push_back(message),
            false => self.say_to(NodeIndex::HEAD, message),
        }
    }

    /// A request of a process of ours that the head answers.
    pub(super) fn ask_head(&mut self, from: ProcId, message: ToNode) {
        self.say_to_head(NodeMessage::ToHead { from, message: Box::new(message) });
    }

    /// A request of a process of ours that another node answers.
    pub(super) fn ask_node(&mut self, to: NodeIndex, from: ProcId, message: ToNode) {
        self.peers.asked_by.entry(from).or_default().insert(to);
        self.say_to(to, NodeMessage::Request { from, message: Box::new(message) });
    }

    /// Let the head and this node hear each other until nothing is left to say.
    pub(super) fn settle(&mut self, now: Time) {
        self.refresh_view(now);
        loop {
            while let Some(message) = self.head_inbox.pop_front() {
                let index = self.config.index;
                if let Some(head) = &mut self.head {
                    head.on_message(now, index, message);
                }
            }
            let Some((to, message)) = self.head.as_mut().and_then(|head| head.pop_out()) else { return };
            match to == self.config.index {
                true => self.on_node(now, to, message),
                false => self.out.push(NodeCommand::Net { to, message }),
            }
        }
    }

    // ---- hearing

    /// A message of another node, or of the head on this one.
    pub fn on_node(&mut self, now: Time, from: NodeIndex, message: NodeMessage) {
        self.now = now;
        if self.is_newcomer(from) {
            return self.peers.newcomers.entry(from).or_default().heard.push(message);
        }
        if self.death_of(from).is_some() {
            return;
        }
        match message {
            NodeMessage::Request { from: asker, message } => {
                self.peers.strangers.insert(asker);
                self.request(now, asker, *message);
            }
            NodeMessage::Deliver { to, message } => self.deliver(from, to, *message),
            NodeMessage::ProcGone { proc_id, evidence } => self.stranger_gone(now, proc_id, evidence),
            NodeMessage::CopiesStale { ids } => self.copies_stale(now, from, &ids),
            NodeMessage::CopyMade { id } => self.copy_made(from, id),
            NodeMessage::LinesShown { driver, bytes } => self.out.push(NodeCommand::LinesShown { driver, bytes }),
            NodeMessage::HeartbeatSeen { seq } => self.heartbeat_seen(seq),
            NodeMessage::Nodes { infos, views } => self.nodes_changed(now, infos, views),
            NodeMessage::PlaceActor { actor, incarnation, restartable, spec } => self.actor_placed(now, actor, incarnation, restartable, spec),
            NodeMessage::UnplaceActor { actor, incarnation } => self.actor_unplace(now, actor, incarnation),
            NodeMessage::KillActor { actor, incarnation, reason } => self.actor_kill(now, actor, incarnation, &reason),
            NodeMessage::FinishActor { actor, incarnation } => self.actor_finish(now, actor, incarnation),
            NodeMessage::JobStarted { info } => self.job_started(now, info),
            NodeMessage::JobEnded { job } => self.job_ended(now, job),
            NodeMessage::Fenced { reason } => self.fence(&reason),
            message if self.is_head() => {
                if let Some(head) = &mut self.head {
                    head.on_message(now, from, message);
                }
            }
            _ => {}
        }
        self.make_room(now);
    }

    /// For a process of ours, by another node; we note what concerns our own books.
    fn deliver(&mut self, from: NodeIndex, to: ProcId, message: FromNode) {
        match &message {
            FromNode::LeaseGrant { class, .. } => self.delegate_granted(from, to, *class),
            FromNode::ProcDied { proc_id, evidence } => {
                if let Some(watchers) = self.peers.watched.get_mut(proc_id) {
                    watchers.remove(&to);
                    if watchers.is_empty() {
                        self.peers.watched.remove(proc_id);
                    }
                }
                self.remember_death(*proc_id, evidence);
            }
            FromNode::Lines { .. } => return self.out.push(NodeCommand::Show { driver: to, from, message }),
            _ => {}
        }
        self.send(to, message);
    }

    /// A process of another node, or a dead node's, is gone: what it asked for here ends.
    fn stranger_gone(&mut self, now: Time, proc_id: ProcId, evidence: Evidence) {
        self.remember_death(proc_id, &evidence);
        if self.peers.strangers.remove(&proc_id) {
            self.forget_owner(now, proc_id);
        }
        self.creator_died(proc_id);
        self.schedule(now);
    }

    /// It asked something of us, and nobody has said that it is gone.
    pub(super) fn is_gone(&self, proc_id: ProcId) -> bool {
        match proc_id.node() == self.config.index {
            true => !self.procs.contains_key(&proc_id),
            false => self.death_of(proc_id.node()).is_some() || self.graves.contains_key(&proc_id),
        }
    }

    pub(super) fn watch_remote(&mut self, from: ProcId, proc_id: ProcId) {
        if let Some(death) = self.death_of(proc_id.node()) {
            let evidence = Evidence::of_lost_node(&death);
            return self.send(from, FromNode::ProcDied { proc_id, evidence });
        }
        self.peers.watched.entry(proc_id).or_default().insert(from);
        self.ask_node(proc_id.node(), from, ToNode::Watch { proc_id });
    }

    /// A process of ours is gone: those that it spoke to hear of it.
    pub(super) fn tell_peers_of_death(&mut self, proc_id: ProcId, evidence: &Evidence) {
        self.peers.watched.retain(|_, watchers| {
            watchers.remove(&proc_id);
            !watchers.is_empty()
        });
        for node in self.peers.asked_by.remove(&proc_id).unwrap_or_default() {
            self.say_to(node, NodeMessage::ProcGone { proc_id, evidence: evidence.clone() });
        }
        self.say_to_head(NodeMessage::OwnerGone { proc_id });
    }

    // ---- members

    fn nodes_changed(&mut self, now: Time, infos: Vec<NodeInfo>, views: Vec<NodeView>) {
        let (is_new, mut changed) = (self.peers.members.is_empty(), false);
        let told: Vec<NodeIndex> = infos.iter().map(|info| info.index).collect();
        self.peers.told_up_to = told.iter().copied().max().unwrap_or_default().max(self.peers.told_up_to);
        for info in infos {
            match info.death.is_empty() {
                true => {
                    if info.index != self.config.index && !self.peers.members.contains_key(&info.index) {
                        self.out.push(NodeCommand::Know { index: info.index, address: info.address.clone() });
                    }
                    changed |= self.peers.members.insert(info.index, info).is_none();
                }
                false if info.index == self.config.index => self.fence(&info.death),
                false => {
                    changed |= self.peers.members.contains_key(&info.index);
                    self.node_died(now, info.index, &info.death);
                }
            }
        }
        for view in views.into_iter().filter(|view| view.index != self.config.index) {
            self.peers.views.insert(view.index, view);
        }
        if changed && !is_new {
            self.tell_capacity();
        }
        told.into_iter().for_each(|index| self.welcome(now, index));
        self.schedule(now);
    }

    /// What waited for the news of a node: that it is there, or that it is dead.
    fn welcome(&mut self, now: Time, index: NodeIndex) {
        let Some(newcomer) = self.peers.newcomers.remove(&index) else { return };
        newcomer.to_say.into_iter().for_each(|message| self.say_to(index, message));
        newcomer.heard.into_iter().for_each(|message| self.on_node(now, index, message));
        newcomer.pulls.into_iter().for_each(|(from, message)| self.on_message(now, from, message));
    }

    fn tell_capacity(&mut self) {
        let all: Vec<ProcId> = self.procs.iter().filter(|(_, proc)| proc.is_connected()).map(|(id, _)| *id).collect();
        all.into_iter().for_each(|id| self.tell_capacity_to(id));
    }

    pub(super) fn tell_capacity_to(&mut self, id: ProcId) {
        let mut total = Resources::default();
        self.peers.members.values().for_each(|info| total.add(&info.total));
        if total.0.is_empty() {
            total = self.config.total.clone();
        }
        let nodes = self.peers.members.len().max(1) as u32;
        self.send(id, FromNode::Capacity { total, nodes });
    }

    fn node_died(&mut self, now: Time, index: NodeIndex, death: &str) {
        if self.peers.deaths.contains_key(&index) {
            return;
        }
        self.peers.members.remove(&index);
        self.peers.deaths.insert(index, death.to_owned());
        self.peers.views.remove(&index);
        self.out.push(NodeCommand::Forget { index });
        self.delegates_died(index);
        let evidence = Evidence::of_lost_node(death);
        let strangers: Vec<ProcId> = self.peers.strangers.iter().filter(|id| id.node() == index).copied().collect();
        strangers.into_iter().for_each(|id| self.stranger_gone(now, id, evidence.clone()));
        let connected: Vec<ProcId> = self.procs.iter().filter(|(_, proc)| proc.is_connected()).map(|(id, _)| *id).collect();
        for id in connected {
            self.send(id, FromNode::NodeDied { node: index, text: death.to_owned() });
        }
        let watched: Vec<ProcId> = self.peers.watched.keys().filter(|id| id.node() == index).copied().collect();
        for proc_id in watched {
            for watcher in self.peers.watched.remove(&proc_id).unwrap_or_default() {
                self.send(watcher, FromNode::ProcDied { proc_id, evidence: evidence.clone() });
            }
        }
        self.copies_of_node_gone(index);
        for asked in self.peers.asked_by.values_mut() {
            asked.remove(&index);
        }
    }

    fn job_started(&mut self, now: Time, info: JobInfo) {
        let driver = info.driver;
        self.peers.jobs.insert(info.job, info);
        if driver.node() == self.config.index {
            self.driver_accepted(now, driver);
        }
        self.schedule(now);
    }

    fn job_ended(&mut self, now: Time, job: u32) {
        let keeps = |id: &ProcId| match self.procs[id].role {
            super::procs::Role::Actor(actor) => self.hosted.get(&actor).is_some_and(|hosted| hosted.is_detached()),
            super::procs::Role::Driver => true,
            _ => false,
        };
        let doomed: Vec<ProcId> = self.procs.keys().filter(|id| id.job() == job && !keeps(id)).copied().collect();
        for id in doomed {
            self.kill(id, "its job is over");
        }
        // Its detached actors, here or elsewhere, may need workers again: what these start with is kept.
        if let Some(info) = self.peers.jobs.get_mut(&job) {
            info.ended_ms = info.ended_ms.max(1);
        }
        let is_over = |(_, info): &(&u32, &JobInfo)| info.ended_ms > 0;
        if self.peers.jobs.iter().filter(is_over).count() > ENDED_JOBS {
            let oldest = self.peers.jobs.iter().find(is_over).map(|(job, _)| *job);
            oldest.map(|job| self.peers.jobs.remove(&job));
        }
        self.schedule(now);
    }

    // ---- signs of life

    /// How this node stands, told to the head when it changed.
    fn refresh_view(&mut self, now: Time) {
        if self.view_is_told() {
            return;
        }
        if !self.is_head() && (self.is_alone() || now < self.peers.tell_at) {
            return;
        }
        self.peers.tell_at = now + VIEW_EVERY;
        self.peers.told_version += 1;
        let (available, waiting, store_used) = (self.available.clone(), self.waiting_here(), self.store_used);
        let held = self.shares_to_tell().collect();
        let view = NodeView { index: self.config.index, version: self.peers.told_version, available, waiting, store_used, held };
        self.peers.told = Some(view.clone());
        match &mut self.head {
            Some(head) => head.viewed(now, view),
            None => self.say_to_head(NodeMessage::View { view }),
        }
    }

    /// Nothing has changed since the head was told. Asked after each event.
    fn view_is_told(&self) -> bool {
        let same = |told: &NodeView| told.store_used == self.store_used && told.available == self.available && told.waiting == self.waiting_here();
        self.peers.told.as_ref().is_some_and(|told| same(told) && self.shares_to_tell().eq(told.held.iter().copied()))
    }

    fn waiting_here(&self) -> u32 {
        let wanted: u32 = self.order.values().map(|key| self.wants[key].local()).sum();
        wanted + self.to_place.len() as u32
    }

    fn heartbeat_seen(&mut self, seq: u64) {
        self.peers.refused_since = None;
        self.peers.answered = self.peers.answered.max(seq);
        self.settle_doubts();
        while let Some((number, sent)) = self.peers.beats.front().copied().filter(|(number, _)| *number <= seq) {
            self.peers.beats.pop_front();
            if number == seq {
                self.peers.fence_at = Some(sent + FENCE);
            }
        }
    }

    /// What is not known here may be news that is on its way. The number of a sign of life whose answer comes behind all such news; None: there are none.
    pub(super) fn ask_for_news(&mut self) -> Option<u64> {
        (!self.is_head()).then(|| {
            self.peers.next_beat = self.now;
            self.peers.seq + 1
        })
    }

    pub(super) fn is_answered(&self, seq: u64) -> bool {
        self.peers.answered >= seq
    }

    pub(super) fn tick_peers(&mut self, now: Time) -> Option<Time> {
        if let Some(head) = &mut self.head {
            return head.tick(now);
        }
        let fence_at = self.peers.fence_at?;
        if now >= self.peers.next_beat {
            self.peers.next_beat = now + HEARTBEAT;
            self.peers.seq += 1;
            let seq = self.peers.seq;
            self.peers.beats.push_back((seq, now));
            self.say_to_head(NodeMessage::Heartbeat { seq });
        }
        if now >= fence_at && now >= self.peers.probe_at {
            self.peers.probe_at = now + PROBE;
            self.out.push(NodeCommand::ProbeHead);
        }
        let view = (!self.view_is_told()).then_some(self.peers.tell_at.max(now + 1));
        let fence = fence_at.max(self.peers.probe_at);
        [Some(self.peers.next_beat), Some(fence), view].into_iter().flatten().min()
    }

    /// Until when this node's processes may run whatever becomes of its daemon: a daemon that is stopped can't end them, and its node is declared dead.
    pub fn lease(&self) -> Option<Time> {
        self.peers.fence_at.map(|at| at + SPARE)
    }

    /// The answer to `ProbeHead`. `received`: the head's machine has taken all that was sent, so the head is stopped or slow, and not cut off.
    pub fn head_probed(&mut self, now: Time, received: bool) {
        self.now = now;
        match received {
            true => self.peers.fence_at = Some(now + PROBE),
            false => {
                self.fence(&format!("the head did not answer for {:.1} s: this node is cut off, and others may have taken over its work", FENCE as f64 / 1e6))
            }
        }
    }

    /// A node's machine refuses connections: its daemon has ended.
    pub fn node_refused(&mut self, now: Time, index: NodeIndex) {
        self.now = now;
        match &mut self.head {
            Some(head) => head.node_refused(now, index),
            None if index == NodeIndex::HEAD => {
                let since = *self.peers.refused_since.get_or_insert(now);
                if now >= since + HEAD_GONE {
                    self.fence("the head of the cluster has ended");
                }
            }
            None => {}
        }
    }

    /// A node's session with us can't go on: it is as good as dead.
    pub fn session_broke(&mut self, now: Time, from: NodeIndex, why: &str) {
        self.now = now;
        match &mut self.head {
            Some(head) => head.node_died(now, from, why),
            None if from == NodeIndex::HEAD => self.fence(why),
            None => {}
        }
    }

    /// This node is not, or may not be, part of its cluster any more: it ends.
    pub fn fence(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.peers.over, true) {
            self.out.push(NodeCommand::Fence { reason: reason.to_owned() });
        }
    }

    /// Good-bye in good order.
    pub fn leave_cluster(&mut self, reason: &str) {
        let others: Vec<NodeIndex> = self.peers.members.keys().copied().filter(|index| *index != self.config.index).collect();
        match self.is_head() {
            true => others.into_iter().for_each(|to| self.say_to(to, NodeMessage::Fenced { reason: format!("the head of the cluster has ended: {reason}") })),
            false => self.say_to_head(NodeMessage::NodeLeaving { reason: reason.to_owned() }),
        }
    }
}
