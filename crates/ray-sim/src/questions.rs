//! Questions about what was recorded on a node, asked by a process of any node: each is answered once, unless one of the two is gone.

use crate::env::{name, Env};
use crate::oracle::Oracle;
use crate::process::Process;
use ray_proto::msg::ToNode;
use ray_proto::report::Subject;
use ray_proto::{NodeIndex, ProcId};

impl Process {
    /// Which node is asked follows from how many were asked, so that no other choice of the run depends on it.
    pub fn ask_for_records(&mut self, env: &mut Env) {
        let token = self.next_token;
        self.next_token += 1;
        let (node, _) = env.node_ids[token as usize % env.node_ids.len()];
        env.oracle.questions.insert((self.id, token), node);
        env.note(self.id, || format!("asks {node:?} for its records"));
        self.to_node(env, ToNode::Ask { token, subject: Subject::Records { node, slot: 0 } });
    }
}

impl Oracle {
    pub fn told(&mut self, asker: ProcId, token: u64) {
        let asked = self.questions.remove(&(asker, token));
        assert!(asked.is_some(), "{} is told what it did not ask, or twice: {token}", name(asker));
    }

    /// When all is quiet nobody who lives waits for an answer of a node that was never away.
    pub fn check_questions(&self, lives: impl Fn(ProcId) -> bool) {
        let excused = |node: NodeIndex| self.lost_nodes.contains(&node) || self.frozen.contains(&node);
        let open = self.questions.iter().find(|((asker, _), node)| lives(*asker) && !excused(**node) && !excused(asker.node()));
        assert!(open.is_none(), "all is quiet, and nobody has answered {open:?}");
    }
}
