//! Lineage: calls that have ended and can be made again, since what they made lives on other nodes and may be lost with them (docs/design/011).
//!
//! A record keeps what the call needs but not the values of its arguments. Where only lineage mentions an object, its value goes; its entry stays as a
//! *ghost* if its own call can be made again, so that arguments are made again first, and theirs before. Small values without references simply stay.
//! What becomes of losses is in `losses`, what is special about items of generators in `replays`.
//!
//! Invariants (checked by `check_lineage`)
//! 1. A call is running (`tasks`) or on record, never both. A record lives as long as one of its returns is in the table; `live` counts those.
//! 2. `mentions` counts each reference of each record; the body is held for real, and may move to disk like any object that nobody reads.
//! 3. A ghost is mentioned. One without a value was made by a call that runs again or is on record.
//! 4. The records keep at most `lineage_bytes`: the oldest goes first, and its ghosts with it.

mod losses;
mod replays;

pub(super) use replays::Lost;

use super::backlog::{cost, inline_bytes};
use super::objects::{Object, State};
use super::tasks::{Task, TaskRefs, Template};
use super::Owner;
use ray_proto::ids::END_INDEX;
use ray_proto::{ObjectId, Payload, Value};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// By call: in the order of their submission.
    records: BTreeMap<u64, Record>,
    mentions: FxHashMap<ObjectId, u32>,
    bytes: u64,
}

/// A call that ended well.
#[derive(Debug)]
pub(super) struct Record {
    pub template: Arc<Template>,
    pub body: Value,
    pub refs: Option<Box<TaskRefs>>,
    pub retries_left: i32,
    pub attempt: u32,
    /// What the call counts while it runs, for the backlog.
    pub task_bytes: u32,
    bytes: u64,
    /// Of a generator: how many items it gave.
    pub items: u64,
    /// Its returns in the table.
    live: u32,
}

/// Why no record was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unrepeatable {
    NoRetries,
    UsedUp,
    Budget,
}

/// A count that is to be dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Hold(ObjectId),
    Mention(ObjectId),
}

impl Record {
    /// The objects that it mentions, one entry per mention.
    pub(super) fn mentioned(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.refs.iter().flat_map(|refs| refs.deps.iter().chain(&refs.nested).copied())
    }

    fn body_id(&self) -> Option<ObjectId> {
        self.refs.as_ref().map(|refs| refs.body_id).filter(|id| !id.is_nil())
    }

    /// Whether the call makes `id`, one of its returns by number.
    fn makes(&self, id: ObjectId) -> bool {
        match self.template.stream {
            None => id.index() <= u64::from(self.template.num_returns),
            Some(_) => id.index() <= self.items || id.is_end(),
        }
    }

    /// What it counts elsewhere.
    fn counts(&self) -> impl Iterator<Item = Count> + '_ {
        self.body_id().map(Count::Hold).into_iter().chain(self.mentioned().map(Count::Mention))
    }
}

/// What a call makes: its results, or the items of a generator and its end.
fn is_return(id: ObjectId) -> bool {
    (1..=END_INDEX).contains(&id.index())
}

impl Lineage {
    pub(super) fn record(&self, call: u64) -> Option<&Record> {
        self.records.get(&call)
    }

    /// The counts that a record keeps are the caller's to drop.
    fn take(&mut self, call: u64) -> Option<Record> {
        let record = self.records.remove(&call)?;
        self.bytes -= record.bytes;
        Some(record)
    }

    fn insert(&mut self, call: u64, record: Record) {
        self.bytes += record.bytes;
        record.mentioned().for_each(|id| *self.mentions.entry(id).or_insert(0) += 1);
        self.records.insert(call, record);
    }
}

impl Owner {
    /// Results that can be lost with a node, or whose values may be wanted by calls that are made again. Cheap, and wrong for most calls.
    pub(super) fn may_be_lost(&self, results: &[Payload]) -> bool {
        !self.lineage.mentions.is_empty() || results.iter().any(|payload| matches!(payload.value, Value::Shm(_)) || !payload.refs.is_empty())
    }

    /// `items`: how many of them a generator gave.
    fn returns_of(&self, call: u64, template: &Template, items: u64) -> impl Iterator<Item = ObjectId> {
        let me = self.me;
        let (last, end) = match template.stream {
            None => (u64::from(template.num_returns), None),
            Some(_) => (items, Some(END_INDEX)),
        };
        (1..=last).chain(end).map(move |index| ObjectId::new(me, call, index))
    }

