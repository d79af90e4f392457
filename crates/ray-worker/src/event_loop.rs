//! This is the main loop of the library: one thread per process that owns all reads, all timers and what a full socket left over.

use crate::exec::{ActorWork, Duty, WorkTemplate};
use crate::library::{Answer, Core, Direct, Library, LogRecord};
use ray_proto::msg::{FromNode, Peer, ToNode};
use ray_proto::wire::{decode, Wire};
use ray_proto::ProcId;
use ray_shm::link::{Filled, Reader, Writer};
use ray_shm::poll::{Poll, Ready};
use rustc_hash::FxHashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const NODE: u64 = 0;
const WAKER: u64 = u64::MAX;
const SOON: u64 = u64::MAX - 1;
/// Looking for extents that stay empty.
const SWEEP_US: u64 = 5_000_000;

struct Engine {
    library: Arc<Library>,
    poll: Poll,
    node: Reader,
    direct: FxHashMap<ProcId, Reader>,
    /// Direct links that wait for their peer's `Switch`.
    unopened: FxHashMap<ProcId, Reader>,
    next_sweep: u64,
}

enum Fate {
    GoOn,
    Over(String),
}

/// Start the engine thread.
pub(crate) fn start(library: Arc<Library>, node: Reader) -> Result<(), String> {
    let poll = Poll::new().map_err(|e| format!("epoll: {e}"))?;
    poll.add(node.fd(), NODE).and_then(|()| library.watch_timers(&poll, WAKER, SOON)).map_err(|e| format!("epoll: {e}"))?;
    let mut engine = Engine { library, poll, node, direct: FxHashMap::default(), unopened: FxHashMap::default(), next_sweep: 0 };
    let body = move || {
        ray_shm::signals::block_all();
        let why = engine.run();
        engine.library.end(&why);
        engine.library.close();
    };
    // The engine's stack holds no user data: a small one is enough.
    std::thread::Builder::new().name("ray-engine".into()).stack_size(256 * 1024).spawn(body).map(|_| ()).map_err(|e| format!("no thread for the engine: {e}"))
}

impl Engine {
    fn run(&mut self) -> String {
        let mut ready: Vec<Ready> = Vec::with_capacity(64);
        // Frames may have come right behind the handshake.
        if let Fate::Over(why) = self.read_node() {
            return why;
        }
        let mut timeout = self.pass_time();
        loop {
            if let Err(error) = self.poll.wait(timeout, &mut ready) {
                return format!("the engine could not wait for events: {error}");
            }
            for event in ready.drain(..) {
                if let Fate::Over(why) = self.handle(event) {
                    return why;
                }
            }
            timeout = self.pass_time();
            if self.library.check().is_err() {
                return "the session is over".into();
            }
        }
    }

