//! The template: a Python process that has the worker code imported and forks workers (ray/_core/worker/template.py is its other half).
//!
//! Packets over a SEQPACKET pair. To it: `boot` with the board's descriptor, `fork PROC SLOT ENV`, a line end and the job's JSON, with a link and two pipes.
//! From it: `ready`, `forked PROC PID`, `failed PROC WHY`, `exited PID STATUS MAXRSS_KIB`.

use crate::host;
use crate::strays::Strays;
use ray_shm::host::{explain, explain_io};
use ray_shm::processes::TAG_VARIABLE;
use rustix::io::Errno;
use rustix::net::{recv, sendmsg, socketpair, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use std::ffi::OsStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

/// Read the boot packet, set the path, hand over. Nothing of ray is imported before the driver's path is in place.
const BOOTSTRAP: &str = "\
import json, socket, sys
link = socket.socket(fileno=0)
text, fds, _, _ = socket.recv_fds(link, 1 << 22, 4)
config = json.loads(text)
sys.path[:] = config['sys_path']
from ray._core.worker.template import run
run(link, fds[0], config)
";

/// Between a process's closing its link and its end.
const CLOSING_NS: i64 = 200_000_000;

pub(crate) struct Template {
    link: OwnedFd,
    child: Child,
    /// It has imported what workers need, and forks.
    pub ready: bool,
    /// Where its own words begin on the stderr that it shares with the daemon.
    pub stderr_start: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Report {
    Ready,
    Forked { proc_id: u64, pid: u32 },
    Failed { proc_id: u64, why: String },
    Exited { pid: u32, status: i32, peak_rss_kib: u64 },
}

impl Template {
    pub(crate) fn start(python: &[u8], config: &str, board: BorrowedFd<'_>) -> Result<Self, String> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| explain("no socket for the template process", error))?;
        let python = OsStr::from_bytes(python);
        let stderr_start = host::stderr_len();
        let child = Command::new(python)
            .args(["-c", BOOTSTRAP])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .env(TAG_VARIABLE, Strays::blank_tag())
            .spawn()
            .map_err(|error| explain_io(&format!("the template process could not be started with {}", python.to_string_lossy()), &error))?;
        let mut template = Template { link: ours, child, ready: false, stderr_start };
        if let Err(error) = template.send(config.as_bytes(), &[board]) {
            template.end();
            return Err(explain("the template process did not take its configuration", error));
        }
        Ok(template)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `job`: what its workers are started with, one JSON text.
    pub(crate) fn fork(&self, proc_id: u64, slot: u32, env: &str, job: &str, fds: &[BorrowedFd<'_>; 3]) -> Result<(), Errno> {
        self.send(format!("fork {proc_id} {slot} {env}\n{job}").as_bytes(), fds)
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        loop {
            match sendmsg(&self.link, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return result.map(|_| ()),
            }
        }
    }

    /// The next report, None when there is none now. Err: the template is gone.
    pub(crate) fn report(&self) -> Result<Option<Report>, ()> {
        let mut packet = [0u8; 4096];
        match recv(&self.link, &mut packet, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(()),
            Ok((n, _)) => Ok(parse(&packet[..n])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(()),
        }
    }

    /// It has closed its link: how it ends. It gets a moment to end by itself.
    pub(crate) fn ended(&mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: CLOSING_NS };
            // Ended, late or interrupted: what follows holds for all three.
            let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)], Some(&moment));
        }
        self.end()
    }

    /// End it, if it has not ended, and reap it. Says how it ended.
    pub(crate) fn end(&mut self) -> String {
        // It fails only when it is gone already, which is what is wanted.
        let _ = self.child.kill();
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

fn parse(packet: &[u8]) -> Option<Report> {
    let text = std::str::from_utf8(packet).ok()?;
    let mut words = text.splitn(4, ' ');
    Some(match (words.next()?, words.next(), words.next(), words.next()) {
        ("ready", ..) => Report::Ready,
        ("forked", Some(proc_id), Some(pid), _) => Report::Forked { proc_id: proc_id.parse().ok()?, pid: pid.parse().ok()? },
        ("failed", Some(proc_id), why, rest) => Report::Failed { proc_id: proc_id.parse().ok()?, why: format!("{} {}", why.unwrap_or(""), rest.unwrap_or("")) },
        ("exited", Some(pid), Some(status), Some(rss)) => {
            Report::Exited { pid: pid.parse().ok()?, status: status.parse().ok()?, peak_rss_kib: rss.parse().ok()? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_parsed_and_noise_is_not() {
        assert_eq!(parse(b"exited 12 -9 4096"), Some(Report::Exited { pid: 12, status: -9, peak_rss_kib: 4096 }));
        assert_eq!(parse(b"failed 3 Resource temporarily unavailable"), Some(Report::Failed { proc_id: 3, why: "Resource temporarily unavailable".into() }));
        assert_eq!(parse(b"exited twelve"), None);
    }
}
