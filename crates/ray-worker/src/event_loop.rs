//! This is the main loop of the library: all reads, all timers and what a full socket left over. One thread at a time runs it (role.rs).

use crate::exec::{ActorWork, Duty, WorkTemplate};
use crate::library::{Answer, Core, Direct, Kept, Library, LogRecord};
use crate::reserved::ReservedThread;
use crate::role::Role;
use crate::stations::Ring;
use ray_proto::msg::{FromNode, Peer, ToNode};
use ray_proto::report::Fact;
use ray_proto::wire::{decode, Wire};
use ray_proto::ProcId;
use ray_shm::host::explain;
use ray_shm::link::{Filled, Reader, Writer};
use ray_shm::poll::{Poll, Ready, Timer, Vigil};
use rustc_hash::FxHashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;

const DAEMON_GONE: &str =
    "the node's daemon is gone; tasks, actors and objects of this session are lost.\nhint: call ray.shutdown() and ray.init() to start over";
const NODE: u64 = 0;
const WAKER: u64 = u64::MAX;
const SOON: u64 = u64::MAX - 1;
/// Tokens of pipes to forked children count up from here; no process has such a number.
const CHILDREN: u64 = u64::MAX << 32;
/// Looking for extents that stay empty.
const SWEEP_US: u64 = 5_000_000;

pub(crate) struct Engine {
    library: Arc<Library>,
    poll: Poll,
    node: Reader,
    direct: FxHashMap<ProcId, Reader>,
    /// Direct links whose end is here, that wait for their peer's `Arrived` to be written to and for its `Switch` to be read.
    unopened: FxHashMap<ProcId, Reader>,
    next_sweep: u64,
    /// When time alone asks for the next step.
    due: Option<u64>,
    ready: Vec<Ready>,
    vigil: Vigil,
    /// Answers of peers, handed over once the lock is free.
    answered: Vec<(u64, Vec<Fact>)>,
    /// What forked children see, by token.
    kept: FxHashMap<u64, Kept>,
    next_child: u64,
    /// Who is to be woken for the calls of the batch in hand.
    rings: Vec<Ring>,
}

/// The session is over, and why.
pub(crate) struct Fate(pub String);

/// Set up the engine, handle what came right behind the handshake, and let the background thread begin.
pub(crate) fn start(library: Arc<Library>, node: Reader, poll: Poll, (relief, thread): (Arc<Timer>, ReservedThread)) -> Result<(), String> {
    poll.add(node.fd(), NODE).and_then(|()| library.watch_timers(&poll, WAKER, SOON)).map_err(|error| explain("epoll", error))?;
    let mut engine = Engine {
        library: library.clone(),
        poll,
        node,
        direct: FxHashMap::default(),
        unopened: FxHashMap::default(),
        next_sweep: 0,
        due: None,
        ready: Vec::with_capacity(64),
        vigil: Vigil::default(),
        answered: Vec::new(),
        kept: FxHashMap::default(),
        next_child: CHILDREN,
        rings: Vec::new(),
    };
    engine.read_node().map_err(|Fate(why)| why)?;
    engine.pass_time();
    let role = Role::new(engine);
    library.set_role(role.clone());
    thread.run(move || role.relieve(&library, &relief))
}

impl Engine {
    /// Wait for events until `deadline` at most, and handle them; `vigilant`: awake, for a while. Ok(false): none came.
    pub(crate) fn step(&mut self, deadline: Option<u64>, vigilant: bool) -> Result<bool, Fate> {
        let until = [self.due, deadline].into_iter().flatten().min();
        let timeout = until.map(|at| at.saturating_sub(ray_shm::now_us()).max(1));
        let mut ready = std::mem::take(&mut self.ready);
        let waited = match vigilant {
            true => self.poll.wait_awake(&mut self.vigil, timeout, &mut ready),
            false => self.poll.wait(timeout, &mut ready),
        };
        let due = self.due.is_some_and(|at| ray_shm::now_us() >= at);
        let any = !ready.is_empty() || due;
        let handled = ready.drain(..).try_for_each(|event| self.handle(event));
        self.ready = ready;
        waited.map_err(|error| Fate(format!("the engine could not wait for events: {error}")))?;
        handled?;
        if any {
            self.pass_time();
        }
        // A dismissed worker goes on listening: should its daemon die now, nobody else would end it.
        if self.library.check().is_err() && !self.library.dismissed.load(Ordering::Acquire) {
            return Err(Fate("the session is over".into()));
        }
        Ok(any)
    }

