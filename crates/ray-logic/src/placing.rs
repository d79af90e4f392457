//! Which nodes may take something, which of them should, and why none can. Shared by the head (actors) and the nodes (leases).

use ray_proto::cluster::{LabelTerm, NodeInfo};
use ray_proto::{hex, NodeIndex, Resources, Strategy, UNIT};
use std::collections::{BTreeMap, BTreeSet};

/// Living nodes, by index.
pub type Members = BTreeMap<NodeIndex, NodeInfo>;

/// Up to this part of a node is filled before the next one is used. Source: engine brief, "pack to 50 %, then spread".
const PACKED_PERMILLE: i64 = 500;

/// What a strategy makes of the members.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Nodes that may take it, whether their resources would do or not.
    pub allowed: Vec<NodeIndex>,
    /// Those of them to try before all others, group by group.
    pub tiers: Vec<Vec<NodeIndex>>,
    /// In turn, instead of one after another.
    pub spread: bool,
    /// It names a node that is not there: nothing that comes will change that.
    pub hopeless: bool,
}

impl Choice {
    /// The lower, the sooner a node is tried.
    pub fn tier(&self, node: NodeIndex) -> usize {
        self.tiers.iter().position(|tier| tier.contains(&node)).unwrap_or(self.tiers.len())
    }
}

pub fn choose(strategy: &Strategy, shape: &Resources, members: &Members) -> Choice {
    let all = || members.keys().copied().collect::<Vec<_>>();
    match strategy {
        Strategy::Default {} => Choice { allowed: all(), ..Choice::default() },
        Strategy::Near { node } => Choice { allowed: all(), tiers: vec![vec![*node]], ..Choice::default() },
        Strategy::Spread {} => Choice { allowed: all(), spread: true, ..Choice::default() },
        Strategy::Node { node_id, soft } => match members.values().find(|info| info.node_id == *node_id) {
            // Compat: a soft one stays with its node as long as that could ever do it.
            Some(info) if !soft || shape.fits_in(&info.total) => Choice { allowed: vec![info.index], ..Choice::default() },
            None if !soft => Choice { hopeless: true, ..Choice::default() },
            _ => Choice { allowed: all(), ..Choice::default() },
        },
        // Only the group's bundles take it: head/groups.rs, node/groups.rs.
        Strategy::Group { .. } => Choice::default(),
        Strategy::Labels { any } => {
            let meet = |terms: &Vec<LabelTerm>| members.values().filter(|info| terms.iter().all(|term| info.meets(term))).map(|info| info.index).collect();
            let tiers: Vec<Vec<NodeIndex>> = any.iter().map(meet).collect();
            let allowed: BTreeSet<NodeIndex> = tiers.iter().flatten().copied().collect();
            Choice { allowed: allowed.into_iter().collect(), tiers, ..Choice::default() }
        }
    }
}

/// The busiest of a node's CPUs, GPUs and memory, in thousandths.
pub fn load(total: &Resources, available: &Resources) -> i64 {
    let used = |name: &str| match total.get(name) {
        0 => 0,
        whole => (whole - available.get(name)) * 1000 / whole,
    };
    ["CPU", "GPU", "memory"].into_iter().map(used).max().unwrap_or(0)
}

/// Sorts nodes: the little used first, in their order, then the least used.
pub fn rank(total: &Resources, available: &Resources) -> i64 {
    load(total, available).max(PACKED_PERMILLE)
}

/// Why no node can ever take it, by reason; None: one could.
pub fn explain(shape: &Resources, strategy: &Strategy, members: &Members) -> Option<String> {
    let choice = choose(strategy, shape, members);
    if choice.allowed.iter().any(|index| shape.fits_in(&members[index].total)) {
        return None;
    }
    if let Strategy::Node { node_id, .. } = strategy {
        if choice.hopeless {
            let hex = hex(node_id);
            return Some(format!("it may only run on node {hex}, which is dead or was never part of the cluster.\nhint: soft=True lets other nodes take it"));
        }
    }
    let mut reasons: Vec<String> = shape.0.iter().filter_map(|(name, need)| lacking(name, *need, &choice.allowed, members)).collect();
    let unlike = members.len() - choice.allowed.len();
    if unlike > 0 {
        reasons.push(format!("{unlike} {}", unlike_text(strategy)));
    }
    let nodes = if members.len() == 1 { "the only node".to_owned() } else { format!("{} nodes", members.len()) };
    Some(format!("a request for {{{shape}}} can't be satisfied by the cluster as it is and stays pending ({nodes}: {}).\nhint: add a node that can (ray start --address=...), or ask for less", reasons.join("; ")))
}

