"""Start, idle cost and installed size. usage: starting.py [--only a,b] [--skip a,b]"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import harness

SETTLE_S = 5.0
WATCH_S = 8.0


def child(step: str, **options: object) -> dict[str, float]:
    """Run this file as a fresh driver; returns what it measured. Its clock starts before the process does."""
    mark = f"{os.getpid()}-{time.time()}"
    argv = [sys.executable, __file__, "--child", step, json.dumps(options), str(time.time())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, harness.MARK: mark}, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line.removeprefix("RESULT"))
    raise RuntimeError(done.stderr[-500:])


def be_child(step: str, options: str, spawned: str) -> None:
    before = harness.pids()
    t0 = time.time()
    import ray

    t1 = time.time()
    ray.init(log_to_driver=False, logging_level="ERROR", **json.loads(options))
    t2 = time.time()

    @ray.remote
    def one() -> int:
        return 1

    assert ray.get(one.remote()) == 1
    t3 = time.time()
    result = {"import_s": t1 - t0, "init_s": t2 - t1, "first_s": t3 - float(spawned)}
    if step == "idle":
        result.update(watch(before))
    t4 = time.time()
    ray.shutdown()
    result["shutdown_s"] = time.time() - t4
    print("RESULT" + json.dumps(result))


def watch(before: set[int]) -> dict[str, float]:
    """What the runtime costs while nothing happens, this driver left out."""
    time.sleep(SETTLE_S)
    first = harness.started_since(before)
    time.sleep(WATCH_S)
    last = harness.started_since(before)
    cpu_s = sum(last[pid].cpu_s - first[pid].cpu_s for pid in last if pid in first)
    harness.note(*(f"\n  {one.pss_mb:6.1f} MB {one.threads:3} threads  {one.command}" for one in last.values()))
    return {
        "processes": len(last),
        "pss_mb": sum(one.pss_mb for one in last.values()),
        "threads": sum(one.threads for one in last.values()),
        "cpu_percent": 100 * cpu_s / WATCH_S,
    }


def start() -> None:
    full = child("start")
    harness.emit("import_ray", full["import_s"], "s", better="lower")
    harness.emit("init", full["init_s"], "s", better="lower")
    harness.emit("process_start_to_first_result", full["first_s"], "s", better="lower")
    harness.emit("shutdown", full["shutdown_s"], "s", better="lower")
    bare = child("start", include_dashboard=False)
    harness.emit("init_no_dashboard", bare["init_s"], "s", better="lower")
    harness.emit("process_start_to_first_result_no_dashboard", bare["first_s"], "s", better="lower")


def idle() -> None:
    cost = child("idle", num_cpus=2)
    harness.emit("idle_processes", cost["processes"], "processes", better="lower")
    harness.emit("idle_pss", cost["pss_mb"], "MB", better="lower")
    harness.emit("idle_threads", cost["threads"], "threads", better="lower")
    harness.emit("idle_cpu", cost["cpu_percent"], "% of a core", better="lower")


def idle_worker() -> None:
    """Proportional memory of a worker that has run a call and now waits: the median of eight actors."""
    ray = harness.connect(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Waiting:
        def pid(self) -> int:
            return os.getpid()

    actors = [Waiting.remote() for _ in range(8)]
    workers = ray.get([actor.pid.remote() for actor in actors])
    time.sleep(2)
    pss_mb = sorted(found.pss_mb for pid in workers if (found := harness.usage(pid)) is not None)
    harness.emit("idle_worker_pss", pss_mb[len(pss_mb) // 2], "MB", better="lower")


def size() -> None:
    names = with_hard_dependencies("ray")
    harness.emit("installed_size", installed_mb("ray"), "MB", better="lower")
    harness.emit("installed_size_with_hard_dependencies", sum(map(installed_mb, names)), "MB", better="lower", distributions=len(names))


def with_hard_dependencies(root: str) -> set[str]:
    seen: set[str] = set()
    todo = [root]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in seen:
            seen.add(name)
            todo += [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in required if not re.search(r"extra\s*==", line)]
    return seen


def installed_mb(name: str) -> float:
    """Bytes on disk, without bytecode. An editable install counts the tree it points to."""
    distribution = importlib.metadata.distribution(name)
    files = [Path(str(file.locate())) for file in distribution.files or []]
    if name == "ray":
        import ray

        files += Path(ray.__path__[0]).rglob("*")
    return sum(file.stat().st_size for file in set(files) if file.is_file() and file.suffix != ".pyc") / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(*sys.argv[2:])
    else:
        harness.sections({"start": start, "idle": idle, "idle_worker": idle_worker, "size": size})
