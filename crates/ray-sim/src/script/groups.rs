//! Placement groups in random programs. They take of a resource of their own, "bay", so that a group that is kept starves nobody but groups.
//!
//! A group that calls may name ends after a while, whatever becomes of its creator: so nobody waits for ever. The others stay until the program's end; nobody
//! uses them, and one that could be placed must not wait (`World::check_groups_at_rest`).

use super::{inline_value, Process};
use crate::env::{daemon, Env, Event};
use crate::frame::{Frame, Handle};
use crate::oracle::{token, Made};
use crate::world::World;
use ray_logic::packing::{Free, Puzzle};
use ray_proto::groups::{GroupSpec, Packing};
use ray_proto::msg::ToNode;
use ray_proto::{Blob, GroupId, NodeIndex, Payload, Resources, Strategy};
use std::collections::{BTreeMap, BTreeSet};

/// A label of every machine. Every other one stands in the same rack.
pub const RACK: &str = "rack";

/// A group of the program.
#[derive(Clone, Debug)]
pub struct Planned {
    pub group: GroupId,
    pub bundles: u32,
}

/// How much of it every node has.
pub fn bays(amount: u32) -> Resources {
    Resources::from_f64([("bay", f64::from(amount))])
}

impl Process {
    pub fn use_groups(&mut self, env: &mut Env, frame: &mut Frame) {
        if frame.pure {
            return;
        }
        match env.rng.below(10) {
            0..=4 => self.make_group(env),
            5..=8 => self.wait_for_group(env, frame),
            _ => {
                if let Some(planned) = env.rng.pick(&env.groups.clone()) {
                    env.end_group(planned.group);
                    self.to_node(env, ToNode::GroupRemove { group: planned.group });
                }
            }
        }
    }

    fn make_group(&mut self, env: &mut Env) {
        if env.options.groups == 0 {
            return;
        }
        env.options.groups -= 1;
        let most = if env.rng.permille(300) { 5 } else { 2 };
        let count = env.rng.range(1, most) as u32;
        let packing = env.rng.pick(&[Packing::Pack {}, Packing::Spread {}, Packing::StrictPack {}, Packing::StrictSpread {}]).expect("one");
        let sizes: Vec<u32> = (0..count).map(|_| env.rng.range(1, 2) as u32).collect();
        let spec = GroupSpec {
            bundles: sizes.iter().map(|size| bays(*size)).collect(),
            selectors: vec![],
            packing,
            domain: if env.rng.permille(200) { RACK.into() } else { String::new() },
            name: String::new(),
            namespace: String::new(),
            detached: env.rng.permille(200),
            soft_node: Blob::EMPTY,
            creator: None,
        };
        let group = self.owner.new_group_id();
        env.note(self.id, || format!("creates {group:?}: {spec:?}"));
        self.owner.create_group(0, group, Box::new(spec));
        env.all_groups.insert(group);
        if env.rng.permille(800) {
            env.groups.push(Planned { group, bundles: count });
            let life = [1_000, 20_000, 300_000, 4_000_000][env.rng.below(4) as usize];
            let delay = env.rng.range(10, life);
            env.post(delay, Event::GroupEnds(group));
        }
    }

    fn wait_for_group(&mut self, env: &mut Env, frame: &mut Frame) {
        let Some(planned) = env.rng.pick(&env.groups.clone()) else { return };
        let value = inline_value(token(self.owner.next_put_id()));
        let id = self.owner.await_group(planned.group, Payload { value, refs: vec![] });
        env.note(self.id, || format!("{id:?} waits for {:?}", planned.group));
        env.oracle.made.insert(id, Made { path: frame.path.clone(), pure: true, ready: true });
        env.oracle.contents.insert(id, vec![]);
        env.oracle.handle_made(self.id, id);
        frame.handles.push(Handle { id, view: None });
    }
}

/// A place in a group, and what may be asked for there.
pub fn some_place(env: &mut Env) -> Option<(Strategy, Resources)> {
    let planned = env.rng.pick(&env.groups.clone())?;
    let bundle = if env.rng.permille(500) { -1 } else { env.rng.below(u64::from(planned.bundles)) as i32 };
    let shape = if env.rng.permille(700) { bays(1) } else { Resources::default() };
    Some((Strategy::Group { group: planned.group, bundle, capture: false }, shape))
}

