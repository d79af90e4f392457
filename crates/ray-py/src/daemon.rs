//! Starting the daemon, and being it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use ray_proto::msg::FromNode;
use ray_proto::wire::decode;
use ray_shm::link::{Filled, Reader};
use ray_shm::{host, link};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Load only the extension module: no site, no ray package. It is running 12 ms after the spawn.
const BOOTSTRAP: &str = "\
import sys
from importlib._bootstrap import module_from_spec, spec_from_loader
from importlib._bootstrap_external import ExtensionFileLoader
loader = ExtensionFileLoader('ray._native', sys.argv[1])
module = module_from_spec(spec_from_loader('ray._native', loader))
loader.exec_module(module)
sys.exit(module.daemon_main())
";

/// The daemon as its driver's child.
pub(crate) struct DaemonProcess {
    child: Child,
    /// What it wrote on stderr, for the error when it dies.
    stderr: File,
}

impl DaemonProcess {
    /// One that ends with its driver, which is this process.
    pub(crate) fn start(python: &OsStr, native_path: &OsStr) -> Result<(Self, OwnedFd), String> {
        let stderr = ray_shm::memory::create("ray-daemon-stderr", 0).map_err(|error| host::explain_memfd("no memory file for the daemon", error))?;
        Self::start_with(python, native_path, stderr)
    }

    /// One that outlives this process, and writes what it has to say to a file.
    pub(crate) fn start_standing(python: &OsStr, native_path: &OsStr, log: &Path) -> Result<(Self, OwnedFd), String> {
        let file = File::options().create(true).append(true).read(true).mode(0o600).open(log);
        let file = file.map_err(|error| host::explain_io(&format!("the daemon's log {} can't be written", log.display()), &error))?;
        Self::start_with(python, native_path, OwnedFd::from(file))
    }

    fn start_with(python: &OsStr, native_path: &OsStr, stderr: OwnedFd) -> Result<(Self, OwnedFd), String> {
        let (ours, theirs) = link::pair().map_err(|error| host::explain("no socket for the daemon", error))?;
        let copy = rustix::io::fcntl_dupfd_cloexec(&stderr, 0).map_err(|error| host::explain("no descriptors for the daemon", error))?;
        let child = Command::new(python)
            .args(["-I", "-S", "-c", BOOTSTRAP])
            .arg(native_path)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(copy))
            .spawn()
            .map_err(|error| host::explain_io(&format!("the daemon could not be started with {}", python.to_string_lossy()), &error))?;
        Ok((DaemonProcess { child, stderr: File::from(stderr) }, ours))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        // Unreadable last words are no words.
        let _ = self.stderr.seek(SeekFrom::Start(0)).and_then(|_| self.stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).trim().chars().take(4000).collect()
    }

    /// Somebody may have stopped it (SIGSTOP): it is to run, in order to end what it started.
    pub(crate) fn wake(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // Its number is its own until it is waited for; dead is fine.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }

    /// Wait for its end; after `patience_us` it is killed.
    pub(crate) fn reap(&mut self, patience_us: u64) {
        let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) else { return };
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).is_ok_and(|pidfd| {
            let timeout = rustix::time::Timespec { tv_sec: (patience_us / 1_000_000) as i64, tv_nsec: ((patience_us % 1_000_000) * 1000) as _ };
            let fd = pidfd.as_fd();
            matches!(rustix::event::poll(&mut [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)], Some(&timeout)), Ok(n) if n > 0)
        });
        if !ended {
            // Gone already is fine.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The daemon's next message.
pub(crate) fn read_answer(link: &Arc<OwnedFd>, within_us: u64) -> Result<(Reader, FromNode), String> {
    let mut reader = Reader::new(link.clone());
    let deadline = ray_shm::now_us() + within_us;
    loop {
        if let Some(bytes) = reader.next_frame().map_err(|len| format!("a frame of {len} bytes"))? {
            let message = decode::<FromNode>(bytes).map_err(|error| error.to_string())?;
            // Frames that came right behind it are in the reader.
            return Ok((reader, message));
        }
        let left = deadline.saturating_sub(ray_shm::now_us());
        if left == 0 {
            return Err("the daemon did not answer".into());
        }
        let fd = link.as_fd();
        let timeout = rustix::time::Timespec { tv_sec: (left / 1_000_000) as i64, tv_nsec: ((left % 1_000_000) * 1000) as _ };
        // Interrupted or late: the loop looks again.
        let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)], Some(&timeout));
        if reader.fill() == Filled::Closed {
            return Err("the daemon ended during the handshake".into());
        }
    }
}

/// Run a node's daemon on descriptor 0 until its driver goes away. Returns why it had to stop before that: the last words on its stderr.
#[pyfunction]
pub(crate) fn daemon_main(py: Python<'_>) -> PyResult<Option<String>> {
    let copied = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let link = copied.map_err(|error| PyRuntimeError::new_err(format!("descriptor 0 is not the driver's link: {error}")))?;
    let null = File::open("/dev/null").map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    rustix::stdio::dup2_stdin(null.as_fd()).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    // A session of its own: the terminal's Ctrl-C is for the driver. It fails only for a group leader, which has one already.
    let _ = rustix::process::setsid();
    set_process_name("ray-daemon")?;
    Ok(py.detach(|| ray_node::run(link)).err())
}

/// What ps and top show.
#[pyfunction]
pub(crate) fn set_process_name(name: &str) -> PyResult<()> {
    let name = std::ffi::CString::new(name)?;
    rustix::thread::set_name(&name).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
