//! Shared memory from this process's side: allocating and filling ranges, opening others', giving back.

use crate::gate::Gate;
use crate::library::{Core, Failure, Library};
use ray_logic::extents::{rounded, Allocation, Extents};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{Blob, ExtentId, ObjectId, ShmRange};
use ray_shm::host::explain;
use ray_shm::memory::{write_cold, Mapping};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The first extent of a process; each further one doubles up to `LARGEST`, or to a small part of a large store: each costs its creator a descriptor.
const SMALLEST: u64 = 4 << 20;
const LARGEST: u64 = 64 << 20;
const LARGEST_SHARE: u64 = 128;
const DOUBLINGS: usize = 12;
/// An extent that stays empty this long goes back to the node; so do the pages of a range that stays free.
pub(crate) const KEEP_EMPTY_US: u64 = 10_000_000;

/// An extent open in this process. Ours can be written through `fd`, one in memory through its mapping as well.
pub(crate) struct Extent {
    pub fd: Option<Arc<OwnedFd>>,
    pub mapping: Arc<Mapping>,
    pub empty_since: Option<u64>,
}

/// A range of ours, to be written.
pub(crate) struct Place {
    pub allocation: Allocation,
    pub fd: Arc<OwnedFd>,
    mapping: Arc<Mapping>,
}

/// The bytes of a value, in place.
#[derive(Clone)]
pub enum View {
    Inline(Blob),
    Shm { mapping: Arc<Mapping>, range: ShmRange },
}

impl View {
    pub fn bytes(&self) -> &[u8] {
        match self {
            View::Inline(bytes) => bytes,
            View::Shm { mapping, range } => mapping.slice(range.offset, range.len).unwrap_or(&[]),
        }
    }
}

fn not_mapped(size: u64, error: Errno) -> Failure {
    Failure::System(explain(&format!("{size} bytes of shared memory could not be mapped"), error))
}

fn no_descriptor(of: &str) -> Failure {
    Failure::System(explain(&format!("{of} could not be opened"), Errno::MFILE))
}

impl Library {
    /// Bytes in a fresh range: `parts` are written one after another at their offsets.
    pub fn store(&self, len: u64, parts: &[(u64, &[u8])]) -> Result<ShmRange, Failure> {
        let Place { allocation, fd, mapping } = self.allocate(len)?;
        let range = allocation.range;
        for (at, bytes) in parts {
            if allocation.warm && !range.extent.is_on_disk() {
                mapping.write(range.offset + at, bytes);
            } else if let Err(error) = write_cold(fd.as_fd(), range.offset + at, bytes) {
                self.with(|core| core.free(range));
                return Err(match range.extent.is_on_disk() {
                    true => Failure::DiskFull(explain(&format!("the object store is full and {len} bytes could not be written to its disk"), error)),
                    false => Failure::StoreFull(explain(&format!("the system gave no memory for {len} bytes of shared memory"), error)),
                });
            }
        }
        Ok(range)
    }

    fn allocate(&self, len: u64) -> Result<Place, Failure> {
        loop {
            self.check()?;
            let found = self.with(|core| core.extents.allocate(len).map(|allocation| core.place_of(allocation)));
            let found = if found.is_none() { self.grow(len)? } else { found };
            if let Some(place) = found {
                return Ok(place);
            }
        }
    }

    /// Ask the node for one more extent, or the least that would do, and take the range from it. The node answers when there is room; what it gives is on disk
    /// if nobody could make room. None: try again.
    fn grow(&self, len: u64) -> Result<Option<Place>, Failure> {
        let least = rounded(len);
        let largest = LARGEST.max(rounded(self.store_bytes() / LARGEST_SHARE));
        let next = self.with(|core| (SMALLEST << core.extents.len().min(DOUBLINGS)).min(largest));
        let sizes = if least < next { vec![next, least.max(SMALLEST), least] } else { vec![least] };
        match self.ask_and_wait(|token| ToNode::ExtentWant { token, sizes })? {
            (FromNode::ExtentGrant { extent, size, .. }, Some(fd)) => self.add_extent(extent, size, fd, len),
            (FromNode::ExtentGrant { extent, size, .. }, None) => Err(self.undescribed(extent, size)),
            (FromNode::ExtentRetry { .. }, _) => Ok(None),
            (FromNode::StoreFull { .. }, _) if self.with(|core| core.give_back_empty(0, 0) > 0) => Ok(None),
            (FromNode::StoreFull { text, disk, .. }, _) => Err(if disk { Failure::DiskFull(text) } else { Failure::StoreFull(text) }),
            _ => Err(Failure::System("the daemon answered a request for shared memory with something else".into())),
        }
    }

