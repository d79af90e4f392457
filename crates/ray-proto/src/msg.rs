//! Every message of the protocol. `ToNode` and `FromNode` run between a process and its daemon, `Peer` between two processes,
//! `ToTemplate` and `FromTemplate` between the daemon and the process that forks workers (its half is Python: see ray/_core/worker/template.py).

use crate::cluster::{JobInfo, JobSpec, KvStep, NodeInfo, NodeView, Strategy};
use crate::groups::{GroupInfo, GroupLife, GroupSpec, Within};
use crate::ids::{ActorId, ClassId, ExtentId, GroupId, LeaseId, NodeIndex, ObjectId, ProcId, TemplateId};
use crate::report::{Fact, Subject};
use crate::resources::Resources;
use crate::value::{Blob, Payload, ShmRange, Value};
use crate::{wire_enum, wire_struct};

wire_struct! {
    /// What is known about the end of a process. Facts only.
    pub struct Evidence {
        pub pid: u32,
        /// 0 if it exited by itself.
        pub signal: i32,
        pub exit_code: i32,
        /// Why the runtime ended it; empty if it did not.
        pub ended_by_us: String,
        /// The kernel's count of OOM kills rose while it died.
        pub oom_kill: bool,
        /// Whether the node ended it for want of memory.
        pub memory_kill: MemoryKill,
        /// 0 if unknown.
        pub peak_rss_kib: u64,
        pub stderr_tail: String,
        /// Caller and call that the process last started, from the status board.
        pub last_started: Option<(ProcId, u64)>,
        /// It went with its node: nothing more is known of it, nor of what it had started.
        pub node_lost: bool,
    }

    /// Constructor arguments and everything the node needs to start an actor, again and again.
    pub struct ActorSpec {
        pub class_name: String,
        pub payload: Blob,
        pub args: Args,
        pub held: Resources,
        pub to_place: Resources,
        pub env: String,
        /// -1: for ever.
        pub max_restarts: i32,
        pub name: String,
        pub namespace: String,
        pub detached: bool,
        pub strategy: Strategy,
        /// Of a detached actor: the values behind the references in its arguments, and behind those in these. They must outlive their owners.
        pub given: Vec<(ObjectId, Payload)>,
    }

    /// Arguments of a call: pickled `(args, kwargs)` with slots for the top-level references, whose values follow.
    pub struct Args {
        pub body: Value,
        /// The object that `body` lives in when it is in shared memory; nil when inline.
        pub body_id: ObjectId,
        pub deps: Vec<(ObjectId, Payload)>,
        pub nested: Vec<ObjectId>,
    }

    pub struct Call {
        /// The caller's counter: unique within the caller.
        pub task: u64,
        pub template: TemplateId,
        pub attempt: u32,
        pub num_returns: u32,
        /// Position among this caller's calls to this incarnation of the actor.
        pub actor_seq: Option<(ActorId, u64)>,
        /// Devices that it may use, of all families (devices.rs). GPUs are the first of them.
        pub gpu_ids: Vec<u32>,
        pub args: Args,
        /// The results leave one after another as `StreamItems`.
        pub stream: Option<StreamOpen>,
    }

    /// Where a call with a stream of results starts.
    pub struct StreamOpen {
        /// So many items the caller has from earlier attempts: they are made again and not sent.
        pub have: u64,
        /// Items up to this number may be sent before a `StreamCredit`.
        pub until: u64,
        /// Nobody reads them any more: stop at the first one.
        pub closed: bool,
        /// The call's result is a list of references to all items.
        pub gather: bool,
        /// Those of `have` that were lost and are to be sent once more, as ranges from first to last.
        pub again: Vec<(u64, u64)>,
    }

    pub struct Reply {
        pub task: u64,
        pub outcome: Outcome,
        /// One per return; a single one that holds an error stands for all of them. Of a call with a stream: the error that ended it, if one did, and
        /// the value of its end object.
        pub results: Vec<Payload>,
        /// Argument references still in use, owned by the caller.
        pub retained: Vec<ObjectId>,
        /// The process ends after this reply (max_calls, exit_actor).
        pub leaving: bool,
    }

    /// What is asked of a call that is to be cancelled.
    pub struct Cancellation {
        /// End the worker that runs it.
        pub force: bool,
        /// Cancel the calls that it has made, too.
        pub recursive: bool,
        /// Who asks, in words.
        pub by: String,
    }

    pub struct WorkerLine {
        pub name: String,
        pub pid: u32,
        pub is_stderr: bool,
        pub text: String,
    }
}

