//! The thread that spills, in miniature: one event per object, so that anything may happen between the choice, the copy and the move.

use crate::env::{Env, Event};
use crate::process::Process;
use crate::sabotage::Bug;
use ray_logic::extents::{rounded, Extents};
use ray_logic::owner::Victim;
use ray_proto::msg::ToNode;
use ray_proto::{ExtentId, ShmRange};
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct SpillJob {
    victims: VecDeque<Victim>,
    copied: Vec<(Victim, ShmRange)>,
    moved: u64,
    own: bool,
    /// A segment was asked for.
    asked: Option<u64>,
    failed: bool,
}

impl Process {
    pub fn allocator(&mut self, extent: ExtentId) -> &mut Extents {
        if extent.is_on_disk() {
            &mut self.disk
        } else {
            &mut self.extents
        }
    }

    /// Tell the node of extents with nothing in them; returns their bytes in memory.
    pub fn give_back_empty(&mut self, env: &mut Env) -> u64 {
        let memory = self.extents.empty_extents();
        let given = memory.iter().map(|(_, size)| size).sum();
        for (extent, _) in memory.into_iter().chain(self.disk.empty_extents()) {
            self.allocator(extent).remove(extent);
            self.to_node(env, ToNode::ExtentDrop { extent });
        }
        given
    }

    pub fn spill_asked(&mut self, env: &mut Env, bytes: u64) {
        assert!(self.spill.is_none(), "asked to spill while it spills");
        let given = self.give_back_empty(env);
        if given > 0 || !self.owner.has_large() {
            return self.to_node(env, ToNode::Spilled { bytes: given, own: false });
        }
        let extents = &self.extents;
        let victims = self.owner.pick_victims(bytes, |extent| extents.live_in(extent)).into();
        env.note(self.id, || format!("spills {victims:?}"));
        self.spill = Some(SpillJob { victims, ..SpillJob::default() });
        self.post_spill(env);
    }

    fn post_spill(&mut self, env: &mut Env) {
        let delay = if env.rng.permille(200) { env.rng.range(500, 8_000) } else { env.rng.range(1, 300) };
        env.post(delay, Event::Spill(self.id));
    }

    pub fn is_for_spilling(&self, token: u64) -> bool {
        self.spill.as_ref().is_some_and(|job| job.asked == Some(token))
    }

    pub fn segment_answer(&mut self, env: &mut Env, granted: bool) {
        let job = self.spill.as_mut().expect("it spills");
        job.asked = None;
        job.failed = !granted;
        self.post_spill(env);
    }

    pub fn spill_step(&mut self, env: &mut Env) {
        let Some(mut job) = self.spill.take() else { return };
        let next = if job.failed { None } else { job.victims.front().copied() };
        let Some(victim) = next else { return self.end_spill(env, job) };
        match self.place_for(env, victim) {
            Some(place) => {
                env.oracle.copied(self.id, victim.range, place);
                job.victims.pop_front();
                job.copied.push((victim, place));
                if env.rng.permille(400) {
                    self.commit(env, &mut job);
                }
                self.post_spill(env);
            }
            None => {
                self.next_token += 1;
                job.asked = Some(self.next_token);
                let least = rounded(victim.range.len);
                self.to_node(env, ToNode::SegmentWant { token: self.next_token, sizes: vec![(64 * 1024).max(least), least] });
            }
        }
        self.spill = Some(job);
    }

    /// Where a victim's copy goes: storage beyond the node, or a segment of ours.
    fn place_for(&mut self, env: &mut Env, victim: Victim) -> Option<ShmRange> {
        if env.options.stored > 0 && env.rng.permille(env.options.stored) {
            self.next_token += 1;
            return Some(ShmRange { extent: ExtentId::stored(self.id), offset: self.next_token, len: victim.range.len });
        }
        self.disk.allocate(victim.range.len).map(|allocation| allocation.range)
    }

    fn commit(&mut self, env: &mut Env, job: &mut SpillJob) {
        let copied = std::mem::take(&mut job.copied);
        let done = self.owner.moved(&copied);
        self.pump(env);
        for ((victim, to), done) in copied.into_iter().zip(done) {
            if done {
                env.note(self.id, || format!("moved {:?} from {:?} to {to:?}", victim.id, victim.range));
                job.moved += rounded(victim.range.len);
                job.own |= self.extents.owns(victim.range.extent);
                continue;
            }
            self.free(env, to);
            if env.strikes(Bug::MoveUnderPin) {
                self.free(env, victim.range);
            }
        }
    }

    fn end_spill(&mut self, env: &mut Env, mut job: SpillJob) {
        self.commit(env, &mut job);
        job.victims.into_iter().for_each(|victim| self.owner.stays(victim));
        self.pump(env);
        let given = self.give_back_empty(env);
        self.to_node(env, ToNode::Spilled { bytes: job.moved + given, own: job.own });
    }
}