fn lacking(name: &str, need: i64, allowed: &[NodeIndex], members: &Members) -> Option<String> {
    let have: Vec<i64> = allowed.iter().map(|index| members[index].total.get(name)).collect();
    let short = have.iter().filter(|have| **have < need).count();
    let best = have.iter().max().copied().unwrap_or(0);
    (short > 0).then(|| format!("{short} lack {name} (need {}, best {})", amount(need), amount(best)))
}

fn unlike_text(strategy: &Strategy) -> String {
    match strategy {
        Strategy::Labels { any } => {
            let all_of = |terms: &Vec<LabelTerm>| terms.iter().map(term_text).collect::<Vec<_>>().join(" and ");
            format!("without {}", any.iter().map(all_of).collect::<Vec<_>>().join(", or "))
        }
        _ => "not asked for".to_owned(),
    }
}

fn term_text(term: &LabelTerm) -> String {
    let values = term.values.join("|");
    match (term.absent, term.values.is_empty()) {
        (false, false) => format!("label {}={values}", term.key),
        (true, false) => format!("label {}!={values}", term.key),
        (false, true) => format!("label {}", term.key),
        (true, true) => format!("no label {}", term.key),
    }
}

fn amount(fixed: i64) -> f64 {
    fixed as f64 / UNIT as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_proto::Blob;

    fn members(nodes: &[(f64, f64, &str)]) -> Members {
        let info = |(at, (cpu, gpu, zone)): (usize, &(f64, f64, &str))| NodeInfo {
            index: NodeIndex(at as u16),
            node_id: Blob::from(vec![at as u8; 28]),
            address: String::new(),
            host: String::new(),
            pid: 1,
            total: Resources::from_f64([("CPU", *cpu), ("GPU", *gpu)]),
            labels: [("zone".to_owned(), (*zone).to_owned())].into(),
            python: String::new(),
            started_ms: 0,
            death: String::new(),
        };
        nodes.iter().enumerate().map(info).map(|info| (info.index, info)).collect()
    }

    #[test]
    fn an_impossible_request_is_explained_by_reason() {
        let nodes = members(&[(4.0, 0.0, "a"), (4.0, 6.0, "a"), (8.0, 8.0, "b")]);
        let shape = Resources::from_f64([("GPU", 8.0)]);
        assert_eq!(explain(&shape, &Strategy::DEFAULT, &nodes), None);
        let hard = vec![LabelTerm { key: "zone".into(), values: vec!["a".into()], absent: false }];
        let text = explain(&shape, &Strategy::Labels { any: vec![hard] }, &nodes).expect("none can");
        assert!(text.contains("3 nodes: 2 lack GPU (need 8, best 6); 1 without label zone=a"), "{text}");
    }

    #[test]
    fn labels_are_tried_one_set_after_another() {
        let nodes = members(&[(1.0, 0.0, "a"), (1.0, 0.0, "b"), (1.0, 0.0, "c")]);
        let zone = |name: &str| vec![LabelTerm { key: "zone".into(), values: vec![name.into()], absent: false }];
        let chosen = |any: Vec<Vec<LabelTerm>>| choose(&Strategy::Labels { any }, &Resources::default(), &nodes);
        let choice = chosen(vec![zone("b"), zone("a")]);
        assert_eq!((choice.allowed.clone(), choice.tier(NodeIndex(1)), choice.tier(NodeIndex(0))), (vec![NodeIndex(0), NodeIndex(1)], 0, 1));
        let choice = chosen(vec![zone("x"), vec![]]);
        assert_eq!((choice.allowed.len(), choice.tier(NodeIndex(2))), (3, 1), "no condition: every node");
        let impossible = Strategy::Labels { any: vec![zone("x"), zone("y")] };
        let text = explain(&Resources::default(), &impossible, &nodes).expect("none can");
        assert!(text.contains("3 without label zone=x, or label zone=y"), "{text}");
    }

    #[test]
    fn a_hard_affinity_to_a_node_that_is_not_there_is_hopeless_and_a_soft_one_is_not() {
        let (nodes, shape) = (members(&[(1.0, 0.0, "a")]), Resources::default());
        let to = |soft| Strategy::Node { node_id: Blob::from(vec![9; 28]), soft };
        assert!(choose(&to(false), &shape, &nodes).hopeless && explain(&shape, &to(false), &nodes).is_some());
        assert_eq!(choose(&to(true), &shape, &nodes).allowed, [NodeIndex(0)]);
    }
}
