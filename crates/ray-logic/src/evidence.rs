//! Words for what is known about a process's end. Facts only, never a list of guesses.

use ray_proto::msg::{Evidence, MemoryKill};

const SIGNALS: [(i32, &str); 12] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
];

const MEMORY_HINT: &str =
    "\nhint: let fewer run at once (num_cpus=, memory=), or work in smaller pieces; RAY_memory_usage_threshold and RAY_memory_monitor_refresh_ms adjust the monitor";

fn signal_name(signal: i32) -> String {
    SIGNALS.iter().find(|(n, _)| *n == signal).map_or_else(|| format!("signal {signal}"), |(n, name)| format!("signal {n} ({name})"))
}

/// One sentence on how the process ended, then its last words.
pub fn describe(evidence: &Evidence) -> String {
    if evidence.node_lost {
        return format!("the process went with its node: {}", evidence.ended_by_us);
    }
    let how = match (evidence.ended_by_us.as_str(), evidence.signal) {
        ("", 0) => format!("exited with code {}", evidence.exit_code),
        ("", signal) => format!("was ended by {}, not sent by the runtime", signal_name(signal)),
        (why, _) => format!("was ended by the runtime: {why}"),
    };
    let mut text = format!("the process (pid {}) {how}", evidence.pid);
    if evidence.oom_kill {
        text.push_str("; the kernel's out-of-memory killer struck at that moment");
    }
    if evidence.peak_rss_kib > 0 {
        text.push_str(&format!("; its memory peaked at {} MiB", evidence.peak_rss_kib / 1024));
    }
    text.push('.');
    if evidence.memory_kill != (MemoryKill::No {}) {
        text.push_str(MEMORY_HINT);
    }
    if !evidence.stderr_tail.is_empty() {
        text.push_str("\nlast lines on its stderr:\n");
        evidence.stderr_tail.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_signal_is_named_as_foreign() {
        let evidence = Evidence { pid: 7, signal: 9, peak_rss_kib: 2048, stderr_tail: "a\nb".into(), ..Evidence::default() };
        let text = describe(&evidence);
        assert!(text.contains("signal 9 (SIGKILL), not sent by the runtime"));
        assert!(text.contains("peaked at 2 MiB"));
        assert!(text.ends_with("    a\n    b\n"));
    }
}
