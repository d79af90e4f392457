//! Bundles of placement groups: resources set aside here, and who uses them.
//!
//! Invariants (checked by `check_invariants`)
//! 1. What a bundle has left plus what leases and actors hold of it, minus the CPUs of those that block, is what was set aside for it.
//! 2. Nobody uses a bundle that is not committed. One that is not committed in time goes back.
//! 3. A bundle that ends leaves what its users hold to the node's own books, until they are gone.

use super::sched::Devices;
use super::Node;
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::{GroupId, ProcId, Resources, Strategy};
use std::collections::BTreeMap;

/// The head commits within this, or has other plans. It answers at once while it runs.
const RESERVED: Time = 2_000_000;

/// Where a lease or an actor has its resources from: a bundle, or the node itself.
pub(super) type Pool = Option<(GroupId, u32)>;

#[derive(Debug)]
pub(super) struct Bundle {
    shape: Resources,
    free: Resources,
    devices: Devices,
    round: u32,
    /// None: it is there to stay.
    expires: Option<Time>,
}

impl Bundle {
    pub(super) fn free(&self) -> &Resources {
        &self.free
    }

    pub(super) fn shape(&self) -> &Resources {
        &self.shape
    }
}

/// What is still to be given in one pass of the scheduler: of the node itself, and of bundles that something was promised of.
pub(super) struct Room {
    pub(super) node: Resources,
    bundles: BTreeMap<(GroupId, u32), Resources>,
}

impl Room {
    /// It was not only promised but given: a bundle's own books show that, unless they were copied before.
    pub(super) fn spent(&mut self, pool: Pool, shape: &Resources) {
        match pool {
            None => self.node.subtract(shape),
            Some(key) => _ = self.bundles.get_mut(&key).map(|left| left.subtract(shape)),
        }
    }
}

impl Node {
    // ---- using

    pub(super) fn whole_room(&self) -> Room {
        Room { node: self.available.clone(), bundles: BTreeMap::new() }
    }

    /// Where something of these shapes can have its resources from now. `room`: what is left of it all, if not everything.
    pub(super) fn pool_for(&self, strategy: &Strategy, shapes: &[&Resources], room: Option<&Room>) -> Option<Pool> {
        let fits = |free: &Resources| shapes.iter().all(|shape| shape.fits_in(free));
        let Strategy::Group { group, bundle, .. } = strategy else {
            return fits(room.map_or(&self.available, |room| &room.node)).then_some(None);
        };
        let left = |key: &(GroupId, u32), bundle: &Bundle| fits(room.and_then(|room| room.bundles.get(key)).unwrap_or(&bundle.free));
        let asked = |(key, _): &(&(GroupId, u32), &Bundle)| *bundle < 0 || key.1 == *bundle as u32;
        let usable = |(key, bundle): &(&(GroupId, u32), &Bundle)| {
            bundle.expires.is_none() && left(key, bundle) && shapes.iter().all(|shape| bundle.devices.find(shape).is_some())
        };
        self.bundles_of(*group).filter(asked).find(usable).map(|(key, _)| Some(*key))
    }

    pub(super) fn bundles_of(&self, group: GroupId) -> impl Iterator<Item = (&(GroupId, u32), &Bundle)> {
        self.bundles.range((group, 0)..=(group, u32::MAX))
    }

    pub(super) fn promise(&self, room: &mut Room, pool: Pool, shape: &Resources) {
        match pool {
            None => room.node.subtract(shape),
            Some(key) => room.bundles.entry(key).or_insert_with(|| self.bundles[&key].free.clone()).subtract(shape),
        }
    }

    /// What is free there.
    pub(super) fn free_in(&mut self, pool: Pool) -> &mut Resources {
        match pool {
            None => &mut self.available,
            Some(key) => &mut self.bundles.get_mut(&key).expect("a bundle that is used").free,
        }
    }

    pub(super) fn devices_in(&mut self, pool: Pool) -> &mut Devices {
        match pool {
            None => &mut self.devices,
            Some(key) => &mut self.bundles.get_mut(&key).expect("a bundle that is used").devices,
        }
    }

    /// Resources return; the CPUs of a blocked holder are back already.
    pub(super) fn give_back(&mut self, pool: Pool, held: &Resources, devices: &[(u32, i64)], blocked: bool) {
        let free = self.free_in(pool);
        free.add(held);
        if blocked {
            free.subtract(&held.cpu_only());
        }
        self.devices_in(pool).release(devices);
    }

    // ---- setting aside

    /// All of them, or none.
    pub(super) fn bundles_wanted(&mut self, now: Time, (group, round): (GroupId, u32), commit: bool, bundles: Vec<(u32, Resources)>) {
        let known = |(bundle, _): &(u32, Resources)| self.bundles.get(&(group, *bundle)).is_some_and(|known| known.round == round);
        if !bundles.iter().all(known) {
            // The head would not ask if it counted on what an earlier round left.
            let stale: Vec<u32> = bundles.iter().map(|(bundle, _)| *bundle).filter(|bundle| self.bundles.contains_key(&(group, *bundle))).collect();
            self.bundles_dropped(now, group, &stale, "the group is placed anew");
            if !self.set_aside(now, (group, round), &bundles) {
                let view = self.fresh_view();
                return self.say_to_head(NodeMessage::BundlesRefused { group, round, view });
            }
        }
        self.say_to_head(NodeMessage::BundlesReserved { group, round });
        // What the head counts on from now on is not what it was told last.
        self.view_is_stale();
        if commit {
            self.keep(group, round);
            self.schedule(now);
        }
    }

