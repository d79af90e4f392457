"""Standard streams that are closed, broken, or that nobody reads."""

import os

import pytest

from support import start_script
from support.hosts import WORK, run, worked

pytestmark = pytest.mark.limit(60)

SHELL = ("sh", "-c")


def with_closed(redirections):
    return [*SHELL, f'exec "$0" "$@" {redirections}']


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_closed_at_start_are_no_trouble(tmp_path, redirections):
    """A program started without some of its standard streams works and ends well."""
    code = WORK + "\nopen('result', 'w').write('done')\n"
    done = run(tmp_path, code, under=with_closed(redirections))
    assert (done.rc, (tmp_path / "result").read_text()) == (0, "done"), done
    assert "Traceback" not in done.stderr, done


def test_streams_closed_at_start_are_not_given_to_the_engine(tmp_path):
    """Descriptors 0 to 2 never name a socket of the engine: a program that writes to them, or replaces them, breaks nothing."""
    code = (
        WORK
        + """
names = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
os.write(1, b"from a C library")
log = os.open("log", os.O_CREAT | os.O_WRONLY)
for fd in (0, 1, 2):
    os.dup2(log, fd)
assert ray.get(size.remote(b"still there")) == 11
open("result", "w").write(repr(names))
"""
    )
    done = run(tmp_path, code, under=with_closed("<&- >&- 2>&-"))
    assert done.rc == 0, done
    assert (tmp_path / "result").read_text() == repr(["/dev/null"] * 3)


@pytest.mark.parametrize("redirections", ["", "<&- >&- 2>&-"])
def test_streams_of_workers_are_their_own(tmp_path, redirections):
    """A worker's stdin is empty and its output goes to the runtime, whatever the driver's streams are; none names a socket of the engine."""
    code = (
        WORK
        + """
@ray.remote
def streams():
    return [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(3)], sys.stdin.read(), os.get_inheritable(0)

open("result", "w").write(repr(ray.get(streams.remote())))
"""
    )
    done = run(tmp_path, code, under=with_closed(redirections))
    assert done.rc == 0, done
    assert (tmp_path / "result").read_text() == repr((["/dev/null", "pipe", "pipe"], "", True))


def test_streams_without_a_terminal_or_a_session_work(tmp_path):
    """As cron, systemd and nohup start programs: SIGHUP ignored, no terminal, stdin at its end."""
    done = run(tmp_path, under=["nohup"])
    assert worked(done), done


def test_streams_children_ignored_by_the_starter_still_tell_how_workers_end(tmp_path):
    """A supervisor that ignores SIGCHLD passes that on; deaths of workers keep their evidence."""
    code = """
import os, signal, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote(max_retries=0)
def end():
    os.kill(os.getpid(), signal.SIGKILL)

try:
    ray.get(end.remote())
except ray.exceptions.WorkerCrashedError as error:
    print(error)
"""
    done = run(tmp_path, code, under=[*SHELL, 'trap \'\' CHLD HUP; exec "$0" "$@"'])
    assert done.rc == 0 and "SIGKILL" in done.stdout, done


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_f43_broken_pipe_under_the_lines_of_workers_ends_well(tmp_path, stream):
    """Nobody reads what the workers say: the program goes on, ends with code 0, and no traceback shows up on what is left."""
    code = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def speak():
    for i in range(200):
        print("nobody reads line", i)
        print("nobody reads line", i, file=sys.stderr)
    return 1

assert ray.get([speak.remote() for _ in range(10)]) == [1] * 10
"""
    reader, writer = os.pipe()
    os.close(reader)
    with start_script(code, cwd=tmp_path, **{stream: writer}) as script:
        os.close(writer)
        done = script.finish(15)
    assert done.rc == 0, done
    assert not [line for line in done.output.splitlines() if "Traceback" in line or "BrokenPipe" in line], done


def test_f43_reader_that_leaves_half_way_ends_the_program_as_any_other(tmp_path):
    """`program | head -1`: the program's own print meets the broken pipe, as in any Python program; nothing hangs or stays."""
    code = """
import ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def one():
    return 1

for number in range(100_000):
    print(number + ray.get(one.remote()), flush=True)
"""
    done = run(tmp_path, code, under=[*SHELL, 'set +m; ("$0" "$@"; echo "ended with $?" >&2) | head -1'])
    assert done.stdout.strip() == "1", done
    assert "BrokenPipeError" in done.stderr and "ended with 1" in done.stderr, done
    assert done.stderr.count("Traceback") == 1, done


def test_streams_full_and_unread_do_not_keep_the_calls_from_running(tmp_path):
    """The reader of stdout has stopped reading and the pipe is full: calls that print a little still run and return."""
    code = """
import os, sys, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def speak(i):
    print("x" * 1000)
    return i

assert ray.get([speak.remote(i) for i in range(500)]) == list(range(500))
open("result", "w").write("done")
os.kill(os.getpid(), 9)
"""
    reader, writer = os.pipe()
    with start_script(code, cwd=tmp_path, stdout=writer) as script:
        os.close(writer)
        script.finish(15)
    os.close(reader)
    assert (tmp_path / "result").read_text() == "done"
