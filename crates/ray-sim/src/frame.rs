//! One running script: its handles, what it waits for, its results. `script` chooses what it does; here is how it waits and reads.

use crate::env::{Env, Event};
use crate::oracle::Path;
use crate::process::Process;
use crate::sabotage::Bug;
use crate::streams::{Producing, Reader};
use ray_logic::owner::WaitId;
use ray_proto::msg::{Outcome, ToNode};
use ray_proto::{ActorId, ExtentId, ObjectId, Payload, ProcId, ShmRange, Value};
use std::collections::VecDeque;

/// One local count: a Python handle, or a zero-copy view.
#[derive(Clone, Debug)]
pub struct Handle {
    pub id: ObjectId,
    pub view: Option<ShmRange>,
}

#[derive(Clone, Debug)]
pub enum Role {
    Driver,
    Call { from: ProcId, task: u64 },
    Constructor { actor: ActorId, covered: Vec<ObjectId> },
}

#[derive(Clone, Debug)]
pub enum Waiting {
    Objects {
        wait: WaitId,
        ids: Vec<ObjectId>,
        get: bool,
    },
    /// For credit to yield more.
    Credit,
    Node {
        token: u64,
    },
}

/// A call that is ending: its results are made one by one, since each may need an extent.
#[derive(Clone, Debug)]
pub struct Ending {
    pub outcome: Outcome,
    pub results: Vec<Payload>,
    pub leaving: bool,
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub role: Role,
    pub path: Path,
    pub depth: u32,
    /// Touches no actor.
    pub pure: bool,
    /// Never waits.
    pub greedy: bool,
    pub num_returns: u32,
    /// The process ends after this call (max_calls).
    pub leave_after: bool,
    pub handles: Vec<Handle>,
    pub unread: VecDeque<(ObjectId, ShmRange)>,
    pub steps_left: u32,
    pub waiting: Option<Waiting>,
    pub ending: Option<Ending>,
    /// The store refused: go on without shared memory.
    pub no_shm: bool,
    /// The memory that was wanted came as a segment on disk.
    pub on_disk: bool,
    /// Streams that it reads.
    pub readers: Vec<Reader>,
    /// It waits for the next item of one of them.
    pub peeked: Option<Handle>,
    /// It gives its results one after another.
    pub producing: Option<Producing>,
    /// It was cancelled, and its code lets itself be interrupted.
    pub interrupted: bool,
}

impl Frame {
    pub fn new(role: Role, path: Path, depth: u32, pure: bool, steps_left: u32) -> Self {
        Frame {
            role,
            path,
            depth,
            pure,
            greedy: false,
            num_returns: 0,
            leave_after: false,
            handles: vec![],
            unread: VecDeque::new(),
            steps_left,
            waiting: None,
            ending: None,
            no_shm: false,
            on_disk: false,
            readers: vec![],
            peeked: None,
            producing: None,
            interrupted: false,
        }
    }

    /// Handles that are references, not views.
    pub fn refs(&self) -> Vec<ObjectId> {
        self.handles.iter().filter(|h| h.view.is_none()).map(|h| h.id).collect()
    }
}

impl Process {
    pub fn run_frame(&mut self, env: &mut Env, mut frame: Frame) {
        debug_assert!(frame.waiting.is_none(), "only what can run is run");
        if frame.interrupted {
            return self.end_cancelled(env, frame);
        }
        if let Some((id, range)) = frame.unread.front().copied() {
            if self.is_remote(range) {
                self.read_remote(env, &mut frame, id, range);
            } else if range.extent.is_stored() || self.allocator(range.extent).owns(range.extent) || self.opened.contains(&range.extent) {
                env.oracle.check_range(self.id, id, range);
                frame.unread.pop_front();
            } else {
                let token = self.ask_node(&mut frame);
                self.to_node(env, ToNode::ExtentOpen { token, extent: range.extent });
            }
            return self.keep(env, frame);
        }
        if frame.ending.is_some() {
            return self.end_frame(env, frame);
        }
        if frame.steps_left == 0 {
            return self.last_step(env, frame);
        }
        frame.steps_left -= 1;
        self.act(env, &mut frame);
        self.keep(env, frame);
    }

    /// The frame goes on: at once, or when what it waits for is there.
    pub fn keep(&mut self, env: &mut Env, frame: Frame) {
        if frame.waiting.is_none() {
            self.post_step(env);
        }
        self.frames.push(frame);
        self.pump(env);
    }

    pub fn ask_node(&mut self, frame: &mut Frame) -> u64 {
        self.next_token += 1;
        frame.waiting = Some(Waiting::Node { token: self.next_token });
        self.next_token
    }

