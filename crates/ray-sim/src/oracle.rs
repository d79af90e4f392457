//! The truth about a run, kept beside the machines and never shown to them: who holds what, what each value must be, who died.
//!
//! A check that fails panics with a text; `run` catches it and reports the seed.

use crate::env::name;
use crate::rng::mix;
use ray_logic::extents::rounded;
use ray_logic::owner::Owner;
use ray_proto::ids::{ExtentId, NodeIndex, ObjectId, ProcId};
use ray_proto::value::{system_error_fields, FLAG_RAISED, FLAG_SYSTEM};
use ray_proto::{ActorId, GroupId, ShmRange, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where in the tree of calls something was made: the driver is the root.
pub type Path = Rc<[u32]>;

/// `a` is sure to end before `b` does, or does not depend on it: it comes before `b` in post-order. Waiting only along this order can't deadlock.
pub fn precedes(a: &[u32], b: &[u32]) -> bool {
    if a.starts_with(b) {
        return a.len() > b.len();
    }
    !b.starts_with(a) && a < b
}

#[derive(Clone, Debug)]
pub struct Made {
    pub path: Path,
    /// No actor is involved in it.
    pub pure: bool,
    /// A put: ready from the start.
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct CallInfo {
    pub path: Path,
    pub pure: bool,
    pub depth: u32,
    pub actor: Option<ActorId>,
    /// Of a method that starts in the caller's order: its concurrency group.
    pub ordered_in: Option<u32>,
    pub max_retries: i32,
    /// Keeps a GPU while it waits: two of them could wait for each other.
    pub greedy: bool,
    /// It takes nothing.
    pub simple: bool,
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub made: BTreeMap<ObjectId, Made>,
    pub calls: BTreeMap<(ProcId, u64), CallInfo>,
    pub contents: BTreeMap<ObjectId, Vec<ObjectId>>,
    /// Actors that somebody killed, that left, whose constructor raised or whose process was killed.
    pub doomed: BTreeSet<ActorId>,
    /// Actors whose constructor takes results of calls, which may fail.
    pub needy: BTreeSet<ActorId>,
    pub dead: BTreeSet<ProcId>,
    pub killed_any: bool,
    /// Placement groups that somebody removed.
    pub groups_ended: BTreeSet<GroupId>,
    /// Killed, by whomever: what they had sent last may be lost, on one link and not on another.
    pub lossy: BTreeSet<ProcId>,
    /// Somebody died with something in its table: ranges made for it stay with their makers.
    pub stranded_any: bool,
    /// Nodes that are no more, or are dead for the others.
    pub lost_nodes: BTreeSet<NodeIndex>,
    /// Nodes that were stopped with their machines for longer than others wait: what runs there for a moment afterwards runs twice.
    pub frozen: BTreeSet<NodeIndex>,
    /// What was asked of which node and not answered, by asker and number.
    pub questions: BTreeMap<(ProcId, u64), NodeIndex>,
    /// What is copied to other nodes, and whether it was overwritten meanwhile.
    transfers: BTreeMap<(NodeIndex, u64), (ShmRange, u64, bool)>,
    /// Objects that stand for others with the same value.
    copies: BTreeMap<ObjectId, ObjectId>,
    children: BTreeMap<Path, u32>,
    started: BTreeSet<(ProcId, u64, u32)>,
    /// Calls that somebody cancels.
    pub cancelled: BTreeSet<(ProcId, u64)>,
    /// Those of them whose callers know, with the attempt that they were at: the last one.
    pub last_attempts: BTreeMap<(ProcId, u64), u32>,
    raised: BTreeSet<u64>,
    /// Objects that a dead process may have been the only one to keep for others.
    tainted: BTreeSet<ObjectId>,
    incarnations: BTreeMap<ActorId, ProcId>,
    order: BTreeMap<(ProcId, ActorId, u32), u64>,
    memory: BTreeMap<(ExtentId, u64), u64>,
    creators: BTreeMap<ExtentId, ProcId>,
    views: BTreeMap<(ExtentId, u64), (u64, BTreeMap<ProcId, u32>)>,
    handles: BTreeMap<ObjectId, BTreeMap<ProcId, u32>>,
}

pub fn token(id: ObjectId) -> u64 {
    mix(id.owner.0, id.seq)
}

impl Oracle {
    /// The next child of a call: paths never repeat, also when a call is tried again.
    pub fn child(&mut self, path: &Path) -> Path {
        let count = self.children.entry(path.clone()).or_insert(0);
        *count += 1;
        path.iter().copied().chain([*count]).collect()
    }

    /// A call that is made again mentions what its caller had let go of.
    pub fn mentioned_again(&mut self, id: ObjectId) {
        if !self.lost_nodes.is_empty() || !self.frozen.is_empty() {
            self.tainted.insert(id);
        }
    }

    /// `own` has the value of `id` from now on.
    pub fn becomes(&mut self, id: ObjectId, own: ObjectId) {
        self.copies.insert(own, self.original(id));
        if let Some(made) = self.made.get(&id).cloned() {
            self.made.insert(own, Made { ready: true, ..made });
        }
    }

    fn original(&self, id: ObjectId) -> ObjectId {
        self.copies.get(&id).copied().unwrap_or(id)
    }

    /// What a process has given to its actors.
    pub fn given_by(&self, creator: ProcId) -> BTreeSet<ObjectId> {
        let (first, last) = (ObjectId { owner: creator, seq: 0 }, ObjectId { owner: creator, seq: u64::MAX });
        self.contents.range(first..=last).filter(|(id, _)| id.is_actor()).flat_map(|(_, given)| given.iter().copied()).collect()
    }

    pub fn handle_made(&mut self, by: ProcId, id: ObjectId) {
        *self.handles.entry(id).or_default().entry(by).or_insert(0) += 1;
    }

    pub fn handle_dropped(&mut self, by: ProcId, id: ObjectId) {
        let holders = self.handles.get_mut(&id).expect("a handle");
        let count = holders.get_mut(&by).expect("its handle");
        *count -= 1;
        if *count == 0 {
            holders.remove(&by);
        }
        if holders.is_empty() {
            self.handles.remove(&id);
        }
    }

    pub fn view_made(&mut self, by: ProcId, range: ShmRange) {
        let view = self.views.entry((range.extent, range.offset)).or_insert_with(|| (rounded(range.len), BTreeMap::new()));
        *view.1.entry(by).or_insert(0) += 1;
    }

    pub fn view_dropped(&mut self, by: ProcId, range: ShmRange) {
        let key = (range.extent, range.offset);
        let readers = &mut self.views.get_mut(&key).expect("a view").1;
        let count = readers.get_mut(&by).expect("its view");
        *count -= 1;
        if *count == 0 {
            readers.remove(&by);
        }
        if readers.is_empty() {
            self.views.remove(&key);
        }
    }

    /// `by` writes a value into a range it was just given.
    pub fn write(&mut self, by: ProcId, range: ShmRange, token: u64) {
        self.creators.insert(range.extent, by);
        let end = range.offset + rounded(range.len);
        for (source, _, overwritten) in self.transfers.values_mut() {
            *overwritten |= source.extent == range.extent && source.offset < end && range.offset < source.offset + rounded(source.len);
        }
        for ((extent, at), (len, readers)) in &self.views {
            let counts = readers.keys().any(|reader| !self.frozen.contains(&reader.node()));
            let overlaps = counts && *extent == range.extent && *at < end && range.offset < at + len;
            assert!(
                !overlaps,
                "shared memory reused under a pin: {} writes {range:?}, read by {:?}",
                name(by),
                readers.keys().map(|p| name(*p)).collect::<Vec<_>>()
            );
        }
        self.memory.insert((range.extent, range.offset), token);
    }

    /// `by` copies a value to a place it was just given.
    pub fn copied(&mut self, by: ProcId, from: ShmRange, to: ShmRange) {
        let token = self.memory.get(&(from.extent, from.offset)).copied().expect("a value was written there");
        if to.extent.is_stored() {
            self.memory.insert((to.extent, to.offset), token);
            return;
        }
        self.write(by, to, token);
    }

    /// The owner of a value in storage beyond the nodes has removed it.
    pub fn removed(&mut self, range: ShmRange) {
        let was_there = self.memory.remove(&(range.extent, range.offset)).is_some();
        assert!(was_there, "{range:?} was removed from storage twice");
    }

    pub fn transfer_starts(&mut self, ticket: (NodeIndex, u64), source: ShmRange) {
        let token = self.memory.get(&(source.extent, source.offset)).copied().unwrap_or(0);
        self.transfers.insert(ticket, (source, token, false));
    }

    /// What the reader gets: nonsense if something else was written there meanwhile.
    pub fn transfer_ends(&mut self, ticket: (NodeIndex, u64)) -> u64 {
        self.transfers.remove(&ticket).map_or(0, |(_, token, overwritten)| if overwritten { !token } else { token })
    }

    /// A reader was told that nothing answers for the bytes of a value on another node.
    pub fn check_lost(&self, by: ProcId, id: ObjectId, range: ShmRange) {
        let creator = self.creators.get(&range.extent);
        let excused = self.lost_nodes.contains(&range.extent.node()) || self.frozen.contains(&by.node()) || self.frozen.contains(&range.extent.node());
        let as_before = self.dead.contains(&id.owner) || creator.is_some_and(|c| self.lossy.contains(c)) || self.tainted.contains(&id);
        assert!(excused || as_before, "{} pulls {id:?} from {range:?}: the bytes are gone, and their maker {creator:?} lives", name(by));
    }

    pub fn check_range(&self, by: ProcId, id: ObjectId, range: ShmRange) {
        let found = self.memory.get(&(range.extent, range.offset)).copied();
        assert!(found == Some(token(id)), "{} reads {id:?} at {range:?} and finds another value", name(by));
    }

    /// A reader was told that an extent is gone.
    pub fn check_gone(&self, by: ProcId, id: ObjectId, range: ShmRange) {
        let creator = self.creators.get(&range.extent);
        let excused = self.dead.contains(&id.owner) || creator.is_some_and(|c| self.lossy.contains(c)) || self.tainted.contains(&id);
        assert!(excused, "{} reads {id:?} at {range:?}: the extent is gone, and its maker {creator:?} lives", name(by));
    }

    pub fn raises(&mut self, id: ObjectId) -> Value {
        self.raised.insert(token(id));
        let mut bytes = vec![FLAG_RAISED];
        bytes.extend_from_slice(&token(id).to_le_bytes());
        Value::inline(bytes)
    }

    /// A process got the value of `id`.
    pub fn check_value(&self, by: ProcId, id: ObjectId, value: &Value) {
        let Value::Inline(bytes) = value else { return };
        match bytes[0] {
            FLAG_RAISED => {
                let found = u64::from_le_bytes(bytes[1..9].try_into().expect("a token"));
                assert!(self.raised.contains(&found), "{id:?} holds an exception nobody raised");
            }
            FLAG_SYSTEM => self.check_error(by, id, &system_error_fields(&bytes[1..])),
            _ => assert_eq!(bytes[1..], token(self.original(id)).to_le_bytes(), "{} gets {id:?} and finds another value", name(by)),
        }
    }

    fn check_error(&self, by: ProcId, id: ObjectId, fields: &[(String, String)]) {
        let field = |key: &str| fields.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
        let unhex = |text: &str| (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or(0)).collect::<Vec<u8>>();
        let object = unhex(field("object_id")).try_into().map(|b: [u8; 28]| ObjectId::from_bytes(&b));
        let actor: Option<ActorId> = self.actor_of(&unhex(field("actor_id")));
        let excused = match field("code") {
            "object_lost" => object.is_ok_and(|o| self.tainted.contains(&o) || self.may_be_lost(o)),
            "task_group_removed" | "actor_group_removed" => !self.groups_ended.is_empty() || !self.lost_nodes.is_empty() || self.killed_any,
            "unschedulable" => !self.lost_nodes.is_empty() || !self.frozen.is_empty(),
            "owner_died" => object.is_ok_and(|o| self.dead.contains(&o.owner) || self.frozen.contains(&o.owner.node())),
            "worker_crashed" => self.killed_any,
            "cancelled" => self.is_cancelled(&unhex(field("task_id"))),
            "actor_init_failed" if actor.is_some_and(|a| self.needy.contains(&a)) => true,
            "actor_died" | "actor_unavailable" if self.killed_any => true,
            "actor_died" | "actor_unavailable" | "actor_init_failed" => actor.is_some_and(|a| self.doomed.contains(&a) || self.dead.contains(&a.owner)),
            _ => false,
        };
        assert!(excused, "{} gets {id:?} and finds an error that nothing explains: {} {}", name(by), field("code"), field("message"));
    }

    /// Whether somebody has cancelled a call, or one that it was made by.
    fn is_cancelled(&self, task_bytes: &[u8]) -> bool {
        let info = self.calls.iter().find(|((owner, call), _)| ObjectId::new(*owner, *call, 0).task_bytes()[..] == *task_bytes).map(|(_, info)| info);
        let Some(info) = info else { return false };
        self.cancelled.iter().filter_map(|key| self.calls.get(key)).any(|cancelled| info.path.starts_with(&cancelled.path))
    }

    /// Whether it may be lost with a node, for good. What depends on nothing and may be repeated for ever can't.
    fn may_be_lost(&self, id: ObjectId) -> bool {
        let call = self.calls.get(&(id.owner, id.call()));
        let for_ever = id.index() > 0 && !id.is_end() && call.is_some_and(|call| call.simple && call.actor.is_none() && call.max_retries < 0);
        let any = !self.lost_nodes.is_empty() || !self.frozen.is_empty();
        any && !for_ever
    }

    /// The public form keeps 5 bytes of the counter and 6 of the owner.
    fn actor_of(&self, bytes: &[u8]) -> Option<ActorId> {
        self.made.keys().find(|id| id.is_actor() && id.actor_bytes() == bytes).copied()
    }

    /// A worker starts a call.
    pub fn starts(&mut self, at: ProcId, from: ProcId, task: u64, attempt: u32) {
        let info = self.calls.get(&(from, task)).expect("a submitted call");
        assert!(
            info.max_retries < 0 || attempt as i64 <= i64::from(info.max_retries),
            "call {task} of {} starts attempt {attempt} of {}",
            name(from),
            info.max_retries
        );
        let last = self.last_attempts.get(&(from, task)).copied().unwrap_or(u32::MAX);
        assert!(attempt <= last, "call {task} of {} starts attempt {attempt} after it was cancelled at {last}", name(from));
        let first = self.started.insert((from, task, attempt));
        assert!(first, "call {task} of {} runs attempt {attempt} twice, now at {}", name(from), name(at));
        if let (Some(actor), Some(group), 0) = (info.actor, info.ordered_in, attempt) {
            let last = self.order.insert((from, actor, group), task);
            assert!(last.is_none_or(|last| last < task), "{} runs call {task} of {} after call {last:?}", name(at), name(from));
        }
    }

    pub fn actor_starts(&mut self, at: ProcId, actor: ActorId) {
        let before = self.incarnations.insert(actor, at);
        assert!(before.is_none_or(|p| self.dead.contains(&p) || self.frozen.contains(&p.node())), "two living incarnations of {actor:?}");
    }

    /// `owner` is gone with its table. `exposed`: what it alone kept for others, which may be lost with it.
    pub fn process_died(&mut self, owner: &Owner, killed: bool, exposed: Vec<ObjectId>) {
        let me = owner.me();
        self.dead.insert(me);
        self.killed_any |= killed;
        let gone: Vec<ActorId> = self.incarnations.iter().filter(|(_, p)| **p == me).map(|(a, _)| *a).collect();
        self.doomed.extend(gone);
        self.stranded_any |= killed || !owner.ids().is_empty();
        let mut list = exposed;
        while let Some(id) = list.pop() {
            if self.tainted.insert(id) {
                list.extend(self.contents.get(&id).into_iter().flatten());
            }
        }
        for holders in self.handles.values_mut() {
            holders.remove(&me);
        }
        self.handles.retain(|_, holders| !holders.is_empty());
        for (_, readers) in self.views.values_mut() {
            readers.remove(&me);
        }
        self.views.retain(|_, (_, readers)| !readers.is_empty());
    }

    /// Nothing that a living process refers to has left its owner's table.
    pub fn check_alive(&self, owner: &Owner) {
        let me = owner.me();
        let first = ObjectId { owner: me, seq: 0 };
        let last = ObjectId { owner: me, seq: u64::MAX };
        for (id, holders) in self.handles.range(first..=last) {
            let counts = holders.keys().any(|holder| !self.frozen.contains(&holder.node()));
            let known = !counts || owner.get(*id).is_some() || self.tainted.contains(id);
            assert!(known, "{id:?} was freed while {:?} refer to it", holders.keys().map(|p| name(*p)).collect::<Vec<_>>());
        }
    }
}

// Questions about what was recorded on a node, asked by a process of any node: each is answered once, unless one of the two is gone.

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
