//! One process in miniature: the shell around `Owner`, `Exec` and `Extents`. It decides nothing that the real shell does not decide.

use crate::env::{name, Env, Event, LinkId, Packet};
use crate::frame::{Frame, Handle};
use crate::pulls::Remote;
use crate::sabotage::Bug;
use crate::spill::SpillJob;
use ray_logic::exec::{Exec, Queued};
use ray_logic::extents::Extents;
use ray_logic::owner::{Command, Limits, Owner, Template};
use ray_logic::Time;
use ray_proto::msg::{ActorSpec, FromNode, Peer, ToNode};
use ray_proto::{ActorId, ExtentId, ObjectId, ProcId, Resources, ShmRange, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What is known of the link to another process.
#[derive(Debug, Default)]
struct Wire {
    /// Our descriptor has come.
    arrived: bool,
    /// The peer's has come too, and our marker is sent: we write directly.
    direct: bool,
    /// The peer's marker has come: we read directly.
    open: bool,
    /// Direct packets that came before the marker.
    early: VecDeque<Peer>,
}

/// The actor that lives here.
#[derive(Debug)]
pub struct Home {
    pub actor: ActorId,
    /// By caller and concurrency group.
    pub next_seq: BTreeMap<(ProcId, u32), u64>,
    pub state: Vec<Handle>,
}

pub struct Process {
    pub id: ProcId,
    pub owner: Owner,
    pub exec: Exec,
    pub extents: Extents,
    /// Segments on disk.
    pub disk: Extents,
    /// What the thread that spills is at.
    pub spill: Option<SpillJob>,
    /// What runs or waits: one script, or several in an actor with threads.
    pub frames: Vec<Frame>,
    pub width: usize,
    /// Released by Python, not yet told to the owner; true: a view.
    pub drops: Vec<(ObjectId, bool)>,
    /// Readers of streams released by Python, not yet told to the owner.
    pub dropped_readers: Vec<u64>,
    /// Pickled out of band: kept until the program's end.
    pub pins: Vec<Handle>,
    pub home: Option<Home>,
    /// The actor that is to be constructed once what its arguments mention is registered.
    pub to_construct: Option<(u64, ActorId, Box<ActorSpec>)>,
    pub opened: BTreeSet<ExtentId>,
    /// Values of other nodes that are read here.
    pub remotes: BTreeMap<ObjectId, Remote>,
    pub is_driver: bool,
    /// Actors that outlive us.
    pub detached: Vec<ActorId>,
    /// Call sites of this process, to be used again.
    pub sites: Vec<Arc<Template>>,
    pub known_templates: BTreeMap<(ProcId, u32), u32>,
    pub template_groups: BTreeMap<(ProcId, u32), u32>,
    pub template_runs: BTreeMap<(ProcId, u32), u32>,
    pub last_started: Option<(ProcId, u64)>,
    /// No further call starts; the process ends when nothing needs it.
    pub leaving: bool,
    /// The actor's last handle is gone: end when the queue is empty.
    pub finishing: bool,
    /// The process has ended by itself.
    pub exited: bool,
    /// A call that runs here was cancelled by force.
    pub forced: bool,
    pub stalled_until: Time,
    pub next_token: u64,
    /// About the driver's script: in its last get; over.
    pub gets_all: bool,
    pub done: bool,
    wires: BTreeMap<ProcId, Wire>,
    step_posted: bool,
    drops_posted: bool,
    tick_at: Time,
}

impl Process {
    pub fn new(id: ProcId, total: Resources) -> Self {
        Process {
            id,
            owner: Owner::new(id, total, Limits::default()),
            exec: Exec::default(),
            extents: Extents::default(),
            disk: Extents::default(),
            spill: None,
            frames: Vec::new(),
            width: 1,
            drops: Vec::new(),
            dropped_readers: Vec::new(),
            pins: Vec::new(),
            home: None,
            to_construct: None,
            opened: BTreeSet::new(),
            remotes: BTreeMap::new(),
            is_driver: false,
            detached: Vec::new(),
            sites: Vec::new(),
            template_groups: BTreeMap::new(),
            known_templates: BTreeMap::new(),
            template_runs: BTreeMap::new(),
            last_started: None,
            leaving: false,
            finishing: false,
            exited: false,
            forced: false,
            stalled_until: 0,
            next_token: 1,
            gets_all: false,
            done: false,
            wires: BTreeMap::new(),
            step_posted: false,
            drops_posted: false,
            tick_at: 0,
        }
    }

    pub fn to_node(&self, env: &mut Env, message: ToNode) {
        env.send(self.id, ProcId::NODE, Packet::Up(message));
    }

    pub fn post_step(&mut self, env: &mut Env) {
        if !std::mem::replace(&mut self.step_posted, true) {
            let slow = env.rng.permille(env.options.slow_steps);
            let delay = if slow { env.rng.range(2_000, 30_000) } else { env.rng.range(1, 60) };
            env.post(delay, Event::Step(self.id));
        }
    }

    pub fn step(&mut self, env: &mut Env) {
        self.step_posted = false;
        let ready: Vec<usize> = (0..self.frames.len()).filter(|at| self.frames[*at].waiting.is_none()).collect();
        match env.rng.pick(&ready) {
            Some(_) if self.may_start() && env.rng.permille(500) => self.start_next(env),
            Some(at) => {
                let frame = self.frames.swap_remove(at);
                self.run_frame(env, frame);
            }
            None if self.may_start() => self.start_next(env),
            None => {}
        }
    }

    fn may_start(&self) -> bool {
        self.frames.len() < self.width && (0..self.exec.groups()).any(|group| self.exec.can_start(group)) && !self.leaving
    }

    /// Python let go of a handle.
    pub fn drop_handle(&mut self, env: &mut Env, handle: Handle) {
        env.oracle.handle_dropped(self.id, handle.id);
        if let Some(range) = handle.view {
            env.oracle.view_dropped(self.id, range);
            self.remote_unused(env, handle.id, range);
        }
        self.drops.push((handle.id, handle.view.is_some()));
        self.post_soon(env);
    }

    /// What was dropped, and items that wait for company, are looked at soon.
    pub fn post_soon(&mut self, env: &mut Env) {
        if !std::mem::replace(&mut self.drops_posted, true) {
            let delay = env.rng.range(0, 500);
            env.post(delay, Event::Drops(self.id));
        }
    }

    /// Tell the owner what Python let go of; now and then give back what is empty.
    pub fn flush_drops(&mut self, env: &mut Env) {
        self.drops_posted = false;
        for (id, is_view) in std::mem::take(&mut self.drops) {
            match is_view {
                true => self.owner.release_view(id),
                false => self.owner.release_local(id),
            }
        }
        for call in std::mem::take(&mut self.dropped_readers) {
            self.owner.stream_dropped(call);
        }
        self.owner.send_all_items();
        self.pump(env);
        if env.rng.permille(100) {
            self.give_back_empty(env);
        }
    }

    pub fn receive(&mut self, env: &mut Env, from: ProcId, packet: Packet) {
        match packet {
            Packet::Down(message) => self.node_message(env, message),
            Packet::Peer(message) => {
                let wire = self.wires.entry(from).or_default();
                match wire.open || from == self.id {
                    true => self.peer_message(env, from, message),
                    false => wire.early.push_back(message),
                }
            }
            Packet::Up(_) => unreachable!("a process gets no message for the node"),
        }
    }

    fn node_message(&mut self, env: &mut Env, message: FromNode) {
        match message {
            FromNode::Relayed { from, message } => match *message {
                Peer::Arrived {} => self.write_wire(env, from),
                Peer::Switch {} => self.open_wire(env, from),
                other => self.peer_message(env, from, other),
            },
            FromNode::Link { .. } if env.rng.permille(env.options.lost_links) => {}
            FromNode::Link { peer } => {
                self.wires.entry(peer).or_default().arrived = true;
                self.to_node(env, ToNode::Relay { to: peer, message: Box::new(Peer::Arrived {}) });
            }
            FromNode::ProcDied { proc_id, evidence } => {
                self.drain_wire(env, proc_id);
                self.owner.on_node(env.now, FromNode::ProcDied { proc_id, evidence });
                let orphans = self.exec.forget_caller(proc_id);
                self.owner.give_back(orphans, false, ProcId::NODE);
                self.feed_all(env);
            }
            FromNode::ActorStart { actor, spec, .. } => self.start_actor(env, actor, *spec),
            FromNode::ActorFinish { .. } => self.finishing = true,
            FromNode::MayYouExit {} => {
                let may_exit = self.is_spent();
                self.to_node(env, ToNode::IdleExitReply { may_exit });
            }
            FromNode::Exit { .. } => self.exited = true,
            FromNode::ExtentGrant { extent, size, token } => {
                self.allocator(extent).add(extent, size);
                match self.is_for_spilling(token) {
                    true => self.segment_answer(env, true),
                    false => self.extent_answer(env, token, Some(extent)),
                }
            }
            FromNode::StoreFull { token, .. } if self.is_for_spilling(token) => self.segment_answer(env, false),
            FromNode::StoreFull { token, .. } | FromNode::ExtentGone { token } => self.extent_answer(env, token, None),
            FromNode::ExtentRetry { token } => self.extent_answer(env, token, Some(ExtentId::default())),
            FromNode::Spill { bytes } => self.spill_asked(env, bytes),
            // Views keep their mappings.
            FromNode::ExtentClosed { .. } => {}
            FromNode::ExtentOpened { token, extent, .. } if self.pulled(env, token, Ok(extent)) => {}
            FromNode::NameFound { existing: Some((actor, _)), .. } => self.actor_found(env, actor),
            FromNode::PullFailed { token, lost, .. } => _ = self.pulled(env, token, Err(lost)),
            FromNode::ExtentOpened { token, extent, .. } => {
                self.opened.insert(extent);
                self.extent_answer(env, token, Some(extent));
            }
            FromNode::RangeFreed { range } => assert!(self.allocator(range.extent).free(range), "{} is told to free {range:?} twice", name(self.id)),
            FromNode::Told { token, .. } => env.oracle.told(self.id, token),
            other => self.owner.on_node(env.now, other),
        }
        self.pump(env);
    }

    fn write_wire(&mut self, env: &mut Env, peer: ProcId) {
        let wire = self.wires.entry(peer).or_default();
        if wire.arrived {
            wire.direct = true;
            self.to_node(env, ToNode::Relay { to: peer, message: Box::new(Peer::Switch {}) });
        }
    }

    fn open_wire(&mut self, env: &mut Env, from: ProcId) {
        let wire = self.wires.entry(from).or_default();
        wire.open = true;
        for message in std::mem::take(&mut wire.early) {
            self.peer_message(env, from, message);
        }
    }

    /// What a dead peer still had on its direct link comes before the news of its death. If its marker is lost, frames before it are too.
    pub fn early_from(&self, from: ProcId) -> bool {
        self.wires.get(&from).is_some_and(|wire| !wire.early.is_empty())
    }

    fn drain_wire(&mut self, env: &mut Env, from: ProcId) {
        if !self.wires.get(&from).is_some_and(|wire| wire.open) {
            return;
        }
        while let Some(packet) = env.take_packet(LinkId { from, to: self.id }) {
            let Packet::Peer(message) = packet else { unreachable!("a direct link carries peer messages") };
            self.peer_message(env, from, message);
        }
    }

    fn peer_message(&mut self, env: &mut Env, from: ProcId, message: Peer) {
        match message {
            Peer::Template { template, max_calls, group, .. } => {
                self.template_groups.insert((from, template.0), group);
                self.known_templates.insert((from, template.0), max_calls);
            }
            Peer::Call { call } => {
                let after = self.owner.accept_call(from, &call);
                let group = self.template_groups[&(from, call.template.0)] as usize;
                let queued = Queued { from, call, after };
                if self.leaving {
                    self.owner.give_back(vec![queued], false, ProcId::NODE);
                } else if let Some(back) = self.exec.push(group, queued) {
                    self.owner.give_back(vec![back], true, ProcId::NODE);
                }
            }
            Peer::Recall { tasks } => {
                let back = self.exec.recall(from, &tasks);
                self.owner.give_back(back, false, from);
            }
            Peer::StreamCredit { task, until } => {
                self.exec.credit(from, task, until);
                self.feed_all(env);
            }
            Peer::StreamClose { task } => {
                self.exec.close_stream(from, task);
                self.feed_all(env);
            }
            Peer::Cancel { task, how } => self.cancel_arrived(env, from, task, &how),
            Peer::CancelAsk { id, how, token } => {
                self.cancel_own(env, id, &how);
                self.send_peer(env, from, Peer::CancelTold { token, refused: String::new() });
            }
            other => {
                if let Peer::Borrow { ids, .. } = &other {
                    ids.iter().filter(|id| self.owner.get(**id).is_none()).for_each(|id| env.oracle.mentioned_again(*id));
                }
                self.owner.on_peer(env.now, from, other);
            }
        }
        self.pump(env);
    }

    /// Carry out what the owner asks for.
    pub fn pump(&mut self, env: &mut Env) {
        let mut commands = Vec::new();
        self.owner.take_commands(&mut commands);
        for command in commands {
            match command {
                Command::Node(message) => {
                    if let ToNode::CopyDone { id } = &message {
                        self.copy_done(env, *id);
                    }
                    self.to_node(env, message);
                }
                Command::Peer { to, message, .. } => self.send_peer(env, to, message),
                Command::Wake(wait) if env.strikes(Bug::LostWake) => env.note(self.id, || format!("{wait:?} is not woken")),
                Command::Wake(wait) => self.woken(env, wait),
                Command::Free(range) => self.free(env, range),
                Command::Start { token, gone } => self.may_start_after(env, token, &gone),
                Command::Notice(text) => env.note(self.id, || text),
            }
        }
        self.owner.check_invariants();
        self.extents.check_invariants();
        self.disk.check_invariants();
    }

    pub fn send_peer(&mut self, env: &mut Env, to: ProcId, message: Peer) {
        let direct = to == self.id || self.wires.get(&to).is_some_and(|wire| wire.direct);
        match direct {
            true => env.send(self.id, to, Packet::Peer(message)),
            false => self.to_node(env, ToNode::Relay { to, message: Box::new(message) }),
        }
    }

    pub fn free(&mut self, env: &mut Env, range: ShmRange) {
        if range.extent.is_stored() {
            assert!(range.extent.stored_by() == self.id, "{} frees what another process stored", name(self.id));
            return env.oracle.removed(range);
        }
        match self.allocator(range.extent).owns(range.extent) {
            true => assert!(self.allocator(range.extent).free(range), "{} frees {range:?} twice", name(self.id)),
            false => self.to_node(env, ToNode::FreeRange { range }),
        }
    }

    /// Nothing in the process or elsewhere needs it.
    pub fn is_spent(&self) -> bool {
        self.frames.is_empty()
            && self.exec.is_empty()
            && self.drops.is_empty()
            && self.dropped_readers.is_empty()
            && self.pins.is_empty()
            && self.owner.leftovers().is_empty()
    }

    /// After each event: time, the next call, the end.
    pub fn settle(&mut self, env: &mut Env) {
        let deadline = self.owner.tick(env.now);
        self.pump(env);
        if let Some(at) = deadline {
            if self.tick_at <= env.now || at < self.tick_at {
                self.tick_at = at.max(env.now + 1);
                env.post(self.tick_at - env.now, Event::Tick(self.id));
            }
        }
        if self.leaving && self.is_spent() {
            self.exited = true;
        }
        let idle = self.frames.is_empty() && self.exec.is_empty() && self.to_construct.is_none();
        if self.finishing && idle && self.owner.may_leave() {
            self.exited = true;
        }
        if self.may_start() || self.frames.iter().any(|frame| frame.waiting.is_none()) {
            self.post_step(env);
        }
    }

    fn start_actor(&mut self, env: &mut Env, actor: ActorId, spec: ActorSpec) {
        env.oracle.actor_starts(self.id, actor);
        self.width = if env.rng.permille(env.options.threaded) { 3 } else { 1 };
        self.exec.set_groups(crate::script::GROUPS as usize);
        self.home = Some(Home { actor, next_seq: BTreeMap::new(), state: Vec::new() });
        let covered = ray_logic::exec::constructor_refs(&spec);
        match self.owner.cover(actor.owner, &covered) {
            Some(token) => self.to_construct = Some((token, actor, Box::new(spec))),
            None => self.start_constructor(env, actor, spec),
        }
    }

    /// What a call or the constructor waited for has come.
    fn may_start_after(&mut self, env: &mut Env, token: u64, gone: &[(ObjectId, Value)]) {
        match self.to_construct.take_if(|(other, ..)| *other == token) {
            Some((_, actor, mut spec)) => {
                spec.args.replace_gone(gone);
                self.start_constructor(env, actor, *spec);
            }
            None => _ = self.exec.registered(token, gone),
        }
    }
}
