//! Processes as /proc shows them: who descends from whom, and ending exactly those.
//!
//! A pid alone may name a stranger by the time it is used. Here a process is a pid and its start time, and a signal goes through a pidfd
//! that was opened before the start time was compared.

use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use std::collections::BTreeSet;

/// Carried by everything that a worker starts, through `exec` and through a new session.
pub const TAG_VARIABLE: &str = "RAY_WORKER_TAG";
/// Daemon's pid and worker's id, in hex.
const TAG_BYTES: usize = 8 + 1 + 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Letter of /proc: 'T' is stopped, 'Z' dead and not reaped.
    pub state: char,
    pub parent: u32,
    pub session: u32,
    /// Clock ticks since boot.
    pub started: u64,
}

impl Process {
    pub fn find(pid: u32) -> Option<Process> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse(pid, &text)
    }

    /// SIGKILL, unless it is gone. Whether the signal was sent.
    pub fn kill(&self) -> bool {
        let Some(fd) = Pid::from_raw(self.pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return false };
        let same = Process::find(self.pid).is_some_and(|now| now.started == self.started);
        same && pidfd_send_signal(&fd, Signal::KILL).is_ok()
    }
}

fn parse(pid: u32, stat: &str) -> Option<Process> {
    // The name may hold spaces and parentheses; what follows it doesn't.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process { pid, state: fields.first()?.chars().next()?, parent: number(1)? as u32, session: number(3)? as u32, started: number(19)? })
}

/// Children of all threads of a process, those not reaped yet too.
pub fn children(pid: u32) -> Vec<Process> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return vec![] };
    let of_thread = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("children")).unwrap_or_default();
    let text: String = threads.flatten().map(of_thread).collect();
    let pids = text.split_whitespace().filter_map(|word| word.parse().ok());
    pids.filter_map(Process::find).filter(|child| child.parent == pid).collect()
}

/// All that descend from a process, parents before children, itself left out.
pub fn descendants(root: u32) -> Vec<Process> {
    let mut found: Vec<Process> = children(root);
    let mut known: BTreeSet<u32> = found.iter().map(|process| process.pid).collect();
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        found.extend(children(process.pid).into_iter().filter(|child| known.insert(child.pid)));
        next += 1;
    }
    found
}

/// The tag of what belongs to a worker; 0 stands for none in particular.
pub fn tag(daemon: u32, worker: u64) -> String {
    format!("{daemon:08x}-{worker:016x}")
}

/// The tag that a process was started with.
pub fn tag_of(pid: u32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let entry = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(TAG_VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(entry.to_vec()).ok()
}

/// Take on the tag of a worker, in the place where /proc shows it: what is forked from here shows the same. Returns it, None if this process was
/// started without one.
pub fn take_tag(worker: u64) -> Option<String> {
    let name = std::ffi::CString::new(TAG_VARIABLE).ok()?;
    // SAFETY: getenv gives null or a NUL-terminated string of this process's environment. It lies in the writable area that the kernel filled at
    // exec (nobody sets this variable anew), its length is checked, and no other thread runs user code yet.
    unsafe {
        let place = libc::getenv(name.as_ptr());
        if place.is_null() || libc::strlen(place) != TAG_BYTES {
            return None;
        }
        let id = format!("{worker:016x}");
        std::ptr::copy_nonoverlapping(id.as_ptr(), place.cast::<u8>().add(TAG_BYTES - id.len()), id.len());
        std::ffi::CStr::from_ptr(place).to_str().ok().map(str::to_owned)
    }
}

/// Private memory of a process in bytes: what ending it gives back. Shared memory of the store is not counted.
pub fn private_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1).map(|word| word.parse::<u64>());
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 3 5 6 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 10";
        assert_eq!(parse(7, stat), Some(Process { pid: 7, state: 'S', parent: 3, session: 6, started: 4242 }));
    }

    #[test]
    fn this_process_is_found_and_a_recycled_pid_is_not_killed() {
        let me = Process::find(std::process::id()).expect("alive");
        assert_eq!(me.pid, std::process::id());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let found = children(me.pid).into_iter().find(|process| process.pid == child.id()).expect("a child");
        assert!(descendants(me.pid).contains(&found));
        assert!(private_bytes(found.pid).is_some());
        let stranger = Process { started: found.started + 1, ..found };
        assert!(!stranger.kill());
        assert!(found.kill());
        child.wait().expect("ended");
        assert!(!found.kill());
    }

    #[test]
    fn tags_of_two_daemons_differ() {
        assert_eq!(tag(1, 2).len(), TAG_BYTES);
        assert_ne!(tag(1, 2), tag(2, 2));
    }
}
