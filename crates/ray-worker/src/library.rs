//! The state of the library and its calls that don't block: objects, calls, actors. Blocking parts stand in waits.rs and store.rs.

use crate::cancel;
use crate::event_loop;
use crate::exec::{ActorWork, Duty, WorkTemplate};
use crate::gate::{Bell, Gate, Woken};
use crate::records::Recorder;
use crate::reserved::Reserved;
use crate::role::{self, Role};
use crate::spill;
use crate::stations::Stations;
use crate::store::Extent;
use crate::waits::Waiter;
use crossbeam_queue::SegQueue;
use ray_logic::exec::Exec;
use ray_logic::extents::Extents;
use ray_logic::owner::{ActorOptions, CallArgs, Command, Limits, Owner, SubmitError, Template, WaitId};
use ray_proto::msg::{FromNode, Peer, ToNode, WorkerLine};
use ray_proto::{ActorId, Blob, ClassId, ExtentId, ObjectId, Payload, ProcId, Resources, ShmRange, Strategy, TemplateId, Value, UNIT};
use ray_shm::board::Board;
use ray_shm::events::Ring;
use ray_shm::link::{Flushed, Reader, Writer};
use ray_shm::memory::Mapping;
use ray_shm::poll::{Poll, Timer, Waker};
use rustc_hash::FxHashMap;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Output that waits for more leaves after this. Source: engine brief, "fire-and-forget calls leave within 1 ms".
const SOON_US: u64 = 400;
/// The daemon ends its processes within this, or is taken for stuck.
const SHUTDOWN_US: u64 = 3_000_000;
/// A batch is written at this size.
const BATCH_BYTES: usize = 16 * 1024;
const BATCH_FRAMES: usize = 64;
/// The log printer gets about so much at a time.
const PRINT_BYTES: u64 = 256 * 1024;

/// Calls that have not ended may keep this part of the memory that the node offers (docs/design/005), or so many bytes where it offers none.
const PENDING_SHARE: u64 = 4;
const PENDING_BYTES: u64 = 1 << 30;

/// Why a blocking call can't go on.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The session is over: shut down, or the daemon died. The text says which.
    SessionOver(String),
    StoreFull(String),
    /// The store is full, and its disk is too or can't be used.
    DiskFull(String),
    /// The bytes of an object are gone from where they were. Whoever owns it may know better by now.
    Lost(String),
    System(String),
}

impl Failure {
    pub fn into_text(self) -> String {
        let (Failure::SessionOver(text) | Failure::StoreFull(text) | Failure::DiskFull(text) | Failure::Lost(text) | Failure::System(text)) = self;
        text
    }
}

pub struct Config {
    /// `pending_bytes` 0: as the node's memory says.
    pub limits: Limits,
    /// The worker's slot on the board; None in a driver.
    pub slot: Option<(u32, Board)>,
    /// Where calls are recorded, if they are.
    pub ring: Option<Ring>,
}

/// One line for the driver's log printer.
#[derive(Clone, Debug)]
pub struct LogRecord {
    pub name: String,
    pub pid: u32,
    pub is_stderr: bool,
    pub notice: bool,
    pub text: String,
}

impl LogRecord {
    /// A message of the runtime itself.
    pub(crate) fn notice(text: String) -> Self {
        LogRecord { name: "ray".into(), pid: 0, is_stderr: true, notice: true, text }
    }
}

pub struct Library {
    pub(crate) core: Mutex<Core>,
    /// References dropped by Python, in any thread, at any moment.
    dropped: SegQueue<ObjectId>,
    /// The same for zero-copy views.
    dropped_views: SegQueue<ObjectId>,
    /// Where the reader leaves work for the thread that spills.
    pub(crate) desk: Arc<spill::Desk>,
    /// Readers of streams dropped by Python, by call.
    dropped_readers: SegQueue<u64>,
    /// What children of forks see, each with a pipe that tells of their end. The engine takes them over.
    pub(crate) kept: SegQueue<Kept>,
    /// What wakes the engine thread; None once it has ended.
    pub(crate) wakers: Mutex<Option<Wakers>>,
    role: OnceLock<Arc<Role>>,
    soon_armed: AtomicBool,
    pub(crate) stations: Stations,
    pub(crate) log_bell: Bell,
    pub(crate) over: AtomicBool,
    /// What `is_crowded` of the owner said last.
    pub(crate) crowded: AtomicBool,
    /// Opened when the engine thread has read everything.
    ended: Gate,
    pub(crate) forked: AtomicBool,
    pub(crate) interrupts: Arc<cancel::Interrupts>,
    /// The daemon has told this worker to end.
    pub(crate) dismissed: AtomicBool,
    pub(crate) slot: Option<(u32, Board)>,
    /// What writes to storage beyond the node. Set once, before anything is spilled.
    pub(crate) storage: OnceLock<Box<dyn spill::Storage>>,
    /// Where that is; "" for nowhere.
    pub storage_place: String,
    pub node_id: Blob,
    pub me: ProcId,
    pub node_total: Resources,
}

