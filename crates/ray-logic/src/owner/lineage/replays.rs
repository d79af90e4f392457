//! Items of generators that went with their node: the generator runs again and sends those once more, by number (docs/design/014).
//!
//! A call that runs when items of it are lost may have passed them: what it was not asked for when it left is asked for after its end, by repeating it. What it
//! was asked for and did not make will not come.
//!
//! Invariants
//! 1. What is lost had come, and waits for its value (or was let go of meanwhile). Its call runs, is to be sent, or is about to be repeated.
//! 2. Nothing is lost of a call that has ended, once the event that ended it is over.

use super::losses::loss;
use crate::owner::objects::{Object, State};
use crate::owner::streams::StreamOptions;
use crate::owner::Owner;
use crate::Time;
use ray_proto::{ObjectId, Payload, Value};
use std::collections::BTreeMap;

/// What is to come once more, and whether the attempt under way knows.
#[derive(Debug, Default)]
pub(in crate::owner) struct Lost {
    items: BTreeMap<u64, bool>,
    /// The end object, which mentions all items of a call that gathers them.
    end: Option<bool>,
}

impl Lost {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.end.is_none()
    }
}

impl Owner {
    /// `id` waits for its value again, and a call that runs, or will, makes it. Returns of plain calls come by themselves.
    pub(in crate::owner) fn want_again(&mut self, id: ObjectId) {
        if self.tasks.get(&id.call()).is_none_or(|task| task.template.stream.is_none()) {
            return;
        }
        let lost = self.lost_items.entry(id.call()).or_default();
        match id.is_end() {
            true => lost.end = Some(false),
            false => _ = lost.items.insert(id.index(), false),
        }
    }

    /// A generator that had ended runs again for those of its `items` that wait for their values.
    pub(in crate::owner) fn reopen_stream(&mut self, call: u64, options: StreamOptions, items: u64) {
        let is_pending = |id: &ObjectId| self.objects.get(id).is_some_and(|object| object.state == State::Pending);
        let lost: Vec<ObjectId> = (1..=items).map(|index| self.item_id(call, index)).chain([self.end_id(call)]).filter(is_pending).collect();
        let misses_end = lost.last().is_some_and(|id| id.is_end());
        lost.into_iter().for_each(|id| self.want_again(id));
        let gathers = options.gather && misses_end;
        self.stream_again(call, options, items, if gathers { 0 } else { items });
        if gathers {
            (1..=items).for_each(|index| self.gather_again(call, index));
        }
    }

    /// The end object will mention this item again: the stream holds it until then, and has it made if it is gone.
    fn gather_again(&mut self, call: u64, index: u64) {
        let id = self.item_id(call, index);
        if self.objects.get(&id).is_none_or(|object| object.state == State::Freed) {
            self.objects.insert(id, Object::new(State::Pending));
            self.want_again(id);
        }
        self.hold(id);
    }

    /// The call leaves for a worker, which gets to know.
    pub(in crate::owner) fn lost_asked(&mut self, call: u64) {
        if let Some(lost) = self.lost_items.get_mut(&call) {
            lost.items.values_mut().chain(lost.end.as_mut()).for_each(|asked| *asked = true);
        }
    }

    /// The numbers of lost items, as ranges.
    pub(in crate::owner) fn lost_ranges(&self, call: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for &index in self.lost_items.get(&call).into_iter().flat_map(|lost| lost.items.keys()) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => ranges.push((index, index)),
            }
        }
        ranges
    }

    pub(in crate::owner) fn is_lost_item(&self, call: u64, index: u64) -> bool {
        self.lost_items.get(&call).is_some_and(|lost| lost.items.contains_key(&index))
    }

    pub(in crate::owner) fn is_end_lost(&self, call: u64) -> bool {
        self.lost_items.get(&call).is_some_and(|lost| lost.end.is_some())
    }

    /// Somebody waits for items that had come before.
    pub(in crate::owner) fn misses_items(&self, call: u64) -> bool {
        self.lost_items.contains_key(&call)
    }

    /// One that had come comes once more. It may have been let go of meanwhile.
    pub(in crate::owner) fn lost_item_came(&mut self, call: u64, index: u64, payload: Payload) {
        self.lost_items.get_mut(&call).expect("lost").items.remove(&index);
        self.set_ready(self.item_id(call, index), payload);
        self.forget_if_found(call);
    }

    pub(in crate::owner) fn lost_end_came(&mut self, call: u64, payload: Payload) {
        self.lost_items.get_mut(&call).expect("lost").end = None;
        self.set_ready(self.end_id(call), payload);
        self.forget_if_found(call);
    }

    fn forget_if_found(&mut self, call: u64) {
        if self.lost_items.get(&call).is_some_and(Lost::is_empty) {
            self.lost_items.remove(&call);
            self.close_replay(call);
        }
    }

    /// The call has ended without what it was asked for: that becomes `error`, if the call ended with one.
    pub(in crate::owner) fn lost_not_made(&mut self, call: u64, error: Option<Value>) {
        let Some(lost) = self.lost_items.get_mut(&call) else { return };
        let asked: Vec<u64> = lost.items.iter().filter(|(_, asked)| **asked).map(|(index, _)| *index).collect();
        lost.items.retain(|_, asked| !*asked);
        let end = lost.end.take_if(|asked| *asked);
        if lost.is_empty() {
            self.lost_items.remove(&call);
        }
        let missing = asked.into_iter().map(|index| self.item_id(call, index)).chain(end.map(|_| self.end_id(call)));
        let missing = missing.collect();
        self.become_errors(missing, error);
    }

    /// Items were lost while the call ran, too late for it to know: it runs again.
    pub(in crate::owner) fn repeat_for_lost(&mut self, now: Time, call: u64) {
        if self.tasks.contains_key(&call) {
            return;
        }
        let Some(lost) = self.lost_items.remove(&call) else { return };
        let missing = lost.items.keys().map(|index| self.item_id(call, *index)).chain(lost.end.map(|_| self.end_id(call)));
        let is_pending = |id: &ObjectId| self.objects.get(id).is_some_and(|object| object.state == State::Pending);
        let missing: Vec<ObjectId> = missing.filter(is_pending).collect();
        self.repeat_or_fail(now, missing, "its bytes went with their node");
    }

    /// The call has failed for good.
    pub(in crate::owner) fn give_up_lost(&mut self, call: u64, error: &Value) {
        let Some(lost) = self.lost_items.remove(&call) else { return };
        let missing = lost.items.keys().map(|index| self.item_id(call, *index)).chain(lost.end.map(|_| self.end_id(call)));
        let missing = missing.collect();
        self.become_errors(missing, Some(error.clone()));
    }

    pub(in crate::owner) fn check_lost_items(&self) {
        for (call, lost) in &self.lost_items {
            assert!(!lost.is_empty(), "nothing of call {call} is lost, and it is listed");
            assert!(self.tasks.contains_key(call), "items of call {call} are lost, and it does not run: {lost:?}");
        }
    }

    fn become_errors(&mut self, ids: Vec<ObjectId>, error: Option<Value>) {
        for id in ids {
            let why = || loss(id, "its bytes went with their node", "the generator that made it ended without it when it was run again");
            let value = error.clone().unwrap_or_else(why);
            self.set_ready(id, Payload { value, refs: vec![] });
        }
    }
}
