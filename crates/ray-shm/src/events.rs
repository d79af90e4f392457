//! Records of calls for the timeline: a ring of fixed size for each slot of the status board, in the same memory file, behind the board.
//!
//! The worker writes, the daemon reads: nothing is sent, nobody is asked, and what a worker did can be read after its death. A driver has no slot and keeps a
//! ring of its own.
//!
//! Invariants
//! 1. One thread at a time writes to a ring: whoever has the process's core lock. A slot's next worker begins when its last one is dead.
//! 2. Every word is an atomic; a record says its number before and after it is copied, so a reader knows when it was overwritten meanwhile.
//! 3. Pages are taken when a record is first written there: a worker without calls costs none.

use crate::board::SLOTS;
use crate::memory::{create, Mapping};
use ray_proto::report::{CallRecord, RecordKind};
use ray_proto::ProcId;
use rustix::fs::fstat;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{fence, AtomicU64, Ordering};

/// Words of a record that are no text.
const FACTS: usize = 9;
/// A name may take so many bytes; a longer one is cut.
const NAME_WORDS: usize = 10;
const NAME_BYTES: usize = NAME_WORDS * 8;
/// Its number, its facts, its name.
const WORDS: usize = 1 + FACTS + NAME_WORDS;
const HEADER_WORDS: usize = 8;
/// A worker's ring: a mebibyte once it is full.
pub const RECORDS: u64 = 6_553;
/// A driver's.
pub const DRIVER_RECORDS: u64 = 4 * RECORDS;
const AREA: u64 = 1 << 20;

/// One ring, open for writing or for reading.
pub struct Ring {
    mapping: Mapping,
    records: u64,
}

/// A `CallRecord` that is written without being made first.
pub struct Note<'a> {
    pub by: ProcId,
    pub pid: u32,
    pub thread: u32,
    pub caller: ProcId,
    pub task: u64,
    pub attempt: u32,
    pub kind: RecordKind,
    pub name: &'a str,
}

const RAN: u64 = 1;
const FAILED: u64 = 1 << 8;
const CONSTRUCTION: u64 = 1 << 9;
const ATTEMPT_SHIFT: u32 = 32;

impl Note<'_> {
    fn facts(&self) -> [u64; FACTS] {
        let (kind, times) = match self.kind {
            RecordKind::Sent { submitted, sent } => (0, [submitted, sent, 0, 0]),
            RecordKind::Ran { began, had_args, had_result, ended, failed, construction } => {
                let kind = RAN | if failed { FAILED } else { 0 } | if construction { CONSTRUCTION } else { 0 };
                (kind, [began, had_args, had_result, ended])
            }
        };
        let kind = kind | u64::from(self.attempt) << ATTEMPT_SHIFT;
        let place = u64::from(self.pid) << 32 | u64::from(self.thread);
        [kind, place, self.by.0, self.caller.0, self.task, times[0], times[1], times[2], times[3]]
    }
}

fn record_of(facts: [u64; FACTS], name: String) -> CallRecord {
    let [kind, place, by, caller, task, first, second, third, fourth] = facts;
    let (failed, construction) = (kind & FAILED != 0, kind & CONSTRUCTION != 0);
    let what = match kind & 0xff {
        RAN => RecordKind::Ran { began: first, had_args: second, had_result: third, ended: fourth, failed, construction },
        _ => RecordKind::Sent { submitted: first, sent: second },
    };
    CallRecord {
        by: ProcId(by),
        pid: (place >> 32) as u32,
        thread: place as u32,
        caller: ProcId(caller),
        task,
        attempt: (kind >> ATTEMPT_SHIFT) as u32,
        kind: what,
        name,
    }
}

/// Bytes that the rings of all slots take behind the first `offset` bytes of their file.
pub(crate) const fn bytes_behind(offset: u64) -> u64 {
    offset + SLOTS as u64 * AREA
}

impl Ring {
    /// A ring of this process alone.
    pub fn private(records: u64) -> Result<Ring, Errno> {
        let bytes = (HEADER_WORDS as u64 + records * WORDS as u64) * 8;
        let fd = create("ray-events", bytes)?;
        Ok(Ring { mapping: Mapping::read_write(fd.as_fd(), bytes)?, records })
    }

    /// The ring of a slot; None where the file has no room for rings.
    pub(crate) fn of_slot(file: &OwnedFd, offset: u64, slot: u32) -> Result<Option<Ring>, Errno> {
        assert!(slot < SLOTS, "slot {slot}");
        let at = offset + u64::from(slot) * AREA;
        if (fstat(file)?.st_size as u64) < at + AREA {
            return Ok(None);
        }
        Ok(Some(Ring { mapping: Mapping::read_write_at(file.as_fd(), at, AREA)?, records: RECORDS }))
    }

    fn words(&self) -> &[AtomicU64] {
        let bytes = self.mapping.slice(0, self.mapping.size()).expect("the whole mapping");
        // SAFETY: page-aligned, and only ever accessed as atomics, by every process that maps it.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<AtomicU64>(), bytes.len() / 8) }
    }

    /// How many records were written, those that are overwritten included.
    pub fn written(&self) -> u64 {
        self.words()[0].load(Ordering::Acquire)
    }

