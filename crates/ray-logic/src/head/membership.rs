//! Nodes: joining, signs of life, views, death.

use super::{Change, Head};
use crate::Time;
use ray_proto::cluster::{Joining, NodeInfo, NodeMessage, NodeView};
use ray_proto::ids::NODES_MAX;
use ray_proto::wire::PROTOCOL;
use ray_proto::{hex, NodeIndex};
use std::collections::{BTreeMap, BTreeSet};

/// How often a node gives a sign of life.
pub const HEARTBEAT: Time = 500_000;
/// A node that was not heard for so long is dead. Budget: node death within 5 s (engine brief, section 4); the rest is for the news to spread.
pub const LEASE: Time = 4_500_000;
/// A node whose port refused connections for so long has ended.
const REFUSED: Time = 2_000_000;
/// The head itself did not run when two ticks are further apart: what nodes said meanwhile is still to be read.
const ASLEEP: Time = 1_000_000;
/// Views are told at most so often, and less often by so much for each node: all hear of all, and views are hints.
const SPREAD: Time = 20_000;
const SPREAD_PER_NODE: Time = 200;

#[derive(Debug)]
pub(super) struct Signs {
    heard: Time,
    /// Its port refuses connections, and it was not heard since.
    refused_since: Option<Time>,
}

/// What is to be told to all nodes.
#[derive(Debug, Default)]
pub(super) struct News {
    infos: BTreeSet<NodeIndex>,
    views: BTreeSet<NodeIndex>,
    not_before: Time,
}

impl Head {
    /// A node asks to join. The answer to everything but `Joined` is final.
    pub fn join(&mut self, now: Time, question: Joining, release: &str, python: &str) -> Joining {
        let refused = |reason: String| Joining::Refused { reason };
        let Joining::Join { protocol, release: theirs, mut info } = question else { return refused("that was no request to join".into()) };
        if protocol != PROTOCOL || theirs != release {
            return refused(format!(
                "the cluster runs release {release} (protocol {PROTOCOL}), the node {theirs} (protocol {protocol}).\nhint: install the same release on both"
            ));
        }
        if info.python != python {
            return refused(format!(
                "the cluster runs Python {python}, the node Python {}.\nhint: values are pickled: use the same version on both",
                info.python
            ));
        }
        if self.state.next_index >= NODES_MAX {
            return refused(format!("{NODES_MAX} nodes have joined this cluster in its life; there are no numbers left.\nhint: start a new cluster"));
        }
        info.index = NodeIndex(self.state.next_index);
        let index = info.index;
        self.add_node(now, info);
        let lives_on = |job: u32| self.actors.iter().any(|(id, actor)| id.owner.job() == job && !actor.is_dead());
        let jobs = self.state.jobs.values().filter(|info| info.ended_ms == 0 || lives_on(info.job)).cloned().collect();
        Joining::Joined { index, infos: self.members.values().cloned().collect(), jobs }
    }

    /// A node is a member from now on: the head's own, or one that joined.
    pub fn add_node(&mut self, now: Time, info: NodeInfo) {
        let index = info.index;
        self.commit(Change::NodeJoined { info: info.clone() });
        self.signs.insert(index, Signs { heard: now, refused_since: None });
        self.views.insert(index, NodeView { index, version: 0, available: info.total.clone(), waiting: 0, store_used: 0, held: vec![] });
        self.members.insert(index, info);
        self.news.infos.insert(index);
        self.place_homeless();
    }

    pub(super) fn heard(&mut self, now: Time, from: NodeIndex) {
        if let Some(signs) = self.signs.get_mut(&from) {
            *signs = Signs { heard: now, refused_since: None };
        }
    }

    /// A node's word on how it stands.
    pub fn viewed(&mut self, now: Time, view: NodeView) {
        let index = view.index;
        if self.views.get(&index).is_none_or(|known| known.version >= view.version) {
            return;
        }
        self.views.insert(index, view);
        if self.members.len() > 1 {
            self.news.views.insert(index);
            self.move_waiting(index);
            self.spread_news(now);
        }
    }

    /// The node's port refuses connections: its machine says that its daemon is gone. A firewall says the same for a moment.
    pub fn node_refused(&mut self, now: Time, index: NodeIndex) {
        let Some(signs) = self.signs.get_mut(&index) else { return };
        if now < *signs.refused_since.get_or_insert(now) + REFUSED {
            return;
        }
        self.node_died(now, index, "its daemon has ended: its port refuses connections");
    }

    /// Nobody will hear of it again.
    pub fn node_died(&mut self, now: Time, index: NodeIndex, why: &str) {
        let Some(info) = self.members.get(&index).filter(|_| index != NodeIndex::HEAD) else { return };
        let death = format!("node {} ({}) is dead: {why}", hex(&info.node_id), info.address);
        self.out.push_back((index, NodeMessage::Fenced { reason: death.clone() }));
        self.members.remove(&index);
        self.signs.remove(&index);
        self.views.remove(&index);
        self.news.views.remove(&index);
        self.news.infos.insert(index);
        self.commit(Change::NodeDied { index, death: death.clone() });
        // First of all: what follows speaks of its processes as gone.
        self.tell_news(now);
        self.processes_of_node_gone(now, index);
        self.actors_of_node_gone(index, &death);
    }

    /// Who was silent for too long? Returns when to look again.
    pub(super) fn check_signs(&mut self, now: Time) -> Option<Time> {
        if self.members.len() < 2 {
            return None;
        }
        if now > self.last_tick + ASLEEP {
            self.signs.values_mut().for_each(|signs| signs.heard = now);
        }
        if now < self.look_at {
            return Some(now + HEARTBEAT);
        }
        let silent: Vec<NodeIndex> =
            self.signs.iter().filter(|(index, signs)| **index != NodeIndex::HEAD && now >= signs.heard + LEASE).map(|(index, _)| *index).collect();
        for index in silent {
            self.node_died(now, index, &format!("nothing was heard of it for {:.1} s", LEASE as f64 / 1e6));
        }
        let others = self.signs.iter().filter(|(index, _)| **index != NodeIndex::HEAD);
        self.look_at = others.map(|(_, signs)| signs.heard + LEASE).min().unwrap_or(now + LEASE);
        // Often enough to notice an own sleep.
        Some(now + HEARTBEAT)
    }

    /// Tell what changed, if it is time. Returns when it will be.
    pub(super) fn spread_news(&mut self, now: Time) -> Option<Time> {
        if self.news.infos.is_empty() && self.news.views.is_empty() {
            return None;
        }
        if self.news.infos.is_empty() && now < self.news.not_before {
            return Some(self.news.not_before);
        }
        self.tell_news(now);
        None
    }

    fn tell_news(&mut self, now: Time) {
        self.news.not_before = now + SPREAD.max(SPREAD_PER_NODE * self.members.len() as Time);
        let infos: Vec<NodeInfo> = std::mem::take(&mut self.news.infos).iter().filter_map(|index| self.state.nodes.get(index).cloned()).collect();
        let views: Vec<NodeView> = std::mem::take(&mut self.news.views).iter().filter_map(|index| self.views.get(index).cloned()).collect();
        if infos.is_empty() && views.is_empty() {
            return;
        }
        self.send_all(&NodeMessage::Nodes { infos, views });
    }

    pub fn members(&self) -> &BTreeMap<NodeIndex, NodeInfo> {
        &self.members
    }
}
