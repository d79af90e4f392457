//! Placement groups, as a process asks for them.

use crate::library::{Answer, Failure, Library};
use crate::Gate;
use ray_proto::groups::GroupSpec;
use ray_proto::{GroupId, ObjectId, Payload};
use std::sync::Arc;

impl Library {
    pub fn new_group_id(&self) -> GroupId {
        self.with(|core| core.owner.new_group_id())
    }

    /// Create a group without a name: nothing is asked.
    pub fn create_group(&self, spec: Box<GroupSpec>) -> GroupId {
        self.with(|core| {
            let group = core.owner.new_group_id();
            core.owner.create_group(0, group, spec);
            group
        })
    }

    /// Create one with a name; the answer says whether it was free.
    pub fn create_named_group(&self, group: GroupId, spec: Box<GroupSpec>) -> Result<(u64, Arc<Gate>), Failure> {
        self.check()?;
        let gate = Arc::new(Gate::default());
        let token = self.with(|core| {
            let token = core.token();
            core.answers.insert(token, Answer::Waiting(gate.clone()));
            core.owner.create_group(token, group, spec);
            core.flush_all();
            token
        });
        Ok((token, gate))
    }

    pub fn forget_group(&self, group: GroupId) {
        self.with(|core| core.owner.forget_group(group));
    }

    pub fn remove_group(&self, group: GroupId) {
        self.with(|core| core.owner.remove_group(group));
    }

    /// An object that becomes ready with the group.
    pub fn await_group(&self, group: GroupId, payload: Payload) -> ObjectId {
        self.with(|core| core.owner.await_group(group, payload))
    }
}
