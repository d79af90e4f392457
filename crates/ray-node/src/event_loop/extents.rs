//! What the node decided about extents, carried out: descriptors made, opened and sent.

use super::Daemon;
use ray_proto::msg::FromNode;
use ray_proto::{ExtentId, ProcId};

impl Daemon {
    pub(super) fn new_extent(&mut self, to: ProcId, token: u64, extent: ExtentId, size: u64) {
        match self.files.make_in_memory(extent, size) {
            Ok(fd) => self.send_with_fd(to, &FromNode::ExtentGrant { token, extent, size }, fd),
            Err(text) => {
                self.send(to, &FromNode::StoreFull { token, text, disk: false });
                self.node.extent_failed(ray_shm::now_us(), extent);
            }
        }
    }

    pub(super) fn new_segment(&mut self, to: ProcId, token: u64, extent: ExtentId, sizes: &[u64]) {
        match self.files.make_on_disk(extent, sizes) {
            Ok((size, fd)) => {
                self.node.segment_made(extent, size);
                self.send_with_fd(to, &FromNode::ExtentGrant { token, extent, size }, fd);
            }
            Err(why) => self.node.segment_failed(ray_shm::now_us(), extent, why),
        }
    }

    pub(super) fn open_extent(&mut self, to: ProcId, token: u64, extent: ExtentId, size: u64) {
        match self.files.open(extent) {
            Some(fd) => self.send_with_fd(to, &FromNode::ExtentOpened { token, extent, size }, fd),
            None => self.send(to, &FromNode::ExtentGone { token }),
        }
    }
}
