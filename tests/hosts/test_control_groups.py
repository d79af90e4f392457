"""Limits of containers: detected from every kind of control group, and honoured by `ray.init`."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.hosts import WORK, WORKED, run, worked

pytestmark = pytest.mark.limit(60)

GIB = 1 << 30
MOUNT = Path("/sys/fs/cgroup")

REPORT = """
import json, ray
ray.init(include_dashboard=False)
print(json.dumps(ray.cluster_resources()))
"""


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# Who we are, what the files say, the processors and the memory that follow.
LAYOUTS = {
    "version 2, in a container": ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": f"{GIB}\n"}, 1.5, GIB),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
    "version 2, limit on a parent": (
        "0::/pods/one/main\n",
        {"pods/one/cpu.max": "200000 100000\n", "pods/one/main/cpu.max": "max 100000\n", "pods/memory.max": f"{2 * GIB}\n"},
        2.0,
        2 * GIB,
    ),
    "version 2, the tightest counts": ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 1.0, None),
    "version 1, in a container": (
        "3:cpu,cpuacct:/docker/id\n2:memory:/docker/id\n",
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n", "memory/memory.limit_in_bytes": f"{GIB}\n"},
        0.5,
        GIB,
    ),
    "version 1, no limit": (
        "3:cpu,cpuacct:/\n2:memory:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"},
        None,
        None,
    ),
    "version 1, nested": (
        "3:cpu,cpuacct:/jobs/one\n2:memory:/jobs/one\n0::/\n",
        {"cpu/jobs/one/cpu.cfs_quota_us": "300000\n", "cpu/jobs/one/cpu.cfs_period_us": "100000\n", "memory/jobs/memory.limit_in_bytes": f"{3 * GIB}\n"},
        3.0,
        3 * GIB,
    ),
    "none at all": ("", {}, None, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_control_groups_of_every_kind_are_read(tmp_path, layout):
    """Both versions, nested and in containers, with and without limits (made of plain files)."""
    from ray._core import host

    membership, contents, cpus, memory = LAYOUTS[layout]
    root = files(tmp_path / "cgroup", contents)
    root.mkdir(exist_ok=True)
    (tmp_path / "membership").write_text(membership)
    assert host.cgroup_cpus(str(root), str(tmp_path / "membership")) == cpus
    assert host.cgroup_memory_bytes(str(root), str(tmp_path / "membership")) == memory


@contextmanager
def group(controller: str, settings: dict[str, str]):
    """A real control group below ours, with `settings` for the version that is mounted; gives its file of members."""
    folders = [MOUNT / path.lstrip("/") for _, names, path in memberships() if names == [""]]
    folders += [MOUNT / controller / path.lstrip("/") for _, names, path in memberships() if controller in names]
    for parent in folders:
        child = parent / f"ray-test-{uuid.uuid4().hex[:8]}"
        try:
            child.mkdir()
        except OSError:
            continue
        try:
            written = [name for name in settings if (child / name).exists()]
            for name in written:
                (child / name).write_text(settings[name])
            if written:
                yield child / "cgroup.procs"
                return
        finally:
            child.rmdir()
    pytest.skip(f"no control group with the controller {controller!r} can be made here")


def memberships() -> list[tuple[str, list[str], str]]:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [(number, names.split(","), path) for number, names, path in lines]


def joining(members: Path) -> list[str]:
    return ["sh", "-c", f'echo $$ > "{members}" && exec "$0" "$@"']


def test_quota_of_processors_decides_the_default_of_num_cpus(tmp_path):
    """A real group of one and a half processors: `init` offers one."""
    import json

    with group("cpu", {"cpu.max": "150000 100000", "cpu.cfs_quota_us": "150000"}) as members:
        done = run(tmp_path, REPORT, under=joining(members))
    assert done.rc == 0, done
    assert json.loads(done.stdout)["CPU"] == 1


def test_quota_of_a_fraction_of_a_processor_still_offers_one(tmp_path):
    """A tenth of a processor is slow, and works."""
    import json

    with group("cpu", {"cpu.max": "20000 100000", "cpu.cfs_quota_us": "20000"}) as members:
        done = run(tmp_path, REPORT + f"print({WORKED!r})\n", under=joining(members))
    assert worked(done) and json.loads(done.stdout.splitlines()[0])["CPU"] == 1, done


def test_limit_of_memory_decides_the_default_of_memory_and_store(tmp_path):
    """A real group of 400 MB: memory and store are offered from that, and work that fits runs."""
    import json

    limit = 400 << 20
    code = WORK.replace("num_cpus=2, ", "num_cpus=1, ") + f"import json\nprint(json.dumps(ray.cluster_resources()))\nprint({WORKED!r})\n"
    with group("memory", {"memory.max": str(limit), "memory.limit_in_bytes": str(limit)}) as members:
        done = run(tmp_path, code, under=joining(members))
    assert worked(done), done
    resources = json.loads(done.stdout.splitlines()[0])
    assert resources["memory"] + resources["object_store_memory"] <= limit
    assert resources["object_store_memory"] == int(limit * 0.3)


def test_affinity_decides_the_default_of_num_cpus(tmp_path):
    """A program bound to one processor offers one."""
    import json

    one = min(os.sched_getaffinity(0))
    done = run(tmp_path, f"import os\nos.sched_setaffinity(0, [{one}])\n{REPORT}")
    assert done.rc == 0 and json.loads(done.stdout)["CPU"] == 1, done