    /// An extent was granted, and its descriptor found no room here: others may have it.
    pub(crate) fn undescribed(&self, extent: ExtentId, size: u64) -> Failure {
        self.with(|core| core.queue_node(ToNode::ExtentDrop { extent }));
        no_descriptor(&format!("{size} bytes of {}", if extent.is_on_disk() { "disk" } else { "shared memory" }))
    }

    /// A new extent of ours. The first range is taken from it before anybody may find it empty and give it back.
    pub(crate) fn add_extent(&self, id: ExtentId, size: u64, fd: OwnedFd, len: u64) -> Result<Option<Place>, Failure> {
        let mapped = if id.is_on_disk() { Mapping::read_only(fd.as_fd(), size) } else { Mapping::read_write(fd.as_fd(), size) };
        let mapping = mapped.map_err(|error| {
            // Granted and of no use here: others may have it.
            self.with(|core| core.queue_node(ToNode::ExtentDrop { extent: id }));
            not_mapped(size, error)
        })?;
        let extent = Extent { fd: Some(Arc::new(fd)), mapping: Arc::new(mapping), empty_since: None };
        Ok(self.with(|core| {
            core.open.insert(id, extent);
            let allocator = core.allocator(id);
            allocator.add(id, size);
            allocator.allocate(len).map(|allocation| core.place_of(allocation))
        }))
    }

    /// A view of an object whose value was seen at `range` begins. Returns where the value is: it stays there until `drop_view`.
    pub fn add_view(&self, id: ObjectId, range: ShmRange) -> ShmRange {
        self.lock().owner.add_view(id, range)
    }

    /// The bytes of an object on another node, if a copy of them is open here.
    pub fn open_copy(&self, id: ObjectId) -> Option<View> {
        let copy = self.lock().copies.get(&id).cloned();
        copy.map(|(mapping, range)| View::Shm { mapping, range })
    }

    pub fn is_elsewhere(&self, range: ShmRange) -> bool {
        range.extent.node() != self.me.node()
    }

    /// Ask for the bytes of an object on another node; `copied` takes the answer once the gate is open. Something keeps the object meanwhile.
    pub fn pull(&self, id: ObjectId, range: ShmRange) -> Result<(u64, Arc<Gate>), Failure> {
        self.ask(|token| ToNode::Pull { token, id, range })
    }

    /// The answer to `pull`. `Lost`: the owner was told, and the object is pending here until it knows more.
    pub fn copied(&self, token: u64, id: ObjectId, range: ShmRange) -> Result<View, Failure> {
        match self.answer(token)? {
            (FromNode::ExtentOpened { extent, size, .. }, Some(fd)) => {
                let known = self.lock().open.get(&extent).map(|extent| extent.mapping.clone());
                let mapping = match known {
                    Some(mapping) => mapping,
                    None => self.keep_open(extent, size, fd)?,
                };
                let here = ShmRange { extent, offset: 0, len: range.len };
                if extent.is_on_disk() {
                    let unreadable = |error| Failure::System(format!("{} bytes of a copy on disk could not be read: {error}", range.len));
                    mapping.populate(0, range.len).map_err(unreadable)?;
                }
                self.with(|core| {
                    core.owner.note_copied(id);
                    core.copies.insert(id, (mapping.clone(), here));
                });
                Ok(View::Shm { mapping, range: here })
            }
            (FromNode::ExtentOpened { .. }, None) => Err(no_descriptor("the copy of an object of another node")),
            (FromNode::PullFailed { lost: true, text, .. }, _) => {
                let now = ray_shm::now_us();
                self.with(|core| core.owner.value_lost(now, id, range));
                Err(Failure::Lost(text))
            }
            (FromNode::PullFailed { text, .. }, _) => Err(Failure::StoreFull(text)),
            _ => Err(Failure::System(format!("the object {id:?} is on another node, and can't be had from there"))),
        }
    }

