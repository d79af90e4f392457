"""Sessions that were cut off: nothing stays, and the next one does not meet them."""

import os
import signal

import pytest

from support import Snapshot, descendants, of_role, start_script, wait_for
from support.hosts import run, worked

pytestmark = pytest.mark.limit(60)

BUSY = """
import os, threading, ray
ray.init(num_cpus=2, include_dashboard=False, namespace="same")

@ray.remote
def forever():
    threading.Event().wait()

@ray.remote
class Keeper:
    def ping(self):
        return 1

keeper = Keeper.options(name="keeper").remote()
ray.get(keeper.ping.remote())
held = [ray.put(b"x" * 5_000_000) for _ in range(5)]
refs = [forever.remote() for _ in range(4)]
print("busy", flush=True)
ray.get(refs)
"""


@pytest.mark.parametrize("victims", ["driver and daemon", "driver, daemon and template", "everything but the workers, in one blow"])
def test_session_cut_off_leaves_nothing_and_the_next_one_works(tmp_path, victims):
    """Driver, daemon and template die at once, so that none can clean up: workers, sockets, memory and files go all the same."""
    before, folder = Snapshot.take(), tmp_path / "tmp"
    folder.mkdir()
    with start_script(BUSY, cwd=tmp_path, env={"TMPDIR": str(folder)}) as script:
        script.wait_for_output("busy")
        (daemon,) = of_role("daemon", script.pid)
        (template,) = (one for one in of_role("template", script.pid) if one.ppid == daemon.pid)
        pids = [script.pid, daemon.pid, template.pid][: 2 if victims == "driver and daemon" else 3]
        if "one blow" in victims:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)  # none sees the death of another
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        script.popen.wait(5)
        script.check_nothing_left(10)
    assert list(folder.iterdir()) == []
    wait_for(lambda: "shm" not in before.leaked(), 5)
    done = run(tmp_path, env={"TMPDIR": str(folder)})
    assert worked(done), done


def test_sessions_at_once_do_not_meet_and_one_cut_off_disturbs_no_other(tmp_path):
    """Two sessions of one user with the same namespace: one is killed, the other goes on and ends well."""
    code = BUSY.replace("ray.get(refs)\n", "import sys\nsys.stdin.readline()\nprint('still', ray.get(ray.get_actor('keeper').ping.remote()), flush=True)\n")
    reader, writer = os.pipe()
    with start_script(BUSY, cwd=tmp_path) as first, start_script(code, cwd=tmp_path, stdin=reader) as second:
        os.close(reader)
        for script in (first, second):
            script.wait_for_output("busy")
        for one in [*descendants(first.pid)]:
            os.kill(one.pid, signal.SIGKILL)
        first.signal(signal.SIGKILL)
        first.popen.wait(5)
        first.check_nothing_left(10)
        os.close(writer)
        done = second.finish()
    assert (done.rc, "still 1" in done.stdout) == (0, True), done