impl Args {
    /// Nobody had kept these: what takes them fails.
    pub fn replace_gone(&mut self, gone: &[(ObjectId, Value)]) {
        for (id, payload) in &mut self.deps {
            if let Some((_, value)) = gone.iter().find(|(other, _)| other == id) {
                payload.value = value.clone();
            }
        }
    }
}

impl Default for Evidence {
    /// Nothing is known but that it ended.
    fn default() -> Self {
        Evidence {
            pid: 0,
            signal: 0,
            exit_code: 0,
            ended_by_us: String::new(),
            oom_kill: false,
            memory_kill: MemoryKill::No {},
            peak_rss_kib: 0,
            stderr_tail: String::new(),
            last_started: None,
            node_lost: false,
        }
    }
}

impl Evidence {
    /// A process of a node that is dead.
    pub fn of_lost_node(death: &str) -> Self {
        Evidence { ended_by_us: death.to_owned(), node_lost: true, ..Evidence::default() }
    }
}

impl ActorSpec {
    /// Its place is in a placement group.
    pub fn is_in_group(&self) -> bool {
        self.strategy.is_group()
    }
}

impl WorkerLine {
    /// What a line counts while it waits to be shown: its text, and something for being a line.
    pub fn weight(text: &str) -> u64 {
        64 + text.len() as u64
    }
}

wire_enum! {
    pub enum MemoryKill {
        0 = No {},
        /// Others took part in the shortage: the calls may be retried so often (-1: no limit) before it counts as an attempt.
        1 = Crowded { free_retries: i32 },
        /// It alone used too much, and would again.
        2 = Alone {},
    }
}

wire_enum! {
    pub enum Outcome {
        0 = Returned {},
        1 = Raised { retryable: bool },
        /// Its caller asked for that. `started`: it ran, and the results say where it was interrupted, if anything.
        2 = Cancelled { started: bool },
    }
}

wire_enum! {
    pub enum ActorState {
        0 = Pending {},
        1 = Alive { proc_id: ProcId, incarnation: u32 },
        2 = Restarting { cause: Value },
        3 = Dead { cause: Value },
    }
}

