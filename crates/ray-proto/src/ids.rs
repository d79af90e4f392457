//! Ids. Each is a newtype; the layouts users see are made here and nowhere else.
//!
//! Invariants
//! 1. A `ProcId` names one incarnation of one process; it is never reused within a cluster. It says on which node the process is, and for which job
//!    (0 = none); so do an `ExtentId` and a `LeaseId` for their node (docs/design/011).
//! 2. An `ObjectId` carries its owner, so no directory is needed to find who knows about it.
//! 3. `seq` = call counter << 24 | index. Index 0 is a `put`, 1.. are the returns of the call, `ACTOR_INDEX` is an actor's handle object,
//!    `END_INDEX` what becomes ready at the end of a call that gives its results one after another.

use crate::wire::{Reader, Wire, WireError};

macro_rules! newtype {
    ($(#[$doc:meta] $name:ident($inner:ty);)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { self.0.put(out) }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> { Ok(Self(<$inner>::take(r)?)) }
        }
    )*};
}

newtype! {
    /// One incarnation of one process.
    ProcId(u64);
    /// One incarnation of a node, numbered by the head and never used twice. 0: the head's own node, or the only one.
    NodeIndex(u16);
    /// A granted use of one worker, given by the node.
    LeaseId(u64);
    /// A scheduling class within its owner.
    ClassId(u32);
    /// A call template within its owner.
    TemplateId(u32);
    /// A memfd or an unnamed file that holds object ranges, numbered by the node.
    ExtentId(u64);
}

/// Set in the number of an extent whose bytes are a file's.
const ON_DISK: u64 = 1 << 63;

/// Set in the number of an extent that stands for what one process has written to storage beyond its node.
const STORED: u64 = 1 << 47;

/// Nodes whose extents can be told apart; more can't join one cluster in its life.
pub const NODES_MAX: u16 = 1 << 15;
/// Jobs whose processes can be told apart.
pub const JOBS_MAX: u32 = 1 << 22;

impl ExtentId {
    pub fn in_memory(node: NodeIndex, number: u64) -> Self {
        ExtentId((u64::from(node.0) << 48) | number)
    }

    pub fn on_disk(node: NodeIndex, number: u64) -> Self {
        ExtentId(Self::in_memory(node, number).0 | ON_DISK)
    }

    pub fn is_on_disk(self) -> bool {
        self.0 & ON_DISK != 0
    }

    /// What `owner` has written to storage: nobody maps it. The offset of a range in it is a number that the owner uses once.
    pub fn stored(owner: ProcId) -> Self {
        Self::on_disk(owner.node(), STORED | (u64::from(owner.job()) << 24) | (owner.0 & 0xFF_FFFF))
    }

    pub fn is_stored(self) -> bool {
        self.is_on_disk() && self.0 & STORED != 0
    }

    /// Who wrote what is stored.
    pub fn stored_by(self) -> ProcId {
        ProcId::new(((self.0 >> 24) & u64::from(JOBS_MAX - 1)) as u32, self.node(), (self.0 & 0xFF_FFFF) as u32)
    }

    /// Where its bytes are; of what is stored, where its owner is.
    pub fn node(self) -> NodeIndex {
        NodeIndex(((self.0 & !ON_DISK) >> 48) as u16)
    }
}

impl LeaseId {
    pub fn new(node: NodeIndex, number: u64) -> Self {
        LeaseId((u64::from(node.0) << 48) | number)
    }

    pub fn node(self) -> NodeIndex {
        NodeIndex((self.0 >> 48) as u16)
    }
}

impl NodeIndex {
    pub const HEAD: NodeIndex = NodeIndex(0);
}

impl ProcId {
    /// The node's own daemon.
    pub const NODE: ProcId = ProcId(0);

    pub fn new(job: u32, node: NodeIndex, counter: u32) -> Self {
        debug_assert!(job < JOBS_MAX && counter < 1 << 24);
        ProcId((u64::from(job) << 40) | (u64::from(node.0) << 24) | u64::from(counter))
    }

    pub fn job(self) -> u32 {
        (self.0 >> 40) as u32
    }

    pub fn node(self) -> NodeIndex {
        NodeIndex((self.0 >> 24) as u16)
    }
}

/// Bits of `seq` that hold the index within a call.
pub const INDEX_BITS: u32 = 24;
/// The index of an actor's handle object.
pub const ACTOR_INDEX: u64 = (1 << INDEX_BITS) - 1;
/// The index of the object that becomes ready when a call with a stream of results ends.
pub const END_INDEX: u64 = ACTOR_INDEX - 1;
/// The most results one call can have.
pub const MAX_RETURNS: u64 = END_INDEX - 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    pub owner: ProcId,
    pub seq: u64,
}

/// An actor is named by the object of its handle, owned by its creator.
pub type ActorId = ObjectId;

impl ObjectId {
    pub const NIL: ObjectId = ObjectId { owner: ProcId(0), seq: 0 };

    pub fn new(owner: ProcId, call: u64, index: u64) -> Self {
        ObjectId { owner, seq: (call << INDEX_BITS) | index }
    }

    pub fn is_nil(self) -> bool {
        self == Self::NIL
    }

    pub fn call(self) -> u64 {
        self.seq >> INDEX_BITS
    }

    pub fn index(self) -> u64 {
        self.seq & ACTOR_INDEX
    }

    pub fn is_actor(self) -> bool {
        self.index() == ACTOR_INDEX
    }

    pub fn is_end(self) -> bool {
        self.index() == END_INDEX
    }

