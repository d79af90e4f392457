//! The thread that moves objects to disk and gives freed blocks back to it. It starts when it is first needed and does nothing but this.
//!
//! The reader must stay free to answer others while gigabytes are written, and the disk must not be waited for under the lock. The thread never asks
//! for memory: whoever waits for memory waits for it.
//!
//! Lock order: core, then desk.

use crate::library::{Core, Failure, Library};
use crate::store::{Extent, Place, View};
use ray_logic::extents::rounded;
use ray_logic::owner::Victim;
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{ExtentId, ShmRange};
use ray_shm::memory::{punch, write_cold};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The first segments of a process. They double with every `ALIKE` that it has, up to `LARGEST`: terabytes need few descriptors.
const SMALLEST: u64 = 64 << 20;
const LARGEST: u64 = 1 << 30;
const ALIKE: usize = 8;
/// A write is not longer than this: the end of the session is noticed between two.
const STEP: usize = 8 << 20;
/// Objects move in groups of this size: small ones don't take the lock one by one.
const GROUP: u64 = 8 << 20;
/// Freed ranges are collected for so long: often a whole segment goes at once.
const SWEEP: Duration = Duration::from_millis(500);

/// Storage beyond the node: the language of the user knows how to write there. Calls come from the thread that spills, which may wait for it.
pub trait Storage: Send + Sync {
    /// Write a value under a number of this process's. False: it can't be; the user has been told why.
    fn write(&self, number: u64, value: View) -> bool;
    fn remove(&self, number: u64);
}

/// What the thread is to do next. Asked for by whoever holds the core lock.
#[derive(Default)]
pub(crate) struct Desk {
    todo: Mutex<Todo>,
    bell: Condvar,
}

#[derive(Default)]
struct Todo {
    started: bool,
    over: bool,
    spill: Option<u64>,
    sweep_at: Option<Instant>,
}

enum Job {
    Spill(u64),
    Sweep,
    Over,
}

impl Desk {
    fn spill(&self, bytes: u64) {
        self.todo.lock().expect("no panic while held").spill = Some(bytes);
        self.bell.notify_one();
    }

    /// There is something in the trash.
    pub(crate) fn sweep(&self) {
        let mut todo = self.todo.lock().expect("no panic while held");
        if todo.sweep_at.is_none() {
            todo.sweep_at = Some(Instant::now() + SWEEP);
            self.bell.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.todo.lock().expect("no panic while held").over = true;
        self.bell.notify_one();
    }

    fn next(&self) -> Job {
        let mut todo = self.todo.lock().expect("no panic while held");
        loop {
            let now = Instant::now();
            if todo.over {
                return Job::Over;
            }
            if let Some(bytes) = todo.spill.take() {
                return Job::Spill(bytes);
            }
            match todo.sweep_at {
                Some(at) if now >= at => {
                    todo.sweep_at = None;
                    return Job::Sweep;
                }
                Some(at) => todo = self.bell.wait_timeout(todo, at - now).expect("no panic while held").0,
                None => todo = self.bell.wait(todo).expect("no panic while held"),
            }
        }
    }

    /// Whether the caller is to start the thread.
    fn must_start(&self) -> bool {
        let mut todo = self.todo.lock().expect("no panic while held");
        !todo.over && !std::mem::replace(&mut todo.started, true)
    }
}

/// The node asks for memory. What is quick is done at once.
pub(crate) fn spill_asked(library: &Arc<Library>, bytes: u64) {
    let quick = library.with(|core| {
        let given = core.give_back_empty(0, 0);
        let quick = given > 0 || !core.owner.has_large() && core.trash.is_empty() && core.stored_trash.is_empty();
        if quick {
            core.queue_node(ToNode::Spilled { bytes: given, own: false });
            core.flush_all();
        }
        quick
    });
    if quick {
        return;
    }
    match ensure_thread(library) {
        true => library.desk.spill(bytes),
        false => library.with(|core| {
            core.queue_node(ToNode::Spilled { bytes: 0, own: false });
            core.flush_all();
        }),
    }
}

/// Start the thread if there is none. False: the system refused.
pub(crate) fn ensure_thread(library: &Arc<Library>) -> bool {
    if !library.desk.must_start() {
        return true;
    }
    let (spiller, desk) = (library.clone(), library.desk.clone());
    let body = move || {
        ray_shm::signals::block_all();
        serve(&spiller, &desk);
    };
    let started = std::thread::Builder::new().name("ray-spill".into()).stack_size(256 * 1024).spawn(body).is_ok();
    if !started {
        library.desk.todo.lock().expect("no panic while held").started = false;
    }
    started
}

fn serve(library: &Library, desk: &Desk) {
    loop {
        match desk.next() {
            Job::Spill(bytes) => library.spill(bytes),
            Job::Sweep => library.sweep_disk(),
            Job::Over => return,
        }
    }
}

/// A victim and its copy.
type Copied = (Victim, ShmRange);

impl Library {
    /// Move at least `bytes`, if there is so much that can be moved, then say so to the node.
    fn spill(&self, bytes: u64) {
        // What was freed on disk makes room there.
        self.sweep_disk();
        let mut victims = self.with(|core| core.pick_victims(bytes)).into_iter();
        let mut moved = Moved::default();
        let mut group: Vec<Copied> = Vec::new();
        let mut failed = None;
        for victim in victims.by_ref() {
            match self.copy_out(victim.range) {
                Ok(to) => group.push((victim, to)),
                Err(trouble) => {
                    failed = Some((victim, trouble));
                    break;
                }
            }
            if group.iter().map(|(victim, _)| victim.range.len).sum::<u64>() >= GROUP {
                self.commit(std::mem::take(&mut group), &mut moved);
            }
        }
        self.commit(group, &mut moved);
        self.with(|core| {
            let trouble = failed.map(|(victim, trouble)| {
                core.owner.stays(victim);
                trouble
            });
            victims.for_each(|victim| core.owner.stays(victim));
            core.carry_out();
            let given = core.give_back_empty(0, 0);
            if let Some(Trouble::Write { extent, text }) = trouble {
                core.queue_node(ToNode::SegmentFailed { extent, text });
            }
            core.queue_node(ToNode::Spilled { bytes: moved.bytes + given, own: moved.own });
            core.flush_all();
        });
    }

