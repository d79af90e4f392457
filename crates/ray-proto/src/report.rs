//! Questions about what waits for what, and the answers: the records that decisions are made from, as they are at that moment.
//!
//! A question goes to whoever writes the fact: an object's owner, a process, or the node. The answer is a few facts; who asked joins them.

use crate::groups::GroupInfo;
use crate::ids::{ActorId, ClassId, GroupId, NodeIndex, ObjectId, ProcId};
use crate::resources::Resources;
use crate::value::Value;
use crate::{wire_enum, wire_struct};

wire_struct! {
    /// A record of a call, for the timeline. Times are in microseconds, by the clock of the host that it was written on.
    pub struct CallRecord {
        /// Where it was written: in the worker that ran the call, or in the process that made it.
        pub by: ProcId,
        pub pid: u32,
        /// The thread that ran it.
        pub thread: u32,
        pub caller: ProcId,
        /// The caller's counter.
        pub task: u64,
        pub attempt: u32,
        pub kind: RecordKind,
        /// Its function or method; cut if it is very long. Empty for `Sent`.
        pub name: String,
    }
}

wire_enum! {
    pub enum RecordKind {
        /// By the caller: when the call was made, and when it went to a worker.
        0 = Sent { submitted: u64, sent: u64 },
        /// By the worker: when it began, had its arguments, had its result, and had sent that. `construction`: of an actor.
        1 = Ran { began: u64, had_args: u64, had_result: u64, ended: u64, failed: bool, construction: bool },
    }
}

wire_enum! {
    pub enum Subject {
        /// To an object's owner.
        0 = Object { id: ObjectId },
        /// To the node: where it stands. To the process itself: what it runs and waits for.
        1 = Process { proc_id: ProcId },
        /// To the node.
        2 = Actor { actor: ActorId },
        /// To the node: a scheduling class of an owner.
        3 = Class { owner: ProcId, class: ClassId },
        /// To the node: its processes.
        4 = Everything {},
        /// To the head.
        5 = Group { group: GroupId },
        /// To a node: what was recorded in the first slot from `slot` on that has something. To a driver: what it recorded itself.
        6 = Records { node: NodeIndex, slot: u32 },
    }
}

wire_enum! {
    /// Ages are in microseconds, by the clock of who answers.
    pub enum Fact {
        // ---- by an object's owner
        0 = Unknown {},
        1 = Ready { error: Option<Value> },
        2 = Borrowed { owner: ProcId },
        3 = Handle { actor: ActorId },
        /// The object is the result of this call.
        4 = Call { task: u64, name: String, attempt: u32, retries_left: i32, age_us: u64 },
        5 = NeedsArguments { missing: Vec<ObjectId> },
        /// `ahead`: calls of its class before it in the queue. `workers`: those that run calls of the class now.
        6 = NeedsWorker { class: ClassId, ahead: u32, workers: Vec<ProcId> },
        /// `ahead`: calls sent to the worker before it and not answered.
        7 = AtWorker { worker: ProcId, pid: u32, ahead: Vec<u64> },
        /// `at`: where the actor lives, if it does. `sent`: the call is there.
        8 = AtActor { actor: ActorId, at: Option<ProcId>, sent: bool, ahead: u32 },
        /// It becomes ready with the group.
        17 = AwaitsGroup { group: GroupId },
        /// Its cancellation was asked for, and it has not ended.
        30 = CancelAsked { by: String, force: bool, age_us: u64 },
        // ---- by a process
        9 = Runs { caller: ProcId, task: u64, name: String, age_us: u64 },
        /// `missing` of `ids` are awaited by a thread that stands still (`blocks`) or by a future. `call`: on whose behalf, where that is known.
        10 = Waits { ids: Vec<ObjectId>, missing: u32, age_us: u64, blocks: bool, call: Option<(ProcId, u64)> },
        /// Calls that have arrived and not started.
        11 = Queued { calls: u32 },
        // ---- by the node
        12 = Process { proc_id: ProcId, pid: u32, role: String, held: Resources, blocked: bool, stopped: bool },
        13 = Died { proc_id: ProcId, how: String },
        14 = Actor { class_name: String, life: String, process: Option<ProcId>, held: Resources, to_place: Resources, deaths: Vec<String>, cause: Option<Value> },
        15 = Wants { shape: Resources, infeasible: String },
        /// A placement group, as the head sees it. `info.why`: why it is not placed.
        18 = Group { info: Box<GroupInfo> },
        /// What is asked for is asked of this group.
        19 = InGroup { group: GroupId, bundle: i32 },
        /// Of the resources asked for.
        16 = Room { fits: bool, total: Resources, available: Resources, idle_workers: u32, starting_workers: u32, trouble: String },
        /// Besides `Ready`: where the value is. `node` None: with its owner, not in shared memory.
        20 = Stored { bytes: u64, node: Option<NodeIndex>, on_disk: bool },
        /// `next`: the slot to ask for then. `epoch_offset_us`: what to add to the times to get microseconds since 1970.
        21 = Records { records: Vec<CallRecord>, next: Option<u32>, epoch_offset_us: i64 },
    }
}
