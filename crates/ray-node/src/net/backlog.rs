//! The bytes of a stream that the receiver has not said to have handled. They have positions, counted from the stream's first byte.

use ray_proto::wire::{frame, Wire};

/// Room that an empty backlog keeps.
const KEPT: usize = 256 * 1024;
/// Space at the front that is worth a move.
const WASTE: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Of the first byte that counts, in `bytes` and in the stream.
    start: usize,
    base: u64,
}

impl Backlog {
    /// Where the stream ends so far.
    pub(super) fn end(&self) -> u64 {
        self.base + (self.bytes.len() - self.start) as u64
    }

    /// What is before it is handled.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Err: the frame would be of this size, more than `max`; it is not queued.
    pub(super) fn queue<T: Wire>(&mut self, message: &T, max: usize) -> Result<(), usize> {
        let at = self.bytes.len();
        frame(message, &mut self.bytes);
        let size = self.bytes.len() - at - 4;
        if size > max {
            self.bytes.truncate(at);
            return Err(size);
        }
        Ok(())
    }

    /// What follows `position`, which is one of its own.
    pub(super) fn after(&self, position: u64) -> &[u8] {
        &self.bytes[self.start + (position - self.base) as usize..]
    }

    /// Everything before `position`, which is one of its own, is handled.
    pub(super) fn trim(&mut self, position: u64) {
        self.start += (position - self.base) as usize;
        self.base = position;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            // One large burst must not keep its room for ever.
            self.bytes.shrink_to(KEPT);
        } else if self.start >= WASTE && self.start >= self.bytes.len() / 2 {
            // No more bytes move than were trimmed since the last time.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_hold_while_the_front_is_trimmed() {
        let mut backlog = Backlog::default();
        let mut all = Vec::new();
        let mut handled = 0;
        for i in 0..50_000u64 {
            backlog.queue(&i, 100).unwrap();
            frame(&i, &mut all);
            if i % 7 == 0 {
                handled = (handled + 12 * (i % 13)).min(backlog.end());
                backlog.trim(handled);
            }
            if i % 1000 == 0 {
                assert_eq!(backlog.after(handled), &all[handled as usize..]);
            }
        }
        assert_eq!(backlog.end(), all.len() as u64);
        backlog.trim(backlog.end());
        assert_eq!((backlog.after(backlog.end()).len(), backlog.base()), (0, all.len() as u64));
    }

    #[test]
    fn a_frame_above_the_limit_leaves_no_trace() {
        let mut backlog = Backlog::default();
        backlog.queue(&1u64, 8).unwrap();
        assert_eq!(backlog.queue(&"a text".to_owned(), 8), Err(10));
        assert_eq!(backlog.end(), 12);
    }
}