/// Something to keep until the pipe's other end is closed.
pub(crate) type Kept = (OwnedFd, Box<dyn Any + Send>);

pub(crate) struct Wakers {
    /// Sends the background thread to the reader's place.
    relief: Arc<Timer>,
    /// Output or dropped references wait: come soon.
    pub soon: Timer,
    /// Come now.
    pub now: Waker,
}

pub(crate) struct Direct {
    pub writer: Writer,
}

pub(crate) struct Core {
    pub owner: Owner,
    pub exec: Exec,
    pub duties: VecDeque<Duty>,
    /// Calls that came since the bell of their group rang; one number per concurrency group, as in `Library::stations`.
    pub arrived: Vec<u32>,
    pub node: Writer,
    pub direct: FxHashMap<ProcId, Direct>,
    /// Links with output not written yet; `ProcId::NODE` is the daemon's.
    pub dirty: Vec<ProcId>,
    /// Links whose socket was full.
    pub stuck: Vec<ProcId>,
    pub waiters: FxHashMap<WaitId, Waiter>,
    /// Producers of streams that wait for credit, by caller and call.
    pub starved: BTreeMap<(ProcId, u64), Waiter>,
    pub answers: FxHashMap<u64, Answer>,
    /// Cancellations that others were asked for.
    pub cancel_asks: BTreeMap<u64, cancel::Ask>,
    pub interrupts: Arc<cancel::Interrupts>,
    next_token: u64,
    pub templates: FxHashMap<(ProcId, TemplateId), Arc<WorkTemplate>>,
    pub extents: Extents,
    /// Segments of ours on disk. Only a range that `trash` never had, or whose blocks have gone back, is free there.
    pub disk: Extents,
    /// Ranges on disk whose last reference is gone.
    pub trash: Vec<ShmRange>,
    /// The same for what was stored away, by number.
    pub stored_trash: Vec<u64>,
    /// How many objects were stored away.
    pub stored: u64,
    pub desk: Arc<spill::Desk>,
    pub open: FxHashMap<ExtentId, Extent>,
    /// Objects of other nodes that are read here, with the copy on this node. The node counts us among their users until `CopyDone`.
    pub copies: FxHashMap<ObjectId, (Arc<Mapping>, ShmRange)>,
    pub over: Option<String>,
    pub logs: VecDeque<LogRecord>,
    /// Bytes of workers' lines that the printer has got and not come back from.
    pub printing: u64,
    pub replies_since: Option<u64>,
    /// The process ends soon: no more calls.
    pub leaving: bool,
    /// The constructor of an actor runs.
    pub constructing: bool,
    /// The actor ends itself: no call starts.
    pub stopping: bool,
    /// An actor to be constructed once what its arguments mention is registered.
    pub to_construct: Option<(u64, Box<ActorWork>)>,
    /// Groups with a call that may start since a registration came; the bell has not rung.
    pub startable: Vec<usize>,
    commands: Vec<Command>,
    pub recorder: Option<Recorder>,
    /// Gates to open once the lock is released.
    pub woken: Vec<Waiter>,
}

impl Wakers {
    pub(crate) fn arm_relief(&self, in_us: u64) {
        self.relief.arm(in_us);
    }

    pub(crate) fn disarm_relief(&self) {
        self.relief.disarm();
    }
}

/// An answer of the node that a thread waits for.
pub(crate) enum Answer {
    Waiting(Arc<Gate>),
    Here(Box<FromNode>, Option<OwnedFd>),
}

/// Limits with one for the bytes of pending calls: a share of the node's memory, if nothing else is said.
fn bounded(limits: Limits, total: &Resources) -> Limits {
    let share = match (total.get("memory") / UNIT) as u64 {
        0 => PENDING_BYTES,
        memory => memory / PENDING_SHARE,
    };
    Limits { pending_bytes: if limits.pending_bytes == 0 { share } else { limits.pending_bytes }, ..limits }
}