    /// Set what writes to storage. Objects are spilled there from then on, and to the node's disk only when it refuses.
    pub fn set_storage(&self, storage: Box<dyn Storage>) {
        let _ = self.storage.set(storage);
    }

    /// The bytes of a range, once more in storage. None: there is none, or it refuses.
    fn store_away(&self, from: ShmRange) -> Result<Option<ShmRange>, Trouble> {
        let Some(storage) = self.storage.get() else { return Ok(None) };
        let number = self.with(|core| core.next_stored());
        let value = View::Shm { mapping: self.mapping(from.extent)?, range: from };
        let to = ShmRange { extent: ExtentId::stored(self.me), offset: number, len: from.len };
        Ok(storage.write(number, value).then_some(to))
    }

    /// The bytes of a range, once more on disk, or in storage.
    fn copy_out(&self, from: ShmRange) -> Result<ShmRange, Trouble> {
        self.check()?;
        if let Some(to) = self.store_away(from)? {
            return Ok(to);
        }
        let source = self.mapping(from.extent)?;
        let bytes = source.slice(from.offset, from.len).ok_or(Trouble::Over)?;
        let (to, fd) = self.allocate_on_disk(from.len)?;
        for (index, part) in bytes.chunks(STEP).enumerate() {
            let written = self.check().map_err(Trouble::from).and_then(|()| {
                let at = to.offset + (index * STEP) as u64;
                write_cold(fd.as_fd(), at, part).map_err(|error| Trouble::Write { extent: to.extent, text: format!("writing {} bytes: {error}", from.len) })
            });
            if let Err(trouble) = written {
                self.with(|core| core.free_own(to));
                return Err(trouble);
            }
        }
        Ok(to)
    }

    fn allocate_on_disk(&self, len: u64) -> Result<(ShmRange, Arc<OwnedFd>), Trouble> {
        loop {
            self.check()?;
            let found = self.with(|core| core.disk.allocate(len).map(|allocation| core.place_of(allocation)));
            let found = if found.is_none() { self.new_segment(len)? } else { found };
            if let Some(place) = found {
                return Ok((place.allocation.range, place.fd));
            }
        }
    }

    fn new_segment(&self, len: u64) -> Result<Option<Place>, Trouble> {
        let least = rounded(len);
        let next = self.with(|core| (SMALLEST << (core.disk.len() / ALIKE).min(8)).min(LARGEST));
        // Room for a whole number of such objects: often they are all of one size.
        let whole = |size: u64| (size / least).max(1) * least;
        let mut sizes = vec![whole(next), whole(SMALLEST), least];
        sizes.dedup();
        match self.ask_and_wait(|token| ToNode::SegmentWant { token, sizes })? {
            (FromNode::ExtentGrant { extent, size, .. }, Some(fd)) => Ok(self.add_extent(extent, size, fd, len)?),
            (FromNode::ExtentGrant { extent, size, .. }, None) => Err(self.undescribed(extent, size).into()),
            _ => Err(Trouble::Full),
        }
    }

