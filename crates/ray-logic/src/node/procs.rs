//! Processes of the node: connections, watches, direct links, the warm pool, deaths.

use super::{Node, NodeCommand};
use crate::evidence::describe;
use crate::Time;
use ray_proto::cluster::NodeMessage;
use ray_proto::msg::{Evidence, FromNode, ToNode};
use ray_proto::{ActorId, LeaseId, ProcId, UNIT};
use std::collections::BTreeSet;

/// After a fork that failed.
const FORK_PAUSE: Time = 1_000_000;
/// Workers in a row that may end before they said hello; after that, forks pause.
const FAILED_STARTS: u32 = 2;
/// The user is told of failing forks this often.
const FORK_TROUBLE_AGAIN: Time = 60_000_000;
/// Graves kept for late watchers.
const GRAVES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    Driver,
    /// It came through the door to ask questions.
    Observer,
    Starting,
    Idle {
        since: Time,
        asked: bool,
    },
    Leased(LeaseId),
    Actor(ActorId),
    /// Told to go; its exit is awaited.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Proc {
    pub role: Role,
    pub pid: u32,
    pub env: String,
    pub blocked: bool,
    pub watchers: BTreeSet<ProcId>,
    /// Direct links it has room for. Without one, two processes go on through us.
    pub links_left: u32,
    pub growth: super::growth::Growth,
}

impl Proc {
    pub(super) fn is_connected(&self) -> bool {
        self.role != Role::Starting
    }
}

impl Node {
    /// The one driver of a node of its own is there.
    pub fn driver_connected(&mut self, pid: u32, max_links: u32) -> ProcId {
        let guest = self.new_proc(0, Role::Observer, pid, String::new());
        self.procs.get_mut(&guest).expect("made above").links_left = max_links;
        let (now, spec) = (self.now, self.config.job.clone().unwrap_or_default());
        let driver = self.head.as_mut().map_or(guest, |head| head.start_job(now, guest, spec));
        self.driver = driver;
        self.settle(now);
        driver
    }

    /// Who came through the door is a driver: the head gives it a job.
    pub(super) fn driver_knocked(&mut self, from: ProcId, max_links: u32, message: ToNode) {
        if let Some(proc) = self.procs.get_mut(&from).filter(|proc| proc.role == Role::Observer) {
            proc.links_left = max_links;
            self.ask_head(from, message);
        }
    }

    /// The head did: it is a process of its job from now on, and workers start for it.
    pub(super) fn driver_accepted(&mut self, _now: Time, driver: ProcId) {
        let guest = ProcId::new(0, driver.node(), (driver.0 & 0xff_ffff) as u32);
        let Some(mut proc) = self.procs.remove(&guest) else {
            return self.say_to_head(NodeMessage::OwnerGone { proc_id: driver });
        };
        proc.role = Role::Driver;
        self.procs.insert(driver, proc);
        self.out.push(NodeCommand::Adopt { guest, driver });
        if !self.is_alone() {
            self.tell_capacity_to(driver);
        }
        let env = self.job(driver.job()).map(|info| info.spec.env.clone()).unwrap_or_default();
        for _ in 0..self.config.warm_workers {
            self.fork(driver.job(), env.clone());
        }
    }

    /// Somebody came through the door; its first message says who it is.
    pub fn observer_connected(&mut self, pid: u32) -> ProcId {
        self.new_proc(0, Role::Observer, pid, String::new())
    }

    pub fn observer_left(&mut self, now: Time, proc_id: ProcId) {
        self.now = now;
        match self.procs.get(&proc_id).map(|proc| (proc.role, proc.pid)) {
            Some((Role::Observer, _)) => {
                self.procs.remove(&proc_id);
                self.forget_owner(now, proc_id);
            }
            Some((Role::Driver, pid)) => {
                let evidence = Evidence { pid, ..left("it left its cluster") };
                self.proc_exited(now, proc_id, evidence);
            }
            _ => {}
        }
    }

    fn new_proc(&mut self, job: u32, role: Role, pid: u32, env: String) -> ProcId {
        let id = ProcId::new(job, self.config.index, self.next_proc);
        self.next_proc += 1;
        self.procs.insert(id, Proc { role, pid, env, blocked: false, watchers: BTreeSet::new(), links_left: 0, growth: Default::default() });
        id
    }

    pub(super) fn knows_job(&self, job: u32) -> bool {
        self.peers.jobs.contains_key(&job)
    }

    pub(super) fn fork(&mut self, job: u32, env: String) {
        // What its workers are started with is on its way.
        if !self.knows_job(job) {
            return;
        }
        let proc_id = self.new_proc(job, Role::Starting, 0, env.clone());
        self.out.push(NodeCommand::Fork { proc_id, env });
    }

