//! Calls of ours that give their results one after another (generators): items, the end, credit for the producer.
//!
//! A stream has a reader until that is dropped, and an end object (`END_INDEX`) that becomes ready when the call ends. Without a reader items are thrown
//! away as they come; when nobody refers to the end object either, the producer is told to stop. A stream that gathers has no reader: its items
//! wait for the value of its end object, which mentions them all.
//!
//! Invariants
//! 1. Items come in order and once: an attempt starts behind what earlier ones have delivered, and what comes twice is dropped by its number. What was lost
//!    with its node since is asked for by number (`replays`).
//! 2. The stream holds each item from its arrival until it is read, and the end object as long as there is a reader.
//! 3. A stream that has ended stays so for its reader, also while its call runs once more.
//! 4. `granted` never falls. A reader that waits and a producer that waits never wait for each other.

use super::lineage::Unrepeatable;
use super::objects::{Object, State};
use super::Owner;
use ray_proto::ids::END_INDEX;
use ray_proto::msg::{Peer, StreamOpen};
use ray_proto::value::system_error;
use ray_proto::{ObjectId, Payload, ProcId, Value};

/// Items on their way at most while the reader sets no limit: what arrives makes room for more, read or not.
const AHEAD: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Items made and not read at most; None: without limit.
    pub window: Option<u64>,
    /// The end object's value will mention all items; nobody reads them one by one.
    pub gather: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    options: StreamOptions,
    /// Items arrived.
    received: u64,
    /// Items read, or thrown away.
    taken: u64,
    /// The entry of the next item was made before its value: somebody waits for it.
    awaited: bool,
    /// Items that the producer may send.
    granted: u64,
    has_reader: bool,
    ended: bool,
    /// Items came that can be lost with a node.
    perishable: bool,
    /// Where the call was sent last.
    producer: Option<ProcId>,
}

/// What a reader finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With a local reference.
    Item(ObjectId),
    Pending,
    Over,
}

impl Stream {
    /// Items that the producer may send by now.
    fn allowance(&self) -> u64 {
        match self.options.window {
            Some(window) if self.has_reader => self.taken + window,
            _ => self.received + AHEAD,
        }
    }

    /// New credit is worth a message: half of the old is used, or the producer waits for it.
    fn is_credit_due(&self) -> bool {
        let starved = self.granted <= self.received;
        match self.options.window {
            Some(window) if self.has_reader => starved || self.granted - self.taken <= window / 2,
            _ => starved || self.granted - self.received <= AHEAD / 2,
        }
    }
}

impl Owner {
    pub(super) fn open_stream(&mut self, call: u64, options: StreamOptions) {
        let mut end = Object::new(State::Pending);
        match options.gather {
            true => end.local = 1,
            false => end.holds = 1,
        }
        self.objects.insert(self.end_id(call), end);
        let stream =
            Stream { options, received: 0, taken: 0, awaited: false, granted: 0, has_reader: !options.gather, ended: false, perishable: false, producer: None };
        self.streams.insert(call, stream);
    }

    pub(super) fn item_id(&self, call: u64, index: u64) -> ObjectId {
        ObjectId::new(self.me, call, index)
    }

    pub(super) fn end_id(&self, call: u64) -> ObjectId {
        ObjectId::new(self.me, call, END_INDEX)
    }

    /// Somebody cares how the call ends. True for calls without a stream.
    pub(super) fn is_stream_wanted(&self, call: u64) -> bool {
        self.streams.get(&call).is_none_or(|stream| stream.has_reader || self.objects.contains_key(&self.end_id(call)) || self.misses_items(call))
    }

    /// Arriving items are kept.
    fn keeps_items(&self, call: u64) -> bool {
        self.streams.get(&call).is_some_and(|stream| stream.has_reader || stream.options.gather && self.objects.contains_key(&self.end_id(call)))
    }

    // ---- the producer

    /// The call leaves for a worker.
    pub(super) fn stream_sent(&mut self, call: u64, to: ProcId) {
        if let Some(stream) = self.streams.get_mut(&call) {
            stream.producer = Some(to);
            stream.granted = stream.granted.max(stream.allowance());
            self.lost_asked(call);
        }
    }

    pub(super) fn stream_open(&self, call: u64) -> Option<StreamOpen> {
        let stream = self.streams.get(&call)?;
        let (have, until, gather) = (stream.received, stream.granted, stream.options.gather);
        Some(StreamOpen { have, until, closed: !self.is_stream_wanted(call), gather, again: self.lost_ranges(call) })
    }

    pub(super) fn items_arrived(&mut self, from: ProcId, call: u64, first: u64, items: Vec<Payload>) {
        self.take_in(from, call, first, &items);
        for (index, payload) in (first..).zip(items) {
            self.item_arrived(call, index, payload);
        }
        self.grant_credit(call);
    }