    /// A call has ended and its returns are set: keep what it takes to make them again, if they can be lost. One that was repeated for some of them, and
    /// failed, may have better luck when others are lost. `items`: how many a generator gave.
    pub(super) fn remember(&mut self, call: u64, task: Task, items: u64) {
        let here: Vec<ObjectId> = self.returns_of(call, &task.template, items).filter(|id| self.objects.contains_key(id)).collect();
        let why_not = match (task.template.max_retries, task.retries_left) {
            (0, _) => Some(Unrepeatable::NoRetries),
            (_, 0) => Some(Unrepeatable::UsedUp),
            _ => None,
        };
        let is_worth_it = here.iter().any(|id| self.can_be_wanted_again(*id));
        if let (None, true) = (why_not, is_worth_it) {
            return self.put_on_record(call, task, items, here.len() as u32);
        }
        for id in here {
            if let Some(why) = why_not {
                self.note_unrepeatable(id, why);
            }
            // A ghost whose call was made again for another return has nothing more to wait for.
            self.free_if_unused(id);
        }
    }

    fn put_on_record(&mut self, call: u64, task: Task, items: u64, live: u32) {
        let mentioned = task.refs.as_ref().map_or(0, |refs| refs.deps.len() + refs.nested.len());
        let deps = task.refs.iter().flat_map(|refs| &refs.deps).filter_map(|id| self.value(*id));
        let bytes = u64::from(cost(task.template.kind, &task.body, 0, mentioned)) + deps.map(inline_bytes).sum::<u64>();
        let Task { template, body, refs, retries_left, attempt, bytes: task_bytes, .. } = task;
        let record = Record { template, body, refs, retries_left, attempt, task_bytes, bytes, items, live };
        if let Some(body) = record.body_id() {
            self.hold(body);
        }
        self.lineage.insert(call, record);
        self.keep_lineage_within_budget();
    }

    /// Its value is on another node; or, among several, here, where a call made elsewhere may take it as an argument.
    fn can_be_wanted_again(&self, id: ObjectId) -> bool {
        let object = &self.objects[&id];
        let alone = self.nodes.count() <= 1;
        match &object.state {
            State::Freed => true,
            State::Ready(Value::Shm(range)) => !alone || range.extent.node() != self.me.node(),
            State::Ready(value) => !alone && !value.is_error() && !object.refs().is_empty(),
            _ => false,
        }
    }

    /// The value of `id` can't be made again, and might be lost.
    pub(super) fn note_unrepeatable(&mut self, id: ObjectId, why: Unrepeatable) {
        let me = self.me.node();
        let Some(object) = self.objects.get_mut(&id) else { return };
        if matches!(&object.state, State::Ready(Value::Shm(range)) if range.extent.node() != me) {
            object.more().unrepeatable = Some(why);
        }
    }

    fn keep_lineage_within_budget(&mut self) {
        while self.lineage.bytes > self.limits.lineage_bytes {
            let Some((&call, record)) = self.lineage.records.first_key_value() else { return };
            let returns: Vec<ObjectId> = self.returns_of(call, &record.template, record.items).collect();
            self.forget_call(call);
            for id in returns {
                self.note_unrepeatable(id, Unrepeatable::Budget);
                self.free_if_unused(id);
            }
        }
    }

    fn forget_call(&mut self, call: u64) {
        if let Some(record) = self.lineage.take(call) {
            self.drop_counts(record.counts().collect());
        }
    }

    /// The call is made again: the record goes, and with it its counts once `meanwhile` has taken others.
    pub(super) fn revive_call(&mut self, call: u64, meanwhile: impl FnOnce(&mut Owner, &Record)) -> Option<Record> {
        let record = self.lineage.take(call)?;
        meanwhile(self, &record);
        self.drop_counts(record.counts().collect());
        Some(record)
    }

    // ---- the table's view

