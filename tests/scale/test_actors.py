"""A thousand actors for a user whose shell allows few open files."""

import pytest

from support import run_script

THOUSAND = """
import gc, os, resource, sys, time, ray
resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, number):
        self.number = number
    def who(self):
        return self.number
    def ask(self, other):
        return ray.get(other.who.remote())

actors = [Actor.remote(i) for i in range(COUNT)]
assert ray.get([actor.who.remote() for actor in actors]) == list(range(COUNT))
assert ray.get([actors[i].ask.remote(actors[i + 1]) for i in range(0, COUNT, 2)]) == list(range(1, COUNT, 2))
assert len(os.listdir("/proc/self/fd")) < FILES // 2
again = [Actor.remote(0) for _ in range(10)]
actors.clear()
assert ray.get([actor.who.remote() for actor in again]) == [0] * 10
print("all answered")
"""


def check(count, limit):
    done = run_script(THOUSAND.replace("COUNT", str(count)).replace("FILES", str(limit)), 150)
    assert "all answered" in done.stdout, done


@pytest.mark.limit(60)
def test_actors_100_work_under_a_limit_of_64_files():
    """More actors than the driver may have descriptors: most talk through the daemon."""
    check(100, 64)


@pytest.mark.slow
@pytest.mark.limit(200)
@pytest.mark.parametrize("limit", [1024, 256])
def test_actors_1000_work_under_a_file_limit(limit):
    """Each is created, called by the driver and called by another one."""
    check(1000, limit)
