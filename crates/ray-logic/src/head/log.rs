//! Where the head writes down what must outlive it: five calls, so that a file, etcd or Redis can stand behind them.
//!
//! An epoch is taken by whoever becomes the head; an append or snapshot with an older epoch is refused, so a deposed head changes nothing any more.

use std::fmt;

#[derive(Debug, PartialEq, Eq)]
pub enum LogError {
    /// Another head has taken over.
    Deposed { epoch: u64 },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogError::Deposed { epoch } = self;
        write!(f, "another head has taken over (epoch {epoch})")
    }
}

pub trait Log: Send {
    fn acquire_epoch(&mut self) -> u64;
    /// Add one entry; returns its number, counted from 1.
    fn append(&mut self, epoch: u64, entry: &[u8]) -> Result<u64, LogError>;
    /// Every entry after number `after`.
    fn read(&self, after: u64) -> Vec<Vec<u8>>;
    /// The state after entry number `at`: entries up to it are not needed any more.
    fn put_snapshot(&mut self, epoch: u64, at: u64, state: &[u8]) -> Result<(), LogError>;
    fn get_snapshot(&self) -> Option<(u64, Vec<u8>)>;
    /// Bytes of entries that a snapshot would save.
    fn pending_bytes(&self) -> usize;
}

/// Outlives the head's state machine, not its process.
#[derive(Default)]
pub struct MemoryLog {
    epoch: u64,
    first: u64,
    entries: Vec<Vec<u8>>,
    bytes: usize,
    snapshot: Option<(u64, Vec<u8>)>,
}

impl MemoryLog {
    fn check(&self, epoch: u64) -> Result<(), LogError> {
        match epoch == self.epoch {
            true => Ok(()),
            false => Err(LogError::Deposed { epoch: self.epoch }),
        }
    }
}

impl Log for MemoryLog {
    fn acquire_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    fn append(&mut self, epoch: u64, entry: &[u8]) -> Result<u64, LogError> {
        self.check(epoch)?;
        self.bytes += entry.len();
        self.entries.push(entry.to_vec());
        Ok(self.first + self.entries.len() as u64)
    }

    fn read(&self, after: u64) -> Vec<Vec<u8>> {
        self.entries.iter().skip(after.saturating_sub(self.first) as usize).cloned().collect()
    }

    fn put_snapshot(&mut self, epoch: u64, at: u64, state: &[u8]) -> Result<(), LogError> {
        self.check(epoch)?;
        let count = (at.saturating_sub(self.first) as usize).min(self.entries.len());
        self.bytes -= self.entries.drain(..count).map(|entry| entry.len()).sum::<usize>();
        self.first += count as u64;
        self.snapshot = Some((at, state.to_vec()));
        Ok(())
    }

    fn get_snapshot(&self) -> Option<(u64, Vec<u8>)> {
        self.snapshot.clone()
    }

    fn pending_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deposed_writer_is_refused_and_a_snapshot_replaces_what_it_holds() {
        let mut log = MemoryLog::default();
        let old = log.acquire_epoch();
        assert_eq!(log.append(old, b"a"), Ok(1));
        let new = log.acquire_epoch();
        assert_eq!(log.append(old, b"b"), Err(LogError::Deposed { epoch: new }));
        assert_eq!(log.append(new, b"b"), Ok(2));
        assert_eq!(log.append(new, b"c"), Ok(3));
        log.put_snapshot(new, 2, b"ab").unwrap();
        assert_eq!((log.get_snapshot(), log.read(2), log.pending_bytes()), (Some((2, b"ab".to_vec())), vec![b"c".to_vec()], 1));
    }
}