    fn set_aside(&mut self, now: Time, (group, round): (GroupId, u32), bundles: &[(u32, Resources)]) -> bool {
        let mut room = self.whole_room();
        self.reserve_for_actors(&mut room);
        for (_, shape) in bundles {
            if !shape.fits_in(&room.node) {
                return false;
            }
            room.node.subtract(shape);
        }
        let mut devices = Vec::with_capacity(bundles.len());
        for (_, shape) in bundles {
            match self.devices.assign(shape) {
                Some(taken) => devices.push(taken),
                None => {
                    devices.iter().for_each(|taken| self.devices.release(taken));
                    return false;
                }
            }
        }
        for ((bundle, shape), devices) in bundles.iter().zip(devices) {
            self.available.subtract(shape);
            let expires = Some(now + RESERVED);
            self.bundles.insert((group, *bundle), Bundle { shape: shape.clone(), free: shape.clone(), devices: Devices::of(&devices), round, expires });
            self.unkept.insert((group, *bundle));
        }
        true
    }

    fn keep(&mut self, group: GroupId, round: u32) -> bool {
        let mut any = false;
        for (key, bundle) in self.bundles.range_mut((group, 0)..=(group, u32::MAX)).filter(|(_, bundle)| bundle.round == round) {
            bundle.expires = None;
            self.unkept.remove(key);
            any = true;
        }
        any
    }

    pub(super) fn bundles_committed(&mut self, now: Time, group: GroupId, round: u32) {
        match self.keep(group, round) {
            true => self.say_to_head(NodeMessage::BundlesCommitted { group, round }),
            false => self.say_to_head(NodeMessage::BundlesExpired { group, round }),
        }
        self.schedule(now);
    }

    /// They end. What runs in them is killed; what it holds comes back when it is gone.
    pub(super) fn bundles_dropped(&mut self, now: Time, group: GroupId, bundles: &[u32], reason: &str) {
        for key in bundles.iter().map(|bundle| (group, *bundle)) {
            let Some(bundle) = self.bundles.remove(&key) else { continue };
            self.unkept.remove(&key);
            self.available.add(&bundle.free);
            self.devices.take_over(&bundle.devices);
            self.orphans_of(key).into_iter().for_each(|worker| self.kill(worker, reason));
        }
        self.view_is_stale();
        self.schedule(now);
    }

    /// The processes that use a bundle that is no more. From now on their resources are the node's own.
    fn orphans_of(&mut self, key: (GroupId, u32)) -> Vec<ProcId> {
        let leased = self.leases.values_mut().filter(|lease| lease.pool == Some(key)).map(|lease| {
            lease.pool = None;
            lease.worker
        });
        let mut orphans: Vec<ProcId> = leased.collect();
        orphans.extend(self.hosted.values_mut().filter(|hosted| hosted.pool() == Some(key)).filter_map(super::actors::Hosted::lose_bundle));
        orphans
    }

    /// Reservations that nobody committed go back. Returns when to look again.
    pub(super) fn expire_bundles(&mut self, now: Time) -> Option<Time> {
        let due = |key: &&(GroupId, u32)| self.bundles[*key].expires.is_some_and(|at| now >= at);
        let expired: Vec<(GroupId, u32)> = self.unkept.iter().filter(due).copied().collect();
        for (group, bundle) in expired {
            self.bundles_dropped(now, group, &[bundle], "its reservation expired");
        }
        self.unkept.iter().filter_map(|key| self.bundles[key].expires).min()
    }

    // ---- checks

    pub(super) fn bundle_leftovers(&self) -> impl Iterator<Item = String> + '_ {
        self.bundles.iter().map(|(key, bundle)| format!("bundle {key:?}: {bundle:?}"))
    }

    /// What is set aside here: (bundle, its resources, committed). For the simulator's checks.
    pub fn reserved_bundles(&self) -> impl Iterator<Item = ((GroupId, u32), &Resources, bool)> {
        self.bundles.iter().map(|(key, bundle)| (*key, &bundle.shape, bundle.expires.is_none()))
    }

    /// `used`: what leases and actors hold of each bundle. Returns what all bundles together hold of the node.
    pub(super) fn check_bundles(&self, used: &BTreeMap<(GroupId, u32), Resources>) -> Resources {
        let (mut sum, nothing) = (Resources::default(), Resources::default());
        for (key, bundle) in &self.bundles {
            let mut whole = bundle.free.clone();
            whole.add(used.get(key).unwrap_or(&nothing));
            for (name, amount) in &whole.0 {
                assert_eq!(*amount, bundle.shape.get(name), "{name} of {key:?}: used plus free is what was set aside");
            }
            assert!(bundle.expires.is_none() || bundle.free == bundle.shape, "{key:?} is used and not committed");
            assert_eq!(bundle.expires.is_some(), self.unkept.contains(key), "{key:?} is on the list of what expires");
            sum.add(&bundle.shape);
        }
        assert!(used.keys().all(|key| self.bundles.contains_key(key)), "a bundle that is not there is used: {used:?}");
        sum
    }
}