impl Library {
    /// Take over a connected, welcomed link to the daemon and let the engine thread begin.
    pub fn start(reserved: Reserved, node: Reader, welcome: FromNode, config: Config) -> Result<Arc<Library>, Failure> {
        let FromNode::Welcome { proc_id, node_id, total, storage, .. } = welcome else { return Err(Failure::System("the daemon did not say welcome".into())) };
        let Reserved { poll, relief, soon, now, thread } = reserved;
        let desk = Arc::new(spill::Desk::default());
        let interrupts = Arc::new(cancel::Interrupts::default());
        let core = Core {
            owner: Owner::new(proc_id, total.clone(), bounded(config.limits, &total)),
            exec: Exec::default(),
            duties: VecDeque::new(),
            arrived: vec![0],
            node: Writer::new(node.shared_fd()),
            direct: FxHashMap::default(),
            dirty: Vec::new(),
            stuck: Vec::new(),
            waiters: FxHashMap::default(),
            starved: BTreeMap::new(),
            answers: FxHashMap::default(),
            cancel_asks: BTreeMap::new(),
            interrupts: interrupts.clone(),
            next_token: 1,
            templates: FxHashMap::default(),
            extents: Extents::default(),
            disk: Extents::default(),
            trash: Vec::new(),
            stored_trash: Vec::new(),
            stored: 0,
            desk: desk.clone(),
            open: FxHashMap::default(),
            copies: FxHashMap::default(),
            over: None,
            logs: VecDeque::new(),
            printing: 0,
            replies_since: None,
            leaving: false,
            constructing: false,
            stopping: false,
            to_construct: None,
            startable: Vec::new(),
            commands: Vec::new(),
            recorder: config.ring.map(|ring| Recorder::new(ring, proc_id)),
            woken: Vec::new(),
        };
        let library = Arc::new(Library {
            core: Mutex::new(core),
            dropped: SegQueue::new(),
            dropped_views: SegQueue::new(),
            desk,
            dropped_readers: SegQueue::new(),
            kept: SegQueue::new(),
            wakers: Mutex::new(Some(Wakers { relief: relief.clone(), soon, now })),
            role: OnceLock::new(),
            soon_armed: AtomicBool::new(false),
            stations: Stations::default(),
            log_bell: Bell::default(),
            crowded: AtomicBool::new(false),
            over: AtomicBool::new(false),
            ended: Gate::default(),
            forked: AtomicBool::new(false),
            interrupts,
            dismissed: AtomicBool::new(false),
            slot: config.slot,
            storage: OnceLock::new(),
            storage_place: storage,
            node_id,
            me: proc_id,
            node_total: total,
        });
        event_loop::start(library.clone(), node, poll, (relief, thread)).map_err(Failure::System)?;
        Ok(library)
    }

    /// Set once, before any thread waits.
    pub(crate) fn set_role(&self, role: Arc<Role>) {
        let _ = self.role.set(role);
    }

    pub(crate) fn role(&self) -> &Role {
        self.role.get().expect("set before anything is asked for")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("the engine panicked while it held its state; see stderr")
    }

