//! A node short of memory: whose process is ended. The shell samples, this decides.
//!
//! 1. Idle workers that use much go first, if nobody needs what they own.
//! 2. Then one process at a time, and the next only once that one's memory is back: who uses more than the `memory=` it asked for, else who asked for
//!    none, else anybody; among equals the largest. A process that can't be run again (an actor without restarts left, an idle owner of objects) is
//!    spared while one that can uses at least half as much.
//! 3. Nobody is ended in whose stead the memory would still be short: a process counts if it has a twentieth of the memory, or is no smaller than
//!    the average worker of workers that have a quarter of it. When nobody counts, somebody else uses the memory, and the user is told.
//! 4. A victim that had three quarters of what all tasks used would not fit next time either: actors and other programs stay, and the other tasks are
//!    small. Its end is an attempt like others. The end of any other victim costs its call nothing (`MemoryKill::Crowded`).

use super::procs::Role;
use super::{Node, NodeCommand};
use crate::Time;
use ray_proto::msg::{Evidence, FromNode, MemoryKill};
use ray_proto::{ProcId, UNIT};
use std::collections::{BTreeMap, BTreeSet};

/// An idle worker below this is not worth a new start.
const IDLE_WORTH: u64 = 32 << 20;
/// The user is told of a shortage without a culprit this often.
const TROUBLE_AGAIN: Time = 60_000_000;
/// Processes listed in the evidence.
const LISTED: usize = 5;

#[derive(Clone, Debug)]
pub struct MemoryRules {
    /// Time between two looks while something runs; None: never.
    pub refresh: Option<Time>,
    /// Part of the limit, in millionths, above which memory is short.
    pub threshold_ppm: u64,
    /// `memory=` is a limit for the process, not for admission only.
    pub enforce_requests: bool,
    /// Retries of a call for `Crowded` ends; -1: no limit.
    pub oom_retries: i32,
    /// An idle worker that grew by more is replaced; None: never. See growth.rs.
    pub growth_bytes: Option<u64>,
    /// Time between two looks at workers that run or have just run calls.
    pub growth_look: Time,
}

impl Default for MemoryRules {
    fn default() -> Self {
        MemoryRules { refresh: None, threshold_ppm: 950_000, enforce_requests: false, oom_retries: -1, growth_bytes: None, growth_look: 1_000_000 }
    }
}

#[derive(Clone, Debug)]
pub struct MemorySample {
    pub used: u64,
    pub limit: u64,
    /// What limit that is, in words.
    pub basis: String,
    /// Private memory of each worker and what it started; None: not looked at.
    pub processes: Option<Vec<(ProcId, u64)>>,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    next_look: Option<Time>,
    /// Told to die, not reported dead.
    victims: BTreeMap<ProcId, MemoryKill>,
    /// Idle workers that were asked to go in this shortage.
    asked: BTreeSet<ProcId>,
    told: Option<Time>,
}

/// A process that may be ended.
struct Candidate {
    id: ProcId,
    pid: u32,
    bytes: u64,
    /// What it asked for with `memory=`; 0: nothing.
    request: u64,
    is_task: bool,
    retriable: bool,
    what: String,
}

impl Candidate {
    /// Who goes first: 0 over its request, 1 without one, 2 within it.
    fn guilt(&self) -> u8 {
        match self.request {
            0 => 1,
            request if self.bytes > request => 0,
            _ => 2,
        }
    }
}

impl Node {
    /// Something runs now.
    pub(super) fn watch_memory(&mut self, now: Time) {
        if let (None, Some(refresh)) = (self.memory.next_look, self.config.memory.refresh) {
            self.memory.next_look = Some(now + refresh);
        }
    }

    pub(super) fn memory_tick(&mut self, now: Time) -> Option<Time> {
        if self.memory.next_look.is_some_and(|at| now >= at) {
            self.memory.next_look = None;
            if self.procs.values().any(|p| matches!(p.role, Role::Leased(_) | Role::Actor(_))) {
                self.watch_memory(now);
                self.out.push(NodeCommand::LookAtMemory { processes: self.config.memory.enforce_requests });
            }
        }
        self.memory.next_look
    }

    /// The answer to `LookAtMemory`.
    pub fn memory_sampled(&mut self, now: Time, sample: &MemorySample) {
        let line = (u128::from(sample.limit) * u128::from(self.config.memory.threshold_ppm) / 1_000_000) as u64;
        let short = sample.used > line;
        let Some(processes) = &sample.processes else {
            match short {
                true => self.out.push(NodeCommand::LookAtMemory { processes: true }),
                false => self.memory.asked.clear(),
            }
            return;
        };
        let candidates: Vec<Candidate> = processes.iter().filter_map(|(id, bytes)| self.candidate(*id, *bytes)).collect();
        if self.config.memory.enforce_requests {
            self.enforce_requests(&candidates);
        }
        match short {
            true if self.memory.victims.is_empty() => self.relieve(now, sample, line, &candidates),
            true => {}
            false => self.memory.asked.clear(),
        }
    }