wire_enum! {
    pub enum ToNode {
        /// `max_links`: direct links that the sender's file limit leaves room for.
        0 = Hello { protocol: u32, pid: u32, max_links: u32 },
        /// Scheduling class `class` of the sender needs `shape` and `env`. Sent once, before its first `LeaseWant`.
        1 = DefineClass { class: ClassId, shape: Resources, env: String, strategy: Strategy },
        /// Level-triggered: with `granted` leases of the class received so far, `want` more are wished for.
        2 = LeaseWant { class: ClassId, granted: u64, want: u32 },
        /// The lease is over; `leaving`: so is the worker.
        3 = LeaseReturn { lease: LeaseId, leaving: bool },
        4 = Blocked {},
        5 = Unblocked {},
        6 = ActorCreate { actor: ActorId, spec: Box<ActorSpec> },
        7 = ActorSubscribe { actor: ActorId },
        8 = ActorKill { actor: ActorId, no_restart: bool },
        9 = ActorOutOfScope { actor: ActorId },
        10 = ActorUp { actor: ActorId },
        11 = ActorFailed { actor: ActorId, error: Value },
        12 = ActorLeaving { actor: ActorId, reason: String },
        13 = NameTake { token: u64, name: String, namespace: String, actor: ActorId, payload: Blob },
        14 = NameFind { token: u64, name: String, namespace: String },
        15 = NameList { token: u64, all: bool, namespace: String },
        /// Memory: `sizes` from what is wished for down to the least that would do. One that does not fit waits until there is room.
        16 = ExtentWant { token: u64, sizes: Vec<u64> },
        17 = ExtentOpen { token: u64, extent: ExtentId },
        18 = ExtentDrop { extent: ExtentId },
        19 = Published { range: ShmRange, owner: ProcId },
        20 = FreeRange { range: ShmRange },
        21 = Watch { proc_id: ProcId },
        22 = Connect { proc_id: ProcId },
        23 = Relay { to: ProcId, message: Box<Peer> },
        24 = ResourcesQuery { token: u64 },
        25 = IdleExitReply { may_exit: bool },
        26 = Shutdown {},
        27 = Boot { boot: Box<Boot> },
        28 = Ask { token: u64, subject: Subject },
        /// The driver has shown lines of workers: so many bytes (`WorkerLine::weight`) less wait for it.
        29 = LinesShown { bytes: u64 },
        /// The first message of a driver that comes through the door of a running node. The welcome says which process of which job it is.
        30 = HelloDriver { protocol: u32, pid: u32, max_links: u32, job: Box<JobSpec> },
        31 = Kv { token: u64, step: KvStep },
        32 = NodesQuery { token: u64 },
        /// The bytes of an object on another node are wanted here. Answered by `ExtentOpened` (they are its whole extent's first) or `PullFailed`.
        33 = Pull { token: u64, id: ObjectId, range: ShmRange },
        /// No view of the copy is left in the sender.
        34 = CopyDone { id: ObjectId },
        /// Freed by their owner, the sender, with the nodes that their bytes were on: copies are of no use any more.
        35 = Freed { ids: Vec<(ObjectId, NodeIndex)> },
        /// End the node. Only through its door.
        36 = Stop { reason: String },
        37 = JobsQuery { token: u64 },
        /// A segment on disk to spill to. Answered at once.
        40 = SegmentWant { token: u64, sizes: Vec<u64> },
        /// What became of `Spill`: bytes moved to disk or given back since it came; 0: nothing here can be moved. `own`: some of them in own extents.
        41 = Spilled { bytes: u64, own: bool },
        /// The segment could not be written to.
        42 = SegmentFailed { extent: ExtentId, text: String },
        /// `token` 0: no answer but `GroupIs` is wanted. Else `GroupTaken`.
        50 = GroupCreate { token: u64, group: GroupId, spec: Box<GroupSpec> },
        51 = GroupRemove { group: GroupId },
        /// Say how it stands, now and at each change (`GroupIs`).
        52 = GroupWatch { group: GroupId },
        /// The group of this id, or of this (namespace, name), or all.
        53 = GroupsQuery { token: u64, group: Option<GroupId>, name: Option<(String, String)> },
    }
}

wire_struct! {
    /// The driver's first message to the daemon it started.
    pub struct Boot {
        pub node_id: Blob,
        pub total: Resources,
        pub store_bytes: u64,
        /// The interpreter's path: bytes, since a path need not be UTF-8.
        pub python: Blob,
        /// Passed on to the template as one JSON text.
        pub template_config: String,
        pub settings: std::collections::BTreeMap<String, String>,
        /// The driver's process id and its job's environment key.
        pub job_env: String,
        /// As in `Hello`.
        pub max_links: u32,
        /// Name of the door through which others join; empty for none.
        pub door: String,
        pub labels: std::collections::BTreeMap<String, String>,
        pub namespace: String,
        /// A node that outlives who starts it and speaks to others. None: one driver's own.
        pub network: Option<NetworkBoot>,
    }

    pub struct NetworkBoot {
        /// Where to listen and be found. The port 0 asks for any.
        pub ip: String,
        pub port: u16,
        /// `ip:port` of the head to join; empty: be the head.
        pub head: String,
        /// The cluster's secret.
        pub token: Blob,
        /// The cluster to join, if it must be that one; empty: whichever it is. A head's own new name.
        pub cluster: Blob,
        pub host: String,
        pub python: String,
        pub release: String,
    }
}

