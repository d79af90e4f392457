"""Other users, and several at once."""

import subprocess

import pytest

from support import start_script, wait_for
from support.hosts import WORK, WORKED, as_user, folder_for_all, run, worked

pytestmark = pytest.mark.limit(60)

ONE, OTHER = 54_321, 54_322


@pytest.fixture
def folder():
    with folder_for_all() as made:
        yield made


def test_user_without_name_home_and_rights_works(folder):
    """A user that /etc/passwd does not know, whose HOME does not exist, runs everything; the workers are that user's."""
    code = WORK + f"assert ray.get(ray.remote(lambda: os.getuid()).remote()) == os.getuid() == {ONE}\nprint({WORKED!r})\n"
    done = run(folder, code, under=as_user(ONE), env={"HOME": "/nonexistent"})
    assert worked(done), done


def test_user_meets_a_closed_session_folder_of_another_and_works(folder):
    """That the default folder for sessions belongs to somebody else, and is closed, disturbs nobody."""
    (folder / "ray").mkdir(mode=0o700)
    done = run(folder, under=as_user(ONE), env={"TMPDIR": str(folder)})
    assert worked(done), done
    assert list((folder / "ray").iterdir()) == []


def test_users_two_at_once_do_not_meet(folder):
    """Two users with the same namespace and the same name for an actor each get their own."""
    code = """
import os, sys, ray
ray.init(num_cpus=1, include_dashboard=False, namespace="same")

@ray.remote
class Keeper:
    def user(self):
        return os.getuid()

keeper = Keeper.options(name="keeper").remote()
ray.get(keeper.user.remote())
print("ready", flush=True)
sys.stdin.readline()
print(ray.get(ray.get_actor("keeper").user.remote()))
"""
    with (
        start_script(code, cwd=folder, under=as_user(ONE), stdin=subprocess.PIPE) as one,
        start_script(code, cwd=folder, under=as_user(OTHER), stdin=subprocess.PIPE) as other,
    ):
        for script in (one, other):
            script.wait_for_output("ready")
        for script, uid in ((one, ONE), (other, OTHER)):
            script.popen.stdin.write(b"\n")
            script.popen.stdin.close()
            done = script.finish()
            assert (done.rc, done.stdout.split()) == (0, ["ready", str(uid)]), done


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_user_at_the_limit_of_processes_gets_one_clear_error(folder, limit):
    """`ulimit -u` leaves no room for a thread, the daemon, the template: `init` says so, names the limit, and leaves nothing behind."""
    done = run(folder, under=as_user(ONE + limit, ["prlimit", f"--nproc={limit}:{limit}"]))
    last = done.stderr.strip().splitlines()[-2:]
    assert done.rc == 1 and done.stderr.count("Traceback") == 1, done
    assert last[0].startswith("RuntimeError: could not start ray: "), done
    assert last[1].startswith("hint: ") and "ulimit -u" in last[1], done


def test_user_whose_processes_become_too_many_is_told_and_goes_on_when_some_end(folder):
    """No worker can be forked: the driver is told of the limit; when it is lifted, what waited runs."""
    code = """
import os, resource, sys, ray
from support import of_role, wait_for
ray.init(num_cpus=1, include_dashboard=False, _system_config={"warm_workers": 0})

@ray.remote
def one():
    return 1

template = wait_for(lambda: of_role("template"), 10)[0]
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.prlimit(template.pid, resource.RLIMIT_NPROC, (1, hard))
ref = one.remote()
print("waits", not ray.wait([ref], timeout=0.3)[0], flush=True)
sys.stdin.readline()
resource.prlimit(template.pid, resource.RLIMIT_NPROC, (hard, hard))
print("got", ray.get(ref, timeout=20), flush=True)
"""
    with start_script(code, cwd=folder, under=as_user(ONE), stdin=subprocess.PIPE) as script:
        script.wait_for_output("waits True")
        wait_for(lambda: "could not be started" in script.stderr, 10, "the notice")
        script.popen.stdin.close()
        done = script.finish()
    assert (done.rc, "got 1" in done.stdout) == (0, True), done
    assert "ulimit -u is 1" in done.stderr and "hint: " in done.stderr, done
