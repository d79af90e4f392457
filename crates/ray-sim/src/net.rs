//! Links between nodes as their shells make them: in order, resumed after a break, nothing lost or doubled. A node that ends may take with it any suffix of
//! what it had sent.

use crate::env::{daemon, mentioned, name, Env, Event};
use crate::sabotage::Bug;
use ray_logic::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::FromNode;
use ray_proto::wire::Wire;
use ray_proto::{NodeIndex, ObjectId, ProcId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From, to.
pub type Route = (NodeIndex, NodeIndex);

#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<NodeMessage>,
    last: Time,
    /// Longest delay of this link.
    delay: Time,
    /// Arrivals that a cut holds up.
    held: u32,
}

#[derive(Debug, Default)]
pub struct Net {
    pipes: BTreeMap<Route, Pipe>,
    /// Pairs, the smaller first, that hear nothing of each other.
    cuts: BTreeSet<Route>,
    /// Who listens no more to whom.
    forgotten: BTreeSet<Route>,
    /// Messages and their bytes, for figures.
    pub sent: BTreeMap<Route, (u64, u64)>,
}

fn pair(a: NodeIndex, b: NodeIndex) -> Route {
    (a.min(b), a.max(b))
}

impl Net {
    pub fn is_cut(&self, a: NodeIndex, b: NodeIndex) -> bool {
        self.cuts.contains(&pair(a, b))
    }

    /// Something sent a while ago has not arrived.
    pub fn is_behind(&self, now: Time, route: Route) -> bool {
        self.pipes.get(&route).is_some_and(|pipe| !pipe.queue.is_empty() && pipe.last > now + 100_000)
    }

    /// References in what processes of living nodes were sent by `from` and have not got.
    pub fn on_the_way(&self, from: ProcId, ids: &mut BTreeSet<ObjectId>) {
        for message in self.pipes.values().flat_map(|pipe| &pipe.queue) {
            let NodeMessage::Deliver { message, .. } = message else { continue };
            if let FromNode::Relayed { from: sender, message } = &**message {
                if *sender == from {
                    mentioned(message, ids);
                }
            }
        }
    }

    /// `by` listens no more to `index`, and says no more to it than that it is dead.
    pub fn forget(&mut self, by: NodeIndex, index: NodeIndex) {
        self.forgotten.insert((index, by));
        if let Some(pipe) = self.pipes.get_mut(&(index, by)) {
            pipe.queue.clear();
        }
        if let Some(pipe) = self.pipes.get_mut(&(by, index)) {
            pipe.queue.retain(|message| matches!(message, NodeMessage::Fenced { .. }));
        }
    }
}

impl Env {
    pub fn net_send(&mut self, from: NodeIndex, to: NodeIndex, message: NodeMessage) {
        let route = (from, to);
        if self.net.forgotten.contains(&route) {
            return;
        }
        let is_grant = matches!(&message, NodeMessage::Deliver { message, .. } if matches!(**message, FromNode::LeaseGrant { .. }));
        let is_death = matches!(&message, NodeMessage::Nodes { infos, .. } if infos.iter().any(|info| !info.death.is_empty()));
        if is_death && self.strikes(Bug::LostNodeDied) {
            return;
        }
        if matches!(message, NodeMessage::DropBundles { .. }) && self.strikes(Bug::LostDrop) {
            return;
        }
        if let NodeMessage::ReserveBundles { group, round, .. } = &message {
            if self.strikes(Bug::FalseReserve) {
                let (group, round) = (*group, *round);
                self.enqueue((to, from), NodeMessage::BundlesReserved { group, round });
                return self.enqueue((to, from), NodeMessage::BundlesCommitted { group, round });
            }
        }
        if is_grant && self.strikes(Bug::GrantTwice) {
            self.enqueue(route, message.clone());
        }
        self.enqueue(route, message);
    }

    fn enqueue(&mut self, route: Route, message: NodeMessage) {
        if !self.net.pipes.contains_key(&route) {
            let delay = if self.rng.permille(self.options.net_slow) { self.rng.range(1_000, 50_000) } else { self.rng.range(20, 400) };
            self.net.pipes.insert(route, Pipe { delay, ..Pipe::default() });
        }
        let mut delay = self.rng.range(10, self.net.pipes[&route].delay);
        if self.rng.permille(self.options.net_stalls) {
            delay += self.rng.range(10_000, 2_000_000);
        }
        let now = self.now;
        let pipe = self.net.pipes.get_mut(&route).expect("made above");
        pipe.last = pipe.last.max(now + delay);
        pipe.queue.push_back(message);
        let wait = pipe.last - now;
        self.post(wait, Event::Net(route));
    }

    /// What arrives now.
    pub fn net_take(&mut self, route: Route) -> Option<NodeMessage> {
        let is_cut = self.net.is_cut(route.0, route.1);
        let pipe = self.net.pipes.get_mut(&route)?;
        if is_cut {
            pipe.held += 1;
            return None;
        }
        let message = pipe.queue.pop_front()?;
        let is_beat = matches!(message, NodeMessage::Heartbeat { .. } | NodeMessage::HeartbeatSeen { .. });
        let mut bytes = Vec::new();
        message.put(&mut bytes);
        let count = self.net.sent.entry(route).or_default();
        count.0 += 1;
        count.1 += bytes.len() as u64;
        let text = || format!("-> {}  {message:?}", name(daemon(route.1)));
        match is_beat {
            true => self.whisper(daemon(route.0), text),
            false => self.note(daemon(route.0), text),
        }
        self.hash_bytes((u64::from(route.0 .0) << 16) | u64::from(route.1 .0), &bytes);
        Some(message)
    }

    pub fn cut_link(&mut self, a: NodeIndex, b: NodeIndex) {
        self.note(daemon(a), || format!("is cut off from {}", name(daemon(b))));
        self.net.cuts.insert(pair(a, b));
    }

    pub fn heal_link(&mut self, a: NodeIndex, b: NodeIndex) {
        if !self.net.cuts.remove(&pair(a, b)) {
            return;
        }
        self.note(daemon(a), || format!("hears {} again", name(daemon(b))));
        for route in [(a, b), (b, a)] {
            let held = self.net.pipes.get_mut(&route).map_or(0, |pipe| std::mem::take(&mut pipe.held));
            for _ in 0..held {
                self.post(1_000, Event::Net(route));
            }
        }
    }

    /// A node ends: what was for it is lost, and on each link any suffix of what it had sent.
    pub fn lose_node(&mut self, index: NodeIndex, loses: bool) {
        let routes: Vec<Route> = self.net.pipes.keys().copied().filter(|(from, to)| *from == index || *to == index).collect();
        for route in routes {
            let len = self.net.pipes[&route].queue.len() as u64;
            let keep = match route.1 == index {
                true => 0,
                false if loses && len > 0 && self.rng.permille(700) => self.rng.below(len + 1),
                false => len,
            };
            self.net.pipes.get_mut(&route).expect("listed").queue.truncate(keep as usize);
        }
    }
}
