//! The end of a session: workers at rest get the time to run the exit handlers of the user's code (coverage, open files, temporary folders).
//! Those that run a call end themselves at once, and whoever is left at the deadline is killed.
//!
//! The state machine takes no part: nothing is to be restarted, retried or explained any more.

use super::{Daemon, Report, Token};
use ray_proto::msg::FromNode;
use ray_proto::ProcId;
use ray_shm::link::Filled;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// Exit handlers that take longer are cut off. Less than a driver waits for its daemon.
const FAREWELL_US: u64 = 1_500_000;

impl Daemon {
    pub(super) fn say_farewell(&mut self) {
        let driver = self.driver;
        let mut left = BTreeSet::new();
        for (_, conn) in self.conns.iter_mut().filter(|(id, conn)| **id != driver && conn.pid != 0 && conn.welcomed && !conn.orphan) {
            conn.writer.queue(&FromNode::Dismiss {});
            conn.writer.flush();
            left.insert(conn.pid);
        }
        let deadline = ray_shm::now_us() + FAREWELL_US;
        let mut ready = Vec::with_capacity(64);
        while !left.is_empty() && self.template.is_some() {
            let now = ray_shm::now_us();
            if now >= deadline || self.poll.wait(Some(deadline - now), &mut ready).is_err() {
                return;
            }
            for event in std::mem::take(&mut ready) {
                match Token::unpack(event.token) {
                    Token::Template => self.note_exits(&mut left),
                    Token::Children => self.children_ended(),
                    // Nobody is let in any more, and the knocking would not end.
                    Token::Door => drop(self.door.take().map(|door| self.poll.remove(door.as_fd()))),
                    Token::Link(id) => self.discard_messages(id),
                    token @ (Token::Out(id) | Token::Err(id)) => self.read_pipe(id, token),
                    Token::Net(number) => self.network_ready(number, event),
                    Token::Copied => self.copies_arrived(),
                }
            }
            self.flush();
        }
    }

    fn note_exits(&mut self, left: &mut BTreeSet<u32>) {
        loop {
            match self.template.as_ref().map(|template| template.report()) {
                Some(Ok(Some(Report::Exited { pid, .. }))) => {
                    left.remove(&pid);
                }
                Some(Ok(Some(_))) => {}
                Some(Ok(None)) => return,
                // Without it nobody tells of exits.
                Some(Err(())) | None => return left.clear(),
            }
        }
    }

    /// Nothing that anybody asks for is granted any more.
    fn discard_messages(&mut self, id: ProcId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        loop {
            let filled = conn.reader.fill();
            while let Ok(Some(_)) = conn.reader.next_frame() {}
            match filled {
                Filled::Data => {}
                Filled::Last | Filled::Empty => return,
                Filled::Closed => return self.poll.remove(conn.reader.fd()),
            }
        }
    }
}
