//! Leases: who gets a worker next. Requests are level-triggered ("m more, having had n"), served round robin over owners and classes.

use super::bundles::Pool;
use super::fairness::weight_of;
use super::procs::Role;
use super::Node;
use crate::Time;
use ray_proto::devices::{device, FAMILIES};
use ray_proto::groups::Within;
use ray_proto::msg::FromNode;
use ray_proto::{ClassId, GroupId, LeaseId, NodeIndex, ProcId, Resources, Strategy, UNIT};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Want {
    shape: Resources,
    env: String,
    strategy: Strategy,
    /// Leases given so far, by whomever.
    granted: u64,
    /// Of these, by this node.
    here: u64,
    want: u32,
    order: u64,
    /// Since when it has waited for its next lease.
    waiting_since: Time,
    pub(super) told_infeasible: bool,
    /// It seems hopeless; certain when the head has answered this sign of life.
    pub(super) doubt: Option<u64>,
    /// Other nodes that were asked for some of them.
    pub(super) delegates: BTreeMap<NodeIndex, super::delegation::Delegate>,
}

impl Want {
    pub(super) fn shape(&self) -> &Resources {
        &self.shape
    }

    pub(super) fn env(&self) -> &str {
        &self.env
    }

    pub(super) fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    pub(super) fn waiting_since(&self) -> Time {
        self.waiting_since
    }

    pub(super) fn wanted(&self) -> u32 {
        self.want
    }

    pub(super) fn granted_here(&self) -> u64 {
        self.here
    }

    /// What this node is to give: the rest is asked of others. A class of a group asks everybody for what is missing.
    pub(super) fn local(&self) -> u32 {
        if self.strategy.is_group() {
            return self.want;
        }
        self.want - self.delegates.values().map(super::delegation::Delegate::asked).sum::<u32>()
    }

    pub(super) fn count_grant(&mut self) {
        self.granted += 1;
        self.want = self.want.saturating_sub(1);
    }
}

#[derive(Debug)]
pub(super) struct Lease {
    pub owner: ProcId,
    pub worker: ProcId,
    pub shape: Resources,
    pub devices: Vec<(u32, i64)>,
    /// Whom its resources are from.
    pub pool: Pool,
    /// Its owner was asked to give it back.
    pub reclaimed: bool,
}

/// Accelerators by device, so that fractions share one and whole ones are whole: what is free of each.
#[derive(Debug)]
pub(super) struct Devices(BTreeMap<u32, i64>);

impl Devices {
    pub(super) fn new(total: &Resources) -> Self {
        let of_family = |(family, name): (usize, &&str)| (0..(total.get(name) / UNIT) as u32).map(move |index| (device(family, index), UNIT));
        Devices(FAMILIES.iter().enumerate().flat_map(of_family).collect())
    }

    /// Parts of devices.
    pub(super) fn of(parts: &[(u32, i64)]) -> Self {
        Devices(parts.iter().copied().collect())
    }

    /// Devices for what `shape` asks for, or None when some of it is available in pieces only.
    pub(super) fn find(&self, shape: &Resources) -> Option<Vec<(u32, i64)>> {
        let mut found = vec![];
        for (family, name) in FAMILIES.iter().enumerate() {
            let amount = shape.get(name);
            if amount > 0 {
                found.extend(self.pick(family, amount)?);
            }
        }
        Some(found)
    }

    fn pick(&self, family: usize, amount: i64) -> Option<Vec<(u32, i64)>> {
        let free = self.0.range(device(family, 0)..device(family + 1, 0));
        if amount < UNIT {
            let (device, _) = free.filter(|(_, free)| **free >= amount).min_by_key(|(_, free)| **free)?;
            return Some(vec![(*device, amount)]);
        }
        let count = (amount / UNIT) as usize;
        let whole: Vec<_> = free.filter(|(_, free)| **free == UNIT).map(|(device, _)| (*device, UNIT)).take(count).collect();
        (whole.len() == count).then_some(whole)
    }

    pub(super) fn assign(&mut self, shape: &Resources) -> Option<Vec<(u32, i64)>> {
        let taken = self.find(shape)?;
        taken.iter().for_each(|(device, part)| *self.0.entry(*device).or_insert(0) -= part);
        Some(taken)
    }

    pub(super) fn release(&mut self, taken: &[(u32, i64)]) {
        taken.iter().for_each(|(device, part)| *self.0.entry(*device).or_insert(0) += part);
    }

    /// What the other one has left is ours.
    pub(super) fn take_over(&mut self, other: &Devices) {
        let parts: Vec<(u32, i64)> = other.0.iter().map(|(device, part)| (*device, *part)).collect();
        self.release(&parts);
    }
}

impl Node {
    pub(super) fn class_defined(&mut self, owner: ProcId, class: ClassId, shape: Resources, env: String, strategy: Strategy) {
        if let Some(within) = Within::of(&strategy).filter(|_| owner.node() == self.config.index) {
            self.know_group(within.group);
        }
        let (granted, here, want, order) = (0, 0, 0, 0);
        let record =
            Want { shape, env, strategy, granted, here, want, order, waiting_since: 0, told_infeasible: false, doubt: None, delegates: BTreeMap::new() };
        self.wants.insert((owner, class), record);
    }