wire_enum! {
    pub enum FromNode {
        /// `storage`: where objects are spilled to besides the node's disk, for the library's language to understand; "" for nowhere.
        0 = Welcome { protocol: u32, proc_id: ProcId, node_id: Blob, total: Resources, storage: String },
        1 = LeaseGrant { class: ClassId, lease: LeaseId, worker: ProcId, pid: u32, gpu_ids: Vec<u32> },
        /// Give the lease back as soon as what has started is done.
        2 = LeaseReclaim { lease: LeaseId },
        /// Nothing here can ever satisfy the class: `text` explains. `code`: of the error that its calls get; empty: they wait.
        3 = Infeasible { class: ClassId, text: String, code: String },
        4 = ActorChanged { actor: ActorId, state: ActorState },
        5 = ActorStart { actor: ActorId, incarnation: u32, gpu_ids: Vec<u32>, spec: Box<ActorSpec> },
        6 = NameTaken { token: u64, existing: Option<(ActorId, Blob)> },
        7 = NameFound { token: u64, existing: Option<(ActorId, Blob)> },
        8 = Names { token: u64, names: Vec<(String, String)> },
        /// Carries a descriptor, read-write. Memory or a file on disk: the id tells.
        9 = ExtentGrant { token: u64, extent: ExtentId, size: u64 },
        /// `disk`: the disk for spilled objects has no room or can't be used.
        10 = StoreFull { token: u64, text: String, disk: bool },
        /// Carries a descriptor, read-only.
        11 = ExtentOpened { token: u64, extent: ExtentId, size: u64 },
        12 = ExtentGone { token: u64 },
        /// A range this process made for another owner is free again.
        13 = RangeFreed { range: ShmRange },
        14 = ProcDied { proc_id: ProcId, evidence: Evidence },
        /// Carries a descriptor: a direct link to `peer`.
        15 = Link { peer: ProcId },
        16 = Relayed { from: ProcId, message: Box<Peer> },
        17 = ResourcesAre { token: u64, total: Resources, available: Resources },
        18 = MayYouExit {},
        19 = Exit { reason: String },
        20 = Lines { lines: Vec<WorkerLine> },
        21 = Notice { text: String },
        22 = ActorFinish { actor: ActorId },
        /// A process that has died (see `ProcDied` before) had made these for the receiver. What belongs to no object there is to be freed.
        23 = OrphanRanges { ranges: Vec<ShmRange> },
        24 = Told { token: u64, facts: Vec<Fact> },
        /// The session is over. A worker at rest runs its exit handlers and ends; one that runs a call ends at once.
        25 = Dismiss {},
        30 = NodesAre { token: u64, nodes: Vec<NodeInfo>, views: Vec<NodeView> },
        /// `existed`: the key was there before. `count`: keys deleted.
        31 = KvIs { token: u64, existed: bool, value: Option<Blob>, keys: Vec<Blob>, count: u64 },
        /// Everything on that node is gone.
        32 = NodeDied { node: NodeIndex, text: String },
        /// `lost`: nothing answers for the bytes; their owner may know better. Else a failure of this node's own.
        33 = PullFailed { token: u64, lost: bool, text: String },
        /// What all living nodes have together.
        34 = Capacity { total: Resources, nodes: u32 },
        35 = JobsAre { token: u64, jobs: Vec<JobInfo> },
        /// To who started a node that is to outlive him.
        36 = Up { info: NodeInfo, cluster: Blob, head: String },
        /// The same, when it can't start.
        37 = Down { reason: String },
        /// Others wait for memory: move about so many bytes to disk, give back what is empty, then say `Spilled`.
        40 = Spill { bytes: u64 },
        /// Answer to `ExtentWant`: the asker's own extents have room now, or had.
        41 = ExtentRetry { token: u64 },
        /// An extent that the receiver opened is gone: nothing in it is referenced any more.
        42 = ExtentClosed { extent: ExtentId },
        50 = GroupIs { group: GroupId, life: GroupLife },
        /// `existing`: there is a group of that name, and no new one.
        51 = GroupTaken { token: u64, existing: Option<GroupId> },
        52 = GroupsAre { token: u64, groups: Vec<GroupInfo> },
    }
}

