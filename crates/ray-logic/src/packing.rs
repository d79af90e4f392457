//! Where the bundles of a placement group could lie. Pure: what is free goes in, a place for every bundle comes out, or none for any.

use crate::placing::{explain, load, Members};
use ray_proto::cluster::LabelTerm;
use ray_proto::groups::{GroupSpec, Packing};
use ray_proto::{NodeIndex, Resources, Strategy};
use std::collections::{BTreeMap, BTreeSet};

/// What each node has to give.
pub type Free = BTreeMap<NodeIndex, Resources>;
/// Bundles with their nodes.
pub type Plan = Vec<(u32, NodeIndex)>;

/// One group to be placed.
pub struct Puzzle<'a> {
    spec: &'a GroupSpec,
    members: &'a Members,
    free: Free,
    /// Bundles that have a node already, and keep it.
    fixed: &'a BTreeMap<u32, NodeIndex>,
}

impl<'a> Puzzle<'a> {
    pub fn new(spec: &'a GroupSpec, members: &'a Members, free: Free, fixed: &'a BTreeMap<u32, NodeIndex>) -> Self {
        Puzzle { spec, members, free, fixed }
    }

    /// A node for every bundle without one.
    pub fn solve(self) -> Option<Plan> {
        if self.spec.domain.is_empty() {
            return self.pack();
        }
        let plans = self.domains().into_iter().filter_map(|nodes| self.within(&nodes).pack());
        plans.min_by_key(|plan| plan.iter().map(|(_, node)| node).collect::<BTreeSet<_>>().len())
    }

    /// The nodes of each value of the label: one of them has them all. What is placed already has chosen.
    fn domains(&self) -> Vec<BTreeSet<NodeIndex>> {
        let mut by_value: BTreeMap<&str, BTreeSet<NodeIndex>> = BTreeMap::new();
        for (index, info) in self.members {
            if let Some(value) = info.labels.get(&self.spec.domain) {
                by_value.entry(value).or_default().insert(*index);
            }
        }
        by_value.into_values().filter(|nodes| self.fixed.values().all(|home| nodes.contains(home))).collect()
    }