    fn item_arrived(&mut self, call: u64, index: u64, payload: Payload) {
        if self.is_lost_item(call, index) {
            return self.lost_item_came(call, index, payload);
        }
        let (id, keeps) = (self.item_id(call, index), self.keeps_items(call));
        let Some(stream) = self.streams.get_mut(&call).filter(|stream| !stream.ended && index == stream.received + 1) else {
            return self.discard(payload);
        };
        stream.received = index;
        stream.perishable |= matches!(payload.value, Value::Shm(_)) || !payload.refs.is_empty();
        if !keeps {
            stream.taken = index;
            return self.discard(payload);
        }
        if std::mem::take(&mut stream.awaited) {
            self.set_ready(id, payload);
            return self.note_item(call, id);
        }
        // A call to ourselves may have mentioned the item before it came.
        let object = self.objects.entry(id).or_insert_with(|| Object::new(State::Pending));
        object.state = State::Ready(payload.value);
        object.holds += 1;
        if !payload.refs.is_empty() {
            object.more().refs = payload.refs;
        }
        self.note_ready(id);
        self.note_item(call, id);
    }

    fn note_item(&mut self, call: u64, id: ObjectId) {
        if self.tasks.get(&call).is_some_and(|task| task.template.max_retries == 0) {
            self.note_unrepeatable(id, Unrepeatable::NoRetries);
        }
    }

    fn grant_credit(&mut self, call: u64) {
        let Some(stream) = self.streams.get_mut(&call).filter(|stream| !stream.ended) else { return };
        let until = stream.allowance();
        let (Some(to), true) = (stream.producer, until > stream.granted && stream.is_credit_due()) else { return };
        let urgent = stream.granted <= stream.received;
        stream.granted = until;
        self.send(to, Peer::StreamCredit { task: call, until }, urgent);
    }

    /// The one end of the call. `results`: the error that ended it, if one did, and the value of the end object. Of a call that ran once more for lost items
    /// they are of no use but for the end object, if that was lost.
    pub(super) fn end_stream(&mut self, call: u64, results: Vec<Payload>) {
        if self.streams.get(&call).is_some_and(|stream| stream.ended) {
            return self.end_replay(call, results);
        }
        let mut results = results.into_iter();
        let (mut error, mut end) = (None, results.next());
        if let Some(failed) = end.take_if(|payload| payload.value.is_error()) {
            end = Some(results.next().unwrap_or_else(|| failed.clone()));
            error = Some(failed);
        }
        let Some(stream) = self.streams.get(&call) else { return };
        let (next, gather) = (stream.received + 1, stream.options.gather);
        if let Some(error) = error.filter(|_| !gather) {
            self.item_arrived(call, next, error);
        }
        self.give_up_awaited(call);
        self.streams.get_mut(&call).expect("looked up above").ended = true;
        if let Some(end) = end {
            self.set_ready(self.end_id(call), end);
        }
        if gather {
            self.drop_unread(call);
        }
        self.close_unread(call);
    }

    fn end_replay(&mut self, call: u64, mut results: Vec<Payload>) {
        if let Some(end) = results.pop() {
            match self.is_end_lost(call) {
                true => self.lost_end_came(call, end),
                false => self.discard(end),
            }
        }
        results.into_iter().for_each(|payload| self.discard(payload));
        if self.streams.get(&call).is_some_and(|stream| stream.options.gather) {
            self.drop_unread(call);
        }
        self.close_unread(call);
    }

    /// The call has ended: without a reader nothing needs its stream.
    fn close_unread(&mut self, call: u64) {
        if self.streams.get(&call).is_some_and(|stream| !stream.has_reader) {
            self.streams.remove(&call);
        }
    }

    /// How many items of a stream have come, and whether some can be lost with a node.
    pub(super) fn items_of(&self, call: u64) -> (u64, bool) {
        self.streams.get(&call).map_or((0, false), |stream| (stream.received, stream.perishable))
    }

    /// A call whose stream has ended runs once more, for some of its items.
    /// `taken`: the stream holds those behind it.
    pub(super) fn stream_again(&mut self, call: u64, options: StreamOptions, items: u64, taken: u64) {
        let ended =
            Stream { options, received: items, taken, awaited: false, granted: items, has_reader: false, ended: true, perishable: true, producer: None };
        self.streams.entry(call).or_insert(ended).producer = None;
    }

    /// Every lost item has come again: nobody wants more of a call that has ended once, or has no reader.
    pub(super) fn close_replay(&mut self, call: u64) {
        if !self.tasks.contains_key(&call) {
            return;
        }
        let is_wanted = self.is_stream_wanted(call);
        let Some(stream) = self.streams.get(&call).filter(|stream| stream.ended || !is_wanted) else { return };
        if let Some(to) = stream.producer {
            self.send(to, Peer::StreamClose { task: call }, true);
        }
    }

    // ---- the reader