    fn handle(&mut self, event: Ready) -> Result<(), Fate> {
        match event.token {
            WAKER => {
                self.library.waker_fired();
                Ok(())
            }
            SOON => {
                self.library.soon_fired();
                Ok(())
            }
            token if token >= CHILDREN => {
                if let Some((pipe, what)) = self.kept.remove(&token) {
                    self.poll.remove(pipe.as_fd());
                    // Under the lock: a fork must not find the list of dropped references half written.
                    let core = self.library.lock();
                    drop(what);
                    self.library.settle(core);
                }
                Ok(())
            }
            token => {
                let link = ProcId(token);
                if event.writable {
                    let mut core = self.library.lock();
                    core.flush(link);
                    // A socket with room is ready for ever: once all is written, it must not be asked again.
                    self.watch_writes(&core, link);
                    self.library.settle(core);
                }
                match event.readable {
                    true if token == NODE => self.read_node(),
                    true => {
                        self.read_direct(link);
                        Ok(())
                    }
                    false => Ok(()),
                }
            }
        }
    }

    /// Timers, left-over output, and the next deadline.
    fn pass_time(&mut self) {
        self.watch_children();
        let now = ray_shm::now_us();
        let mut core = self.library.lock();
        self.library.drain_drops(&mut core);
        let mut next = core.owner.tick(now);
        if now >= self.next_sweep {
            core.give_back_empty(now, crate::store::KEEP_EMPTY_US);
            core.trim(now, self.library.store_bytes());
            self.next_sweep = now + SWEEP_US;
        }
        next = [next, self.check_lease(now)].into_iter().flatten().min();
        if !core.extents.is_empty() {
            next = Some(next.unwrap_or(u64::MAX).min(self.next_sweep));
        }
        core.flush_all();
        let stuck = std::mem::take(&mut core.stuck);
        for link in &stuck {
            self.watch_writes(&core, *link);
        }
        let leaving = core.leaving;
        self.library.settle(core);
        if leaving {
            self.library.stations.ring_all(u32::MAX);
        }
        self.due = next;
    }

    /// A worker whose node is not sure any more to be a part of its cluster ends: its daemon may be stopped, and others take over. Returns when to look again.
    fn check_lease(&self, now: u64) -> Option<u64> {
        let until = self.library.slot.as_ref().map_or(0, |(_, board)| board.lease());
        if until != 0 && now >= until {
            ray_shm::signals::end_own_group();
        }
        (until != 0).then_some(until)
    }

    fn watch_children(&mut self) {
        while let Some((pipe, what)) = self.library.kept.pop() {
            // One that can't be watched is kept until the session ends.
            let _ = self.poll.add(pipe.as_fd(), self.next_child);
            self.kept.insert(self.next_child, (pipe, what));
            self.next_child += 1;
        }
    }

    fn watch_writes(&self, core: &Core, link: ProcId) {
        let writer = match link {
            ProcId::NODE => Some(&core.node),
            _ => core.direct.get(&link).map(|direct| &direct.writer),
        };
        if let Some(writer) = writer {
            let on = writer.pending().0 > 0;
            // A link that is gone from the poll set has nothing left to write.
            let _ = writer.fd().map(|fd| self.poll.watch_writes(fd, link.0, on));
        }
    }

    fn read_node(&mut self) -> Result<(), Fate> {
        loop {
            let filled = self.node.fill();
            let mut batch = Vec::new();
            loop {
                match next_message::<FromNode>(&mut self.node) {
                    Ok(Some(message)) => {
                        let carries_fd = matches!(message, FromNode::ExtentGrant { .. } | FromNode::ExtentOpened { .. } | FromNode::Link { .. });
                        let fd = if carries_fd { self.node.take_fd() } else { None };
                        batch.push((message, fd));
                    }
                    Ok(None) => break,
                    Err(why) => return Err(Fate(format!("the daemon sent something unreadable: {why}"))),
                }
            }
            for (message, fd) in batch {
                self.on_node(message, fd);
            }
            match filled {
                Filled::Data => {}
                Filled::Last | Filled::Empty => return Ok(()),
                Filled::Closed => return Err(Fate(DAEMON_GONE.into())),
            }
        }
    }

    fn read_direct(&mut self, peer: ProcId) {
        loop {
            let Some(reader) = self.direct.get_mut(&peer) else { return };
            let filled = reader.fill();
            let mut batch = Vec::new();
            let broken = loop {
                match next_message::<Peer>(reader) {
                    Ok(Some(message)) => batch.push(message),
                    Ok(None) => break filled == Filled::Closed,
                    Err(_) => break true,
                }
            };
            let idle = batch.is_empty();
            self.on_peer(peer, batch);
            if broken {
                self.close_direct(peer);
            }
            if broken || filled != Filled::Data || idle {
                return;
            }
        }
    }

    fn close_direct(&mut self, peer: ProcId) {
        if let Some(reader) = self.direct.remove(&peer).or_else(|| self.unopened.remove(&peer)) {
            self.poll.remove(reader.fd());
        }
        self.library.lock().direct.remove(&peer);
    }