    pub(super) fn connected(&mut self, now: Time, from: ProcId, pid: u32, max_links: u32) {
        let Some(proc) = self.procs.get_mut(&from) else { return };
        proc.pid = pid;
        proc.links_left = max_links;
        if proc.role == Role::Starting {
            proc.role = Role::Idle { since: now, asked: false };
            self.fork_trouble.clear();
            self.failed_starts = 0;
            if !self.is_alone() {
                self.tell_capacity_to(from);
            }
            self.schedule(now);
        }
    }

    pub(super) fn starting(&self, job: u32, env: &str) -> usize {
        self.procs.iter().filter(|(id, p)| p.role == Role::Starting && id.job() == job && p.env == env).count()
    }

    pub(super) fn idle_workers(&self) -> usize {
        self.procs.values().filter(|p| matches!(p.role, Role::Idle { asked: false, .. })).count()
    }

    /// The idle worker of a job that rested least: its caches are warmest. `but`: nobody leases itself.
    pub(super) fn idle_worker(&self, env: &str, job: u32, but: Option<ProcId>) -> Option<ProcId> {
        let idle = |(id, p): (&ProcId, &Proc)| match p.role {
            Role::Idle { since, asked: false } if p.env == env && id.job() == job && Some(*id) != but => Some((since, *id)),
            _ => None,
        };
        self.procs.iter().filter_map(idle).max().map(|(_, id)| id)
    }

    pub(super) fn watch(&mut self, from: ProcId, proc_id: ProcId) {
        if let Some(proc) = self.procs.get_mut(&proc_id) {
            proc.watchers.insert(from);
            return;
        }
        let unknown = left("it is not a process of this session, or it ended too long ago to tell how");
        let evidence = self.graves.get(&proc_id).cloned().unwrap_or(unknown);
        self.send(from, FromNode::ProcDied { proc_id, evidence });
    }

    pub(super) fn connect(&mut self, a: ProcId, b: ProcId) {
        let has_room = |id: &ProcId| self.procs.get(id).is_some_and(|proc| proc.is_connected() && proc.links_left > 0);
        let key = (a.min(b), a.max(b));
        if a.node() == b.node() && a != b && has_room(&a) && has_room(&b) && self.links.insert(key) {
            for end in [a, b] {
                self.procs.get_mut(&end).expect("has room").links_left -= 1;
            }
            self.watch(a, b);
            self.watch(b, a);
            self.out.push(NodeCommand::Link { a, b });
        }
    }

    /// The shell could not make the link: the two go on through us.
    pub fn link_failed(&mut self, a: ProcId, b: ProcId) {
        self.links.remove(&(a.min(b), a.max(b)));
        self.give_back_link(a);
        self.give_back_link(b);
    }

    fn give_back_link(&mut self, end: ProcId) {
        if let Some(proc) = self.procs.get_mut(&end) {
            proc.links_left += 1;
        }
    }

    /// A fork was asked for and did not come about.
    pub fn fork_failed(&mut self, now: Time, proc_id: ProcId, why: &str) {
        self.procs.remove(&proc_id);
        self.pause_forks(now, why);
        self.schedule(now);
    }

    /// Trying again at once would fail again at once, for ever.
    fn pause_forks(&mut self, now: Time, why: &str) {
        self.forks_paused_until = Some(now + FORK_PAUSE);
        self.fork_trouble = why.to_owned();
        if self.fork_trouble_told.is_none_or(|told| now >= told + FORK_TROUBLE_AGAIN) {
            self.fork_trouble_told = Some(now);
            let text = format!("a worker process could not be started, and what needs it waits: {why}");
            self.notify(&text);
        }
    }