    pub(super) fn leases_wanted(&mut self, now: Time, owner: ProcId, class: ClassId, seen: u64, want: u32) {
        let Some(record) = self.wants.get_mut(&(owner, class)) else { return };
        // Grants the owner had not seen when it wrote answer part of its wish.
        if record.want == 0 {
            record.waiting_since = now;
        }
        record.want = want.saturating_sub((record.granted - seen) as u32);
        self.tell_infeasible(owner, class);
        self.queue_want(owner, class);
        self.delegate(owner, class);
        self.schedule(now);
    }

    /// To the end of the line, if it wants anything.
    pub(super) fn queue_want(&mut self, owner: ProcId, class: ClassId) {
        let order = self.next_order;
        let Some(record) = self.wants.get_mut(&(owner, class)) else { return };
        self.order.remove(&record.order);
        record.order = 0;
        if record.want > 0 {
            self.next_order += 1;
            record.order = order;
            self.order.insert(order, (owner, class));
        }
    }

    /// Grant what fits, in order; fork workers for what would fit if there were any.
    pub(super) fn schedule(&mut self, now: Time) {
        self.place_actors(now);
        self.delegate_all();
        let mut room = self.whole_room();
        self.reserve_for_actors(&mut room);
        let mut missing: BTreeMap<(u32, String), usize> = self.actors_without_worker();
        for (owner, class) in self.line() {
            if !self.knows_job(owner.job()) {
                // No worker can be started for it.
                continue;
            }
            loop {
                let want = &self.wants[&(owner, class)];
                let Some(pool) = self.pool_for(&want.strategy, &[&want.shape], Some(&room)).filter(|_| want.local() > 0) else { break };
                let (shape, key) = (want.shape.clone(), (owner.job(), want.env.clone()));
                if missing.get(&key).copied().unwrap_or(0) == 0 && self.idle_worker(&key.1, key.0, Some(owner)).is_some() {
                    if !self.grant(now, owner, class, pool) {
                        break;
                    }
                    room.spent(pool, &shape);
                    if self.has_rivals() {
                        // Somebody of another job may have less.
                        return self.schedule(now);
                    }
                    continue;
                }
                // Count every further lease that fits: each needs a worker of its own.
                let (mut left, strategy) = (want.local() as usize, want.strategy.clone());
                while left > 0 && missing.get(&key).copied().unwrap_or(0) < MAX_STARTING {
                    let Some(pool) = self.pool_for(&strategy, &[&shape], Some(&room)) else { break };
                    self.promise(&mut room, pool, &shape);
                    *missing.entry(key.clone()).or_insert(0) += 1;
                    left -= 1;
                }
                break;
            }
        }
        if self.forks_paused_until.is_some() {
            return;
        }
        for ((job, env), count) in missing {
            for _ in self.starting(job, &env)..count {
                self.fork(job, env.clone());
            }
        }
    }

    /// The plans of all wants, since what they were made from has changed.
    fn delegate_all(&mut self) {
        if !self.is_alone() {
            let wants: Vec<(ProcId, ClassId)> = self.order.values().copied().collect();
            wants.into_iter().for_each(|(owner, class)| self.delegate(owner, class));
        }
    }

    /// Wants of several jobs wait.
    fn has_rivals(&self) -> bool {
        let mut jobs = self.order.values().map(|(owner, _)| owner.job());
        let first = jobs.next();
        jobs.any(|job| Some(job) != first)
    }

    /// Who is served next: the job that holds least for its weight, and within a job who has waited longest.
    fn line(&self) -> Vec<(ProcId, ClassId)> {
        let mut line: Vec<(ProcId, ClassId)> = self.order.values().copied().collect();
        if self.has_rivals() {
            let shares = self.shares_everywhere();
            line.sort_by_key(|(owner, _)| self.per_weight(owner.job(), &shares));
        }
        line
    }

    fn grant(&mut self, now: Time, owner: ProcId, class: ClassId, pool: Pool) -> bool {
        let record = &self.wants[&(owner, class)];
        let (shape, env) = (record.shape.clone(), record.env.clone());
        let Some(worker) = self.idle_worker(&env, owner.job(), Some(owner)) else { return false };
        let Some(devices) = self.devices_in(pool).assign(&shape) else { return false };
        self.free_in(pool).subtract(&shape);
        let lease = LeaseId::new(self.config.index, self.next_lease);
        self.next_lease += 1;
        let gpu_ids = devices.iter().map(|(device, _)| *device).collect();
        self.count_share(owner.job(), weight_of(&shape));
        self.leases.insert(lease, Lease { owner, worker, shape, devices, pool, reclaimed: false });
        let proc = self.procs.get_mut(&worker).expect("an idle worker");
        proc.role = Role::Leased(lease);
        let pid = proc.pid;
        self.watch_memory(now);
        self.worker_leased(now, worker);
        let record = self.wants.get_mut(&(owner, class)).expect("looked up above");
        record.count_grant();
        record.here += 1;
        record.waiting_since = now;
        self.connect(owner, worker);
        self.send(owner, FromNode::LeaseGrant { class, lease, worker, pid, gpu_ids });
        self.queue_want(owner, class);
        true
    }