    fn candidate(&self, id: ProcId, bytes: u64) -> Option<Candidate> {
        let proc = self.procs.get(&id)?;
        let (memory, retriable, what) = match proc.role {
            Role::Leased(lease) => (self.leases[&lease].shape.get("memory"), true, "a task".to_owned()),
            Role::Actor(actor) => {
                let actor = &self.hosted[&actor];
                (actor.held().get("memory"), actor.may_restart(), format!("actor {}", actor.class_name()))
            }
            Role::Idle { .. } | Role::Leaving => (0, false, "idle".to_owned()),
            Role::Driver | Role::Observer | Role::Starting => return None,
        };
        Some(Candidate { id, pid: proc.pid, bytes, request: (memory / UNIT) as u64, is_task: matches!(proc.role, Role::Leased(_)), retriable, what })
    }

    fn enforce_requests(&mut self, candidates: &[Candidate]) {
        for one in candidates.iter().filter(|one| one.guilt() == 0) {
            let reason = format!(
                "it used {} MiB of memory, more than the {} MiB that its memory= asked for, and the setting enforce_memory_requests is on",
                mib(one.bytes),
                mib(one.request)
            );
            self.end_for_memory(one.id, MemoryKill::Alone {}, &reason);
        }
    }

    fn relieve(&mut self, now: Time, sample: &MemorySample, line: u64, candidates: &[Candidate]) {
        if self.ask_idle(candidates) {
            return;
        }
        let total: u64 = candidates.iter().map(|one| one.bytes).sum();
        let Some(victim) = choose(candidates, sample.limit, total) else { return self.tell_of_shortage(now, sample, candidates) };
        let why = match victim.guilt() {
            0 => format!("more than the {} MiB that its memory= asked for", mib(victim.request)),
            1 => "the most of those that may be ended".to_owned(),
            _ => "the most of those that may be ended, though within its memory=".to_owned(),
        };
        let reason = format!(
            "the node ran short of memory: {} MiB were in use, above {} MiB, which is {} % of the limit of {} MiB ({}). It used {} MiB, {why}. {}",
            mib(sample.used),
            mib(line),
            self.config.memory.threshold_ppm as f64 / 10_000.0,
            mib(sample.limit),
            sample.basis,
            mib(victim.bytes),
            list(candidates)
        );
        let other_tasks: u64 = candidates.iter().filter(|one| one.is_task && one.id != victim.id).map(|one| one.bytes).sum();
        let alone = victim.bytes >= other_tasks * 3;
        let kill = match alone {
            true => MemoryKill::Alone {},
            false => MemoryKill::Crowded { free_retries: self.config.memory.oom_retries },
        };
        self.end_for_memory(victim.id, kill, &reason);
    }

    /// Whether some idle worker was asked to go: then its answer comes first.
    fn ask_idle(&mut self, candidates: &[Candidate]) -> bool {
        let mut asked = false;
        for one in candidates.iter().filter(|one| one.bytes >= IDLE_WORTH) {
            let Some(proc) = self.procs.get_mut(&one.id) else { continue };
            if let Role::Idle { since, asked: false } = proc.role {
                if self.memory.asked.insert(one.id) {
                    proc.role = Role::Idle { since, asked: true };
                    self.send(one.id, FromNode::MayYouExit {});
                    asked = true;
                }
            }
        }
        asked
    }

    fn end_for_memory(&mut self, id: ProcId, kill: MemoryKill, reason: &str) {
        if self.memory.victims.insert(id, kill).is_none() {
            self.kill(id, reason);
        }
    }

    fn tell_of_shortage(&mut self, now: Time, sample: &MemorySample, candidates: &[Candidate]) {
        if self.memory.told.is_some_and(|told| now < told + TROUBLE_AGAIN) {
            return;
        }
        self.memory.told = Some(now);
        let text = format!(
            "the node is short of memory: {} of {} MiB are in use ({}), but no worker uses enough for its end to help. {}\nhint: look at this program and at others on the machine",
            mib(sample.used),
            mib(sample.limit),
            sample.basis,
            list(candidates)
        );
        self.notify(&text);
    }

    /// A process ended: what its watchers are told about the reason.
    pub(super) fn with_memory_verdict(&mut self, id: ProcId, mut evidence: Evidence) -> Evidence {
        self.memory.asked.remove(&id);
        if let Some(kill) = self.memory.victims.remove(&id) {
            evidence.memory_kill = kill;
        }
        evidence
    }
}

/// Rules 2 and 3.
fn choose(candidates: &[Candidate], limit: u64, total: u64) -> Option<&Candidate> {
    let count = candidates.len() as u64;
    let counts = |one: &&Candidate| one.bytes >= limit / 20 || (total >= limit / 4 && one.bytes * count >= total);
    let worth: Vec<&Candidate> = candidates.iter().filter(counts).collect();
    let guilt = worth.iter().map(|one| one.guilt()).min()?;
    let excess = |one: &&&Candidate| (one.bytes - if guilt == 0 { one.request } else { 0 }, one.id);
    let largest = worth.iter().filter(|one| one.guilt() == guilt).max_by_key(excess)?;
    let instead = worth.iter().filter(|one| one.retriable && one.guilt() == guilt).max_by_key(excess);
    Some(instead.filter(|other| other.bytes * 2 >= largest.bytes).unwrap_or(largest))
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn list(candidates: &[Candidate]) -> String {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    let line = |one: &&Candidate| format!("pid {} {} MiB ({})", one.pid, mib(one.bytes), one.what);
    let lines: Vec<String> = sorted.iter().take(LISTED).map(line).collect();
    format!("Workers by size: {}", if lines.is_empty() { "none".to_owned() } else { lines.join(", ") })
}
