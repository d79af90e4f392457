//! Placement groups: those that this process created or waits for, and the objects that become ready with them.
//!
//! Invariant: an object that waits for a group is pending, and the head was asked to tell of that group.

use crate::owner::objects::{Object, State};
use crate::owner::{Command, Owner};
use ray_proto::groups::{GroupLife, GroupSpec};
use ray_proto::msg::ToNode;
use ray_proto::value::system_error;
use ray_proto::{hex, GroupId, ObjectId, Payload};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(in crate::owner) struct Groups {
    next: u64,
    /// What is known of groups; the head tells of each change.
    lives: BTreeMap<GroupId, GroupLife>,
    /// Objects that become ready with a group, with what they will be.
    promises: BTreeMap<ObjectId, (GroupId, Payload)>,
}

impl Owner {
    /// The id of a group that is going to be created.
    pub fn new_group_id(&mut self) -> GroupId {
        self.groups.next += 1;
        GroupId { owner: self.me, number: self.groups.next }
    }

    /// Create it. `token` 0: nothing is asked; else the head says whether the name was free.
    pub fn create_group(&mut self, token: u64, group: GroupId, spec: Box<GroupSpec>) {
        // Leases that rest hold resources that it may need.
        self.return_idle_leases();
        self.groups.lives.insert(group, GroupLife::Pending {});
        self.out.push(Command::Node(ToNode::GroupCreate { token, group, spec }));
    }

    /// The name was taken: there is no such group.
    pub fn forget_group(&mut self, group: GroupId) {
        self.groups.lives.remove(&group);
    }

    pub fn remove_group(&mut self, group: GroupId) {
        self.out.push(Command::Node(ToNode::GroupRemove { group }));
    }

    /// An object, with one local reference, that becomes ready with the group, as `payload`.
    pub fn await_group(&mut self, group: GroupId, payload: Payload) -> ObjectId {
        let id = ObjectId::new(self.me, self.next_call(), 0);
        let mut object = Object::new(State::Pending);
        object.local = 1;
        self.objects.insert(id, object);
        payload.refs.iter().for_each(|inner| self.hold(*inner));
        match self.groups.lives.get(&group) {
            Some(GroupLife::Created {}) => {
                self.set_ready(id, payload);
                return id;
            }
            Some(_) => {}
            None => {
                self.groups.lives.insert(group, GroupLife::Pending {});
                self.out.push(Command::Node(ToNode::GroupWatch { group }));
            }
        }
        self.groups.promises.insert(id, (group, payload));
        id
    }

    /// The head says how a group stands.
    pub(in crate::owner) fn group_changed(&mut self, group: GroupId, life: GroupLife) {
        let over = match &life {
            GroupLife::Created {} => None,
            GroupLife::Removed { text } => Some(text.clone()),
            GroupLife::Pending {} | GroupLife::Rescheduling {} => {
                self.groups.lives.insert(group, life);
                return;
            }
        };
        match over {
            None => self.groups.lives.insert(group, life),
            Some(_) => self.groups.lives.remove(&group),
        };
        let due: Vec<ObjectId> = self.groups.promises.iter().filter(|(_, (of, _))| *of == group).map(|(id, _)| *id).collect();
        for id in due {
            // Not there any more: its last reference was in the value of one before it.
            let Some((_, payload)) = self.groups.promises.remove(&id) else { continue };
            match &over {
                None => self.set_ready(id, payload),
                Some(text) => {
                    self.discard(payload);
                    let value = system_error("task_group_removed", &[("group", &hex(&group.bytes())), ("message", text)]);
                    self.set_ready(id, Payload { value, refs: vec![] });
                }
            }
        }
    }

    /// Nobody refers to the object any more.
    pub(in crate::owner) fn promise_freed(&mut self, id: ObjectId) {
        if let Some((_, payload)) = self.groups.promises.remove(&id) {
            self.discard(payload);
        }
    }

    /// The group that an object waits for.
    pub(in crate::owner) fn awaited_group(&self, id: ObjectId) -> Option<GroupId> {
        self.groups.promises.get(&id).map(|(group, _)| *group)
    }

    pub(in crate::owner) fn held_by_promises(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.groups.promises.values().flat_map(|(_, payload)| payload.refs.iter().copied())
    }
}
