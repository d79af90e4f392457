//! Answers about processes, actors and resources: what the tables say at this moment (ray_proto::report).

use super::procs::Role;
use super::Node;
use crate::evidence::describe;
use ray_proto::report::{Fact, Subject};
use ray_proto::{ActorId, ClassId, ProcId, Resources};

impl Node {
    /// `stopped`: processes in state T, as the shell sees it.
    pub fn report(&self, subject: &Subject, stopped: &[ProcId]) -> Vec<Fact> {
        match subject {
            Subject::Process { proc_id } => vec![self.report_process(*proc_id, stopped)],
            Subject::Actor { actor } => self.report_actor(*actor, stopped),
            Subject::Class { owner, class } => self.report_class(*owner, *class, stopped),
            Subject::Everything {} => self.procs.keys().map(|id| self.report_process(*id, stopped)).collect(),
            Subject::Object { .. } => vec![Fact::Unknown {}],
        }
    }

    fn report_process(&self, proc_id: ProcId, stopped: &[ProcId]) -> Fact {
        let Some(proc) = self.procs.get(&proc_id) else {
            return self.graves.get(&proc_id).map_or(Fact::Unknown {}, |evidence| Fact::Died { proc_id, how: describe(evidence) });
        };
        let (role, held) = match proc.role {
            Role::Driver => ("driver", Resources::default()),
            Role::Observer => ("observer", Resources::default()),
            Role::Starting => ("starting", Resources::default()),
            Role::Idle { .. } => ("idle", Resources::default()),
            Role::Leased(lease) => ("leased", self.leases.get(&lease).map(|lease| lease.shape.clone()).unwrap_or_default()),
            Role::Actor(actor) => ("actor", self.actors.get(&actor).map(|actor| actor.held().clone()).unwrap_or_default()),
            Role::Leaving => ("leaving", Resources::default()),
        };
        Fact::Process { proc_id, pid: proc.pid, role: role.into(), held, blocked: proc.blocked, stopped: stopped.contains(&proc_id) }
    }

    /// Its life; while it waits for its place also what it needs and who holds it.
    fn report_actor(&self, id: ActorId, stopped: &[ProcId]) -> Vec<Fact> {
        let Some(actor) = self.actors.get(&id) else { return vec![Fact::Unknown {}] };
        let mut facts = vec![actor.report()];
        if let Some(spec) = actor.waiting_spec() {
            let shape = if spec.to_place.fits_in(&self.available) { &spec.held } else { &spec.to_place };
            facts.extend(self.report_request(shape, &spec.env, stopped));
        }
        facts
    }

    /// What the class needs, what there is, and every process that holds some of it.
    fn report_class(&self, owner: ProcId, class: ClassId, stopped: &[ProcId]) -> Vec<Fact> {
        let Some(want) = self.wants.get(&(owner, class)) else { return vec![Fact::Unknown {}] };
        self.report_request(want.shape(), want.env(), stopped)
    }

    fn report_request(&self, shape: &Resources, env: &str, stopped: &[ProcId]) -> Vec<Fact> {
        let infeasible = match shape.fits_in(&self.config.total) {
            true => String::new(),
            false => super::sched::explain_infeasible(shape, &self.config.total),
        };
        let starting_workers = self.starting(env) as u32;
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
