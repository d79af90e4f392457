"""Folders that are missing, closed, full, strange, or gone. Nothing is written at start, so none of them matters."""

import os
import sys

import pytest

from support import Script
from support.hosts import PROGRAM, WORK, WORKED, private_mounts, run, worked

pytestmark = pytest.mark.limit(60)


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"])
def test_home_missing_or_closed_works(tmp_path, home):
    """HOME unset, absent or without write access."""
    under = ["env", "--unset=HOME"] if home is None else ["env", f"HOME={home}"]
    assert worked(run(tmp_path, under=under))


def test_environment_almost_empty_works(tmp_path):
    """No HOME, PATH, LANG or TMPDIR: only what the test itself needs."""
    kept = [f"{name}={os.environ[name]}" for name in ("PYTHONPATH",)]
    with Script(["-c", PROGRAM], tmp_path, under=["env", "--ignore-environment", *kept]) as script:
        done = script.finish()
    assert worked(done), done


def test_temporary_folder_full_works(tmp_path):
    """TMPDIR on a full file system."""
    (tmp_path / "tmp").mkdir()
    setup = f'mount -t tmpfs -o size=4k none "{tmp_path}/tmp"\nhead -c 4096 /dev/zero > "{tmp_path}/tmp/filler"\n'
    done = run(tmp_path, under=private_mounts(setup), env={"TMPDIR": str(tmp_path / "tmp")})
    assert worked(done), done


def test_temporary_folder_without_execution_works(tmp_path):
    """TMPDIR mounted noexec."""
    (tmp_path / "tmp").mkdir()
    done = run(tmp_path, under=private_mounts(f'mount -t tmpfs -o noexec,nosuid none "{tmp_path}/tmp"\n'), env={"TMPDIR": str(tmp_path / "tmp")})
    assert worked(done), done


def test_temporary_folder_longer_than_a_socket_path_works(tmp_path):
    """TMPDIR of more than the 107 bytes that a socket's path may have: no socket has one."""
    folder = tmp_path / ("long" * 30) / ("longer" * 20)
    folder.mkdir(parents=True)
    done = run(tmp_path, under=[], env={"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)})
    assert worked(done), done


def test_file_systems_all_read_only_work(tmp_path):
    """Everything that can be remounted is read-only: nothing is written anywhere."""
    setup = "mount -o remount,bind,ro /\nmount -t tmpfs -o ro none /tmp\n"
    code = f"{WORK}\nprint({WORKED!r})\n"
    shown = os.path.realpath("/tmp")
    if os.path.realpath(__file__).startswith(f"{shown}/"):
        setup = "mount -o remount,bind,ro /\n"  # the tree itself lies there
    with Script(["-c", code], tmp_path, under=private_mounts(setup), env={"PYTHONDONTWRITEBYTECODE": "1"}) as script:
        done = script.finish()
    assert worked(done), done


def test_session_leaves_no_file_in_any_folder_it_knows(tmp_path):
    """HOME, TMPDIR, the working directory and `_temp_dir` are as empty after a session as before, and so is its session folder."""
    folders = [tmp_path / name for name in ("home", "tmp", "work", "asked for")]
    for folder in folders:
        folder.mkdir()
    code = WORK.replace("include_dashboard=False", f"include_dashboard=False, _temp_dir={str(folders[3])!r}") + f"print({WORKED!r})\n"
    env = {"HOME": str(folders[0]), "TMPDIR": str(folders[1])}
    with Script(["-c", code], folders[2], env) as script:
        done = script.finish()
    assert worked(done), done
    assert [list(folder.iterdir()) for folder in folders] == [[], [], [], []]


def test_temp_dir_names_the_session_folder(tmp_path):
    """`_temp_dir` is where the session folder is named, whoever owns it, whether it exists or not."""
    code = "import ray\nprint(ray.init(num_cpus=1, include_dashboard=False, _temp_dir='/nonexistent/ray').address_info['session_dir'])\n"
    done = run(tmp_path, code)
    assert done.rc == 0 and done.stdout.startswith("/nonexistent/ray/session_"), done


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "ünïcode 日本", "line\nbreak"])
def test_paths_with_strange_names_work(tmp_path, name):
    """The script, its folder, a module beside it and the working directory have names that a shell would stumble over."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "neighbour.py").write_text("def triple(x):\n    return 3 * x\n")
    done = run(folder, f"{WORK}\nimport neighbour\nassert ray.get(ray.remote(neighbour.triple).remote(2)) == 6\nprint({WORKED!r})\n")
    assert worked(done), done


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_paths_of_the_interpreter_and_the_package_need_not_be_text(tmp_path, locale):
    """The interpreter and the package lie below a folder whose name is no UTF-8, also where the locale knows ASCII only."""
    folder = os.fsencode(tmp_path) + b"/not \xff text \xc3\xbc"
    os.mkdir(folder)
    tree = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
    os.symlink(os.fsencode(os.path.join(tree, "python")), folder + b"/python")
    os.symlink(os.fsencode(sys.prefix), folder + b"/env")
    env = {**locale, "PYTHONPATH": os.fsdecode(folder + b"/python")}
    under = ["sh", "-c", 'shift; exec "$0" "$@"', os.fsdecode(folder + b"/env/bin/python")]
    code = f"{WORK}\nassert sys.executable.startswith(os.fsdecode({folder!r})), sys.executable\nassert ray.__file__.startswith(os.fsdecode({folder!r}))\nprint({WORKED!r})\n"
    done = run(tmp_path, code, under=under, env=env)
    assert worked(done), done


def test_working_directory_removed_works(tmp_path):
    """A program whose working directory has been removed starts, and its workers import what they can."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with Script(["-c", f"import os\nos.rmdir(os.getcwd())\n{WORK}\nprint({WORKED!r})\n"], folder) as script:
        done = script.finish()
    assert worked(done), done
