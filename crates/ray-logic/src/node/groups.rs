//! Placement groups as the calls of this node's processes need them: where the bundles are, and who is asked for leases there.
//!
//! Which bundle of another node has room is not known here. A class that may use any bundle asks every node that could serve it; what comes too much goes back.
//!
//! Invariant: a group that a want of one of our processes names is known here, or the head was asked about it.

use super::Node;
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::groups::{GroupLife, GroupPlaces, Within};
use ray_proto::msg::FromNode;
use ray_proto::report::Fact;
use ray_proto::{hex, ClassId, GroupId, NodeIndex, ProcId, Resources};
use std::collections::btree_map::Entry;
use std::collections::BTreeMap;

/// Groups by id; None: the head was asked.
pub(super) type Known = BTreeMap<GroupId, Option<Box<GroupPlaces>>>;

impl Node {
    /// A class of a process of ours names it.
    pub(super) fn know_group(&mut self, group: GroupId) {
        if let Entry::Vacant(place) = self.known_groups.entry(group) {
            place.insert(None);
            self.say_to_head(NodeMessage::GroupWanted { group });
        }
    }

    /// The head's word on where its bundles are.
    pub(super) fn group_placed(&mut self, now: Time, group: GroupId, places: Box<GroupPlaces>) {
        if !self.known_groups.contains_key(&group) {
            return;
        }
        self.known_groups.insert(group, Some(places));
        let of_group = |(owner, _): &ProcClass, want: &super::sched::Want| {
            owner.node() == self.config.index && Within::of(want.strategy()).is_some_and(|within| within.group == group)
        };
        let wants: Vec<ProcClass> = self.wants.iter().filter(|(key, want)| of_group(key, want)).map(|(key, _)| *key).collect();
        for (owner, class) in wants {
            self.tell_infeasible(owner, class);
            self.delegate(owner, class);
        }
        self.schedule(now);
    }

    /// Groups that no class names any more.
    pub(super) fn forget_groups(&mut self) {
        if self.known_groups.is_empty() {
            return;
        }
        let named: std::collections::BTreeSet<GroupId> =
            self.wants.values().filter_map(|want| Within::of(want.strategy())).map(|within| within.group).collect();
        self.known_groups.retain(|group, _| named.contains(group));
    }

    /// Why the calls of a class can never run in their group, with the code of their error.
    pub(super) fn why_not_in_group(&self, within: &Within, shape: &Resources) -> Option<(String, &'static str)> {
        let places = self.known_groups.get(&within.group)?.as_ref()?;
        if let GroupLife::Removed { text } = &places.life {
            return Some((text.clone(), "task_group_removed"));
        }
        let may_use = |at: usize| within.bundle < 0 || at == within.bundle as usize;
        let fits = places.bundles.iter().enumerate().any(|(at, room)| may_use(at) && shape.fits_in(room));
        let which = || match within.bundle {
            -1 => "any bundle".to_owned(),
            bundle => format!("bundle {bundle}"),
        };
        let name = hex(&within.group.bytes());
        (!fits).then(|| {
            (
                format!("a request for {{{shape}}} does not fit into {} of placement group {name}\nhint: ask for less, or make its bundles larger", which()),
                "unschedulable",
            )
        })
    }

    /// Leases by node for a class with a place in a group. Here first; all others that could are asked for what is missing.
    pub(super) fn plan_in_group(&self, owner: ProcId, class: ClassId, within: &Within) -> BTreeMap<NodeIndex, u32> {
        let (want, me) = (&self.wants[&(owner, class)], self.config.index);
        let Some(places) = self.known_groups.get(&within.group).and_then(Option::as_ref) else { return BTreeMap::new() };
        let mut slots: BTreeMap<NodeIndex, u32> = BTreeMap::new();
        for (bundle, node) in places.nodes.iter().enumerate() {
            let Some(node) = node.filter(|_| within.bundle < 0 || bundle == within.bundle as usize) else { continue };
            *slots.entry(node).or_insert(0) += want.shape().slots_in(&places.bundles[bundle], want.wanted());
        }
        let here: u32 = self
            .bundles_of(within.group)
            .filter(|(key, _)| within.bundle < 0 || key.1 == within.bundle as u32)
            .map(|(_, bundle)| want.shape().slots_in(bundle.free(), want.wanted()))
            .sum();
        let left = want.wanted().saturating_sub(here);
        slots.into_iter().filter(|(node, slots)| *node != me && *slots > 0).map(|(node, slots)| (node, slots.min(left))).collect()
    }

    /// Nothing of the group can ever take it: its calls fail, each time anew.
    pub(super) fn tell_not_in_group(&mut self, owner: ProcId, class: ClassId, within: &Within) {
        let want = &self.wants[&(owner, class)];
        if want.wanted() == 0 || owner.node() != self.config.index {
            return;
        }
        if let Some((text, code)) = self.why_not_in_group(within, want.shape()) {
            self.send(owner, FromNode::Infeasible { class, text, code: code.into() });
        }
    }

    /// What is known here of a request for a place in a group: for `ray why`. The asker goes on with the group itself.
    pub(super) fn report_in_group(&self, within: &Within, shape: &Resources, stopped: &[ProcId]) -> Vec<Fact> {
        let mut facts = vec![Fact::InGroup { group: within.group, bundle: within.bundle }];
        let infeasible = self.why_not_in_group(within, shape).map(|(text, _)| text).unwrap_or_default();
        facts.push(Fact::Wants { shape: shape.clone(), infeasible });
        let mut here = self.bundles_of(within.group).filter(|(key, _)| within.bundle < 0 || key.1 == within.bundle as u32).peekable();
        if here.peek().is_none() {
            return facts;
        }
        let (mut total, mut available) = (Resources::default(), Resources::default());
        for (_, bundle) in here {
            total.add(bundle.shape());
            available.add(bundle.free());
        }
        let asked = |of: &Resources| Resources(shape.0.keys().map(|name| (name.clone(), of.get(name))).collect());
        let fits = self.pool_for(&ray_proto::Strategy::Group { group: within.group, bundle: within.bundle, capture: false }, &[shape], None).is_some();
        let (total, available) = (asked(&total), asked(&available));
        facts.push(Fact::Room { fits, total, available, idle_workers: self.idle_workers() as u32, starting_workers: 0, trouble: String::new() });
        let uses = |proc_id: &ProcId| {
            self.pool_of(*proc_id).is_some_and(|(group, bundle)| group == within.group && (within.bundle < 0 || bundle == within.bundle as u32))
        };
        facts.extend(self.procs.keys().filter(|id| !fits && uses(id)).map(|id| self.report_process(*id, stopped)));
        facts
    }
}

type ProcClass = (ProcId, ClassId);
