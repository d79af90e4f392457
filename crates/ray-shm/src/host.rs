//! What a host refuses, in words: each error that a limit, a sandbox or a bare machine gives is named with its cause and the way out of it.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getrlimit, Resource};
use std::os::fd::{AsRawFd, OwnedFd};

/// `what` went wrong, why the host said so, and a hint.
pub fn explain(what: &str, error: Errno) -> String {
    match cause(error) {
        Some((cause, hint)) => format!("{what}: {cause} ({error}).\nhint: {hint}"),
        None => format!("{what}: {error}"),
    }
}

/// As `explain`, for an error of the standard library.
pub fn explain_io(what: &str, error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => explain(what, Errno::from_raw_os_error(code)),
        None => format!("{what}: {error}"),
    }
}

fn cause(error: Errno) -> Option<(String, &'static str)> {
    let limit = |kind| getrlimit(kind).current.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    Some(match error {
        Errno::AGAIN => (
            format!("no more processes or threads are allowed; ulimit -u is {}", limit(Resource::Nproc)),
            "end some, or raise the limit with ulimit -u; in a container also its limit of pids counts",
        ),
        Errno::MFILE => {
            (format!("this process has no file descriptors left; ulimit -n is {}", limit(Resource::Nofile)), "close some, or raise the limit with ulimit -n")
        }
        Errno::NFILE => ("the whole system has no file descriptors left".into(), "end other programs, or raise the sysctl fs.file-max"),
        Errno::FBIG => {
            (format!("the limit of file sizes holds for shared memory too; ulimit -f is {} bytes", limit(Resource::Fsize)), "raise it with ulimit -f unlimited")
        }
        Errno::NOMEM => {
            (format!("the system gave no memory; ulimit -v is {} bytes", limit(Resource::As)), "raise the limit with ulimit -v, free memory, or ask for less")
        }
        _ => return None,
    })
}

/// `explain` for making a memfd, which a sandbox may forbid.
pub fn explain_memfd(what: &str, error: Errno) -> String {
    match error {
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => {
            format!("{what}: the kernel or a sandbox forbids memfd_create ({error}).\nhint: allow it in the seccomp profile of the container")
        }
        error => explain(what, error),
    }
}

/// Make sure that descriptors 0 to 2 are taken. Where the starter has closed them, sockets of the engine would get these numbers, and
/// whoever writes to "stdout" (a C library, `os.dup2(log, 1)` of a program that turns into a daemon) would write into a socket.
pub fn occupy_standard_descriptors() -> Result<(), Errno> {
    loop {
        let fd: OwnedFd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if fd.as_raw_fd() > 2 {
            return Ok(());
        }
        // Taken for as long as the process lives, as the standard descriptors of any program are.
        std::mem::forget(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_with_their_values_and_a_hint() {
        let limit = getrlimit(Resource::Nofile).current.expect("limited everywhere");
        let text = explain("no socket", Errno::MFILE);
        assert!(text.starts_with("no socket: ") && text.contains(&format!("ulimit -n is {limit}")) && text.contains("\nhint: "), "{text}");
        assert_eq!(explain("no socket", Errno::NOTDIR).lines().count(), 1);
        assert!(explain_memfd("no board", Errno::NOSYS).contains("seccomp"));
    }

    #[test]
    fn standard_descriptors_are_left_alone_when_open() {
        occupy_standard_descriptors().unwrap();
        assert!(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok());
    }
}