    fn within(&self, nodes: &BTreeSet<NodeIndex>) -> Puzzle<'a> {
        let free = self.free.iter().filter(|(node, _)| nodes.contains(node)).map(|(node, room)| (*node, room.clone())).collect();
        Puzzle { spec: self.spec, members: self.members, free, fixed: self.fixed }
    }

    fn pack(mut self) -> Option<Plan> {
        let open = self.open_bundles();
        match self.spec.packing {
            Packing::StrictPack {} => self.on_one_node(&open),
            Packing::StrictSpread {} => self.on_different_nodes(&open),
            Packing::Pack {} => self.on_one_node(&open).or_else(|| self.on_few_nodes(open)),
            Packing::Spread {} => self.on_many_nodes(&open).or_else(|| self.on_few_nodes(open)),
        }
    }

    /// The hardest to place first: those with conditions, then those that ask for what is rare, then the large ones.
    fn open_bundles(&self) -> Vec<u32> {
        let mut open: Vec<u32> = (0..self.spec.bundles.len() as u32).filter(|bundle| !self.fixed.contains_key(bundle)).collect();
        open.sort_by_cached_key(|bundle| {
            let shape = self.shape(*bundle);
            let rare: i64 = shape.0.iter().filter(|(name, _)| !["CPU", "memory", "object_store_memory"].contains(&name.as_str())).map(|(_, need)| *need).sum();
            std::cmp::Reverse((!self.terms(*bundle).is_empty(), rare, shape.get("CPU"), shape.get("memory")))
        });
        open
    }

    fn shape(&self, bundle: u32) -> &'a Resources {
        &self.spec.bundles[bundle as usize]
    }

    fn terms(&self, bundle: u32) -> &'a [LabelTerm] {
        self.spec.selectors.get(bundle as usize).map_or(&[], |terms| terms)
    }

    fn may_go(&self, bundle: u32, node: NodeIndex) -> bool {
        self.members.get(&node).is_some_and(|info| self.terms(bundle).iter().all(|term| info.meets(term)))
    }

    fn fits(&self, bundle: u32, node: NodeIndex) -> bool {
        self.shape(bundle).fits_in(&self.free[&node]) && self.may_go(bundle, node)
    }

    fn load(&self, node: NodeIndex) -> i64 {
        self.members.get(&node).map_or(0, |info| load(&info.total, &self.free[&node]))
    }

    fn on_one_node(&self, open: &[u32]) -> Option<Plan> {
        let mut sum = Resources::default();
        open.iter().for_each(|bundle| sum.add(self.shape(*bundle)));
        let strict = self.spec.packing == Packing::StrictPack {};
        let homes: BTreeSet<NodeIndex> = self.fixed.values().copied().collect();
        let is_soft = |node: &NodeIndex| self.members.get(node).is_some_and(|info| info.node_id == self.spec.soft_node);
        let takes_all = |node: &&NodeIndex| sum.fits_in(&self.free[*node]) && open.iter().all(|bundle| self.may_go(*bundle, **node));
        let allowed = self.free.keys().filter(|node| !strict || homes.is_empty() || homes.contains(node)).filter(takes_all);
        let node = *allowed.min_by_key(|node| (!homes.contains(node), !is_soft(node), **node))?;
        Some(open.iter().map(|bundle| (*bundle, node)).collect())
    }

    /// The node that takes most of what is left, again and again.
    fn on_few_nodes(&mut self, mut open: Vec<u32>) -> Option<Plan> {
        let mut plan = Plan::new();
        let mut used: BTreeSet<NodeIndex> = self.fixed.values().copied().collect();
        while !open.is_empty() {
            let taken = |node: &NodeIndex| self.taken_by(*node, &open);
            let best =
                self.free.keys().map(|node| (*node, taken(node))).max_by_key(|(node, taken)| (taken.len(), used.contains(node), std::cmp::Reverse(*node)));
            let (node, taken) = best.filter(|(_, taken)| !taken.is_empty())?;
            used.insert(node);
            self.free.remove(&node);
            open.retain(|bundle| !taken.contains(bundle));
            plan.extend(taken.into_iter().map(|bundle| (bundle, node)));
        }
        Some(plan)
    }

    /// Those of these bundles that go there together.
    fn taken_by(&self, node: NodeIndex, open: &[u32]) -> Vec<u32> {
        let mut left = self.free[&node].clone();
        let mut taken = Vec::new();
        for &bundle in open {
            if self.shape(bundle).fits_in(&left) && self.may_go(bundle, node) {
                left.subtract(self.shape(bundle));
                taken.push(bundle);
            }
        }
        taken
    }

    /// Each to the node with fewest of the group's bundles, the least loaded among those.
    fn on_many_nodes(&self, open: &[u32]) -> Option<Plan> {
        let mut left = self.free.clone();
        let mut counts: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        self.fixed.values().for_each(|node| *counts.entry(*node).or_insert(0) += 1);
        let mut plan = Plan::new();
        for &bundle in open {
            let fits = |node: &&NodeIndex| self.shape(bundle).fits_in(&left[*node]) && self.may_go(bundle, **node);
            let node = *left.keys().filter(fits).min_by_key(|node| (counts.get(node).copied().unwrap_or(0), self.load(**node), **node))?;
            *counts.entry(node).or_insert(0) += 1;
            left.get_mut(&node).expect("chosen among them").subtract(self.shape(bundle));
            plan.push((bundle, node));
        }
        Some(plan)
    }

    /// Each to a node of its own: a matching, made larger bundle by bundle along augmenting paths (H. W. Kuhn, 1955).
    fn on_different_nodes(&self, open: &[u32]) -> Option<Plan> {
        let homes: BTreeSet<NodeIndex> = self.fixed.values().copied().collect();
        let mut nodes: Vec<NodeIndex> = self.free.keys().copied().filter(|node| !homes.contains(node)).collect();
        if nodes.len() < open.len() {
            return None;
        }
        nodes.sort_by_cached_key(|node| (self.load(*node), *node));
        let mut taken: BTreeMap<NodeIndex, u32> = BTreeMap::new();
        for &bundle in open {
            if !self.augment(bundle, &nodes, &mut taken, &mut BTreeSet::new()) {
                return None;
            }
        }
        Some(taken.into_iter().map(|(node, bundle)| (bundle, node)).collect())
    }

    fn augment(&self, bundle: u32, nodes: &[NodeIndex], taken: &mut BTreeMap<NodeIndex, u32>, seen: &mut BTreeSet<NodeIndex>) -> bool {
        let fitting = || nodes.iter().copied().filter(|node| self.fits(bundle, *node));
        if let Some(node) = fitting().find(|node| !taken.contains_key(node)) {
            taken.insert(node, bundle);
            return true;
        }
        for node in fitting() {
            if seen.insert(node) && self.augment(taken[&node], nodes, taken, seen) {
                taken.insert(node, bundle);
                return true;
            }
        }
        false
    }
}

