//! Jobs: one driver's run each.

use super::{Change, Head};
use crate::Time;
use ray_proto::cluster::{JobInfo, JobSpec, NodeMessage};
use ray_proto::ids::JOBS_MAX;
use ray_proto::{NodeIndex, ProcId};

impl Head {
    /// A driver is there, known so far as `guest`, without a job. Returns what it is from now on.
    pub fn start_job(&mut self, now: Time, guest: ProcId, spec: JobSpec) -> ProcId {
        let job = self.state.next_job % JOBS_MAX;
        let driver = ProcId::new(job, guest.node(), (guest.0 & 0xff_ffff) as u32);
        let info = JobInfo { job, driver, spec, started_ms: self.wall_ms(now), ended_ms: 0 };
        self.commit(Change::JobStarted { info: info.clone() });
        self.send_all(&NodeMessage::JobStarted { info });
        driver
    }

    /// A process that the head may know is gone: its actors end, and with a driver its job.
    pub(super) fn process_gone(&mut self, now: Time, proc_id: ProcId) {
        let job = self.state.jobs.get(&proc_id.job()).filter(|info| info.driver == proc_id && info.ended_ms == 0).map(|info| info.job);
        self.owner_of_actors_gone(proc_id);
        self.watcher_of_groups_gone(proc_id);
        if let Some(job) = job {
            self.commit(Change::JobEnded { job, at_ms: self.wall_ms(now) });
            self.actors_of_job_end(job);
            self.groups_of_job_end(job);
            self.send_all(&NodeMessage::JobEnded { job });
        }
    }

    pub(super) fn processes_of_node_gone(&mut self, now: Time, index: NodeIndex) {
        let owners: Vec<ProcId> = self.owners_on(index);
        let drivers = self.state.jobs.values().filter(|info| info.ended_ms == 0 && info.driver.node() == index).map(|info| info.driver);
        let gone: std::collections::BTreeSet<ProcId> = drivers.chain(owners).collect();
        gone.into_iter().for_each(|proc_id| self.process_gone(now, proc_id));
        self.creators_of_groups_gone(|creator| creator.node() == index);
    }
}
