//! What a machine must offer before the daemon starts on it, and what is known when the template does not come up.

use ray_shm::memory::reopen_read_only;
use rustix::io::Errno;
use rustix::process::{getrlimit, setrlimit, Resource};
use std::os::fd::{AsFd, OwnedFd};

/// The daemon's own descriptors, those of one worker, and those on their way to it.
const FDS_LEAST: u64 = 16;
/// Of what a failed template said, at most this much is passed on, from its end.
const LAST_WORDS_BYTES: u64 = 2_000;

/// Milliseconds since the epoch at the time 0 of the monotonic clock.
pub(crate) fn epoch_ms() -> u64 {
    (ray_shm::epoch_offset_us() / 1000).max(0) as u64
}

/// A line of the daemon's own: on its stderr, which is a file that whoever started it reads.
pub(crate) fn note(text: &str) {
    let seconds = (epoch_ms() + ray_shm::now_us() / 1000) as f64 / 1000.0;
    // A log that can't be written is no reason to stop.
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{seconds:.3} {text}\n").as_bytes());
}

pub(crate) fn raise_fd_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the limits are odd; then the old one stays.
    let _ = setrlimit(Resource::Nofile, limit);
}

pub(crate) fn fd_limit() -> String {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or_else(|| "none".to_owned(), |n| n.to_string())
}

/// Err: no work could ever be done here, and why.
pub(crate) fn check(board: &OwnedFd) -> Result<(), String> {
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < FDS_LEAST) {
        let text = format!("the limit of open files is {}, and the daemon needs {FDS_LEAST} for its first worker", fd_limit());
        return Err(format!("{text}.\nhint: raise the hard limit with ulimit -n; each worker takes 3"));
    }
    match reopen_read_only(board.as_fd()) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => Err("/proc is not mounted, and shared memory is handed to readers through it.\nhint: mount -t proc proc /proc".into()),
        Err(error) => Err(ray_shm::host::explain("shared memory can't be opened for readers through /proc/self/fd", error)),
    }
}

/// Bytes on the daemon's stderr so far: a memory file that its driver reads, and that the template shares.
pub(crate) fn stderr_len() -> u64 {
    rustix::fs::fstat(rustix::stdio::stderr()).map_or(0, |stat| stat.st_size as u64)
}

/// Why the template did not get ready: how it ended, and what it said since `start`. Its words are then taken back, since it may be tried again for ever.
pub(crate) fn template_failed(how: &str, start: u64) -> String {
    let stderr = rustix::stdio::stderr();
    let end = stderr_len();
    let start = start.min(end);
    let len = (end - start).min(LAST_WORDS_BYTES);
    let mut words = vec![0; len as usize];
    // All three fail only where stderr is no file: then nothing was said there, and nothing grows.
    let read = rustix::io::pread(stderr, &mut words, end - len).unwrap_or(0);
    let _ = rustix::fs::ftruncate(stderr, start).and_then(|()| rustix::fs::seek(stderr, rustix::fs::SeekFrom::Start(start)));
    let words = String::from_utf8_lossy(&words[..read]);
    format!("the template process did not get ready ({how}); what it said:\n{}\nhint: the workers' interpreter must be able to import ray", words.trim())
}
