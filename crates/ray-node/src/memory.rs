//! What memory there is and what is used of it: of the machine, of the control group, or of the workers against a limit of their own.

use ray_logic::node::{MemoryRules, MemorySample};
use ray_proto::ProcId;
use ray_shm::processes::{descendants, private_bytes};
use std::collections::BTreeMap;

type Settings = BTreeMap<String, String>;

const REFRESH_MS: u64 = 250;
/// An idle worker may grow by this, or by a twentieth of the memory if that is more.
const GROWTH_LEAST: u64 = 512 << 20;

pub(crate) struct MemoryReader {
    own_limit: Option<u64>,
    /// Folder of the control group with the lowest limit.
    cgroup: Option<String>,
}

/// Used and limit in bytes.
type Usage = (u64, u64);

impl MemoryReader {
    pub(crate) fn new(settings: &Settings) -> Self {
        MemoryReader { own_limit: number(settings, "memory_limit_bytes"), cgroup: settings.get("memory_cgroup").cloned() }
    }

    /// `sizes` gives the private memory of each worker with what it started; it is called only if that is asked for or needed.
    pub(crate) fn sample(&self, processes: bool, sizes: impl Fn() -> Vec<(ProcId, u64)>) -> Option<MemorySample> {
        if let Some(limit) = self.own_limit {
            let sizes = sizes();
            let used = sizes.iter().map(|(_, bytes)| bytes).sum();
            return Some(MemorySample { used, limit, basis: "memory_limit_bytes, counting the workers' private memory".into(), processes: Some(sizes) });
        }
        let machine = machine().map(|usage| (usage, "of the machine".to_owned()));
        let group = self.cgroup.as_ref().and_then(|folder| Some((group(folder)?, format!("of the control group {folder}"))));
        let fullness = |(used, limit): Usage| (u128::from(used) << 20) / u128::from(limit.max(1));
        let ((used, limit), basis) = [machine, group].into_iter().flatten().max_by_key(|(usage, _)| fullness(*usage))?;
        Some(MemorySample { used, limit, basis, processes: processes.then(sizes) })
    }
}

/// Private memory of a process and all that descends from it.
pub(crate) fn tree_bytes(pid: u32) -> u64 {
    let below = descendants(pid);
    if below.is_empty() {
        return private_bytes(pid).unwrap_or(0);
    }
    let pids = below.iter().map(|process| process.pid).chain([pid]);
    pids.filter_map(|pid| fair_bytes(pid).or_else(|| private_bytes(pid))).sum()
}

/// Private memory where a page that forks share counts once for all of them.
fn fair_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(kib << 10)
}

pub(crate) fn memory_rules(settings: &Settings) -> MemoryRules {
    let defaults = MemoryRules::default();
    let refresh_ms = number(settings, "memory_monitor_refresh_ms").unwrap_or(REFRESH_MS);
    let threshold = settings.get("memory_usage_threshold").and_then(|text| text.parse::<f64>().ok());
    let limits = [machine(), settings.get("memory_cgroup").and_then(|folder| group(folder))];
    let total = limits.into_iter().flatten().map(|(_, limit)| limit).min().unwrap_or(0);
    let growth = number(settings, "worker_growth_mb").map_or(GROWTH_LEAST.max(total / 20), |megabytes| megabytes << 20);
    MemoryRules {
        refresh: (refresh_ms > 0).then_some(refresh_ms * 1000),
        threshold_ppm: threshold.map_or(defaults.threshold_ppm, |part| (part * 1e6) as u64),
        enforce_requests: settings.get("enforce_memory_requests").is_some_and(|text| text == "1"),
        oom_retries: settings.get("task_oom_retries").and_then(|text| text.parse().ok()).unwrap_or(defaults.oom_retries),
        growth_bytes: (growth > 0).then_some(growth),
        ..defaults
    }
}

fn number(settings: &Settings, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

fn machine() -> Option<Usage> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(text: &str) -> Option<Usage> {
    let kib = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse::<u64>().ok();
    let (total, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    Some((total.saturating_sub(available) << 10, total << 10))
}

/// Pages of files that nobody uses count as free: the kernel drops them first.
fn group(folder: &str) -> Option<Usage> {
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
    let bytes = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = bytes("memory.max").or_else(|| bytes("memory.limit_in_bytes"))?;
    let used = bytes("memory.current").or_else(|| bytes("memory.usage_in_bytes"))?;
    let stat = read("memory.stat").unwrap_or_default();
    let inactive = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok());
    let unused = inactive("total_inactive_file").or_else(|| inactive("inactive_file")).unwrap_or(0);
    Some((used.saturating_sub(unused), limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_proto::NodeIndex;

    #[test]
    fn meminfo_counts_what_is_not_available_as_used() {
        assert_eq!(parse_meminfo("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n"), Some((600 << 10, 1000 << 10)));
        assert_eq!(parse_meminfo("MemTotal:  1000 kB\n"), None);
    }

    #[test]
    fn settings_become_rules() {
        let settings = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Settings>();
        let rules = memory_rules(&settings(&[("memory_monitor_refresh_ms", "0"), ("memory_usage_threshold", "0.5"), ("worker_growth_mb", "0")]));
        assert_eq!((rules.refresh, rules.threshold_ppm, rules.growth_bytes), (None, 500_000, None));
        let rules = memory_rules(&settings(&[]));
        assert_eq!((rules.refresh, rules.threshold_ppm, rules.oom_retries), (Some(250_000), 950_000, -1));
        assert!(rules.growth_bytes >= Some(GROWTH_LEAST));
    }

    #[test]
    fn own_limit_counts_the_workers() {
        let reader = MemoryReader::new(&[("memory_limit_bytes".to_owned(), "100".to_owned())].into());
        let sample = reader.sample(false, || vec![(ProcId::new(1, NodeIndex::HEAD, 2), 30), (ProcId::new(1, NodeIndex::HEAD, 3), 40)]).expect("a sample");
        assert_eq!((sample.used, sample.limit, sample.processes.map(|p| p.len())), (70, 100, Some(2)));
    }
}