    fn commit(&self, group: Vec<Copied>, moved: &mut Moved) {
        if group.is_empty() {
            return;
        }
        self.with(|core| {
            let done = core.owner.moved(&group);
            for ((victim, to), done) in group.into_iter().zip(done) {
                if done {
                    moved.bytes += rounded(victim.range.len);
                    moved.own |= core.extents.owns(victim.range.extent);
                } else {
                    core.free_own(to);
                }
            }
        });
    }

    /// Give the blocks of freed ranges back to the disk.
    fn sweep_disk(&self) {
        let stored = self.with(|core| std::mem::take(&mut core.stored_trash));
        if let Some(storage) = self.storage.get() {
            stored.into_iter().for_each(|number| storage.remove(number));
        }
        let (rest, gone) = self.with(Core::sort_trash);
        gone.into_iter().for_each(empty);
        for range in &rest {
            let fd = self.lock().open.get(&range.extent).and_then(|extent| extent.fd.clone());
            if let Some(fd) = fd {
                let punched = punch(fd.as_fd(), range.offset, rounded(range.len));
                // Where holes are not supported, the blocks are used again, or go with the segment.
                debug_assert!(punched.is_ok() || punched == Err(rustix::io::Errno::OPNOTSUPP), "punching {range:?}: {punched:?}");
            }
        }
        self.with(|core| core.free_swept(&rest)).into_iter().for_each(empty);
    }
}

/// A segment that nothing lives in. Its blocks go now, and not with its last descriptor: a child that the user's program forked has one, too.
fn empty(segment: Extent) {
    if let Some(fd) = &segment.fd {
        // Where holes are not supported, they go with the file.
        let _ = punch(fd.as_fd(), 0, segment.mapping.size());
    }
}

#[derive(Default)]
struct Moved {
    bytes: u64,
    own: bool,
}

/// Why an object could not be copied.
enum Trouble {
    /// The session is.
    Over,
    /// The node gave no segment, and knows why.
    Full,
    Write {
        extent: ExtentId,
        text: String,
    },
}

impl From<Failure> for Trouble {
    fn from(_: Failure) -> Self {
        Trouble::Over
    }
}

impl Core {
    fn next_stored(&mut self) -> u64 {
        self.stored += 1;
        self.stored
    }

    fn pick_victims(&mut self, bytes: u64) -> Vec<Victim> {
        let extents = &self.extents;
        self.owner.pick_victims(bytes, |extent| extents.live_in(extent))
    }

    /// Segments with nothing but trash go as a whole; returns the ranges of the others, and what is to be dropped.
    fn sort_trash(&mut self) -> (Vec<ShmRange>, Vec<Extent>) {
        let mut by_extent: BTreeMap<ExtentId, Vec<ShmRange>> = BTreeMap::new();
        std::mem::take(&mut self.trash).into_iter().for_each(|range| by_extent.entry(range.extent).or_default().push(range));
        let (mut rest, mut gone) = (Vec::new(), Vec::new());
        for (extent, ranges) in by_extent {
            let freed: u64 = ranges.iter().map(|range| rounded(range.len)).sum();
            if self.disk.live_in(extent) == Some(freed) {
                gone.extend(self.drop_segment(extent));
            } else {
                rest.extend(ranges);
            }
        }
        self.flush_all();
        (rest, gone)
    }

    /// Ranges whose blocks have gone back can be used again. Returns segments that nothing lives in any more.
    fn free_swept(&mut self, ranges: &[ShmRange]) -> Vec<Extent> {
        let mut gone = Vec::new();
        for range in ranges {
            // Not there any more: the session ended meanwhile.
            let was_live = self.disk.free(*range);
            debug_assert!(was_live || !self.disk.owns(range.extent), "{range:?} was freed twice");
            if self.disk.live_in(range.extent) == Some(0) {
                gone.extend(self.drop_segment(range.extent));
            }
        }
        self.flush_all();
        gone
    }

    fn drop_segment(&mut self, extent: ExtentId) -> Option<Extent> {
        self.disk.remove(extent);
        self.queue_node(ToNode::ExtentDrop { extent });
        self.open.remove(&extent)
    }
}
