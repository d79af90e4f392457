//! Shared memory from this process's side: allocating and filling ranges, opening others', giving back.

use crate::library::{Core, Failure, Library};
use ray_logic::extents::{rounded, Allocation};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{Blob, ExtentId, ShmRange, Value};
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

/// An extent open in this process. Ours can be written through `fd`.
pub(crate) struct Extent {
    pub fd: Option<Arc<OwnedFd>>,
    pub mapping: Arc<Mapping>,
    pub empty_since: Option<u64>,
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
        let (allocation, fd, mapping) = self.allocate(len)?;
        let range = allocation.range;
        for (at, bytes) in parts {
            if allocation.warm {
                mapping.write(range.offset + at, bytes);
            } else if let Err(error) = write_cold(fd.as_fd(), range.offset + at, bytes) {
                self.with(|core| core.extents.free(range));
                return Err(Failure::StoreFull(explain(&format!("the system gave no memory for {len} bytes of shared memory"), error)));
            }
        }
        Ok(range)
    }

    fn allocate(&self, len: u64) -> Result<(Allocation, Arc<OwnedFd>, Arc<Mapping>), Failure> {
        let mut wanted = 0;
        loop {
            self.check()?;
            let found = self.with(|core| {
                let allocation = core.extents.allocate(len)?;
                let extent = core.open.get_mut(&allocation.range.extent).expect("an extent of ours");
                extent.empty_since = None;
                Some((allocation, extent.fd.clone().expect("ours to write"), extent.mapping.clone()))
            });
            if let Some(found) = found {
                return Ok(found);
            }
            wanted = self.grow(len, wanted)?;
        }
    }

    /// Ask the node for one more extent. Falls back to the least that would do. Returns what was asked last.
    fn grow(&self, len: u64, asked_before: u64) -> Result<u64, Failure> {
        let least = rounded(len);
        let largest = LARGEST.max(rounded(self.store_bytes() / LARGEST_SHARE));
        let next = self.with(|core| (SMALLEST << core.extents.len().min(DOUBLINGS)).min(largest));
        let sizes = if asked_before == 0 && least < next { vec![next, least.max(SMALLEST), least] } else { vec![least] };
        let mut full = String::new();
        for size in sizes {
            match self.ask_and_wait(|token| ToNode::ExtentWant { token, size })? {
                (FromNode::ExtentGrant { extent, size, .. }, Some(fd)) => {
                    self.add_extent(extent, size, fd)?;
                    return Ok(size);
                }
                (FromNode::ExtentGrant { extent, size, .. }, None) => {
                    self.with(|core| core.queue_node(ToNode::ExtentDrop { extent }));
                    return Err(no_descriptor(&format!("{size} bytes of shared memory")));
                }
                (FromNode::StoreFull { text, .. }, _) => full = text,
                _ => return Err(Failure::System("the daemon answered a request for shared memory with something else".into())),
            }
            if self.with(|core| core.give_back_empty(0, 0)) {
                return Ok(0);
            }
        }
        Err(Failure::StoreFull(full))
    }

    fn add_extent(&self, id: ExtentId, size: u64, fd: OwnedFd) -> Result<(), Failure> {
        let mapping = Mapping::read_write(fd.as_fd(), size).map_err(|error| {
            // Granted and of no use here: others may have it.
            self.with(|core| core.queue_node(ToNode::ExtentDrop { extent: id }));
            not_mapped(size, error)
        })?;
        let extent = Extent { fd: Some(Arc::new(fd)), mapping: Arc::new(mapping), empty_since: None };
        self.with(|core| {
            core.open.insert(id, extent);
            core.extents.add(id, size);
        });
        Ok(())
    }

    /// The bytes of a value. Opens the extent on first use.
    pub fn view(&self, value: &Value) -> Result<View, Failure> {
        let range = match value {
            Value::Inline(bytes) => return Ok(View::Inline(bytes.clone())),
            Value::Shm(range) => **range,
        };
        let known = self.lock().open.get(&range.extent).map(|extent| extent.mapping.clone());
        let mapping = match known {
            Some(mapping) => mapping,
            None => self.open_extent(range.extent)?,
        };
        match mapping.slice(range.offset, range.len) {
            Some(_) => Ok(View::Shm { mapping, range }),
            None => Err(Failure::System(format!("a value claims to lie outside its extent: {range:?}"))),
        }
    }

    fn open_extent(&self, id: ExtentId) -> Result<Arc<Mapping>, Failure> {
        match self.ask_and_wait(|token| ToNode::ExtentOpen { token, extent: id })? {
            (FromNode::ExtentOpened { size, .. }, Some(fd)) => {
                let mapping = Mapping::read_only(fd.as_fd(), size).map_err(|error| not_mapped(size, error))?;
                let mapping = Arc::new(mapping);
                self.with(|core| core.open.insert(id, Extent { fd: None, mapping: mapping.clone(), empty_since: None }));
                Ok(mapping)
            }
            (FromNode::ExtentOpened { .. }, None) => Err(no_descriptor("the shared memory of an object")),
            _ => Err(Failure::System(format!("the shared memory of an object is gone ({id:?})"))),
        }
    }
}

impl Core {
    /// A range's last reference is gone.
    pub(crate) fn free(&mut self, range: ShmRange) {
        if !self.extents.owns(range.extent) {
            return self.queue_node(ToNode::FreeRange { range });
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

    /// Return extents that have been empty for `age_us`, keeping `spare` of them. True if any went.
    pub(crate) fn give_back_empty(&mut self, now: u64, age_us: u64) -> bool {
        let mut any = false;
        for (id, _) in self.extents.empty_extents() {
            let Some(extent) = self.open.get_mut(&id) else { continue };
            let since = *extent.empty_since.get_or_insert(now);
            if age_us == 0 || now >= since + age_us {
                self.extents.remove(id);
                self.open.remove(&id);
                self.queue_node(ToNode::ExtentDrop { extent: id });
                any = true;
            }
        }
        any
    }
}