    fn on_peer(&mut self, from: ProcId, batch: Vec<Peer>) {
        if batch.is_empty() {
            return;
        }
        let now = ray_shm::now_us();
        let mut core = self.library.lock();
        self.library.drain_drops(&mut core);
        for message in batch {
            if let Peer::Told { token, facts } = message {
                self.answered.push((token, facts));
                continue;
            }
            core.peer_message(now, from, message);
        }
        core.take_rings(&mut self.rings);
        self.library.settle(core);
        self.ring();
        for (token, facts) in std::mem::take(&mut self.answered) {
            self.answer(token, FromNode::Told { token, facts }, None);
        }
    }

    fn ring(&mut self) {
        for ring in self.rings.drain(..) {
            if self.library.stations.of(ring.group).ring(ring.calls) {
                self.library.note_woken();
            }
        }
    }

    /// A duty is there: one of each group looks.
    fn rouse_executors(&self) {
        self.library.note_woken();
        self.library.stations.ring_all(1);
    }

    fn on_node(&mut self, message: FromNode, fd: Option<OwnedFd>) {
        match message {
            FromNode::Relayed { from, message } => match *message {
                Peer::Arrived {} => self.write_direct(from),
                Peer::Switch {} => self.open_direct(from),
                message => self.on_peer(from, vec![message]),
            },
            FromNode::Link { peer } => self.direct_arrived(peer, fd),
            FromNode::ProcDied { proc_id, .. } => {
                // What it had sent comes first: finished calls keep their results.
                // (A link whose `Switch` never came is not read: what was relayed before it is lost, too.)
                self.read_direct(proc_id);
                self.close_direct(proc_id);
                self.in_core(|core, now| {
                    core.owner.on_node(now, message);
                    core.forget_caller(proc_id);
                    let given_up = core.give_up_asks(|owner| owner == proc_id);
                    core.woken.extend(given_up);
                });
            }
            FromNode::ActorStart { actor, incarnation, gpu_ids, spec } => {
                let work = Box::new(ActorWork { actor, incarnation, gpu_ids, spec });
                self.in_core(|core, _| match core.owner.cover(work.actor.owner, &ray_logic::exec::constructor_refs(&work.spec)) {
                    Some(token) => core.to_construct = Some((token, work)),
                    None => core.duties.push_back(Duty::Construct(work)),
                });
                self.rouse_executors();
            }
            FromNode::ActorFinish { .. } => self.finish("every handle to it went out of scope".into()),
            FromNode::Exit { reason } => self.finish(reason),
            FromNode::Dismiss {} => self.library.dismiss(),
            FromNode::MayYouExit {} => self.in_core(|core, _| {
                // Whatever comes of it: what this process freed is better used by others.
                ray_shm::memory::trim_heap();
                let may_exit = core.is_spare();
                core.queue_node(ToNode::IdleExitReply { may_exit });
            }),
            FromNode::Spill { bytes } => crate::spill::spill_asked(&self.library, bytes),
            // Views keep their own hold on it.
            FromNode::ExtentClosed { extent } => drop(self.library.with(|core| core.open.remove(&extent))),
            FromNode::Lines { lines } => {
                let records = lines.into_iter().map(|l| LogRecord { name: l.name, pid: l.pid, is_stderr: l.is_stderr, notice: false, text: l.text });
                self.library.lock().logs.extend(records);
                self.library.log_bell.ring(u32::MAX);
            }
            FromNode::Notice { text } => {
                self.library.lock().logs.push_back(LogRecord::notice(text));
                self.library.log_bell.ring(u32::MAX);
            }
            message => match answer_token(&message) {
                Some(token) => self.answer(token, message, fd),
                None if matches!(message, FromNode::RangeFreed { .. }) => self.in_core(|core, _| {
                    if let FromNode::RangeFreed { range } = message {
                        core.free_own(range);
                    }
                }),
                None => {
                    let noisy = matches!(message, FromNode::Infeasible { .. });
                    self.in_core(|core, now| core.owner.on_node(now, message));
                    if noisy {
                        self.library.log_bell.ring(u32::MAX);
                    }
                }
            },
        }
    }

    fn in_core(&self, f: impl FnOnce(&mut Core, u64)) {
        let now = ray_shm::now_us();
        let mut core = self.library.lock();
        self.library.drain_drops(&mut core);
        f(&mut core, now);
        self.library.settle(core);
    }

    fn finish(&self, reason: String) {
        self.in_core(|core, _| core.duties.push_back(Duty::Finish { reason }));
        self.rouse_executors();
    }

