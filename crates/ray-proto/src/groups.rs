//! Placement groups: bundles of resources that are reserved together, or not at all (docs/design/012).

use crate::cluster::LabelTerm;
use crate::ids::{ActorId, GroupId, NodeIndex};
use crate::resources::Resources;
use crate::value::Blob;
use crate::{wire_enum, wire_struct, Strategy};

wire_enum! {
    /// How the bundles lie to each other.
    pub enum Packing {
        /// On few nodes, where that can be.
        0 = Pack {},
        /// On many nodes, where that can be.
        1 = Spread {},
        /// On one node.
        2 = StrictPack {},
        /// No two on one node.
        3 = StrictSpread {},
    }
}

wire_enum! {
    pub enum GroupLife {
        /// Its resources are not reserved yet.
        0 = Pending {},
        1 = Created {},
        /// It was created, and some of its bundles went with their node.
        2 = Rescheduling {},
        3 = Removed { text: String },
    }
}

wire_struct! {
    pub struct GroupSpec {
        pub bundles: Vec<Resources>,
        /// Conditions on the node of each bundle; empty: none for any.
        pub selectors: Vec<Vec<LabelTerm>>,
        pub packing: Packing,
        /// A label of which all its nodes have the same value, whatever it is, such as a rack; empty for none.
        pub domain: String,
        /// Empty for none.
        pub name: String,
        pub namespace: String,
        /// It outlives its job.
        pub detached: bool,
        /// Of `StrictPack`: the node to try first; empty for none.
        pub soft_node: Blob,
        /// The actor that created it: one that outlives its job keeps its groups.
        pub creator: Option<ActorId>,
    }

    /// Where the bundles of a group are, for nodes with calls for it.
    pub struct GroupPlaces {
        pub life: GroupLife,
        pub nodes: Vec<Option<NodeIndex>>,
        pub bundles: Vec<Resources>,
        /// Why it is not placed, if it isn't.
        pub why: String,
    }

    /// A group, for those who ask.
    pub struct GroupInfo {
        pub group: GroupId,
        pub spec: GroupSpec,
        pub life: GroupLife,
        pub nodes: Vec<Option<NodeIndex>>,
        /// Why it is not placed, if it isn't.
        pub why: String,
        /// No node could ever take it, as the cluster is.
        pub infeasible: bool,
        /// From its creation until it was placed; 0 until then.
        pub latency_us: u64,
        /// Plans that were tried with nodes.
        pub attempts: u32,
    }

    /// The group that a call or an actor runs in.
    pub struct Within {
        pub group: GroupId,
        /// Which bundle it asked for; -1: any.
        pub bundle: i32,
        /// What it starts goes there, too.
        pub capture: bool,
    }
}

impl Within {
    pub fn of(strategy: &Strategy) -> Option<Within> {
        match strategy {
            Strategy::Group { group, bundle, capture } => Some(Within { group: *group, bundle: *bundle, capture: *capture }),
            _ => None,
        }
    }
}

impl GroupPlaces {
    /// Of a group that is no more.
    pub fn removed(text: String) -> Self {
        GroupPlaces { life: GroupLife::Removed { text }, nodes: vec![], bundles: vec![], why: String::new() }
    }
}

impl Packing {
    /// As users write it.
    pub fn name(&self) -> &'static str {
        match self {
            Packing::Pack {} => "PACK",
            Packing::Spread {} => "SPREAD",
            Packing::StrictPack {} => "STRICT_PACK",
            Packing::StrictSpread {} => "STRICT_SPREAD",
        }
    }

    pub fn from_name(name: &str) -> Option<Packing> {
        [Packing::Pack {}, Packing::Spread {}, Packing::StrictPack {}, Packing::StrictSpread {}].into_iter().find(|packing| packing.name() == name)
    }
}

impl GroupLife {
    /// As users read it.
    pub fn name(&self) -> &'static str {
        match self {
            GroupLife::Pending {} => "PENDING",
            GroupLife::Created {} => "CREATED",
            GroupLife::Rescheduling {} => "RESCHEDULING",
            GroupLife::Removed { .. } => "REMOVED",
        }
    }
}