    /// Note one more. Only with the process's core lock held.
    pub fn write(&self, note: &Note<'_>) {
        self.store(&note.facts(), note.name);
    }

    fn store(&self, facts: &[u64; FACTS], name: &str) {
        let words = self.words();
        let number = words[0].load(Ordering::Relaxed);
        let at = HEADER_WORDS + (number % self.records) as usize * WORDS;
        let record = &words[at..at + WORDS];
        record[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, fact) in record[1..].iter().zip(facts) {
            word.store(*fact, Ordering::Relaxed);
        }
        let name = shortened(name).as_bytes();
        // An empty chunk: the zeros that end a name of whole words.
        let chunks = name.chunks(8).chain(std::iter::once(&[][..]));
        for (word, chunk) in record[1 + FACTS..].iter().zip(chunks) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        record[0].store(number + 1, Ordering::Release);
        words[0].store(number + 1, Ordering::Release);
    }

    /// What the ring holds, oldest first. What is overwritten meanwhile is left out.
    pub fn read(&self) -> Vec<CallRecord> {
        let written = self.written();
        let kept = written.saturating_sub(self.records)..written;
        kept.filter_map(|number| self.load(number)).map(|(facts, name)| record_of(facts, name)).collect()
    }

    fn load(&self, number: u64) -> Option<([u64; FACTS], String)> {
        let at = HEADER_WORDS + (number % self.records) as usize * WORDS;
        let record = &self.words()[at..at + WORDS];
        if record[0].load(Ordering::Acquire) != number + 1 {
            return None;
        }
        let facts = std::array::from_fn(|i| record[1 + i].load(Ordering::Relaxed));
        let name: Vec<u8> = record[1 + FACTS..].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).take_while(|byte| *byte != 0).collect();
        fence(Ordering::Acquire);
        if record[0].load(Ordering::Relaxed) != number + 1 {
            return None;
        }
        Some((facts, String::from_utf8_lossy(&name).into_owned()))
    }
}

/// As much of a name as a record has room for.
fn shortened(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(task: u64, name: &str) -> Note<'_> {
        let kind = RecordKind::Ran { began: task, had_args: task, had_result: task, ended: task, failed: task % 2 == 0, construction: task % 3 == 0 };
        Note { by: ProcId(1), pid: 2, thread: 3, caller: ProcId(4), task, attempt: 5, kind, name }
    }

    #[test]
    fn what_is_written_is_read_oldest_first() {
        let ring = Ring::private(8).unwrap();
        assert_eq!(ring.read(), []);
        for (task, name) in ["", "eight by", "a longer name", "äöü"].iter().enumerate() {
            ring.write(&note(task as u64, name));
        }
        ring.write(&Note { kind: RecordKind::Sent { submitted: 7, sent: 9 }, ..note(4, "") });
        let read = ring.read();
        let names: Vec<&str> = read.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["", "eight by", "a longer name", "äöü", ""]);
        let kind = RecordKind::Ran { began: 3, had_args: 3, had_result: 3, ended: 3, failed: false, construction: true };
        let name = "äöü".to_owned();
        assert_eq!(read[3], CallRecord { by: ProcId(1), pid: 2, thread: 3, caller: ProcId(4), task: 3, attempt: 5, kind, name });
        assert_eq!(read[4].kind, RecordKind::Sent { submitted: 7, sent: 9 });
    }

    #[test]
    fn a_full_ring_keeps_the_newest() {
        let ring = Ring::private(4).unwrap();
        (0..10).for_each(|task| ring.write(&note(task, if task % 2 == 0 { "a name that is longer than the next" } else { "x" })));
        let tasks: Vec<u64> = ring.read().iter().map(|record| record.task).collect();
        assert_eq!((ring.written(), tasks), (10, vec![6, 7, 8, 9]));
        assert_eq!(ring.read()[3].name, "x");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let ring = Ring::private(2).unwrap();
        ring.write(&note(0, &format!("x{}", "ä".repeat(200))));
        assert_eq!(ring.read()[0].name, format!("x{}", "ä".repeat(39)));
    }

    #[test]
    fn a_reader_never_sees_a_mixture() {
        let ring = Ring::private(3).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|task| ring.write(&note(task, &task.to_string()))));
            while ring.written() < 20_000 {
                for record in ring.read() {
                    assert_eq!(record.name, record.task.to_string());
                    assert!(matches!(record.kind, RecordKind::Ran { ended, .. } if ended == record.task), "{record:?}");
                }
            }
        });
    }

    #[test]
    fn the_rings_of_slots_are_apart_and_outlive_their_writers() {
        let (fd, _board) = crate::board::Board::create().unwrap();
        for slot in [0, 1, SLOTS - 1] {
            let ring = crate::board::Board::ring(&fd, slot).unwrap().unwrap();
            ring.write(&note(u64::from(slot), "of the slot"));
        }
        for slot in [0, 1, SLOTS - 1] {
            let tasks: Vec<u64> = crate::board::Board::ring(&fd, slot).unwrap().unwrap().read().iter().map(|record| record.task).collect();
            assert_eq!(tasks, [u64::from(slot)]);
        }
        assert_eq!(crate::board::Board::ring(&fd, 2).unwrap().unwrap().written(), 0);
    }
}
