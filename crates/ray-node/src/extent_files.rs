//! The descriptors behind extents: memfds, and unnamed files for spilled objects, with where these are made and how full their disks may get.
//!
//! The daemon keeps a descriptor of every extent, so that its creator's death loses nothing.

use ray_logic::extents::rounded;
use ray_logic::node::SpillConfig;
use ray_proto::msg::Boot;
use ray_proto::{ExtentId, ShmRange};
use ray_shm::host::{explain, explain_memfd};
use ray_shm::memory;
use rustix::io::{fcntl_dupfd_cloexec, Errno};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Between two folders in the setting.
const SEPARATOR: char = '\n';
/// Asked for at once unless `min_spilling_size` says otherwise: an extent or two. Small stores go in eighths.
const BATCH: u64 = 64 << 20;

/// None: spilling is off.
pub(crate) fn spill_config(boot: &Boot) -> Option<SpillConfig> {
    let setting = |name: &str| boot.settings.get(name).map(String::as_str);
    let folders = setting("spill_folders").filter(|text| !text.is_empty())?;
    let number = |name: &str| setting(name).and_then(|text| text.parse::<u64>().ok());
    let batch = number("spill_batch_bytes").unwrap_or(BATCH).min(boot.store_bytes / 8);
    Some(SpillConfig { place: folders.replace(SEPARATOR, ", "), quota: number("spill_quota_bytes").unwrap_or(u64::MAX), batch })
}

/// The files of all extents, for other threads too. Who holds one keeps it, whatever is removed here.
#[derive(Clone, Default)]
pub struct SharedFiles(Arc<Mutex<BTreeMap<ExtentId, Arc<OwnedFd>>>>);

impl SharedFiles {
    pub fn insert(&self, extent: ExtentId, file: OwnedFd) {
        self.table().insert(extent, Arc::new(file));
    }

    pub fn get(&self, extent: ExtentId) -> Option<Arc<OwnedFd>> {
        self.table().get(&extent).cloned()
    }

    pub fn remove(&self, extent: ExtentId) {
        // Closed when the table is free again: the end of a file on disk takes its time.
        let _file = self.table().remove(&extent);
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<ExtentId, Arc<OwnedFd>>> {
        // Every change is one call: a thread that panicked has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct ExtentFiles {
    extents: SharedFiles,
    segments: Segments,
}

impl ExtentFiles {
    pub(crate) fn new(boot: &Boot) -> Self {
        ExtentFiles { extents: SharedFiles::default(), segments: Segments::new(boot) }
    }

    /// A new memfd: a descriptor for its creator.
    pub(crate) fn make_in_memory(&mut self, extent: ExtentId, size: u64) -> Result<OwnedFd, String> {
        let refused = |error: Errno| explain_memfd(&format!("the system refused {size} bytes of shared memory"), error);
        let fd = memory::create("ray-extent", size).map_err(refused)?;
        self.keep(extent, fd).map_err(refused)
    }

    /// A new file of the first of `sizes` that there is room for.
    pub(crate) fn make_on_disk(&mut self, extent: ExtentId, sizes: &[u64]) -> Result<(u64, OwnedFd), String> {
        let (size, fd) = self.segments.make(sizes)?;
        let copy = self.keep(extent, fd).map_err(|error| explain("the file could not be kept open", error))?;
        Ok((size, copy))
    }

    fn keep(&mut self, extent: ExtentId, fd: OwnedFd) -> Result<OwnedFd, Errno> {
        let copy = fcntl_dupfd_cloexec(&fd, 0)?;
        self.extents.insert(extent, fd);
        Ok(copy)
    }

    /// For the thread that serves them to other nodes.
    pub(crate) fn shared(&self) -> SharedFiles {
        self.extents.clone()
    }

    /// A descriptor of an extent of this daemon's own, to be written.
    pub(crate) fn share(&self, extent: ExtentId) -> Result<OwnedFd, Errno> {
        let file = self.extents.get(extent).ok_or(Errno::BADF)?;
        fcntl_dupfd_cloexec(&*file, 0)
    }

    /// A descriptor that can't write.
    pub(crate) fn open(&self, extent: ExtentId) -> Option<OwnedFd> {
        self.extents.get(extent).and_then(|fd| memory::reopen_read_only(fd.as_fd()).ok())
    }

    pub(crate) fn close(&mut self, extent: ExtentId) {
        self.extents.remove(extent);
    }

    /// Give a range's blocks back. Its creator is gone: nobody else would do it.
    pub(crate) fn punch(&self, range: ShmRange) {
        if let Some(fd) = self.extents.get(range.extent) {
            // Where holes are not supported, the blocks go with the file.
            let _ = memory::punch(fd.as_fd(), range.offset, rounded(range.len));
        }
    }
}

struct Segments {
    folders: Vec<PathBuf>,
    /// The part of a file system that may be in use, by whomever, after a file is made there.
    most_used: f64,
    made: usize,
}

impl Segments {
    fn new(boot: &Boot) -> Self {
        let folders = boot.settings.get("spill_folders").map_or("", String::as_str);
        let most_used = boot.settings.get("spill_most_used").and_then(|text| text.parse().ok()).unwrap_or(1.0);
        Segments { folders: folders.split(SEPARATOR).filter(|text| !text.is_empty()).map(PathBuf::from).collect(), most_used, made: 0 }
    }

    /// A file of the first of `sizes` that one of the folders has room for. They take turns.
    fn make(&mut self, sizes: &[u64]) -> Result<(u64, OwnedFd), String> {
        let mut why = Vec::new();
        for turn in 0..self.folders.len() {
            let folder = &self.folders[(self.made + turn) % self.folders.len()];
            match self.make_in(folder, sizes) {
                Ok(made) => {
                    self.made += turn + 1;
                    return Ok(made);
                }
                Err(text) => why.push(text),
            }
        }
        Err(why.join("; "))
    }

    fn make_in(&self, folder: &Path, sizes: &[u64]) -> Result<(u64, OwnedFd), String> {
        let place = folder.display();
        let failed = |error: Errno| explain(&format!("no file could be made in {place}"), error);
        let (total, free) = memory::disk_room(folder).map_err(failed)?;
        let keep = ((1.0 - self.most_used) * total as f64) as u64;
        let mut last = None;
        for &size in sizes {
            if free < size + keep {
                continue;
            }
            match memory::create_on_disk(folder, size) {
                Ok(fd) => return Ok((size, fd)),
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => last = Some(error),
                Err(error) => return Err(failed(error)),
            }
        }
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
        let percent = 100.0 * (1.0 - self.most_used);
        let full = || format!("its file system has {} free of {}, of which {percent:.0} % stay free (local_fs_capacity_threshold)", mib(free), mib(total));
        Err(last.map_or_else(full, failed))
    }
}
