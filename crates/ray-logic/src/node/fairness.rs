//! Fairness between jobs: one that holds more than its share gives workers back, as their calls end, while another one waits.
//!
//! A job's share is by its weight. Where moving a worker makes the two more equal it is asked back at once. Where there are too few to share (one CPU, two
//! jobs), the jobs take turns.

use super::Node;
use crate::Time;
use ray_proto::msg::FromNode;
use ray_proto::{ClassId, LeaseId, ProcId, Resources};
use std::collections::BTreeMap;

/// How long a job waits for its turn on what can't be shared.
const TURN: Time = 200_000;

/// What a lease counts: calls that ask for no CPU don't keep others from theirs.
fn weight_of(shape: &Resources) -> i64 {
    shape.get("CPU")
}

impl Node {
    /// Ask for workers back where somebody waits who has less. Returns when to look again.
    pub(super) fn share_between_jobs(&mut self, now: Time) -> Option<Time> {
        if self.peers.jobs.len() < 2 {
            return None;
        }
        let waiting: Vec<(ProcId, ClassId)> = self.order.values().copied().filter(|key| self.wants[key].local() > 0).collect();
        let mut next: Option<Time> = None;
        let mut held = self.held_by_jobs();
        let has_rival = |(owner, _): &(ProcId, ClassId)| held.keys().any(|job| *job != owner.job());
        if !waiting.iter().any(has_rival) {
            return None;
        }
        for (owner, class) in waiting {
            let want = &self.wants[&(owner, class)];
            let (need, since) = (weight_of(want.shape()), want.waiting_since());
            if need == 0
                || matches!(want.strategy(), ray_proto::Strategy::Group { .. })
                || want.shape().fits_in(&self.available)
                || !want.shape().fits_in(&self.config.total)
            {
                continue;
            }
            let mine = self.per_weight(owner.job(), held.get(&owner.job()).copied().unwrap_or(0));
            let Some((lease, job, gives)) = self.lease_to_take(owner.job(), mine, &held) else { continue };
            let theirs = |left: i64| self.per_weight(job, left);
            let fair = theirs(held[&job] - gives) >= self.per_weight(owner.job(), held.get(&owner.job()).copied().unwrap_or(0) + need);
            let due = since + TURN;
            if !fair && now < due {
                next = Some(next.unwrap_or(u64::MAX).min(due));
                continue;
            }
            self.reclaim(lease);
            *held.entry(job).or_insert(0) -= gives;
            *held.entry(owner.job()).or_insert(0) += need;
        }
        next
    }

    /// What each job's leases here hold that are not asked back.
    fn held_by_jobs(&self) -> BTreeMap<u32, i64> {
        let mut held = BTreeMap::new();
        for lease in self.leases.values().filter(|lease| !lease.reclaimed && lease.pool.is_none()) {
            *held.entry(lease.owner.job()).or_insert(0) += weight_of(&lease.shape);
        }
        held
    }

    fn per_weight(&self, job: u32, held: i64) -> i64 {
        held * 100 / self.job(job).map_or(100, |info| i64::from(info.spec.weight.max(1)))
    }

    /// A lease of the job that has most for its weight, more than `mine`: the one that has it longest.
    fn lease_to_take(&self, but: u32, mine: i64, held: &BTreeMap<u32, i64>) -> Option<(LeaseId, u32, i64)> {
        let richest = held.iter().filter(|(job, _)| **job != but).max_by_key(|(job, held)| self.per_weight(**job, **held))?;
        let job = *richest.0;
        if self.per_weight(job, *richest.1) <= mine {
            return None;
        }
        let gives = |id: &LeaseId| weight_of(&self.leases[id].shape);
        let may = |id: &&LeaseId| !self.leases[*id].reclaimed && self.leases[*id].pool.is_none() && self.leases[*id].owner.job() == job && gives(id) > 0;
        self.leases.keys().find(may).map(|id| (*id, job, gives(id)))
    }

    fn reclaim(&mut self, id: LeaseId) {
        let lease = self.leases.get_mut(&id).expect("chosen among them");
        lease.reclaimed = true;
        let owner = lease.owner;
        self.send(owner, FromNode::LeaseReclaim { lease: id });
    }
}