    /// A mention is dropped. Returns whether it was the last one.
    pub(super) fn unmention(&mut self, id: ObjectId) -> bool {
        let Some(count) = self.lineage.mentions.get_mut(&id) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.lineage.mentions.remove(&id);
        }
        last
    }

    /// The entry is there, and nothing but lineage needs it.
    pub(super) fn is_ghost(&self, id: ObjectId) -> bool {
        self.objects.get(&id).is_some_and(|object| object.is_unused() && self.lineage.mentions.contains_key(&id))
    }

    /// An entry that nothing counts: true if it stays as a ghost. What goes with its value is added to `list`.
    pub(super) fn stays_for_lineage(&mut self, id: ObjectId, list: &mut Vec<Count>) -> bool {
        if self.lineage.mentions.is_empty() || !self.lineage.mentions.contains_key(&id) {
            return false;
        }
        let repeatable = id.owner == self.me && self.is_repeatable(id);
        let object = self.objects.get_mut(&id).expect("an entry");
        match &object.state {
            State::Freed => return repeatable,
            // An error that may be a value next time does not stay.
            State::Ready(value @ Value::Inline(_)) if object.refs().is_empty() && !(repeatable && value.is_error()) => {
                self.keep_small(id);
                return true;
            }
            _ if !repeatable => return false,
            _ => {}
        }
        let was = std::mem::replace(object, Object::new(State::Freed));
        self.drop_entry(id, was, list);
        true
    }

    /// A small value stays, but not as a borrowed one: its owner may forget us.
    fn keep_small(&mut self, id: ObjectId) {
        let object = self.objects.get_mut(&id).expect("an entry");
        let granted = object.granted();
        if granted > 0 {
            object.more().granted = 0;
            self.releases.entry(id.owner).or_default().push((id, granted));
        }
    }

    /// The call that makes it is on record, or runs again.
    fn is_repeatable(&self, id: ObjectId) -> bool {
        is_return(id) && (self.lineage.records.contains_key(&id.call()) || self.is_made_by_task(id))
    }

    /// A call of ours that has not ended will set it.
    pub(super) fn is_made_by_task(&self, id: ObjectId) -> bool {
        // A generator runs once more for what was lost of it, if it may run again at all.
        let makes = |task: &Task| task.template.stream.is_none() || task.template.max_retries != 0;
        id.owner == self.me && is_return(id) && self.tasks.get(&id.call()).is_some_and(makes)
    }

    /// An id of ours that had left the table is mentioned again.
    pub(super) fn return_appeared(&mut self, id: ObjectId) {
        if id.owner == self.me && is_return(id) && !self.lineage.records.is_empty() {
            if let Some(record) = self.lineage.records.get_mut(&id.call()).filter(|record| record.makes(id)) {
                record.live += 1;
            }
        }
    }

    /// An object of ours has left the table.
    pub(super) fn return_gone(&mut self, id: ObjectId, list: &mut Vec<Count>) {
        if self.lineage.records.is_empty() || !is_return(id) {
            return;
        }
        let Some(record) = self.lineage.records.get_mut(&id.call()).filter(|record| record.makes(id)) else { return };
        record.live -= 1;
        if record.live == 0 {
            let record = self.lineage.take(id.call()).expect("looked up above");
            list.extend(record.counts());
        }
    }

    // ---- checks

    /// Every object that lineage holds for real, one entry per hold.
    pub(super) fn held_by_lineage(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.lineage.records.values().filter_map(Record::body_id)
    }

    /// Calls on record, and what they keep: (records, bytes).
    pub fn lineage_size(&self) -> (usize, u64) {
        (self.lineage.records.len(), self.lineage.bytes)
    }

    pub(super) fn check_lineage(&self) {
        let mut mentions: FxHashMap<ObjectId, u32> = FxHashMap::default();
        for (call, record) in &self.lineage.records {
            record.mentioned().for_each(|id| *mentions.entry(id).or_insert(0) += 1);
            let live = self.returns_of(*call, &record.template, record.items).filter(|id| self.objects.contains_key(id)).count();
            assert!(live > 0, "call {call} is on record, and nothing it made is in the table");
            assert_eq!(live, record.live as usize, "returns of call {call} in the table");
            assert!(!self.tasks.contains_key(call), "call {call} runs and is on record");
            assert!(record.retries_left != 0, "call {call} is on record and may not be repeated");
        }
        assert_eq!(mentions, self.lineage.mentions, "mentions by lineage");
        assert_eq!(self.lineage.bytes, self.lineage.records.values().map(|record| record.bytes).sum::<u64>(), "bytes of lineage");
        assert!(self.lineage.bytes <= self.limits.lineage_bytes, "lineage keeps more than its budget");
        for (id, object) in self.objects.iter().filter(|(_, object)| object.is_unused() || object.state == State::Freed) {
            assert!(mentions.contains_key(id), "{id:?} is a ghost that nothing mentions");
            match &object.state {
                State::Freed => assert!(object.is_unused() && self.is_repeatable(*id), "{id:?} is counted, or can't be made again"),
                State::Ready(Value::Inline(_)) => assert_eq!((object.refs(), object.granted()), (&[][..], 0), "{id:?} keeps others for lineage"),
                state => panic!("{id:?} is a ghost with {state:?}"),
            }
        }
    }
}