    fn answer(&self, token: u64, message: FromNode, fd: Option<OwnedFd>) {
        if matches!(&message, FromNode::ExtentGrant { extent, .. } if extent.is_on_disk()) {
            // Without it, what is freed there goes with the process.
            crate::spill::ensure_thread(&self.library);
        }
        let mut core = self.library.lock();
        if let Some(answer) = core.answers.get_mut(&token) {
            if let Answer::Waiting(gate) = std::mem::replace(answer, Answer::Here(Box::new(message), fd)) {
                drop(core);
                self.library.note_woken();
                gate.open();
            }
        }
    }

    /// Our end of a direct link. Where a process had no descriptor left for its end, it says nothing, and the two go on through the daemon.
    fn direct_arrived(&mut self, peer: ProcId, fd: Option<OwnedFd>) {
        let Some(fd) = fd.map(Arc::new) else { return };
        self.unopened.insert(peer, Reader::new(fd));
        self.in_core(|core, _| core.queue_node(ToNode::Relay { to: peer, message: Box::new(Peer::Arrived {}) }));
    }

    /// Both ends have arrived: we write to ours from now on, after one last relayed frame; we read it once the peer has said the same.
    fn write_direct(&mut self, peer: ProcId) {
        let Some(fd) = self.unopened.get(&peer).map(Reader::shared_fd) else { return };
        self.in_core(|core, _| {
            core.carry_out();
            core.queue_node(ToNode::Relay { to: peer, message: Box::new(Peer::Switch {}) });
            core.direct.insert(peer, Direct { writer: Writer::new(fd) });
        });
    }

    fn open_direct(&mut self, peer: ProcId) {
        if let Some(reader) = self.unopened.remove(&peer) {
            if self.poll.add(reader.fd(), peer.0).is_ok() {
                self.direct.insert(peer, reader);
                // What did not fit into the socket before now could not ask for room: the link was not in the poll set.
                self.watch_writes(&self.library.lock(), peer);
            }
        }
    }
}

impl Core {
    fn peer_message(&mut self, now: u64, from: ProcId, message: Peer) {
        match message {
            Peer::Call { call } => {
                let after = self.owner.accept_call(from, &call);
                let template = call.template;
                let queued = ray_logic::exec::Queued { from, call, after };
                if self.leaving {
                    self.owner.give_back(vec![queued], false, ProcId::NODE);
                    return;
                }
                let group = self.group_of(from, template);
                match self.exec.push(group, queued) {
                    None => self.arrived[group] += 1,
                    Some(refused) => self.owner.give_back(vec![refused], true, ProcId::NODE),
                }
            }
            Peer::Template { template, name, payload, max_calls, held, group, within } => {
                self.templates.insert((from, template), Arc::new(WorkTemplate { name, payload, max_calls, held, group, within }));
            }
            Peer::Recall { tasks } => {
                let taken = self.exec.recall(from, &tasks);
                self.owner.give_back(taken, false, from);
            }
            Peer::Cancel { task, how } => self.cancel_arrived(now, from, task, &how),
            Peer::CancelAsk { id, how, token } => {
                let refused = self.cancel_own(now, id, &how).err().unwrap_or_default();
                self.queue_peer(from, Peer::CancelTold { token, refused }, true);
            }
            Peer::CancelTold { token, refused } => self.cancel_told(token, refused),
            Peer::Ask { token, subject } => {
                let facts = self.report(now, &subject);
                self.queue_peer(from, Peer::Told { token, facts }, true);
            }
            Peer::StreamCredit { task, until } => {
                self.exec.credit(from, task, until);
                self.feed(from, task);
            }
            Peer::StreamClose { task } => {
                self.exec.close_stream(from, task);
                self.feed(from, task);
            }
            message => self.owner.on_peer(now, from, message),
        }
    }
}

fn next_message<T: Wire>(reader: &mut Reader) -> Result<Option<T>, String> {
    match reader.next_frame() {
        Ok(Some(bytes)) => decode(bytes).map(Some).map_err(|error| error.to_string()),
        Ok(None) => Ok(None),
        Err(len) => Err(format!("a frame of {len} bytes")),
    }
}

fn answer_token(message: &FromNode) -> Option<u64> {
    match message {
        FromNode::NameTaken { token, .. }
        | FromNode::NameFound { token, .. }
        | FromNode::Names { token, .. }
        | FromNode::ExtentGrant { token, .. }
        | FromNode::ExtentRetry { token }
        | FromNode::StoreFull { token, .. }
        | FromNode::ExtentOpened { token, .. }
        | FromNode::ExtentGone { token }
        | FromNode::Told { token, .. }
        | FromNode::PullFailed { token, .. }
        | FromNode::NodesAre { token, .. }
        | FromNode::JobsAre { token, .. }
        | FromNode::GroupTaken { token, .. }
        | FromNode::GroupsAre { token, .. }
        | FromNode::KvIs { token, .. }
        | FromNode::ResourcesAre { token, .. } => Some(*token),
        _ => None,
    }
}