    pub fn extent_answer(&mut self, env: &mut Env, token: u64, extent: Option<ExtentId>) {
        let me = self.id;
        let asked = |f: &&mut Frame| matches!(f.waiting, Some(Waiting::Node { token: t }) if t == token);
        let Some(frame) = self.frames.iter_mut().find(asked) else { return };
        frame.waiting = None;
        match (frame.unread.front().copied(), extent) {
            (Some((id, range)), None) => {
                env.oracle.check_gone(me, id, range);
                frame.unread.pop_front();
            }
            (None, None) => frame.no_shm = true,
            (None, Some(extent)) => frame.on_disk = extent.is_on_disk(),
            _ => {}
        }
        self.post_step(env);
    }

    /// Memory for a value. None: the node was asked, try again later.
    pub fn allocate(&mut self, env: &mut Env, frame: &mut Frame, len: u64, token: u64) -> Option<ShmRange> {
        let from_disk = std::mem::take(&mut frame.on_disk);
        let found = if from_disk { self.disk.allocate(len) } else { self.extents.allocate(len) };
        if let Some(allocation) = found {
            env.oracle.write(self.id, allocation.range, token);
            return Some(allocation.range);
        }
        let ask = self.ask_node(frame);
        let least = ray_logic::extents::rounded(len);
        self.to_node(env, ToNode::ExtentWant { token: ask, sizes: vec![(64 * 1024).max(least), least] });
        None
    }

    pub fn add_handle(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId) {
        self.owner.add_local(id);
        env.oracle.handle_made(self.id, id);
        frame.handles.push(Handle { id, view: None });
    }

    /// A view of a value in shared memory: a count, a pin, something to read.
    pub fn add_view(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId, range: ShmRange) {
        let range = self.owner.add_view(id, range);
        env.oracle.handle_made(self.id, id);
        env.oracle.view_made(self.id, range);
        self.remote_used(id, range);
        frame.handles.push(Handle { id, view: Some(range) });
        frame.unread.push_back((id, range));
        if self.extents.owns(range.extent) && env.strikes(Bug::FreeUnderPin) {
            self.extents.free(range);
        }
    }

    /// Wait for `need` of `ids`; a get reads what is there afterwards.
    pub fn wait(&mut self, env: &mut Env, frame: &mut Frame, ids: Vec<ObjectId>, need: usize, get: bool) {
        let Some(wait) = self.owner.wait_start(&ids, need, Default::default()) else {
            return self.waited(env, frame, &ids, get);
        };
        env.note(self.id, || format!("waits {wait:?} for {need} of {ids:?}"));
        if env.rng.permille(100) && !self.is_driver {
            let delay = env.rng.range(1, 5_000);
            env.post(delay, Event::Timeout(self.id, wait));
        }
        frame.waiting = Some(Waiting::Objects { wait, ids, get });
        if matches!(frame.role, Role::Driver) {
            return;
        }
        if let Some(back) = self.exec.block() {
            self.to_node(env, ToNode::Blocked {});
            let answer = self.exec.callers().next().unwrap_or(ProcId::NODE);
            self.owner.give_back(back, true, answer);
        }
    }

    /// A wait is over: woken, or out of time.
    pub fn woken(&mut self, env: &mut Env, woken: WaitId) {
        let waits = |f: &Frame| matches!(f.waiting, Some(Waiting::Objects { wait, .. }) if wait == woken);
        let Some(at) = self.frames.iter().position(waits) else { return };
        let mut frame = self.frames.swap_remove(at);
        if let Some(Waiting::Objects { wait, ids, get }) = frame.waiting.take() {
            self.owner.wait_end(wait, &ids);
            if !matches!(frame.role, Role::Driver) && self.exec.unblock() {
                self.to_node(env, ToNode::Unblocked {});
            }
            self.waited(env, &mut frame, &ids, get);
            self.post_step(env);
        }
        self.frames.push(frame);
    }

    fn waited(&mut self, env: &mut Env, frame: &mut Frame, ids: &[ObjectId], get: bool) {
        if let Some(peeked) = frame.peeked.take() {
            self.drop_handle(env, peeked);
        }
        for &id in ids.iter().filter(|_| get) {
            if let Some(value) = self.owner.value(id).cloned() {
                self.read(env, frame, id, &value);
            }
        }
    }

    /// A value is unpickled: views and inner references become handles.
    pub fn read(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId, value: &Value) {
        env.oracle.check_value(self.id, id, value);
        if let Value::Shm(range) = value {
            self.add_view(env, frame, id, **range);
        }
        let inner = self.owner.get(id).map(|object| object.refs().to_vec()).unwrap_or_default();
        for id in inner {
            if frame.handles.len() < 24 && env.rng.permille(700) {
                self.add_handle(env, frame, id);
            }
        }
    }
}