/// Why a group is not placed, and whether no node could ever take it as the cluster is. `free`: what the nodes have to give now.
pub fn why_not(spec: &GroupSpec, members: &Members, free: &Free, fixed: &BTreeMap<u32, NodeIndex>) -> (String, bool) {
    let totals: Free = members.iter().map(|(index, info)| (*index, info.total.clone())).collect();
    let sum = |of: &mut dyn Iterator<Item = &Resources>| {
        of.fold(Resources::default(), |mut sum, one| {
            sum.add(one);
            sum
        })
    };
    let wanted = sum(&mut spec.bundles.iter());
    if Puzzle::new(spec, members, totals.clone(), &BTreeMap::new()).solve().is_some() {
        let asked = |of: &Resources| Resources(wanted.0.keys().map(|name| (name.clone(), of.get(name))).collect());
        let rooms: Vec<String> = free.iter().map(|(index, room)| format!("node {}: {{{}}}", index.0, asked(room))).collect();
        let lost = if fixed.is_empty() { String::new() } else { format!(" for the {} bundles that it lost", spec.bundles.len() - fixed.len()) };
        let how = spec.packing.name();
        return (format!("it waits{lost} until its bundles ({how}, together {{{wanted}}}) fit at once; free are {}", rooms.join(", ")), false);
    }
    (format!("{}\nhint: add a node that can (ray start --address=...), or ask for less", never(spec, members, &wanted)), true)
}