    /// Run `f` on the state, carry out what it asked for, then wake who became ready.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.lock();
        self.drain_drops(&mut core);
        let result = f(&mut core);
        self.settle(core);
        result
    }

    /// Carry out commands, decide what is written now, release the lock, open gates.
    pub(crate) fn settle(&self, mut core: MutexGuard<'_, Core>) {
        let later = core.carry_out();
        let stuck = !core.stuck.is_empty();
        self.crowded.store(core.owner.is_crowded(), Ordering::Relaxed);
        let woken = std::mem::take(&mut core.woken);
        let startable = std::mem::take(&mut core.startable);
        drop(core);
        if later {
            self.arm_soon();
        }
        if stuck {
            self.with_wakers(|wakers| wakers.now.wake());
        }
        if !startable.is_empty() {
            self.note_woken();
            startable.into_iter().for_each(|group| _ = self.stations.of(group).ring(u32::MAX));
            self.rouse_reader();
        }
        if woken.is_empty() {
            return;
        }
        self.note_woken();
        woken.into_iter().for_each(Waiter::wake);
        self.rouse_reader();
    }

    /// The reader may wait for what somebody else has just opened.
    pub(crate) fn rouse_reader(&self) {
        if !role::reads() {
            self.with_wakers(|wakers| wakers.now.wake());
        }
    }

    pub(crate) fn note_woken(&self) {
        if let Some(role) = self.role.get() {
            role.note_woken();
        }
    }

    /// References that Python let go of since the last time.
    pub(crate) fn drain_drops(&self, core: &mut Core) {
        while let Some(id) = self.dropped.pop() {
            core.owner.release_local(id);
        }
        while let Some(id) = self.dropped_views.pop() {
            core.owner.release_view(id);
        }
        while let Some(call) = self.dropped_readers.pop() {
            core.owner.stream_dropped(call);
        }
    }

    /// The one thing that `ObjectRef.__del__` does.
    pub fn drop_ref(&self, id: ObjectId) {
        if !self.forked.load(Ordering::Relaxed) {
            self.dropped.push(id);
            self.arm_soon();
        }
    }

    /// The same for a view.
    pub fn drop_view(&self, id: ObjectId) {
        if !self.forked.load(Ordering::Relaxed) {
            self.dropped_views.push(id);
            self.arm_soon();
        }
    }

    /// The one thing that happens when a generator's handle goes.
    pub fn drop_reader(&self, call: u64) {
        if !self.forked.load(Ordering::Relaxed) {
            self.dropped_readers.push(call);
            self.arm_soon();
        }
    }

    pub(crate) fn arm_soon(&self) {
        if !self.soon_armed.swap(true, Ordering::AcqRel) {
            self.with_wakers(|wakers| wakers.soon.arm(SOON_US));
        }
    }

    pub(crate) fn with_wakers(&self, f: impl FnOnce(&Wakers)) {
        if let Some(wakers) = &*self.wakers.lock().expect("no panic while held") {
            f(wakers);
        }
    }

    pub(crate) fn soon_fired(&self) {
        self.with_wakers(|wakers| wakers.soon.clear());
        self.soon_armed.store(false, Ordering::Release);
    }

    pub(crate) fn waker_fired(&self) {
        self.with_wakers(|wakers| wakers.now.clear());
    }

    pub(crate) fn watch_timers(&self, poll: &Poll, now: u64, soon: u64) -> Result<(), rustix::io::Errno> {
        let mut added = Ok(());
        self.with_wakers(|wakers| added = poll.add(wakers.now.fd(), now).and_then(|()| poll.add(wakers.soon.fd(), soon)));
        added
    }

    /// The engine thread has ended: close every descriptor. Views keep their mappings.
    pub(crate) fn close(&self) {
        let mut core = self.lock();
        core.node.close();
        core.direct.clear();
        core.open.clear();
        core.copies.clear();
        core.extents = Extents::default();
        core.disk = Extents::default();
        core.trash.clear();
        core.recorder = None;
        drop(core);
        self.ended.open();
        self.with_wakers(|wakers| wakers.arm_relief(1));
        self.wakers.lock().expect("no panic while held").take();
    }

    // ---- session

    /// The size of the node's store.
    pub(crate) fn store_bytes(&self) -> u64 {
        (self.node_total.get("object_store_memory") / UNIT) as u64
    }

    pub fn check(&self) -> Result<(), Failure> {
        if !self.over.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.forked.load(Ordering::Acquire) {
            let text = "this process was forked from one that uses ray: the session, and what belongs to it, is the parent's.\nhint: start the process with the \"spawn\" method, call ray in the parent only, or call ray.init() here for a session of its own";
            return Err(Failure::System(text.into()));
        }
        Err(Failure::SessionOver(self.lock().over.clone().unwrap_or_default()))
    }

    /// The session ended: everybody who waits gets to know.
    pub(crate) fn end(&self, why: &str) {
        let mut core = self.lock();
        if self.slot.is_some() {
            // A worker without its daemon: nobody would ever end it, or what it started.
            ray_shm::signals::end_own_group();
        }
        core.over.get_or_insert_with(|| why.to_owned());
        self.over.store(true, Ordering::Release);
        let mut woken: Vec<Waiter> = core.waiters.drain().map(|(_, waiter)| waiter).collect();
        woken.extend(std::mem::take(&mut core.starved).into_values());
        woken.extend(core.give_up_asks(|_| true));
        for answer in core.answers.values() {
            if let Answer::Waiting(gate) = answer {
                woken.push(Waiter::Gate(gate.clone()));
            }
        }
        drop(core);
        woken.into_iter().for_each(Waiter::wake);
        self.rouse_reader();
        self.stations.ring_all(u32::MAX);
        self.log_bell.ring(u32::MAX);
        self.desk.close();
    }

    /// Wait until detached actors on their way have copied what they were given, for so long at most; a signal ends the wait.
    pub fn wait_for_births(&self, patience_us: u64) {
        let births = self.with(|core| core.owner.births());
        if let (false, Ok(Some(ticket))) = (births.is_empty(), self.wait_start(&births, births.len(), None)) {
            self.wait_at(&ticket.gate, Some(patience_us));
            self.wait_end(&ticket, &births);
        }
    }

    /// Tell the daemon to end everything, and take what it still says: the last lines of the workers. The caller waits for its exit.
    pub fn shutdown(&self) {
        if self.check().is_ok() {
            self.with(|core| {
                core.over.get_or_insert_with(|| "ray.shutdown() was called".into());
                core.queue_node(ToNode::Shutdown {});
                core.flush_all();
            });
            let patience = Some(SHUTDOWN_US);
            while self.wait_at(&self.ended, patience) == Woken::Interrupted {}
            self.end("ray.shutdown() was called");
        }
    }

    // ---- objects

    /// A handle to an object that something here keeps already. What follows from it can wait for the next event.
    pub fn add_local(&self, id: ObjectId) {
        self.lock().owner.add_local(id);
    }

    /// A reference that came out of band.
    pub fn adopt(&self, id: ObjectId) {
        self.with(|core| {
            core.owner.add_local(id);
            core.owner.register_borrow(id);
        });
    }

    pub fn put(&self, payload: Payload) -> ObjectId {
        self.with(|core| core.owner.put(payload))
    }

    /// Ids for `put_all`.
    pub fn new_put_ids(&self, count: usize) -> Vec<ObjectId> {
        self.with(|core| (0..count).map(|_| core.owner.new_put_id()).collect())
    }

    /// Several values, which may mention each other. Each gets one local reference.
    pub fn put_all(&self, puts: Vec<(ObjectId, Payload)>) {
        self.with(|core| core.owner.put_all(puts));
    }

    // ---- calls

    pub fn class_for(&self, shape: &Resources, env: &str, strategy: &Strategy) -> ClassId {
        self.with(|core| core.owner.class_for(shape, env, strategy))
    }

    pub fn template(&self, template: Template) -> Arc<Template> {
        self.with(|core| core.owner.template(template))
    }

    /// Submit; returns the call's counter. Its returns carry one local reference each. `parent`: the call of another process that submits it here.
    pub fn submit(&self, template: &Arc<Template>, args: CallArgs, parent: Option<(ProcId, u64)>) -> Result<u64, SubmitError> {
        let now = ray_shm::now_us();
        self.with(|core| {
            let call = core.owner.submit(now, template, args)?;
            if let Some(parent) = parent {
                core.born(now, call, parent);
            }
            Ok(call)
        })
    }

    // ---- actors

    pub fn new_actor_id(&self) -> ActorId {
        self.with(|core| core.owner.new_actor_id())
    }

    pub fn create_actor(&self, actor: ActorId, options: ActorOptions, args: CallArgs) {
        let now = ray_shm::now_us();
        self.with(|core| core.owner.create_actor(now, actor, options, args));
    }

    pub fn kill_actor(&self, actor: ActorId, no_restart: bool) {
        self.with(|core| {
            core.queue_node(ToNode::ActorKill { actor, no_restart });
            core.flush_all();
        });
    }

    pub fn tell_node(&self, message: ToNode) {
        self.with(|core| {
            core.queue_node(message);
            core.flush_all();
        });
    }

    /// Leases and extents without use go back now, not when their time is up.
    pub fn return_idle(&self) {
        self.with(|core| {
            core.owner.return_idle_leases();
            core.give_back_empty(0, 0);
            core.flush_all();
        });
    }

    /// This worker's slot on the board; None in a driver.
    pub fn slot(&self) -> Option<u32> {
        self.slot.as_ref().map(|(slot, _)| *slot)
    }

    /// (objects, tasks, leases, waits): for leak checks.
    /// What this process keeps of its own: objects, actors and unfinished calls.
    pub fn holdings(&self) -> Vec<(ObjectId, ray_logic::owner::Holding, String)> {
        self.with(|core| core.owner.holdings())
    }

    pub fn sizes(&self) -> (usize, usize, usize, usize) {
        self.with(|core| core.owner.sizes())
    }

    /// The next log lines; waits for some. None: the session is over. Whoever comes back has shown the last ones, and the daemon sends more.
    pub fn next_logs(&self) -> Option<Vec<LogRecord>> {
        let seen = self.log_bell.now();
        let records = self.with(Core::take_logs);
        if !records.is_empty() {
            return Some(records);
        }
        if self.over.load(Ordering::Acquire) {
            return None;
        }
        self.log_bell.wait(seen);
        Some(Vec::new())
    }
}

