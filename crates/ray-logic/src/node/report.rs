//! Answers about processes, actors and resources: what the tables say at this moment (ray_proto::report).

use super::procs::Role;
use super::Node;
use crate::evidence::describe;
use crate::Time;
use ray_proto::groups::Within;
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::report::{Fact, Subject};
use ray_proto::{ActorId, ClassId, ProcId, Resources};

impl Node {
    /// Answers a question of a process of ours. `stopped`: processes in state T, as the shell sees it.
    pub fn asked(&mut self, now: Time, from: ProcId, token: u64, subject: &Subject, stopped: &[ProcId]) {
        self.now = now;
        let elsewhere = match subject {
            Subject::Records { node, .. } => Some(*node),
            Subject::Process { proc_id } => Some(proc_id.node()).filter(|node| *node != self.config.index),
            _ => None,
        };
        if let Some(node) = elsewhere {
            return match (self.death_of(node), subject) {
                (None, _) => self.request(now, from, ToNode::Ask { token, subject: subject.clone() }),
                (Some(how), Subject::Process { proc_id }) => self.answer(from, token, vec![Fact::Died { proc_id: *proc_id, how }]),
                (Some(_), _) => self.answer(from, token, vec![Fact::Unknown {}]),
            };
        }
        self.settle(now);
        let unknown = match subject {
            Subject::Actor { actor } => !self.hosted.contains_key(actor),
            Subject::Group { .. } => true,
            _ => false,
        };
        if unknown && !self.is_head() {
            return self.ask_head(from, ToNode::Ask { token, subject: subject.clone() });
        }
        let facts = self.report(subject, stopped);
        self.send(from, FromNode::Told { token, facts });
    }

    /// The answer to a question whose facts are not in the tables.
    pub fn answer(&mut self, to: ProcId, token: u64, facts: Vec<Fact>) {
        self.send(to, FromNode::Told { token, facts });
    }

    /// `stopped`: processes in state T, as the shell sees it.
    pub fn report(&self, subject: &Subject, stopped: &[ProcId]) -> Vec<Fact> {
        match subject {
            Subject::Process { proc_id } => vec![self.report_process(*proc_id, stopped)],
            Subject::Actor { actor } => self.report_actor(*actor, stopped),
            Subject::Class { owner, class } => self.report_class(*owner, *class, stopped),
            Subject::Everything {} => self.procs.keys().map(|id| self.report_process(*id, stopped)).collect(),
            Subject::Group { group } => vec![self.head.as_ref().map_or(Fact::Unknown {}, |head| head.report_group(*group))],
            Subject::Object { .. } | Subject::Records { .. } => vec![Fact::Unknown {}],
        }
    }

    pub(super) fn report_process(&self, proc_id: ProcId, stopped: &[ProcId]) -> Fact {
        let Some(proc) = self.procs.get(&proc_id) else {
            return self.graves.get(&proc_id).map_or(Fact::Unknown {}, |evidence| Fact::Died { proc_id, how: describe(evidence) });
        };
        let (role, held) = match proc.role {
            Role::Driver => ("driver", Resources::default()),
            Role::Observer => ("observer", Resources::default()),
            Role::Starting => ("starting", Resources::default()),
            Role::Idle { .. } => ("idle", Resources::default()),
            Role::Leased(lease) => ("leased", self.leases.get(&lease).map(|lease| lease.shape.clone()).unwrap_or_default()),
            Role::Actor(actor) => ("actor", self.hosted.get(&actor).map(|actor| actor.held().clone()).unwrap_or_default()),
            Role::Leaving => ("leaving", Resources::default()),
        };
        Fact::Process { proc_id, pid: proc.pid, role: role.into(), held, blocked: proc.blocked, stopped: stopped.contains(&proc_id) }
    }

    /// Its life; while it waits for its place also what it needs and who holds it.
    fn report_actor(&self, id: ActorId, stopped: &[ProcId]) -> Vec<Fact> {
        let life = self.head.as_ref().map_or(Fact::Unknown {}, |head| head.report_actor(id));
        let Some(hosted) = self.hosted.get(&id) else {
            let Some((shape, env, text)) = self.head.as_ref().and_then(|head| head.homeless_request(id)) else { return vec![life] };
            let mut facts = vec![life];
            facts.extend(self.report_request(&shape, (id.owner.job(), &env), Some(text), stopped));
            return facts;
        };
        let Some(spec) = hosted.waiting_spec() else { return vec![hosted.located(life)] };
        if let Some(within) = Within::of(&spec.strategy) {
            let shape = if spec.held.fits_in(&spec.to_place) { &spec.to_place } else { &spec.held };
            return [waits(life)].into_iter().chain(self.report_in_group(&within, shape, stopped)).collect();
        }
        let shape = if spec.to_place.fits_in(&self.available) { &spec.held } else { &spec.to_place };
        let mut facts = vec![waits(life)];
        facts.extend(self.report_request(shape, (id.owner.job(), &spec.env), None, stopped));
        facts
    }

    /// What the class needs, what there is, and every process that holds some of it.
    fn report_class(&self, owner: ProcId, class: ClassId, stopped: &[ProcId]) -> Vec<Fact> {
        let Some(want) = self.wants.get(&(owner, class)) else { return vec![Fact::Unknown {}] };
        if let Some(within) = Within::of(want.strategy()) {
            return self.report_in_group(&within, want.shape(), stopped);
        }
        let infeasible = self.why_infeasible(owner, class).map(|(text, _)| text);
        self.report_request(want.shape(), (owner.job(), want.env()), infeasible, stopped)
    }

    fn report_request(&self, shape: &Resources, (job, env): (u32, &str), infeasible: Option<String>, stopped: &[ProcId]) -> Vec<Fact> {
        let here = || (self.is_alone() && !shape.fits_in(&self.config.total)).then(|| super::sched::explain_infeasible(shape, &self.config.total));
        let infeasible = infeasible.or_else(here).unwrap_or_default();
        let starting_workers = self.starting(job, env) as u32;
        let trouble = self.fork_trouble.clone();
        let asked = |of: &Resources| Resources(shape.0.keys().map(|name| (name.clone(), of.get(name))).collect());
        let (total, available) = (asked(&self.config.total), asked(&self.available));
        let fits = shape.fits_in(&available);
        let room = Fact::Room { fits, total, available, idle_workers: self.idle_workers() as u32, starting_workers, trouble };
        let holds = |fact: &Fact| matches!(fact, Fact::Process { held, .. } if shape.0.keys().any(|name| held.get(name) > 0));
        let holders = self.procs.keys().filter(|_| !fits).map(|id| self.report_process(*id, stopped)).filter(holds);
        [Fact::Wants { shape: shape.clone(), infeasible }, room].into_iter().chain(holders).collect()
    }
}

/// Placed here, and without its resources yet: that is what it waits for.
fn waits(fact: Fact) -> Fact {
    match fact {
        Fact::Actor { class_name, process, held, to_place, deaths, cause, .. } => {
            Fact::Actor { class_name, life: "waiting".into(), process, held, to_place, deaths, cause }
        }
        other => other,
    }
}