/// What makes it impossible, as the cluster is.
fn never(spec: &GroupSpec, members: &Members, wanted: &Resources) -> String {
    for (bundle, shape) in spec.bundles.iter().enumerate() {
        let terms = spec.selectors.get(bundle).cloned().unwrap_or_default();
        if let Some(text) = explain(shape, &Strategy::Labels { any: vec![terms] }, members) {
            return format!("its bundle {bundle} fits on no node: {}", text.lines().next().unwrap_or_default());
        }
    }
    if !spec.domain.is_empty() {
        return format!("its bundles go to nodes with one and the same value of the label {:?}, and no such nodes have room for all ({wanted})", spec.domain);
    }
    match spec.packing {
        Packing::StrictPack {} => match explain(wanted, &Strategy::DEFAULT, members) {
            Some(text) => format!("STRICT_PACK puts all its bundles on one node: {}", text.lines().next().unwrap_or_default()),
            None => "STRICT_PACK puts all its bundles on one node, and no node with the labels that they ask for has room for all".into(),
        },
        Packing::StrictSpread {} => {
            format!("STRICT_SPREAD needs {} different nodes that fit its bundles, and there are fewer (the cluster has {})", spec.bundles.len(), members.len())
        }
        _ => format!("its bundles need {{{wanted}}} together, which the cluster does not have in such pieces"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_proto::cluster::NodeInfo;
    use ray_proto::Blob;

    fn members(cpus: &[f64]) -> Members {
        let info = |(at, cpus): (usize, &f64)| NodeInfo {
            index: NodeIndex(at as u16),
            node_id: Blob::from(vec![at as u8; 28]),
            address: String::new(),
            host: String::new(),
            pid: 1,
            total: Resources::from_f64([("CPU", *cpus)]),
            labels: [("at".to_owned(), at.to_string())].into(),
            python: String::new(),
            started_ms: 0,
            death: String::new(),
        };
        cpus.iter().enumerate().map(info).map(|info| (info.index, info)).collect()
    }

    fn spec(packing: Packing, cpus: &[f64]) -> GroupSpec {
        GroupSpec {
            bundles: cpus.iter().map(|n| Resources::from_f64([("CPU", *n)])).collect(),
            selectors: vec![],
            packing,
            domain: String::new(),
            name: String::new(),
            namespace: String::new(),
            detached: false,
            soft_node: Blob::EMPTY,
            creator: None,
        }
    }

    fn free(members: &Members) -> Free {
        members.iter().map(|(index, info)| (*index, info.total.clone())).collect()
    }

    fn solve(spec: &GroupSpec, cpus: &[f64], fixed: &[(u32, u16)]) -> Option<Vec<u16>> {
        solve_on(&members(cpus), spec, fixed)
    }

    fn solve_on(members: &Members, spec: &GroupSpec, fixed: &[(u32, u16)]) -> Option<Vec<u16>> {
        let fixed = fixed.iter().map(|(bundle, node)| (*bundle, NodeIndex(*node))).collect();
        let mut plan = Puzzle::new(spec, members, free(members), &fixed).solve()?;
        plan.sort_unstable();
        Some(plan.into_iter().map(|(_, node)| node.0).collect())
    }

    #[test]
    fn strict_pack_takes_one_node_for_all_or_none() {
        let group = spec(Packing::StrictPack {}, &[1.0, 1.0]);
        assert_eq!(solve(&group, &[1.0, 2.0], &[]), Some(vec![1, 1]));
        assert_eq!(solve(&group, &[1.0, 1.0], &[]), None);
    }

    #[test]
    fn pack_uses_few_nodes_and_spread_many() {
        assert_eq!(solve(&spec(Packing::Pack {}, &[1.0, 1.0, 1.0]), &[1.0, 2.0, 4.0], &[]), Some(vec![2, 2, 2]));
        assert_eq!(solve(&spec(Packing::Pack {}, &[1.0, 1.0, 1.0]), &[1.0, 2.0], &[]).map(|plan| plan.iter().filter(|n| **n == 1).count()), Some(2));
        assert_eq!(solve(&spec(Packing::Spread {}, &[1.0, 1.0]), &[2.0, 2.0], &[]), Some(vec![0, 1]));
        assert_eq!(solve(&spec(Packing::Spread {}, &[1.0, 1.0]), &[2.0, 0.5], &[]), Some(vec![0, 0]));
    }

    #[test]
    fn strict_spread_moves_earlier_bundles_out_of_the_way() {
        // The small bundle alone would take either node; the large one fits only one.
        let mut group = spec(Packing::StrictSpread {}, &[1.0, 1.0]);
        let term = |node: &str| vec![LabelTerm { key: "at".into(), values: vec![node.into()], absent: false }];
        group.selectors = vec![vec![], term("0")];
        assert_eq!(solve(&group, &[2.0, 2.0], &[]), Some(vec![1, 0]));
        group.selectors = vec![term("0"), term("0")];
        assert_eq!(solve(&group, &[2.0, 2.0], &[]), None);
    }

    /// Nodes 0 and 1 stand in one rack, 2 and 3 in another; node 4 in none.
    fn racks(cpus: &[f64]) -> Members {
        let mut nodes = members(cpus);
        nodes.values_mut().filter(|info| info.index.0 < 4).for_each(|info| drop(info.labels.insert("rack".into(), (info.index.0 / 2).to_string())));
        nodes
    }

    #[test]
    fn bundles_of_one_domain_share_the_value_of_its_label() {
        let mut group = spec(Packing::StrictSpread {}, &[1.0, 1.0]);
        group.domain = "rack".into();
        let on = |group: &GroupSpec, cpus: &[f64], fixed: &[(u32, u16)]| solve_on(&racks(cpus), group, fixed);
        assert_eq!(on(&group, &[1.0, 0.0, 1.0, 1.0, 9.0], &[]), Some(vec![2, 3]));
        assert_eq!(on(&group, &[1.0, 0.0, 0.0, 1.0, 9.0], &[]), None);
        assert_eq!(on(&group, &[1.0, 1.0, 1.0, 1.0, 9.0], &[(0, 3)]), Some(vec![2]));
        // Of two racks the one where fewer nodes do.
        group.packing = Packing::Pack {};
        assert_eq!(on(&group, &[1.0, 1.0, 1.0, 2.0, 9.0], &[]), Some(vec![3, 3]));
        let (text, never) = why_not(&group, &racks(&[1.0, 0.0, 0.0, 1.0, 9.0]), &Free::new(), &BTreeMap::new());
        assert!(never && text.contains("\"rack\""), "{text}");
    }

    #[test]
    fn what_has_a_node_counts_for_the_rest() {
        assert_eq!(solve(&spec(Packing::StrictSpread {}, &[1.0, 1.0]), &[4.0, 4.0], &[(0, 1)]), Some(vec![0]));
        assert_eq!(solve(&spec(Packing::StrictPack {}, &[1.0, 1.0]), &[4.0, 4.0], &[(0, 1)]), Some(vec![1]));
    }

    #[test]
    fn what_is_impossible_is_told_from_what_is_not_free_now() {
        let nodes = members(&[2.0, 2.0]);
        let why = |group: &GroupSpec| why_not(group, &nodes, &free(&nodes), &BTreeMap::new());
        let (text, never) = why(&spec(Packing::StrictSpread {}, &[1.0, 1.0, 1.0]));
        assert!(never && text.contains("3 different nodes") && text.contains("has 2"), "{text}");
        let (text, never) = why(&spec(Packing::Pack {}, &[3.0]));
        assert!(never && text.contains("bundle 0") && text.contains("need 3, best 2"), "{text}");
        let (text, never) = why(&spec(Packing::StrictPack {}, &[1.0, 2.0]));
        assert!(never && text.contains("one node"), "{text}");
        assert!(!why(&spec(Packing::Pack {}, &[2.0, 2.0])).1);
    }
}
