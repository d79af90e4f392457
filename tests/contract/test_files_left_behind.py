"""The runtime writes no files: whatever dies, nothing of ours is left in TMPDIR, the working directory or /dev/shm. What users made there is theirs.

A file that a killed worker made with `tempfile` is not swept: a result may name it, and whoever got the name may read it.
"""

import os
import signal
from pathlib import Path

import pytest

from support import of_role, start_script, wait_for

pytestmark = pytest.mark.limit(30)

PROGRAM = """
import os, resource, signal, sys, tempfile
import ray

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)

def own_file():
    fd, path = tempfile.mkstemp(prefix="mine-")
    os.write(fd, b"kept")
    os.close(fd)
    return path

@ray.remote(max_retries=0)
def die(how):
    own_file()
    ref = ray.put(bytes(50_000_000))
    how()
    return ref

@ray.remote(max_calls=1)
def leave():
    return own_file()

@ray.remote
class Actor:
    def file(self):
        return own_file()

for how in (lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(1), sys.exit, os.abort):
    try:
        ray.get(die.remote(how))
    except ray.exceptions.RayError:
        pass
actor = Actor.remote()
for path in (ray.get(leave.remote()), ray.get(actor.file.remote())):
    assert open(path).read() == "kept", "the driver reads what a worker that may have ended wrote"
big = ray.put(bytes(100_000_000))
print("ready", flush=True)
END
"""


@pytest.mark.parametrize(("victim", "end_text"), [("", ""), ("", "ray.shutdown()"), ("driver", "signal.pause()"), ("template", "ray.get(actor.file.remote())")])
def test_no_file_of_ours_is_left(victim, end_text, tmp_path):
    """After workers died in four ways, and the session in each of these, only the users' files are there."""
    temporary, work = tmp_path / "tmp", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    shared_before = set(os.listdir("/dev/shm"))
    program = PROGRAM.replace("END", f"sys.stdin.readline()\n{end_text}")
    read, write = os.pipe()
    with start_script(program, cwd=work, env={"TMPDIR": str(temporary)}, stdin=read) as script, open(write, "w") as stdin:
        os.close(read)
        script.wait_for_output("ready")
        if victim == "driver":
            script.signal(signal.SIGKILL)
        elif victim:
            (process,) = of_role(victim, script.pid)
            os.kill(process.pid, signal.SIGKILL)
            wait_for(lambda: [one.pid for one in of_role(victim, script.pid)] not in ([], [process.pid]))
        if victim != "driver":
            stdin.write("go on\n")
            stdin.flush()
        script.popen.wait(20)
        script.check_nothing_left()
    assert {path.suffix for path in work.iterdir()} <= {".py"}, list(work.iterdir())
    left = sorted(path.name for path in temporary.rglob("*"))
    assert len(left) == 6 + (victim == "template"), left
    assert all(name.startswith("mine-") for name in left), left
    assert set(os.listdir("/dev/shm")) <= shared_before


def test_no_file_of_ours_is_left_by_a_killed_daemon(tmp_path):
    """SIGKILL of the daemon leaves nothing either; the driver ends with an error."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = PROGRAM.replace("END", "try:\n    ray.get(die.remote(signal.pause))\nexcept ray.exceptions.RayError as error:\n    print('told', flush=True)")
    with start_script(program, cwd=tmp_path, env={"TMPDIR": str(temporary)}) as script:
        script.wait_for_output("ready")
        wait_for(lambda: len(list(temporary.iterdir())) == 7)
        (daemon,) = of_role("daemon", script.pid)
        os.kill(daemon.pid, signal.SIGKILL)
        script.wait_for_output("told")
        script.popen.wait(20)
        script.check_nothing_left()
    assert all(Path(path).name.startswith("mine-") for path in temporary.rglob("*"))
