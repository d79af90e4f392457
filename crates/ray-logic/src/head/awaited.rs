//! Groups that others speak of before their creator's own word has come: it travels another way, and may be later.

use super::Head;
use ray_proto::{hex, ActorId, GroupId, NodeIndex, ProcId};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Awaited {
    pub watchers: BTreeSet<ProcId>,
    pub interested: BTreeSet<NodeIndex>,
    pub actors: BTreeSet<ActorId>,
    /// It is to be removed as soon as it is there.
    pub removed: bool,
}

impl Head {
    /// The group may still be created. A creator numbers its groups, and its messages come in order.
    pub(super) fn group_may_come(&self, id: GroupId) -> bool {
        let seen = self.groups.latest.get(&id.owner).is_some_and(|latest| id.number <= *latest);
        !seen && !self.groups.living.contains_key(&id) && !self.is_gone(id.owner)
    }

    /// What is noted of a group that may come; None: it is there, or it never will be.
    pub(super) fn awaited_group(&mut self, id: GroupId) -> Option<&mut Awaited> {
        self.group_may_come(id).then(|| self.groups.awaited.entry(id).or_default())
    }

    /// Its creator's word has come. Returns what was noted until then.
    pub(super) fn group_came(&mut self, id: GroupId) -> Awaited {
        let latest = self.groups.latest.entry(id.owner).or_default();
        *latest = id.number.max(*latest);
        self.groups.awaited.remove(&id).unwrap_or_default()
    }

    /// What these processes have not created by now, they never will.
    pub(super) fn creators_of_groups_gone(&mut self, is_gone: impl Fn(ProcId) -> bool) {
        self.groups.latest.retain(|creator, _| !is_gone(*creator));
        let lost: Vec<GroupId> = self.groups.awaited.keys().copied().filter(|id| is_gone(id.owner)).collect();
        for id in lost {
            let awaited = self.groups.awaited.remove(&id).expect("listed");
            let text = format!("placement group {} was never created: the process that was to create it is gone", hex(&id.bytes()));
            self.actors_of_group_end(awaited.actors, &text);
            self.tell_removed(id, &text, awaited.watchers, awaited.interested);
        }
    }
}
