//! Extents, in memory (memfd) and on disk (files without a name), and their mappings.
//!
//! Who may touch what: the creator writes a range before it publishes it and never after; everybody else maps read-only. The allocator (ray-logic
//! `extents`) and the reference counts above it guarantee that a published range is not handed out again while anyone can see it.

use rustix::fs::{fallocate, ftruncate, memfd_create, open, statvfs, unlink, FallocateFlags, MemfdFlags, Mode, OFlags};
use rustix::io::{pwrite, Errno};
use rustix::mm::{madvise, mmap, munmap, Advice, MapFlags, ProtFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

const PAGE: u64 = 4096;
/// Pages are asked of the disk in steps of this size: with smaller ones it stands still between two (1.0 against 3.3 GB/s measured).
const READ_AHEAD: u64 = 64 << 20;

/// A sparse memfd: pages are taken when they are written.
pub fn create(name: &str, size: u64) -> Result<OwnedFd, Errno> {
    // Never to be executed: some systems refuse any other kind, and kernels before 6.3 do not know the flag.
    let fd = match memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, MemfdFlags::CLOEXEC)?,
        made => made?,
    };
    ftruncate(&fd, size)?;
    Ok(fd)
}

/// A file without a name, with its blocks set aside: writing to it can't run out of space. It is gone with its last descriptor and mapping, whoever dies.
pub fn create_on_disk(folder: &Path, size: u64) -> Result<OwnedFd, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        // A file system without nameless files: the name lives for a moment.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let name = folder.join(format!(".ray-spill-{}-{}", std::process::id(), crate::now_us()));
            let fd = open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
            unlink(&name)?;
            fd
        }
        made => made?,
    };
    ftruncate(&fd, size)?;
    match fallocate(&fd, FallocateFlags::empty(), 0, size) {
        // It can't set blocks aside: a full disk shows when they are written.
        Err(Errno::OPNOTSUPP) => Ok(fd),
        done => done.map(|()| fd),
    }
}

/// Bytes of the file system of `folder`: (all of them, those that are free for us).
pub fn disk_room(folder: &Path) -> Result<(u64, u64), Errno> {
    let stat = statvfs(folder)?;
    // As df counts: what is kept for root belongs to nobody.
    let used = stat.f_blocks - stat.f_bfree;
    Ok(((used + stat.f_bavail) * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// The same memory through a descriptor that can't write.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Give the pages of a range back to the system; it reads as zeros afterwards.
pub fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

/// A whole extent in this process's address space, until the last `Arc` of it goes.
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

// SAFETY: the pointer is to shared memory that stays mapped for the life of the value; what may be read or written when is the protocol above.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn read_only(fd: BorrowedFd<'_>, len: u64) -> Result<Self, Errno> {
        Self::new(fd, 0, len, ProtFlags::READ)
    }

    pub fn read_write(fd: BorrowedFd<'_>, len: u64) -> Result<Self, Errno> {
        Self::new(fd, 0, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// A part of a file. `offset` is a multiple of the page size.
    pub(crate) fn read_write_at(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, Errno> {
        Self::new(fd, offset, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, prot: ProtFlags) -> Result<Self, Errno> {
        let len = len as usize;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice aliases nothing of ours.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset)? };
        Ok(Mapping { at: at.cast(), len })
    }

    pub fn size(&self) -> u64 {
        self.len as u64
    }

    /// The bytes of a published range. None when it lies outside the extent, which a lying peer could claim.
    pub fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: in bounds by the check; published ranges are not written to while they can be seen.
        Some(unsafe { std::slice::from_raw_parts(self.at.add(offset as usize), len as usize) })
    }

    /// Bring the pages of a range of a file in: at the speed of the disk, not of page faults, and what can't be read is an error instead of a SIGBUS.
    pub fn populate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        if offset.checked_add(len).is_none_or(|end| end > self.len as u64) {
            return Err(Errno::INVAL);
        }
        let start = offset - offset % PAGE;
        let (mut at, end) = (start, offset + len);
        while at < end {
            let step = (end - at).min(READ_AHEAD);
            // SAFETY: in bounds by the check; both advices leave the bytes as they are.
            let done = unsafe {
                let from = self.at.add(at as usize).cast();
                madvise(from, step as usize, Advice::WillNeed).and_then(|()| madvise(from, step as usize, Advice::LinuxPopulateRead))
            };
            match done {
                // Linux before 5.14 has no such advice: the pages come as they are touched.
                Err(Errno::INVAL) => return Ok(()),
                Err(Errno::INTR) => {}
                done => {
                    done?;
                    at += step;
                }
            }
        }
        Ok(())
    }

    /// Copy into a range that this process has allocated and not published.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.len, "write beyond the extent");
        // SAFETY: in bounds by the check; nobody else sees an unpublished range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset as usize), bytes.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no slice outlives `self`.
        if let Err(error) = unsafe { munmap(self.at.cast(), self.len) } {
            debug_assert!(false, "munmap: {error}");
        }
    }
}

/// Fill a cold range through the descriptor: one copy, and no page fault per page (2.2-2.7 GB/s where touching runs at 0.5-1.5).
pub fn write_cold(fd: BorrowedFd<'_>, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(fd.as_fd(), bytes, offset) {
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Give the pages that the heap has free in its middle back to the system.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_name_is_written_read_back_and_punched() {
        let folder = std::env::temp_dir();
        let fd = create_on_disk(&folder, 1 << 16).unwrap();
        let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert!(!name.exists(), "{name:?}");
        let read_only = reopen_read_only(fd.as_fd()).unwrap();
        let reader = Mapping::read_only(read_only.as_fd(), 1 << 16).unwrap();
        write_cold(fd.as_fd(), 4096, b"on disk").unwrap();
        reader.populate(4096, 7).unwrap();
        assert_eq!(reader.slice(4096, 7), Some(&b"on disk"[..]));
        assert_eq!(reader.populate(1 << 16, 1), Err(Errno::INVAL));
        punch(fd.as_fd(), 4096, 4096).unwrap();
        assert_eq!(reader.slice(4096, 7), Some(&[0; 7][..]));
        let (total, free) = disk_room(&folder).unwrap();
        assert!(total >= free && free > 0);
        assert_eq!(create_on_disk(&folder.join("nowhere"), 1).err(), Some(Errno::NOENT));
    }

    #[test]
    fn what_the_creator_writes_the_reader_sees_and_cannot_change() {
        let fd = create("test", 1 << 16).unwrap();
        let read_only = reopen_read_only(fd.as_fd()).unwrap();
        let writer = Mapping::read_write(fd.as_fd(), 1 << 16).unwrap();
        let reader = Mapping::read_only(read_only.as_fd(), 1 << 16).unwrap();
        writer.write(4096, b"warm");
        write_cold(fd.as_fd(), 8192, b"cold").unwrap();
        assert_eq!(reader.slice(4096, 4), Some(&b"warm"[..]));
        assert_eq!(reader.slice(8192, 4), Some(&b"cold"[..]));
        assert_eq!(reader.slice(1 << 16, 1), None);
        assert!(Mapping::read_write(read_only.as_fd(), 1 << 16).is_err());
    }
}