    pub(super) fn lease_returned(&mut self, now: Time, from: ProcId, lease: LeaseId, leaving: bool) {
        let Some(record) = self.leases.get(&lease) else { return };
        if record.owner != from {
            return;
        }
        let worker = record.worker;
        let blocked = self.procs.get(&worker).is_some_and(|p| p.blocked);
        self.end_lease(lease, blocked);
        match leaving {
            false => self.become_idle(now, worker),
            true => {
                if let Some(proc) = self.procs.get_mut(&worker) {
                    proc.role = Role::Leaving;
                    proc.blocked = false;
                }
            }
        }
        self.schedule(now);
    }

    pub(super) fn end_lease(&mut self, lease: LeaseId, blocked: bool) {
        let Some(record) = self.leases.remove(&lease) else { return };
        if !record.reclaimed {
            self.count_share(record.owner.job(), -weight_of(&record.shape));
        }
        self.give_back(record.pool, &record.shape, &record.devices, blocked);
    }

    /// The bundle that a process has its resources from.
    pub(super) fn pool_of(&self, proc_id: ProcId) -> Pool {
        match self.procs.get(&proc_id)?.role {
            Role::Leased(lease) => self.leases.get(&lease)?.pool,
            Role::Actor(actor) => self.hosted.get(&actor)?.pool(),
            _ => None,
        }
    }

    /// A worker's running call waits (or goes on): its CPUs may be used meanwhile. On its return the node may be oversubscribed for a while.
    pub(super) fn worker_blocked(&mut self, now: Time, worker: ProcId, blocked: bool) {
        let pool = self.pool_of(worker);
        let Some(proc) = self.procs.get_mut(&worker) else { return };
        let held = match proc.role {
            Role::Leased(lease) => self.leases[&lease].shape.cpu_only(),
            Role::Actor(actor) => self.hosted[&actor].held().cpu_only(),
            _ => return,
        };
        if std::mem::replace(&mut proc.blocked, blocked) == blocked {
            return;
        }
        match blocked {
            true => {
                self.free_in(pool).add(&held);
                self.schedule(now);
            }
            false => self.free_in(pool).subtract(&held),
        }
    }

    pub fn check_invariants(&self) {
        let mut sum = self.available.clone();
        let mut in_bundles: BTreeMap<(GroupId, u32), Resources> = BTreeMap::new();
        for (id, proc) in &self.procs {
            let held = match proc.role {
                Role::Leased(lease) => {
                    assert_eq!(self.leases[&lease].worker, *id, "{lease:?} and its worker agree");
                    self.leases[&lease].shape.clone()
                }
                Role::Actor(actor) => self.hosted[&actor].held().clone(),
                _ => continue,
            };
            let used = self.pool_of(*id).map_or(&mut sum, |key| in_bundles.entry(key).or_default());
            used.add(&held);
            if proc.blocked {
                used.subtract(&held.cpu_only());
            }
        }
        sum.add(&self.check_bundles(&in_bundles));
        for (name, amount) in &sum.0 {
            assert_eq!(*amount, self.config.total.get(name), "{name}: held plus available is the total");
        }
        for lease in self.leases.values() {
            assert!(self.procs.contains_key(&lease.worker), "a lease of a dead worker");
        }
        self.check_shares();
        self.check_actors();
        self.check_store();
        self.check_delegation();
        self.check_copies();
        self.head.iter().for_each(|head| head.check_invariants());
    }
}

/// Workers started at once per environment: the template forks them one after another anyway.
const MAX_STARTING: usize = 64;

/// What was asked, what there is, and the closest fix.
pub(crate) fn explain_infeasible(shape: &Resources, total: &Resources) -> String {
    let lacking = |(name, need): (&String, &i64)| {
        let have = total.get(name);
        (*need > have).then(|| format!("{name}: asked {}, the whole node has {}", *need as f64 / UNIT as f64, have as f64 / UNIT as f64))
    };
    let lacks: Vec<String> = shape.0.iter().filter_map(lacking).collect();
    let names: Vec<&String> = shape.0.iter().filter(|(n, v)| **v > total.get(n)).map(|(n, _)| n).collect();
    let hint = match names.first().map(|n| n.as_str()) {
        Some("CPU") => "ask for fewer CPUs, or start with ray.init(num_cpus=...)",
        Some("GPU") => "ask for fewer GPUs, or start with ray.init(num_gpus=...)",
        Some("memory") => "ask for less memory (the number is in bytes)",
        _ => "check the name for a typo, or declare it with ray.init(resources={...})",
    };
    format!("a request for {{{shape}}} can never be satisfied here and stays pending ({}).\nhint: {hint}", lacks.join("; "))
}
