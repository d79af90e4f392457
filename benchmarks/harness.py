"""What the benchmark programs share: printing a figure, timing, counting processes. It imports no `ray`.

A program is a list of sections. Each prints one JSON line per figure: {"name", "value", "unit", "higher_is_better"};
a section that fails prints NAME.FAILED with the error, and the others go on.
"""

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "BENCH_MARK"


def emit(name: str, value: float, unit: str, *, better: str, **extra: object) -> None:
    """Print a figure. `better` is "higher" or "lower"."""
    figure = {"name": name, "value": round(value, 6), "unit": unit, "higher_is_better": better == "higher", **extra}
    print(json.dumps(figure), flush=True)


def note(*parts: object) -> None:
    print("#", *parts, file=sys.stderr, flush=True)


def rate(call: Callable[[], object], per_call: int = 1, *, windows: int = 3, window_s: float = 0.8) -> float:
    """Median over `windows` of operations per second; `call` does `per_call` of them. One call warms up."""
    call()
    rates = []
    for _ in range(windows):
        calls, started = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - started) < window_s:
            call()
            calls += 1
        rates.append(calls * per_call / elapsed_s)
    return statistics.median(rates)


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Median duration of `times` calls."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def sections(available: dict[str, Callable[[], None]]) -> None:
    """Run the sections chosen with --only and --skip (default: all)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--skip", default="")
    chosen = parser.parse_args()
    only, skip = filter(None, chosen.only.split(",")), chosen.skip.split(",")
    for name in [name for name in (list(only) or available) if name not in skip]:
        started = time.perf_counter()
        try:
            available[name]()
        except Exception as error:
            traceback.print_exc()
            emit(f"{name}.FAILED", 0.0, "error", better="higher", error=f"{type(error).__name__}: {str(error)[:200]}")
        note(f"section {name} took {time.perf_counter() - started:.1f} s")


def connect(**options: Any) -> Any:
    """`ray` itself, started quietly on first use. The caller's options count only then."""
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    return ray


def own_engine() -> bool:
    """Whether `import ray` is this project's; only for what Ray is not asked to do."""
    import ray

    return hasattr(ray, "__own_version__")


@dataclass(frozen=True)
class Usage:
    rss_mb: float
    pss_mb: float
    threads: int
    cpu_s: float
    command: str


def pids() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


def usage(pid: int) -> Usage | None:
    """None for a kernel thread and for a process that has gone."""
    proc = Path(f"/proc/{pid}")
    try:
        command = (proc / "cmdline").read_text().replace("\0", " ").strip()
        memory = dict(line.split(":") for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
        stat = (proc / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    if not command:
        return None
    rss_mb, pss_mb = (int(memory[key].split()[0]) / 1024 for key in ("Rss", "Pss"))
    return Usage(rss_mb, pss_mb, int(stat[17]), (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), command[:100])


def started_since(before: set[int]) -> dict[int, Usage]:
    """Processes started since `before` that descend from this one, or carry its MARK (daemons that left the tree)."""
    mark = f"{MARK}={os.environ.get(MARK, 'none')}".encode()
    mine = [pid for pid in pids() - before if _descends(pid) or _marked(pid, mark)]
    return {pid: found for pid in mine if (found := usage(pid)) is not None}


def _descends(pid: int) -> bool:
    try:
        while pid > 1 and pid != os.getpid():
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return False
    return pid == os.getpid()


def _marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