impl Env {
    /// What runs there is killed, what waits for it fails.
    pub fn end_group(&mut self, group: GroupId) {
        self.oracle.killed_any = true;
        self.oracle.groups_ended.insert(group);
    }
}

impl World {
    /// Its time is over. Its creator removes it, and a driver does, too: the creator's word may be lost with its node.
    pub fn group_ends(&mut self, group: GroupId) {
        self.env.end_group(group);
        for by in [Some(group.owner), self.drivers.first().copied()].into_iter().flatten() {
            if let Some(process) = self.procs.get(&by) {
                process.to_node(&mut self.env, ToNode::GroupRemove { group });
            }
        }
    }

    /// At the end of the program every group goes.
    pub fn end_groups(&mut self) {
        for group in self.env.all_groups.clone() {
            self.group_ends(group);
        }
    }

    /// What the head counts as created is set aside where it says, by the rules of its strategy.
    pub fn check_groups(&mut self) {
        if self.env.all_groups.is_empty() {
            return;
        }
        let mut created: Vec<(GroupId, GroupSpec, Vec<NodeIndex>)> = Vec::new();
        let head = self.node(NodeIndex::HEAD).head().expect("the head");
        for (group, spec, nodes) in head.created_groups() {
            if !spec.domain.is_empty() {
                let racks: BTreeSet<&String> = nodes.iter().flatten().filter_map(|node| head.members().get(node)?.labels.get(RACK)).collect();
                assert!(racks.len() <= 1, "one rack was asked for, and bundles are on {nodes:?}");
            }
            created.push((group, spec.clone(), nodes.iter().flatten().copied().collect()));
        }
        let mut promised: BTreeMap<NodeIndex, Resources> = BTreeMap::new();
        for (group, spec, nodes) in created {
            assert_eq!(nodes.len(), spec.bundles.len(), "{group:?} counts as created and has bundles on {nodes:?} only");
            let different: BTreeSet<NodeIndex> = nodes.iter().copied().collect();
            match spec.packing {
                Packing::StrictPack {} => assert_eq!(different.len(), 1, "STRICT_PACK on {nodes:?}"),
                Packing::StrictSpread {} => assert_eq!(different.len(), nodes.len(), "STRICT_SPREAD on {nodes:?}"),
                _ => {}
            }
            for (bundle, node) in nodes.iter().enumerate() {
                promised.entry(*node).or_default().add(&spec.bundles[bundle]);
                let Some(machine) = self.machines.get(node).filter(|machine| !machine.is_lost) else { continue };
                let found = machine.node.reserved_bundles().find(|(key, ..)| *key == (group, bundle as u32));
                assert!(
                    found.is_some_and(|(_, shape, committed)| committed && *shape == spec.bundles[bundle]),
                    "{group:?} counts as created, and bundle {bundle} is not set aside by {:?}: {found:?}",
                    daemon(*node)
                );
            }
        }
        for (node, sum) in promised {
            if let Some(machine) = self.machines.get(&node) {
                assert!(sum.fits_in(machine.node.total()), "the bundles of {:?} are {sum}, of {}", daemon(node), machine.node.total());
            }
        }
    }

    /// When all is quiet no group waits that could be placed, and nothing is set aside for no group.
    pub fn check_groups_at_rest(&mut self) {
        self.check_groups();
        let free: Free =
            self.machines.iter().filter(|(_, machine)| !machine.is_lost).map(|(index, machine)| (*index, machine.node.available().clone())).collect();
        let set_aside: BTreeSet<GroupId> = self
            .machines
            .values()
            .filter(|machine| !machine.is_lost)
            .flat_map(|machine| machine.node.reserved_bundles().map(|((group, _), ..)| group))
            .collect();
        let head = self.node(NodeIndex::HEAD).head().expect("the head");
        let members = head.members().clone();
        let living: BTreeSet<GroupId> = head.living_groups().map(|(group, ..)| group).collect();
        let left: Vec<&GroupId> = set_aside.difference(&living).collect();
        assert!(left.is_empty(), "all is quiet, and bundles are set aside for {left:?}, which are no more");
        for (group, spec, fixed) in head.living_groups() {
            let waits = fixed.len() < spec.bundles.len();
            let could_go = waits && Puzzle::new(spec, &members, free.clone(), &fixed).solve().is_some();
            assert!(!could_go, "all is quiet, and {group:?} waits although there is room for it: {spec:?} in {free:?}");
        }
    }
}
