//! The kernel's count of out-of-memory kills: it tells such a death from other SIGKILLs.

/// The system-wide count since boot; None where the kernel does not say.
pub(crate) fn kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}
