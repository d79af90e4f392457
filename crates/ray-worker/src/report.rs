//! Questions about what waits for what: asked of anybody, answered by the engine thread, which needs no GIL for it.

use crate::gate::{Gate, Woken};
use crate::library::{Answer, Core, Failure, Library};
use ray_proto::msg::{FromNode, Peer, ToNode};
use ray_proto::report::{Fact, Subject};
use ray_proto::ProcId;
use std::sync::Arc;

/// Who has not answered by then is stopped, or dead.
const PATIENCE_US: u64 = 1_000_000;

impl Library {
    /// Put a question to a process, or to the node (`ProcId::NODE`). None: no answer within a second. Blocks: not with the GIL.
    pub fn ask_about(&self, whom: ProcId, subject: Subject) -> Result<Option<Vec<Fact>>, Failure> {
        self.check()?;
        if whom == self.me {
            let now = ray_shm::now_us();
            return Ok(Some(self.with(|core| core.report(now, &subject))));
        }
        let gate = Arc::new(Gate::default());
        let token = self.with(|core| {
            let token = core.token();
            core.answers.insert(token, Answer::Waiting(gate.clone()));
            match whom {
                ProcId::NODE => core.queue_node(ToNode::Ask { token, subject }),
                peer => core.queue_peer(peer, Peer::Ask { token, subject }, true),
            }
            core.flush_all();
            token
        });
        let deadline = ray_shm::now_us() + PATIENCE_US;
        while self.wait_at(&gate, Some(deadline.saturating_sub(ray_shm::now_us()))) == Woken::Interrupted {}
        let answer = self.lock().answers.remove(&token);
        match answer {
            Some(Answer::Here(answer, _)) if matches!(*answer, FromNode::Told { .. }) => match *answer {
                FromNode::Told { facts, .. } => Ok(Some(facts)),
                _ => Ok(None),
            },
            _ => self.check().map(|()| None),
        }
    }
}

impl Core {
    pub(crate) fn report(&self, now: u64, subject: &Subject) -> Vec<Fact> {
        match subject {
            Subject::Object { id } => self.owner.report_object(now, *id),
            Subject::Process { .. } => self.report_self(now),
            Subject::Actor { .. } | Subject::Class { .. } | Subject::Everything {} => vec![Fact::Unknown {}],
        }
    }

    fn report_self(&self, now: u64) -> Vec<Fact> {
        let name = |caller, template| self.templates.get(&(caller, template)).map(|template| template.name.clone()).unwrap_or_default();
        let runs = self.exec.all_running().map(|(caller, task, running)| Fact::Runs {
            caller,
            task,
            name: name(caller, running.template),
            age_us: now.saturating_sub(running.since),
        });
        let mut facts: Vec<Fact> = runs.collect();
        facts.extend(self.owner.report_waits(now));
        facts.push(Fact::Queued { calls: self.exec.queued() as u32 });
        facts
    }
}