    fn handle(&mut self, event: Ready) -> Fate {
        match event.token {
            WAKER => {
                self.library.waker_fired();
                Fate::GoOn
            }
            SOON => {
                self.library.soon_fired();
                Fate::GoOn
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
                    true => self.read_direct(link),
                    false => Fate::GoOn,
                }
            }
        }
    }

    /// Timers, left-over output, and the time until the next deadline.
    fn pass_time(&mut self) -> Option<u64> {
        let now = ray_shm::now_us();
        let mut core = self.library.lock();
        self.library.drain_drops(&mut core);
        let mut next = core.owner.tick(now);
        if now >= self.next_sweep {
            core.give_back_empty(now, crate::store::KEEP_EMPTY_US);
            core.trim(now, self.library.store_bytes());
            self.next_sweep = now + SWEEP_US;
        }
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
            self.library.work_bell.ring(u32::MAX);
        }
        next.map(|at| at.saturating_sub(now).max(1))
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

    fn read_node(&mut self) -> Fate {
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
                    Err(why) => return Fate::Over(format!("the daemon sent something unreadable: {why}")),
                }
            }
            for (message, fd) in batch {
                self.on_node(message, fd);
            }
            match filled {
                Filled::Data => {}
                Filled::Empty => return Fate::GoOn,
                Filled::Closed => return Fate::Over(
                    "the node's daemon is gone; tasks, actors and objects of this session are lost.\nhint: call ray.shutdown() and ray.init() to start over"
                        .into(),
                ),
            }
        }
    }

    fn read_direct(&mut self, peer: ProcId) -> Fate {
        loop {
            let Some(reader) = self.direct.get_mut(&peer) else { return Fate::GoOn };
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
            if broken || filled == Filled::Empty || idle {
                return Fate::GoOn;
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
        let mut new_calls = 0;
        for message in batch {
            new_calls += core.peer_message(now, from, message);
        }
        let sleepers = core.sleepers;
        self.library.settle(core);
        self.ring(new_calls, sleepers);
    }

    fn ring(&self, new_calls: u32, sleepers: u32) {
        if new_calls == 0 {
            return;
        }
        self.library.work_bell.ring(new_calls.min(sleepers));
        if let Some(waker) = self.library.work_waker.get() {
            waker.wake();
        }
    }

    fn on_node(&mut self, message: FromNode, fd: Option<OwnedFd>) {
        match message {
            FromNode::Relayed { from, message } => match *message {
                Peer::Switch {} => self.open_direct(from),
                message => self.on_peer(from, vec![message]),
            },
            FromNode::Link { peer } => self.new_direct(peer, fd),
            FromNode::ProcDied { proc_id, .. } => {
                // What it had sent comes first: finished calls keep their results.
                // (A link whose `Switch` never came is not read: what was relayed before it is lost, too.)
                self.read_direct(proc_id);
                self.close_direct(proc_id);
                self.in_core(|core, now| {
                    core.owner.on_node(now, message);
                    core.forget_caller(proc_id);
                });
            }
            FromNode::ActorStart { actor, incarnation, gpu_ids, spec } => {
                let work = Box::new(ActorWork { actor, incarnation, gpu_ids, spec });
                self.in_core(|core, _| {
                    core.owner.cover(&crate::exec::constructor_refs(&work));
                    core.duties.push_back(Duty::Construct(work));
                });
                self.ring(1, 1);
            }
            FromNode::ActorFinish { .. } => self.finish("every handle to it went out of scope".into()),
            FromNode::Exit { reason } => self.finish(reason),
            FromNode::MayYouExit {} => self.in_core(|core, _| {
                let may_exit = core.is_spare();
                core.queue_node(ToNode::IdleExitReply { may_exit });
            }),
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
                        core.extents.free(range);
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
        self.ring(1, u32::MAX);
    }

    fn answer(&self, token: u64, message: FromNode, fd: Option<OwnedFd>) {
        let mut core = self.library.lock();
        if let Some(answer) = core.answers.get_mut(&token) {
            if let Answer::Waiting(gate) = std::mem::replace(answer, Answer::Here(message, fd)) {
                drop(core);
                gate.open();
            }
        }
    }

    /// A direct link: we write to it from now on, after one last relayed frame; we read it once the peer has said the same.
    fn new_direct(&mut self, peer: ProcId, fd: Option<OwnedFd>) {
        let Some(fd) = fd.map(Arc::new) else { return };
        self.unopened.insert(peer, Reader::new(fd.clone()));
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
    /// Returns how many calls became runnable.
    fn peer_message(&mut self, now: u64, from: ProcId, message: Peer) -> u32 {
        match message {
            Peer::Call { call } => {
                self.owner.accept_call(from, &call);
                if self.leaving {
                    let refused = ray_logic::exec::Queued { from, call };
                    self.owner.give_back(vec![refused], false, ProcId::NODE);
                    return 0;
                }
                match self.exec.push(from, call) {
                    None => return 1,
                    Some(refused) => self.owner.give_back(vec![refused], true, ProcId::NODE),
                }
            }
            Peer::Template { template, name, payload, max_calls, held } => {
                self.templates.insert((from, template), Arc::new(WorkTemplate { name, payload, max_calls, held }));
            }
            Peer::Recall { tasks } => {
                let taken = self.exec.recall(from, &tasks);
                self.owner.give_back(taken, false, from);
            }
            message => self.owner.on_peer(now, from, message),
        }
        0
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
        | FromNode::StoreFull { token, .. }
        | FromNode::ExtentOpened { token, .. }
        | FromNode::ExtentGone { token }
        | FromNode::ResourcesAre { token, .. } => Some(*token),
        _ => None,
    }
}
