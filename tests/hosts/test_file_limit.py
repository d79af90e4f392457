"""Few file descriptors: for the daemon, for a worker, for the driver (fault F47; the daemon's case is in tests/chaos)."""

import pytest

from support.hosts import PROGRAM, WORKED, run, worked

pytestmark = pytest.mark.limit(60)

FILL = """
import os, resource

def fill():
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return held

def empty(held):
    for fd in held:
        os.close(fd)
"""


@pytest.mark.parametrize("limit", [256, 64])
def test_file_limit_of_a_plain_shell_is_enough(tmp_path, limit):
    """`ulimit -n 256` and less: tasks, actors and objects work as ever."""
    assert worked(run(tmp_path, under=["prlimit", f"--nofile={limit}:{limit}"]))


def test_file_limit_below_the_least_gives_a_clear_error_at_init(tmp_path):
    """Too few even for one worker: `init` says so, names the limit, and leaves nothing behind."""
    done = run(tmp_path, under=["prlimit", "--nofile=12:12"])
    last = done.stderr.strip().splitlines()[-2:]
    assert done.rc == 1, done
    assert last[0].startswith("RuntimeError: could not start ray: the limit of open files is 12") and last[1].startswith("hint: "), done


def test_f47_driver_without_descriptors_gets_a_clear_error_at_init_and_starts_once_they_are_free(tmp_path):
    """All descriptors of the driver are in use: `init` names the limit; after closing some it works."""
    code = f"""
import ray
ray.init(num_cpus=1, include_dashboard=False)  # everything that is imported at first use
ray.shutdown()
{FILL}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = fill()
try:
    ray.init(num_cpus=1, include_dashboard=False)
except RuntimeError as error:
    text = str(error)
empty(held)
print(text)
{PROGRAM}
"""
    done = run(tmp_path, code)
    assert worked(done), done
    assert done.stdout.startswith("could not start ray: ") and "ulimit -n is 64" in done.stdout and "hint: " in done.stdout, done


def test_f47_driver_without_descriptors_goes_on_and_recovers(tmp_path):
    """All descriptors of the running driver are in use: calls of new workers and actors still work, objects that need one name the limit, and all is well
    once some are free."""
    code = f"""
import ray
{FILL}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
ray.init(num_cpus=2, include_dashboard=False, _system_config={{"warm_workers": 0}})

@ray.remote
def big():
    return b"x" * 2_000_000

@ray.remote
class Echo:
    def back(self, x):
        return x
    def fail(self):
        return 1 / 0

def attempt(what):
    try:
        return what()
    except ray.exceptions.RaySystemError as error:
        return str(error)

first, second = Echo.remote(), Echo.remote()  # kept: their ends would give descriptors back
assert ray.get([first.back.remote(ray.put(1)), second.back.remote(2)]) == [1, 2]  # everything that is imported at first use
result = big.remote()
ray.wait([result])
try:
    ray.get(first.fail.remote())
except ZeroDivisionError:
    pass
held = fill()
late = Echo.remote()
echoed = attempt(lambda: ray.get([late.back.remote(i) for i in range(100)], timeout=10))
refused = [attempt(lambda: ray.put(b"x" * 2_000_000)), attempt(lambda: ray.get(result))]
empty(held)
assert echoed == list(range(100)), echoed
print(*refused)
assert all("ulimit -n is 64" in text and "hint: " in text for text in refused), refused
assert len(ray.get(ray.put(b"x" * 2_000_000))) == len(ray.get(result)) == len(ray.get(big.remote())) == 2_000_000
assert ray.get([late.back.remote(i) for i in range(100)]) == list(range(100))
print({WORKED!r})
"""
    done = run(tmp_path, code)
    assert worked(done), done


def test_f47_worker_without_descriptors_names_the_limit_in_the_calls_error(tmp_path):
    """A call whose process has none left gets the same error; the next one, which closed them, works in the same process."""
    code = f"""
import ray
{FILL}
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
class Hoarder:
    def hoard(self):
        ray.put(b"x")  # everything that is imported at first use
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        held = fill()
        try:
            ray.put(b"x" * 2_000_000)
        except ray.exceptions.RaySystemError as error:
            return str(error)
        finally:
            empty(held)

    def give(self):
        return b"x" * 2_000_000

hoarder = Hoarder.remote()
print(ray.get(hoarder.hoard.remote()))
assert len(ray.get(hoarder.give.remote())) == 2_000_000
print({WORKED!r})
"""
    done = run(tmp_path, code)
    assert worked(done), done
    assert "ulimit -n is 64" in done.stdout and "hint: " in done.stdout, done