impl Core {
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn queue_node(&mut self, message: ToNode) {
        self.node.queue(&message);
        self.mark_dirty(ProcId::NODE);
    }

    fn take_logs(&mut self) -> Vec<LogRecord> {
        let shown = std::mem::take(&mut self.printing);
        if shown > 0 {
            self.queue_node(ToNode::LinesShown { bytes: shown });
        }
        let mut records = Vec::new();
        while self.printing < PRINT_BYTES {
            let Some(record) = self.logs.pop_front() else { break };
            if !record.notice {
                self.printing += WorkerLine::weight(&record.text);
            }
            records.push(record);
        }
        records
    }

    fn mark_dirty(&mut self, link: ProcId) {
        if !self.dirty.contains(&link) {
            self.dirty.push(link);
        }
    }

    pub(crate) fn queue_peer(&mut self, to: ProcId, message: Peer, urgent: bool) {
        match self.direct.get_mut(&to) {
            Some(direct) => {
                direct.writer.queue(&message);
                let (bytes, frames) = direct.writer.pending();
                if urgent || bytes >= BATCH_BYTES || frames >= BATCH_FRAMES {
                    self.flush(to);
                } else {
                    self.mark_dirty(to);
                }
            }
            None => {
                self.queue_node(ToNode::Relay { to, message: Box::new(message) });
                if urgent {
                    self.flush(ProcId::NODE);
                }
            }
        }
    }

