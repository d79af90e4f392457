//! Processes of the node as the daemon sizes and ends them: workers, what they started, and at last everything.

use super::Daemon;
use crate::memory::tree_bytes;
use crate::template::Template;
use ray_shm::processes::{self, Process};
use rustix::process::{wait, WaitOptions};

impl Daemon {
    pub(super) fn look_at_memory(&mut self, processes: bool) {
        let driver = self.driver;
        let sizes = || self.conns.iter().filter(|(id, conn)| **id != driver && conn.pid != 0).map(|(id, conn)| (*id, tree_bytes(conn.pid))).collect();
        if let Some(sample) = self.memory.sample(processes, sizes) {
            self.node.memory_sampled(ray_shm::now_us(), &sample);
        }
    }

    pub(super) fn children_ended(&mut self) {
        let mut news = [0u8; 128];
        // What it says may be several ends in one: the sweep looks for itself.
        let _ = rustix::io::read(&self.child_ends, &mut news);
        self.sweep();
    }

    /// What workers that ended have started ends too.
    pub(super) fn sweep(&mut self) {
        let template = self.template.as_ref().map(Template::pid);
        let (by_pid, strays) = (&self.by_pid, &mut self.strays);
        strays.sweep(ray_shm::now_us(), |pid| Some(pid) == template || by_pid.contains_key(&pid));
    }

    /// Returns when the next one is due, if one is.
    pub(super) fn sweep_if_due(&mut self, now: u64) -> Option<u64> {
        if self.strays.due().is_some_and(|due| now >= due) {
            self.sweep();
        }
        self.strays.due()
    }

    /// SIGKILL to a worker that may have ended by itself meanwhile: then its pid may be a stranger's, which has another parent.
    pub(super) fn kill_worker(&self, pid: u32) {
        let parents = [Some(std::process::id()), self.template.as_ref().map(Template::pid)];
        if let Some(worker) = Process::find(pid).filter(|worker| parents.contains(&Some(worker.parent))) {
            worker.kill();
        }
    }

    /// Nothing may outlive us: workers, their children, the template.
    pub(super) fn end_everything(&mut self) {
        let driver = self.driver;
        let pids: Vec<u32> = self.conns.iter().filter(|(id, _)| **id != driver).map(|(_, conn)| conn.pid).filter(|pid| *pid != 0).collect();
        if let Some(template) = &mut self.template {
            template.end();
        }
        pids.iter().for_each(|pid| self.kill_worker(*pid));
        reap_children();
        self.say_last_words();
    }
}

/// Wait until no child is left, for a second at most. Whatever a process of ours leaves behind when it ends is our child then.
fn reap_children() {
    let deadline = ray_shm::now_us() + 1_000_000;
    while ray_shm::now_us() < deadline {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => {
                for child in processes::children(std::process::id()) {
                    child.kill();
                }
                let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
                // Nothing to wait for but time.
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
            Err(_) => return,
        }
    }
}