    /// A process is gone and everything it had sent was handled.
    pub fn proc_exited(&mut self, now: Time, proc_id: ProcId, evidence: Evidence) {
        self.now = now;
        let Some(proc) = self.procs.remove(&proc_id) else { return };
        if proc.role == Role::Driver && self.config.job.is_some() {
            return self.out.push(NodeCommand::Shutdown);
        }
        let evidence = self.with_memory_verdict(proc_id, evidence);
        self.remember_death(proc_id, &evidence);
        // Its descriptors are free now.
        self.forks_paused_until = None;
        if proc.role == Role::Starting {
            self.failed_starts += 1;
            if self.failed_starts > FAILED_STARTS {
                self.pause_forks(now, &describe(&evidence));
            }
        }
        let (gone, kept): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut self.links).into_iter().partition(|(a, b)| *a == proc_id || *b == proc_id);
        self.links = kept;
        for (a, b) in gone {
            self.give_back_link(if a == proc_id { b } else { a });
        }
        for watcher in proc.watchers {
            self.send(watcher, FromNode::ProcDied { proc_id, evidence: evidence.clone() });
        }
        match proc.role {
            Role::Leased(lease) => self.end_lease(lease, proc.blocked),
            Role::Actor(actor) => self.actor_process_died(actor, proc.blocked, &evidence),
            _ => {}
        }
        self.forget_owner(now, proc_id);
        self.forget_pressure_of(proc_id);
        self.creator_died(proc_id);
        self.forget_copies_of(now, proc_id);
        self.tell_peers_of_death(proc_id, &evidence);
        self.make_room(now);
        self.schedule(now);
    }

    pub(super) fn remember_death(&mut self, proc_id: ProcId, evidence: &Evidence) {
        if self.graves.len() >= GRAVES {
            self.graves.pop_first();
        }
        self.graves.insert(proc_id, evidence.clone());
    }

    /// What a dead owner had asked for: its requests, and the workers that run for it.
    pub(super) fn forget_owner(&mut self, now: Time, owner: ProcId) {
        self.wants.retain(|(who, _), _| *who != owner);
        self.order.retain(|_, (who, _)| *who != owner);
        self.forget_groups();
        let workers: Vec<ProcId> = self.leases.values().filter(|l| l.owner == owner).map(|l| l.worker).collect();
        for worker in workers {
            self.kill(worker, "the process whose call it ran has died");
        }
        self.schedule(now);
    }

    pub(super) fn kill(&mut self, proc_id: ProcId, reason: &str) {
        self.out.push(NodeCommand::Kill { proc_id, reason: reason.to_owned() });
    }

    pub(super) fn become_idle(&mut self, now: Time, worker: ProcId) {
        if let Some(proc) = self.procs.get_mut(&worker) {
            proc.role = Role::Idle { since: now, asked: false };
            proc.blocked = false;
            self.worker_unleased(now, worker);
        }
    }

    fn idle_ceiling(&self) -> usize {
        ((self.config.total.get("CPU") / UNIT) as usize).max(self.config.warm_workers as usize).max(1)
    }

    /// Ask workers that idled too long, above the ceiling, whether they may go.
    pub(super) fn reap_idle(&mut self, now: Time) -> Option<Time> {
        let mut idle: Vec<(Time, ProcId)> = Vec::new();
        for (id, proc) in &self.procs {
            if let Role::Idle { since, asked: false } = proc.role {
                idle.push((since, *id));
            }
        }
        let surplus = idle.len().saturating_sub(self.idle_ceiling());
        idle.sort_unstable();
        let mut next = None;
        for (since, id) in idle.into_iter().take(surplus) {
            let due = since + self.config.idle_worker;
            if now < due {
                next = Some(due);
                break;
            }
            self.procs.get_mut(&id).expect("listed").role = Role::Idle { since, asked: true };
            self.send(id, FromNode::MayYouExit {});
        }
        next
    }

    pub(super) fn idle_exit_answered(&mut self, now: Time, from: ProcId, may_exit: bool) {
        let Some(proc) = self.procs.get(&from) else { return };
        if !matches!(proc.role, Role::Idle { asked: true, .. }) {
            return;
        }
        if self.growth_answered(now, from, may_exit) {
            return;
        }
        let Some(proc) = self.procs.get_mut(&from) else { return };
        match may_exit {
            true => {
                proc.role = Role::Leaving;
                self.send(from, FromNode::Exit { reason: "idle".into() });
            }
            false => {
                proc.role = Role::Idle { since: now, asked: false };
                self.schedule(now);
            }
        }
    }

    /// The process that holds a worker's lease, if any.
    pub fn lease_owner(&self, worker: ProcId) -> Option<ProcId> {
        match self.procs.get(&worker)?.role {
            Role::Leased(lease) => self.leases.get(&lease).map(|l| l.owner),
            Role::Actor(actor) => Some(actor.owner),
            _ => None,
        }
    }

    /// Workers that run something: (process, pid).
    pub fn busy_workers(&self) -> Vec<(ProcId, u32)> {
        let busy = |p: &Proc| matches!(p.role, Role::Leased(_) | Role::Actor(_));
        self.procs.iter().filter(|(_, p)| busy(p)).map(|(id, p)| (*id, p.pid)).collect()
    }
}

/// A process that was not ours to reap.
fn left(how: &str) -> Evidence {
    Evidence { ended_by_us: how.to_owned(), ..Evidence::default() }
}