    /// Turn the owner's commands into bytes and wake-ups. Returns whether some output waits for more.
    pub(crate) fn carry_out(&mut self) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        let mut now = None;
        self.owner.take_commands(&mut commands);
        for command in commands.drain(..) {
            match command {
                Command::Node(message) => {
                    if let ToNode::CopyDone { id } = &message {
                        self.copies.remove(id);
                    }
                    self.note_node_message(&mut now, &message);
                    self.queue_node(message);
                }
                Command::Peer { to, message, urgent } => {
                    self.note_peer_message(&mut now, &message);
                    self.queue_peer(to, message, urgent);
                }
                Command::Wake(wait) => self.woken.extend(self.waiters.remove(&wait)),
                Command::Free(range) => self.free(range),
                Command::Start { token, gone } => self.may_start(token, &gone),
                Command::Notice(text) => self.logs.push_back(LogRecord::notice(text)),
            }
        }
        self.commands = commands;
        if self.dirty.contains(&ProcId::NODE) {
            self.flush(ProcId::NODE);
        }
        !self.dirty.is_empty() || self.owner.has_unsent_items()
    }

    /// What a call or the constructor waited for has come.
    fn may_start(&mut self, token: u64, gone: &[(ObjectId, Value)]) {
        match self.to_construct.take_if(|(other, _)| *other == token) {
            Some((_, mut work)) => {
                work.spec.args.replace_gone(gone);
                self.duties.push_back(Duty::Construct(work));
                self.startable.push(0);
            }
            None => self.startable.extend(self.exec.registered(token, gone)),
        }
    }

    pub(crate) fn flush(&mut self, link: ProcId) {
        let writer = match link {
            ProcId::NODE => &mut self.node,
            _ => match self.direct.get_mut(&link) {
                Some(direct) => &mut direct.writer,
                None => return,
            },
        };
        if writer.flush() == Flushed::Partly && !self.stuck.contains(&link) {
            self.stuck.push(link);
        }
        self.dirty.retain(|other| *other != link);
    }

    pub(crate) fn flush_all(&mut self) {
        self.owner.send_all_items();
        self.carry_out();
        for link in std::mem::take(&mut self.dirty) {
            self.flush(link);
        }
        self.replies_since = None;
    }
}
