"""The wall clock jumps: no wait, timeout or retry of the runtime reads it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import start_script
from support.hosts import REPOSITORY

pytestmark = pytest.mark.limit(60)

# Every way to the wall clock that a C library offers, shifted by the seconds that the file CLOCK_SHIFT holds at that moment.
SHIFTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    char text[32] = {0};
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""

PROGRAM = """
import concurrent.futures, os, sys, time, ray
ray.init(num_cpus=2, include_dashboard=False)

def jump(seconds):
    before = time.time()
    with open(os.environ["CLOCK_SHIFT"], "w") as file:
        file.write(str(seconds))
    return time.time() - before

@ray.remote(max_retries=2)
def once_killed(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), 9)
    return time.time()

@ray.remote
class Gate:
    def __init__(self):
        import asyncio
        self.event = asyncio.Event()
    async def wait(self):
        await self.event.wait()
        return "through"
    async def open(self):
        self.event.set()

def exercise(name):
    never = Gate.remote()
    pending = never.wait.remote()
    start = time.monotonic()
    assert ray.wait([pending], timeout=0.2) == ([], [pending])
    try:
        ray.get(pending, timeout=0.2)
    except ray.exceptions.GetTimeoutError:
        pass
    try:
        pending.future().result(timeout=0.2)
    except concurrent.futures.TimeoutError:
        pass
    assert 0.6 <= time.monotonic() - start < 10
    ray.get(never.open.remote())
    assert ray.get(pending) == "through"
    told = ray.get(once_killed.remote(name))
    assert abs(told - time.time()) < 100, "the workers' clock was not shifted with ours"

waiting = Gate.remote()
across = waiting.wait.remote()
ray.wait([across], timeout=0.1)
exercise("before")
assert jump(-3600) < -3000, "the clock did not jump"
exercise("an hour back")
assert jump(7200) > 3000
exercise("two hours ahead")
ray.get(waiting.open.remote())
assert ray.get(across) == "through"
ray.shutdown()
jump(-3600)
ray.init(num_cpus=1, include_dashboard=False)
exercise("a new session")
print("kept time")
"""


def test_clock_set_back_and_ahead_changes_no_wait(tmp_path):
    """The wall clock of driver, daemon, template and workers jumps by hours in the middle of a session: timeouts, retries, waits and a new start go on."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build a shifted clock with")
    library = tmp_path / "shifted.so"
    (tmp_path / "shifted.c").write_text(SHIFTED)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "shifted.c", "-ldl"], check=True)
    shift = tmp_path / "shift"
    shift.write_text("0")
    with start_script(PROGRAM, cwd=tmp_path, env={"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}) as script:
        done = script.finish(30)
    assert (done.rc, "kept time" in done.stdout) == (0, True), done


def test_clock_of_the_engine_is_the_monotonic_one():
    """The engine calls the kernel without the C library, out of reach of the test above: its code names another clock only to say when something started."""
    wall = re.compile(r"\bSystemTime\b|ClockId::(?!Monotonic\b)|TimerfdClockId::(?!Monotonic\b)|\bUNIX_EPOCH\b")
    found = [f"{path.name}: {line.strip()}" for path in sources("crates", ".rs") for line in path.read_text().splitlines() if wall.search(line)]
    assert {line.split(":")[0] for line in found} == {"lib.rs"} and len(found) == 1  # epoch_offset_us: shown to people, never compared


def test_clock_of_the_python_half_names_sessions_and_nothing_else():
    """Only the name of the session folder, and the start of a job as people are told it, say what time it is."""
    wall = re.compile(r"\btime\.(?:time|time_ns|localtime|gmtime|strftime)\(|\bdatetime\b")
    found = {str(path.relative_to(REPOSITORY)) for path in sources("python/ray/_core", ".py") if wall.search(path.read_text())}
    assert found == {"python/ray/_core/launch.py", "python/ray/_core/local/core.py"}


def sources(folder: str, suffix: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob(f"*{suffix}"))
