"""Processes that a worker starts end with it, in whatever way they were started and it ends (the rule stands in crates/ray-node/src/strays.rs)."""

import os
import signal
import subprocess
import sys

import pytest

import ray
from ray.exceptions import RayError
from support import Tally, is_alive, of_role, start_script, wait_for
from support.processes import end, process

pytestmark = [pytest.mark.runtime(num_cpus=4, _system_config={"idle_worker_s": 0.2}), pytest.mark.limit(20)]


def start_child():
    return [subprocess.Popen(["sleep", "300"]).pid]


def start_in_new_session():
    return [subprocess.Popen(["sleep", "300"], start_new_session=True).pid]


def start_without_environment():
    return [subprocess.Popen(["/bin/sleep", "300"], env={}, start_new_session=True).pid]


def start_shell_tree():
    """A shell with job control puts each job into a group of its own."""
    shell = subprocess.Popen(["bash", "-mc", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    return [shell.pid, int(shell.stdout.readline())]


def fork_daemon(*, execute):
    """The classic double fork: a process in a session of its own, whose parent has ended. Returns its pid."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            os.close(write)
            if execute:
                os.execvp("sleep", ["sleep", "300"])
            signal.pause()
        os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    with open(read) as pipe:
        return [int(pipe.read())]


def start_daemon():
    return fork_daemon(execute=True)


def start_forked_daemon():
    return fork_daemon(execute=False)


def start_multiprocessing():
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
    child.start()
    return [child.pid]


WAYS = [start_child, start_in_new_session, start_shell_tree, start_daemon, start_forked_daemon, start_multiprocessing]


@ray.remote
class Host:
    def start(self, way):
        return os.getpid(), way()

    def die(self, how):
        how()


def all_gone(pids):
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 5, f"{[process(pid) for pid in pids]}")
    # Reaped as well: nobody else is their parent any more.
    wait_for(lambda: not any(process(pid) for pid in pids), 5, f"{[process(pid) for pid in pids]}")


@pytest.fixture
def host():
    host = Host.remote()
    pids = []
    yield host, pids
    end([pid for pid in pids if is_alive(pid)])


@pytest.mark.parametrize("way", WAYS)
def test_children_of_a_killed_worker_end(way, host):
    """SIGKILL of the worker ends what it started in each of these ways."""
    actor, pids = host
    worker, started = ray.get(actor.start.remote(way))
    pids += started
    assert all(is_alive(pid) for pid in started)
    os.kill(worker, signal.SIGKILL)
    all_gone(started)


@pytest.mark.parametrize("how", [lambda: os._exit(3), sys.exit, ray.actor.exit_actor, os.abort])
def test_children_of_a_worker_that_ends_itself_end(how, host):
    """So do exits of every kind."""
    actor, pids = host
    pids += ray.get(actor.start.remote(start_child))[1] + ray.get(actor.start.remote(start_daemon))[1]
    with pytest.raises(RayError):
        ray.get(actor.die.remote(how))
    all_gone(pids)


def test_children_of_a_killed_actor_end(host):
    """`ray.kill` and the end of the last handle."""
    actor, pids = host
    pids += ray.get(actor.start.remote(start_in_new_session))[1]
    ray.kill(actor)
    all_gone(pids)


def test_children_of_other_workers_live_on(host):
    """One worker's end does not touch what others started."""
    actor, pids = host
    other = Host.remote()
    _, kept = ray.get(other.start.remote(start_daemon))
    worker, gone = ray.get(actor.start.remote(start_daemon))
    pids += kept + gone
    os.kill(worker, signal.SIGKILL)
    all_gone(gone)
    assert is_alive(kept[0])
    ray.kill(other)
    all_gone(kept)


def test_children_of_a_worker_with_max_calls_end(tally):
    """The exit after `max_calls` is an end like others."""

    @ray.remote(max_calls=1)
    def call():
        return start_child() + start_in_new_session()

    all_gone(ray.get(call.remote()))


def test_children_of_a_reaped_worker_end(gate):
    """A worker that idled too long takes its children along."""

    @ray.remote(num_cpus=0.1)
    def call():
        gate.pass_through()
        return os.getpid(), start_child() + start_daemon()

    refs = [call.remote() for _ in range(12)]
    wait_for(lambda: len(gate.pids()) == 12)
    gate.open()
    started = dict(ray.get(refs))
    dead = wait_for(lambda: [worker for worker in started if not is_alive(worker)])
    for worker in dead:
        all_gone(started[worker])


def test_dead_daemons_leave_no_zombie_while_their_worker_lives(host):
    """A daemonised process that ends by itself is reaped at once, not when the session ends."""
    actor, pids = host
    _, (daemon,) = ray.get(actor.start.remote(start_daemon))
    pids.append(daemon)
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: process(daemon) is None, 5)
    assert ray.get(actor.start.remote(start_child))


DRIVER = """
import os, signal, subprocess, sys
import ray
from test_children_of_workers import WAYS, start_without_environment
from support import Tally

ray.init(num_cpus=2, include_dashboard=False, _system_config=SETTINGS)

@ray.remote
class Host:
    def start(self):
        return [pid for way in (*WAYS, start_without_environment) for pid in way()]

host = Host.remote()
for pid in ray.get(host.start.remote()):
    Tally(os.environ["TALLY"]).add(pid)
print("started", flush=True)
END
"""


def driver_with_children(tmp_path, end_text, settings="{}"):
    tally = Tally(tmp_path / "children")
    folder = os.path.dirname(__file__)
    environment = {"TALLY": tally.path, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    return tally, start_script(DRIVER.replace("END", end_text).replace("SETTINGS", settings), cwd=tmp_path, env=environment)


@pytest.mark.parametrize(
    ("how", "end_text"),
    [
        ("shutdown", "ray.shutdown()"),
        ("exit", ""),
        ("driver", "signal.pause()"),
        ("template", "signal.pause()"),
    ],
)
def test_children_end_with_the_session(how, end_text, tmp_path):
    """Shutdown, the driver's exit, its SIGKILL, and that of template and driver: nothing is left of what workers started."""
    tally, script = driver_with_children(tmp_path, end_text)
    with script:
        script.wait_for_output("started")
        children = [int(word) for word in tally.words()]
        try:
            if how == "template":
                (template,) = of_role("template", script.pid)
                os.kill(template.pid, signal.SIGKILL)
                wait_for(lambda: [one.pid for one in of_role("template", script.pid)] not in ([], [template.pid]))
            if how in ("driver", "template"):
                script.signal(signal.SIGKILL)
            script.popen.wait(20)
            all_gone(children)
            script.check_nothing_left()
        finally:
            end([pid for pid in children if is_alive(pid)])


def test_children_end_with_the_daemon(tmp_path):
    """When the daemon is killed, its workers end what they started before they end themselves; daemonised processes left their parents' tree."""
    tally, script = driver_with_children(tmp_path, "signal.pause()")
    with script:
        script.wait_for_output("started")
        children = [int(word) for word in tally.words()]
        try:
            (worker,) = [one for one in of_role("worker", script.pid) if any(process(pid).ppid == one.pid for pid in children)]
            (daemon,) = of_role("daemon", script.pid)
            below = [pid for pid in children if process(pid).ppid != daemon.pid]
            assert len(below) >= 4
            os.kill(daemon.pid, signal.SIGKILL)
            all_gone([worker.pid, *below])
        finally:
            end([pid for pid in children if is_alive(pid)])


def test_children_in_sessions_of_their_own_live_on_when_asked_to(no_runtime, tmp_path):
    """With the setting off, only what stayed in the worker's session ends with it; at the latest with the node."""
    ray.init(num_cpus=2, include_dashboard=False, _system_config={"kill_child_processes_on_worker_exit": False})
    host = Host.remote()
    _, inside = ray.get(host.start.remote(start_child))
    worker, outside = ray.get(host.start.remote(start_in_new_session))
    try:
        os.kill(worker, signal.SIGKILL)
        all_gone(inside)
        assert is_alive(outside[0])
        ray.shutdown()
        all_gone(outside)
    finally:
        end([pid for pid in inside + outside if is_alive(pid)])
