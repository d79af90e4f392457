//! What the workers of this node, also those that have ended, recorded of their calls (ray_shm::events).

use super::Daemon;
use ray_proto::report::Fact;
use ray_proto::ProcId;
use ray_shm::board::Board;

impl Daemon {
    /// Answer with the records of the first slot from `slot` on that has some. One slot at a time, so that no answer is large.
    pub(super) fn read_records(&mut self, to: ProcId, token: u64, slot: u32) {
        let mut found = (Vec::new(), None);
        for slot in slot..self.slots_used {
            // A slot whose ring can't be mapped has told nothing.
            let Ok(Some(ring)) = Board::ring(&self.board_fd, slot) else { continue };
            if ring.written() > 0 {
                found = (ring.read(), Some(slot + 1).filter(|next| *next < self.slots_used));
                break;
            }
        }
        let (records, next) = found;
        self.node.answer(to, token, vec![Fact::Records { records, next, epoch_offset_us: ray_shm::epoch_offset_us() }]);
    }
}