    /// Ray's 24-byte form of the call that made this object.
    pub fn task_bytes(self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.call().to_be_bytes());
        out[8..16].copy_from_slice(&self.owner.0.to_be_bytes());
        out[20..].copy_from_slice(&self.owner.job().to_le_bytes());
        out
    }

    /// Ray's 28-byte form: task, then index. All ones stands for nil, as Ray has it.
    pub fn bytes(self) -> [u8; 28] {
        if self.is_nil() {
            return [0xff; 28];
        }
        let mut out = [0; 28];
        out[..24].copy_from_slice(&self.task_bytes());
        out[24..].copy_from_slice(&(self.index() as u32).to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8; 28]) -> Self {
        if bytes == &[0xff; 28] {
            return Self::NIL;
        }
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let index = u32::from_le_bytes(bytes[24..].try_into().expect("four bytes"));
        ObjectId::new(ProcId(word(8)), word(0), u64::from(index))
    }

    /// Ray's 16-byte form of an actor: counter (5), zero, owner's counter (6), job (4).
    pub fn actor_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..5].copy_from_slice(&self.call().to_be_bytes()[3..]);
        out[6..12].copy_from_slice(&self.owner.0.to_be_bytes()[2..]);
        out[12..].copy_from_slice(&self.owner.job().to_le_bytes());
        out
    }
}

/// Give ids in pickled bytes other names: they stand there in their public form, which all have the same length.
pub fn rename_in(bytes: &mut [u8], names: &std::collections::BTreeMap<ObjectId, ObjectId>) {
    const LEN: usize = 28;
    let owners: std::collections::BTreeSet<[u8; 8]> = names.keys().map(|id| id.owner.0.to_be_bytes()).collect();
    let mut at = 0;
    while at + LEN <= bytes.len() {
        let place = &bytes[at..at + LEN];
        let found =
            owners.iter().any(|owner| place[8..16] == owner[..]).then(|| names.get(&ObjectId::from_bytes(place.try_into().expect("a place")))).flatten();
        match found {
            Some(name) => {
                bytes[at..at + LEN].copy_from_slice(&name.bytes());
                at += LEN;
            }
            None => at += 1,
        }
    }
}

/// A placement group: numbered by the process that created it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub owner: ProcId,
    pub number: u64,
}

impl GroupId {
    /// Ray's 18-byte form: number (6), creator (8), job (4).
    pub fn bytes(self) -> [u8; 18] {
        let mut out = [0; 18];
        out[..6].copy_from_slice(&self.number.to_be_bytes()[2..]);
        out[6..14].copy_from_slice(&self.owner.0.to_be_bytes());
        out[14..].copy_from_slice(&self.owner.job().to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8; 18]) -> Self {
        let mut number = [0; 8];
        number[2..].copy_from_slice(&bytes[..6]);
        let owner = ProcId(u64::from_be_bytes(bytes[6..14].try_into().expect("eight bytes")));
        GroupId { owner, number: u64::from_be_bytes(number) }
    }
}

impl Wire for GroupId {
    fn put(&self, out: &mut Vec<u8>) {
        self.owner.put(out);
        self.number.put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(GroupId { owner: ProcId::take(r)?, number: u64::take(r)? })
    }
}

impl Wire for ObjectId {
    fn put(&self, out: &mut Vec<u8>) {
        self.owner.put(out);
        self.seq.put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(ObjectId { owner: ProcId::take(r)?, seq: u64::take(r)? })
    }
}

/// Bytes of an id as people see them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_id_survives_its_public_form() {
        let id = ObjectId::new(ProcId::new(7, NodeIndex(3), 12345), 99, 3);
        assert_eq!(ObjectId::from_bytes(&id.bytes()), id);
        assert_eq!(ObjectId::from_bytes(&ObjectId::NIL.bytes()), ObjectId::NIL);
        assert_eq!(&id.bytes()[20..24], &7u32.to_le_bytes());
    }

    #[test]
    fn ids_in_bytes_get_other_names_and_nothing_else_changes() {
        let id = |job, call| ObjectId::new(ProcId::new(job, NodeIndex(0), 1), call, 1);
        let names = [(id(1, 5), id(2, 9)), (id(1, 6), id(2, 8))].into();
        let text = |ids: [ObjectId; 3]| ids.iter().flat_map(|id| [&b"C\x1c"[..], &id.bytes(), b"."].concat()).collect::<Vec<u8>>();
        let mut bytes = text([id(1, 6), id(1, 7), id(1, 5)]);
        rename_in(&mut bytes, &names);
        assert_eq!(bytes, text([id(2, 8), id(1, 7), id(2, 9)]));
    }

    #[test]
    fn group_id_survives_its_public_form() {
        let id = GroupId { owner: ProcId::new(7, NodeIndex(3), 12345), number: (1 << 48) - 2 };
        assert_eq!(GroupId::from_bytes(&id.bytes()), id);
        assert_eq!(&id.bytes()[14..], &7u32.to_le_bytes());
    }

    #[test]
    fn ids_say_where_they_are_from() {
        let proc_id = ProcId::new(JOBS_MAX - 1, NodeIndex(NODES_MAX - 1), (1 << 24) - 1);
        assert_eq!((proc_id.job(), proc_id.node(), proc_id.0 >> 62), (JOBS_MAX - 1, NodeIndex(NODES_MAX - 1), 0));
        let segment = ExtentId::on_disk(NodeIndex(NODES_MAX - 1), 7);
        assert!(segment.is_on_disk() && !ExtentId::in_memory(NodeIndex(1), 7).is_on_disk());
        let stored = ExtentId::stored(proc_id);
        assert!(stored.is_stored() && stored.is_on_disk() && !segment.is_stored());
        assert_eq!((stored.stored_by(), stored.node()), (proc_id, proc_id.node()));
        assert_eq!((segment.node(), LeaseId::new(NodeIndex(9), 4).node()), (NodeIndex(NODES_MAX - 1), NodeIndex(9)));
    }
}
