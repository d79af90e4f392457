//! Processes of the same user that come through the session's door: to ask questions, or to be drivers of a node that stands by itself.

use super::{Daemon, NO_SLOT};
use crate::conn::{Conn, Token};
use ray_proto::ProcId;
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

    /// A driver that came through the door is done. What was to be said to it is on its way; that the link closes tells it that this was all.
    pub(super) fn driver_leaves(&mut self, now: u64, driver: ProcId) {
        if let Some(conn) = self.conns.get_mut(&driver).filter(|conn| conn.slot == NO_SLOT) {
            conn.writer.flush();
            self.link_closed(now, driver);
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

    /// Who came through the door is a driver of a job from now on.
    pub(super) fn adopt(&mut self, guest: ProcId, driver: ProcId) {
        let Some(conn) = self.conns.remove(&guest) else { return };
        self.poll.remove(conn.reader.fd());
        let watched = self.poll.add(conn.reader.fd(), Token::Link(driver).pack());
        self.conns.insert(driver, conn);
        match watched {
            Ok(()) => {
                self.welcome(driver);
                // What it said behind its hello is here already.
                self.read_link(driver);
            }
            Err(_) => self.link_closed(ray_shm::now_us(), driver),
        }
    }
}
