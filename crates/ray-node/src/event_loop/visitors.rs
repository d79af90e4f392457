//! Processes of the same user that come through the session's door to ask questions.

use super::{Daemon, NO_SLOT};
use crate::conn::{Conn, Token};
use ray_shm::door;
use std::os::fd::AsFd;

/// At once.
const GUESTS: usize = 64;

impl Daemon {
    /// Questions from outside come through here. A node without a door serves its driver all the same.
    pub(super) fn open_door(&mut self) {
        let Ok(opened) = door::open(&self.boot.door) else { return };
        if self.poll.add(opened.as_fd(), Token::Door.pack()).is_ok() {
            self.door = Some(opened);
        }
    }

    pub(super) fn admit(&mut self) {
        while let Some(guest) = self.door.as_ref().and_then(door::admit) {
            if self.conns.values().filter(|conn| conn.slot == NO_SLOT).count() > GUESTS {
                continue;
            }
            let id = self.node.observer_connected(door::peer_pid(&guest));
            let conn = Conn::new(guest, NO_SLOT);
            if self.poll.add(conn.reader.fd(), Token::Link(id).pack()).is_ok() {
                self.conns.insert(id, conn);
            }
        }
    }
}