wire_enum! {
    pub enum Peer {
        /// `group`: of a method, its concurrency group; 0 is the default one, the others count in the order of the class. `within`: of a task, its place.
        0 = Template { template: TemplateId, name: String, payload: Blob, max_calls: u32, held: Resources, group: u32, within: Option<Within> },
        1 = Call { call: Box<Call> },
        2 = Reply { reply: Box<Reply> },
        3 = Recall { tasks: Vec<u64> },
        /// `blocked`: the worker waits inside its running call and gave these back unasked.
        4 = Returned { tasks: Vec<u64>, blocked: bool },
        /// The last relayed message before the direct link is used.
        5 = Switch {},
        /// Each with the number of the request, which the answer repeats.
        6 = Fetch { ids: Vec<(ObjectId, u64)> },
        7 = Fetched { id: ObjectId, request: u64, payload: Payload },
        8 = Borrow { ids: Vec<ObjectId>, token: u64 },
        /// `gone`: those that the sender had let go of before.
        9 = BorrowAck { token: u64, gone: Vec<ObjectId> },
        10 = Release { ids: Vec<(ObjectId, u32)> },
        /// The third-party references in the results (`first` = 0) or in the items from `first` on are registered: the worker's hold may go.
        11 = HoldDone { task: u64, first: u64 },
        /// Items of a running call, numbered from 1.
        12 = StreamItems { task: u64, first: u64, items: Vec<Payload> },
        /// To the producer: items up to this number may be sent. Never less than before.
        13 = StreamCredit { task: u64, until: u64 },
        /// To the producer: nobody reads any more.
        14 = StreamClose { task: u64 },
        15 = Ask { token: u64, subject: Subject },
        16 = Told { token: u64, facts: Vec<Fact> },
        /// The sender has its end of a direct link. Who has his own end and hears this may write to it.
        17 = Arrived {},
        /// To who runs or queues the call, by its caller. Answered by what ends the call in any case: its reply, its return, or the worker's death.
        30 = Cancel { task: u64, how: Cancellation },
        /// To the caller, by who has a reference to a result.
        31 = CancelAsk { id: ObjectId, how: Cancellation, token: u64 },
        /// `refused`: why nothing was done; empty if it was.
        32 = CancelTold { token: u64, refused: String },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, frame, Wire};

    fn sample_call() -> Peer {
        let dep = ObjectId::new(ProcId::new(1, NodeIndex::HEAD, 2), 3, 1);
        let args = Args {
            body: Value::inline(b"\0body"),
            body_id: ObjectId::NIL,
            deps: vec![(dep, Payload { value: Value::inline(b"\0v"), refs: vec![] })],
            nested: vec![dep],
        };
        Peer::Call {
            call: Box::new(Call {
                task: 5,
                template: TemplateId(1),
                attempt: 0,
                num_returns: 1,
                actor_seq: Some((dep, 9)),
                gpu_ids: vec![],
                args,
                stream: Some(StreamOpen { have: 1, until: 9, closed: false, gather: true, again: vec![(1, 1)] }),
            }),
        }
    }

    #[test]
    fn call_survives_the_wire() {
        let mut bytes = Vec::new();
        frame(&sample_call(), &mut bytes);
        assert_eq!(decode::<Peer>(&bytes[4..]), Ok(sample_call()));
    }

    #[test]
    fn every_truncation_and_flip_is_refused_or_decoded_without_panic() {
        let mut bytes = Vec::new();
        sample_call().put(&mut bytes);
        for cut in 0..bytes.len() {
            assert!(decode::<Peer>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for flip in [0x01u8, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let _ = decode::<Peer>(&bad);
            }
        }
    }
}
