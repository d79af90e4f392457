"""Faults F44 and F45: the template and the daemon are killed."""

import os
import re
import signal
import time

import pytest

import ray
from ray.exceptions import ActorDiedError, RayError
from support import init, is_alive, of_role, tree_pids, wait_for
from support.scripts import run_script

pytestmark = [pytest.mark.usefixtures("no_runtime"), pytest.mark.limit(15)]


@ray.remote
def double(x):
    return 2 * x


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_f44_killed_template_is_replaced_and_orphans_stay_explained():
    """A new template is there within a second, tasks go on, and a worker of the old one still dies with evidence."""
    init(num_cpus=2)
    actor = Actor.remote()
    pid = ray.get(actor.pid.remote())
    (daemon,) = of_role("daemon")
    (template,) = (one for one in of_role("template") if one.ppid == daemon.pid)  # a fork has its parent's name for a moment
    refs = [double.remote(i) for i in range(200)]
    kill(template.pid)
    refs += [double.remote(i) for i in range(200, 400)]
    wait_for(lambda: any(one.pid != template.pid and one.ppid == daemon.pid for one in of_role("template")), 2)
    assert ray.get(refs) == [2 * i for i in range(400)]
    assert ray.get(actor.pid.remote()) == pid
    assert ray.get(Actor.remote().pid.remote()) not in (pid, template.pid)
    kill(pid)
    with pytest.raises(ActorDiedError) as caught:
        ray.get(actor.pid.remote())
    assert re.search(r"signal 9|SIGKILL", str(caught.value)), str(caught.value)
    wait_for(lambda: not is_alive(pid))


def test_f45_killed_daemon_gives_one_clear_error_and_a_new_start(gate):
    """Every waiter gets the same kind of error within five seconds, all processes end, and `init` works again."""
    init(num_cpus=2)

    @ray.remote
    def hold():
        gate.pass_through()

    running, queued = hold.remote(), [hold.remote() for _ in range(5)]
    wait_for(gate.pids)
    processes = tree_pids()
    (daemon,) = of_role("daemon")
    start = time.monotonic()
    kill(daemon.pid)
    errors = []
    for ref in [running, *queued]:
        with pytest.raises(RayError) as caught:
            ray.get(ref)
        errors.append(caught.value)
    with pytest.raises(RayError) as caught:
        ray.get(double.remote(1))
    errors.append(caught.value)
    assert time.monotonic() - start < 5
    assert len({type(error) for error in errors}) == 1, errors
    assert "daemon" in str(errors[0])
    wait_for(lambda: not any(is_alive(pid) for pid in processes), 5)
    ray.shutdown()
    init(num_cpus=2)
    assert ray.get(double.remote(4)) == 8


def test_f45_killed_daemon_then_shutdown_returns():
    """`shutdown` after the daemon's death neither hangs nor raises."""
    init(num_cpus=1)
    ray.get(double.remote(1))
    kill(of_role("daemon")[0].pid)
    start = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - start < 3
    assert not ray.is_initialized()


def test_f47_file_limit_reached_is_explained_and_ends_with_the_need():
    """More actors than descriptors: those that fit work, the driver is told of the limit, and all goes on when some end."""
    done = run_script(
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote(num_cpus=0)
class Actor:
    def one(self):
        return 1

actors = [Actor.remote() for _ in range(100)]
refs = [actor.one.remote() for actor in actors]
ready, rest = ray.wait(refs, num_returns=40, timeout=20)
print("ready", len(ready), "waiting", bool(rest))
del actors, refs, ready, rest
print("again", ray.get(Actor.remote().one.remote(), timeout=20))
"""
    )
    assert done.rc == 0, done
    assert "ready 40 waiting True" in done.stdout, done
    assert "again 1" in done.stdout, done
    assert re.search(r"no descriptors left.*limit is 256", done.stderr), done
    assert "hint: raise the limit with ulimit -n" in done.stderr, done