    /// The next item, if it is here.
    pub fn stream_next(&mut self, call: u64) -> Next {
        let Some(stream) = self.streams.get_mut(&call) else { return Next::Over };
        if stream.taken == stream.received {
            return if stream.ended { Next::Over } else { Next::Pending };
        }
        stream.taken += 1;
        let id = ObjectId::new(self.me, call, stream.taken);
        let object = self.objects.get_mut(&id).expect("an unread item");
        object.local += 1;
        object.holds -= 1;
        self.grant_credit(call);
        Next::Item(id)
    }

    /// An object that is ready when a reader need not wait: the next item, also before it has come, or the end. With a local reference.
    pub fn stream_peek(&mut self, call: u64) -> ObjectId {
        let id = match self.streams.get_mut(&call) {
            Some(stream) if stream.taken < stream.received => ObjectId::new(self.me, call, stream.taken + 1),
            Some(stream) if !stream.ended => {
                let id = ObjectId::new(self.me, call, stream.received + 1);
                if !std::mem::replace(&mut stream.awaited, true) {
                    let mut object = Object::new(State::Pending);
                    object.holds = 1;
                    self.objects.insert(id, object);
                }
                id
            }
            _ => self.end_id(call),
        };
        self.add_local(id);
        id
    }

    /// The object that is ready when the call has ended. With a local reference.
    pub fn stream_end(&mut self, call: u64) -> ObjectId {
        let id = self.end_id(call);
        self.add_local(id);
        id
    }

    /// Whether the next item is here, and whether all are read.
    pub fn stream_state(&self, call: u64) -> (bool, bool) {
        self.streams.get(&call).map_or((false, true), |stream| (stream.taken < stream.received, stream.ended && stream.taken == stream.received))
    }

    /// The reader is gone: so are unread items, and without a reference to its end the call is told to stop.
    pub fn stream_dropped(&mut self, call: u64) {
        let Some(stream) = self.streams.get_mut(&call) else { return };
        stream.has_reader = false;
        let ended = stream.ended;
        self.drop_unread(call);
        if ended && !self.tasks.contains_key(&call) {
            self.streams.remove(&call);
        }
        self.unhold(self.end_id(call));
        self.grant_credit(call);
    }

    /// Nobody refers to the end object any more, and without one there is no reader.
    pub(super) fn stream_end_freed(&mut self, call: u64) {
        let Some(stream) = self.streams.get(&call) else { return };
        let (is_over, producer) = (stream.ended || self.misses_items(call), stream.producer);
        self.drop_unread(call);
        if let (false, Some(to)) = (is_over, producer) {
            self.send(to, Peer::StreamClose { task: call }, true);
        }
    }

    fn drop_unread(&mut self, call: u64) {
        self.give_up_awaited(call);
        let Some(stream) = self.streams.get_mut(&call) else { return };
        let unread = stream.taken + 1..=stream.received;
        stream.taken = stream.received;
        unread.for_each(|index| self.unhold(self.item_id(call, index)));
    }

    /// The item that somebody waits for will never come.
    fn give_up_awaited(&mut self, call: u64) {
        let Some(stream) = self.streams.get_mut(&call).filter(|stream| stream.awaited) else { return };
        stream.awaited = false;
        let id = ObjectId::new(self.me, call, stream.received + 1);
        let value = system_error("stream_end", &[("message", "the generator has no more items")]);
        self.set_ready(id, Payload { value, refs: vec![] });
        self.unhold(id);
    }

    // ---- checks

    /// Every object that a stream holds, one entry per hold.
    pub(super) fn held_by_streams(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.streams.iter().flat_map(|(call, stream)| {
            let end = stream.has_reader.then(|| self.end_id(*call));
            let items = stream.taken + 1..=stream.received + u64::from(stream.awaited);
            end.into_iter().chain(items.map(|index| self.item_id(*call, index)))
        })
    }

    pub(super) fn check_streams(&self) {
        for (call, stream) in &self.streams {
            assert!(stream.has_reader || self.tasks.contains_key(call), "the stream of call {call} has neither a reader nor a producer");
            assert!(stream.ended || self.tasks.contains_key(call), "the stream of call {call} ends with its call");
            assert!(stream.taken <= stream.received, "call {call}: items are read after they have come");
            assert!(!stream.awaited || !stream.ended, "call {call} has ended, and somebody waits for its next item");
        }
        self.check_lost_items();
    }

    pub(super) fn stream_leftovers(&self) -> Vec<String> {
        let mut streams: Vec<_> = self.streams.iter().collect();
        streams.sort_unstable_by_key(|(call, _)| **call);
        let unsent = self.yields.iter().filter(|(_, yields)| !yields.is_empty());
        let lines = streams.into_iter().map(|(call, stream)| format!("stream of call {call}: {stream:?}"));
        lines.chain(unsent.map(|(key, yields)| format!("items of {key:?} not sent: {yields:?}"))).collect()
    }
}
