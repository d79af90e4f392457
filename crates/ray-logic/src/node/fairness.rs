//! Fairness between jobs: one that holds more than its share gives workers back, as their calls end, while another one waits.
//!
//! A job's share is what its leases hold on all nodes, by its weight: what others say of theirs is a hint, what is held here is exact. Where moving a worker makes
//! two jobs more equal it is asked back at once. Where there are too few to share (one CPU in all, two jobs), the jobs take turns.

use super::Node;
use crate::Time;
use ray_proto::msg::FromNode;
use ray_proto::{ClassId, LeaseId, ProcId, Resources};
use std::collections::BTreeMap;

/// How long a job waits for its turn on what can't be shared.
const TURN: Time = 200_000;

/// What each job's leases hold that are not asked back.
pub(super) type Shares = BTreeMap<u32, i64>;

/// What a lease counts: calls that ask for no CPU don't keep others from theirs.
pub(super) fn weight_of(shape: &Resources) -> i64 {
    shape.get("CPU")
}

impl Node {
    pub(super) fn count_share(&mut self, job: u32, change: i64) {
        let share = self.shares.entry(job).or_insert(0);
        *share += change;
        if *share == 0 {
            self.shares.remove(&job);
        }
    }

    /// What other nodes should know of the shares here: nothing while there is one job.
    pub(super) fn shares_to_tell(&self) -> impl Iterator<Item = (u32, i64)> + '_ {
        let told = if self.peers.jobs.len() < 2 { None } else { Some(&self.shares) };
        told.into_iter().flatten().map(|(job, share)| (*job, *share))
    }

    pub(super) fn shares_everywhere(&self) -> Shares {
        let mut shares = self.shares.clone();
        for (job, share) in self.peers.views.values().flat_map(|view| &view.held) {
            *shares.entry(*job).or_insert(0) += share;
        }
        shares
    }

    pub(super) fn per_weight(&self, job: u32, shares: &Shares) -> i64 {
        let weight = self.job(job).map_or(100, |info| i64::from(info.spec.weight.max(1)));
        shares.get(&job).copied().unwrap_or(0) * 100 / weight
    }

    /// Ask for workers back where somebody waits who has less. Returns when to look again.
    pub(super) fn share_between_jobs(&mut self, now: Time) -> Option<Time> {
        if self.peers.jobs.len() < 2 {
            return None;
        }
        let waiting: Vec<(ProcId, ClassId)> = self.order.values().copied().filter(|key| self.wants[key].local() > 0).collect();
        let has_rival = |(owner, _): &(ProcId, ClassId)| self.shares.keys().any(|job| *job != owner.job());
        if !waiting.iter().any(has_rival) {
            return None;
        }
        let (mut next, mut shares): (Option<Time>, Shares) = (None, self.shares_everywhere());
        for (owner, class) in waiting {
            let want = &self.wants[&(owner, class)];
            let (need, due) = (weight_of(want.shape()), want.waiting_since() + TURN);
            if need == 0 || want.strategy().is_group() || want.shape().fits_in(&self.available) || !want.shape().fits_in(&self.config.total) {
                continue;
            }
            let Some((lease, job)) = self.lease_to_take(owner.job(), &shares) else { continue };
            let mut after = shares.clone();
            *after.entry(job).or_insert(0) -= weight_of(&self.leases[&lease].shape);
            *after.entry(owner.job()).or_insert(0) += need;
            let fair = self.per_weight(job, &after) >= self.per_weight(owner.job(), &after);
            if !fair && now < due {
                next = Some(next.unwrap_or(u64::MAX).min(due));
                continue;
            }
            self.reclaim(lease);
            shares = after;
        }
        next
    }

    /// A lease here of the job that has most for its weight, and more than `job`: the one that it has had longest.
    fn lease_to_take(&self, job: u32, shares: &Shares) -> Option<(LeaseId, u32)> {
        let mut oldest: BTreeMap<u32, LeaseId> = BTreeMap::new();
        for (id, lease) in &self.leases {
            if !lease.reclaimed && lease.pool.is_none() && weight_of(&lease.shape) > 0 && lease.owner.job() != job {
                oldest.entry(lease.owner.job()).or_insert(*id);
            }
        }
        let (richest, lease) = oldest.into_iter().max_by_key(|(other, _)| self.per_weight(*other, shares))?;
        (self.per_weight(richest, shares) > self.per_weight(job, shares)).then_some((lease, richest))
    }

    fn reclaim(&mut self, id: LeaseId) {
        let lease = self.leases.get_mut(&id).expect("chosen among them");
        lease.reclaimed = true;
        let (owner, share) = (lease.owner, weight_of(&lease.shape));
        self.count_share(owner.job(), -share);
        self.send(owner, FromNode::LeaseReclaim { lease: id });
    }

    pub(super) fn check_shares(&self) {
        let mut shares = Shares::new();
        for lease in self.leases.values().filter(|lease| !lease.reclaimed && weight_of(&lease.shape) != 0) {
            *shares.entry(lease.owner.job()).or_insert(0) += weight_of(&lease.shape);
        }
        assert_eq!(self.shares, shares, "the shares of jobs are what their leases hold");
    }
}