    /// The bytes of a range of this node that something keeps in its place. Opens the extent on first use, and reads what is on disk.
    pub fn view(&self, range: ShmRange) -> Result<View, Failure> {
        let mapping = self.mapping(range.extent)?;
        if mapping.slice(range.offset, range.len).is_none() {
            return Err(Failure::System(format!("a value claims to lie outside its extent: {range:?}")));
        }
        if range.extent.is_on_disk() {
            let unreadable = |error| Failure::System(format!("{} bytes of a spilled object could not be read from disk: {error}", range.len));
            mapping.populate(range.offset, range.len).map_err(unreadable)?;
        }
        Ok(View::Shm { mapping, range })
    }

    pub(crate) fn mapping(&self, extent: ExtentId) -> Result<Arc<Mapping>, Failure> {
        let known = self.lock().open.get(&extent).map(|extent| extent.mapping.clone());
        known.map_or_else(|| self.open_extent(extent), Ok)
    }

    fn open_extent(&self, id: ExtentId) -> Result<Arc<Mapping>, Failure> {
        match self.ask_and_wait(|token| ToNode::ExtentOpen { token, extent: id })? {
            (FromNode::ExtentOpened { size, .. }, Some(fd)) => self.keep_open(id, size, fd),
            (FromNode::ExtentOpened { .. }, None) => Err(no_descriptor("the shared memory of an object")),
            _ => Err(Failure::System(format!("the shared memory of an object is gone ({id:?})"))),
        }
    }
}

impl Library {
    /// An extent of others, mapped to be read.
    fn keep_open(&self, id: ExtentId, size: u64, fd: OwnedFd) -> Result<Arc<Mapping>, Failure> {
        let mapping = Arc::new(Mapping::read_only(fd.as_fd(), size).map_err(|error| not_mapped(size, error))?);
        self.with(|core| core.open.insert(id, Extent { fd: None, mapping: mapping.clone(), empty_since: None }));
        Ok(mapping)
    }
}

impl Core {
    /// Who gives out the ranges of an extent of ours.
    pub(crate) fn allocator(&mut self, extent: ExtentId) -> &mut Extents {
        if extent.is_on_disk() {
            &mut self.disk
        } else {
            &mut self.extents
        }
    }

    /// What is needed to write to a range of ours.
    pub(crate) fn place_of(&mut self, allocation: Allocation) -> Place {
        let extent = self.open.get_mut(&allocation.range.extent).expect("an extent of ours");
        extent.empty_since = None;
        Place { allocation, fd: extent.fd.clone().expect("ours to write"), mapping: extent.mapping.clone() }
    }

    /// A range's last reference is gone.
    pub(crate) fn free(&mut self, range: ShmRange) {
        match range.extent.is_stored() || self.allocator(range.extent).owns(range.extent) {
            true => self.free_own(range),
            false => self.queue_node(ToNode::FreeRange { range }),
        }
    }

    /// One of ours. On disk it is free once its blocks have gone back, which another thread sees to.
    pub(crate) fn free_own(&mut self, range: ShmRange) {
        if range.extent.is_stored() {
            self.stored_trash.push(range.offset);
            return self.desk.sweep();
        }
        if range.extent.is_on_disk() {
            self.trash.push(range);
            return self.desk.sweep();
        }
        let was_live = self.extents.free(range);
        debug_assert!(was_live, "{range:?} was freed twice");
    }

    /// Give pages back to the system that stayed free too long, or are more than a quarter of the store.
    pub(crate) fn trim(&mut self, now: u64, store_bytes: u64) {
        for range in self.extents.trim(now, KEEP_EMPTY_US, store_bytes / 4) {
            let Some(fd) = self.open.get(&range.extent).and_then(|extent| extent.fd.as_ref()) else { continue };
            let punched = ray_shm::memory::punch(fd.as_fd(), range.offset, range.len);
            debug_assert!(punched.is_ok(), "punching {range:?}: {punched:?}");
        }
    }

    /// Return extents that have been empty for `age_us`. Tells how many bytes went.
    pub(crate) fn give_back_empty(&mut self, now: u64, age_us: u64) -> u64 {
        let mut given = 0;
        for (id, size) in self.extents.empty_extents() {
            let Some(extent) = self.open.get_mut(&id) else { continue };
            let since = *extent.empty_since.get_or_insert(now);
            if age_us == 0 || now >= since + age_us {
                self.extents.remove(id);
                self.open.remove(&id);
                self.queue_node(ToNode::ExtentDrop { extent: id });
                given += size;
            }
        }
        given
    }
}
