"""Faults F53 to F55: more objects than memory, than the quota, than the disk; and deaths while objects are on their way to it."""

import json
import os
import signal
import textwrap

import pytest

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, WorkerCrashedError
from support import init, is_alive, of_role, wait_for
from support.parts import MIB, PART_BYTES, STORE_BYTES, is_part, part
from support.scripts import run_script, start_script

np = pytest.importorskip("numpy")

COUNT = 24

pytestmark = [pytest.mark.usefixtures("no_runtime"), pytest.mark.limit(20)]


def fill(refs, count=COUNT):
    for i in range(len(refs), count):
        refs.append(ray.put(part(i)))


def bytes_on_disk(folder, pid=None):
    """Blocks of the files in `folder` that the daemon (default) holds open, with or without a name."""
    pid = pid or of_role("daemon")[0].pid
    blocks = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"{folder}/"):
                found = os.stat(f"/proc/{pid}/fd/{fd}")
                blocks[found.st_ino] = 512 * found.st_blocks
        except FileNotFoundError:
            continue
    return sum(blocks.values())


def test_f53_puts_beyond_the_store_are_on_disk_and_gone_with_their_refs(tmp_path):
    """What does not fit is on disk under no name; within five seconds of the last reference its bytes are gone."""
    folder = tmp_path / "spill"
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(folder))
    refs = []
    fill(refs)
    assert bytes_on_disk(folder) >= COUNT * PART_BYTES - STORE_BYTES
    assert os.listdir(folder) == []
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
    kept = refs[::4]
    del refs
    # Single holes, not only whole files.
    most = (len(kept) + 1) * PART_BYTES
    wait_for(lambda: bytes_on_disk(folder) <= most, 5)
    assert all(is_part(ray.get(ref), 4 * i) for i, ref in enumerate(kept))
    del kept
    wait_for(lambda: bytes_on_disk(folder) == 0, 5)


def test_f53_bytes_of_results_go_when_their_maker_is_gone_too(tmp_path):
    """Results that a worker wrote to disk are freed there also after that worker's death."""
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(tmp_path))

    @ray.remote(num_returns=3, max_calls=1)
    def large():
        # Larger than the store: written to disk by the worker itself.
        return os.getpid(), np.full(STORE_BYTES, 1, np.uint8), np.full(STORE_BYTES, 2, np.uint8)

    pid, *refs = large.remote()
    worker = ray.get(pid)
    wait_for(lambda: not is_alive(worker))
    assert bytes_on_disk(tmp_path) >= 2 * STORE_BYTES
    assert [int(ray.get(ref)[-1]) for ref in refs] == [1, 2]
    del refs[0]
    wait_for(lambda: bytes_on_disk(tmp_path) <= STORE_BYTES + MIB, 5)
    assert int(ray.get(refs[0])[0]) == 2
    del refs
    wait_for(lambda: bytes_on_disk(tmp_path) == 0, 5)


def test_f53_folders_take_turns(tmp_path):
    """Ray's object_spilling_config with two folders uses both."""
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    config = json.dumps({"type": "filesystem", "params": {"directory_path": folders}})
    init(num_cpus=1, object_store_memory=STORE_BYTES, _system_config={"object_spilling_config": config})
    refs = []
    fill(refs)
    assert all(bytes_on_disk(folder) > 0 for folder in folders)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


def test_f54_quota_reached_names_the_holders_and_the_runtime_stays_usable(tmp_path):
    """The error tells who holds memory and how much is on disk; nothing stored is lost; room that is freed is used at once."""
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(tmp_path), _system_config={"object_spilling_quota_bytes": 60 * MIB})
    refs = []
    with pytest.raises(ObjectStoreFullError, match=r"(?s)the driver holds \d+\.\d MiB.*of the quota of 60\.0 MiB are used.*\nhint: ") as caught:
        fill(refs)
    assert str(tmp_path) in str(caught.value)
    assert 10 <= len(refs) < COUNT
    assert bytes_on_disk(tmp_path) <= 60 * MIB
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
    del refs[-3:]
    refs.append(ray.put(part(99)))
    assert is_part(ray.get(refs[-1]), 99)


def test_f54_store_without_spilling_is_full_at_once():
    """Ray's switch turns spilling off."""
    init(num_cpus=1, object_store_memory=STORE_BYTES, _system_config={"automatic_object_spilling_enabled": False})
    refs = []
    with pytest.raises(ObjectStoreFullError, match=r"the driver holds .*\nhint: "):
        fill(refs)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
    refs.clear()
    assert is_part(ray.get(ray.put(part(1))), 1)


def test_f54_creators_are_held_back_until_the_consumer_lets_go(tmp_path):
    """With memory and quota full, tasks wait for the driver to drop results instead of failing."""
    init(num_cpus=2, object_store_memory=STORE_BYTES, object_spilling_directory=str(tmp_path), _system_config={"object_spilling_quota_bytes": 20 * MIB})

    @ray.remote(max_retries=0)
    def make(i):
        return part(i)

    pending = {make.remote(i): i for i in range(2 * COUNT)}
    while pending:
        (ref,), _ = ray.wait(list(pending))
        assert is_part(ray.get(ref), pending.pop(ref))
        del ref


IN_A_MOUNT_OF_ITS_OWN = """
    import ctypes, os, sys
    import numpy as np
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 0x4000, 0x40000

    def mount(flags, size):
        if libc.mount(b"none", folder.encode(), b"tmpfs", flags, f"size={size}".encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    folder = sys.argv[1]
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount(0, 50 << 20)

    import ray
    PART = 10 << 20
    is_part = lambda array, i: array.nbytes == PART and array.min() == array.max() == i

    def fill(refs):
        try:
            while len(refs) < 24:
                refs.append(ray.put(np.full(PART, len(refs), np.uint8)))
        except ray.exceptions.OutOfDiskError as error:
            assert folder in str(error) and "\\nhint: " in str(error) and "the driver holds" in str(error), str(error)
            return str(error)
        raise AssertionError("no error")

    ray.init(num_cpus=1, object_store_memory=80 << 20, object_spilling_directory=folder, logging_level="ERROR")
    refs = []
"""


def run_mounted(code, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system in a namespace of its own")
    folder = tmp_path / "small"
    folder.mkdir()
    done = run_script(textwrap.dedent(IN_A_MOUNT_OF_ITS_OWN) + textwrap.dedent(code), args=[str(folder)])
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
        pytest.skip("mount namespaces are not allowed here")
    assert done.rc == 0, done.output
    assert "done" in done.stdout


def test_f55_disk_full_is_a_clear_error_and_nothing_stored_is_lost(tmp_path):
    """The error names the folder and how full its disk is; what was stored stays; dropped references make room."""
    code = """
        text = fill(refs)
        assert "free of 50.0 MiB" in text and len(refs) >= 10, (text, len(refs))
        assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))

        @ray.remote(max_retries=0)
        def make(): return np.full(PART, 7, np.uint8)

        try: ray.get(make.remote())
        except ray.exceptions.OutOfDiskError as error: assert folder in str(error)
        else: raise AssertionError("no error")
        del refs[:4]
        assert is_part(ray.get(make.remote()), 7)
        assert is_part(ray.get(ray.put(np.full(PART, 8, np.uint8))), 8)
        assert all(is_part(ray.get(ref), i + 4) for i, ref in enumerate(refs))
        print("done")
    """
    run_mounted(code, tmp_path)


def test_f55_read_only_disk_is_a_clear_error_and_used_once_it_can_be(tmp_path):
    """The error says what the system said; nothing stored is lost; a disk that can be written to again is used."""
    code = """
        mount(MS_REMOUNT | MS_RDONLY, 50 << 20)
        assert "Read-only file system" in fill(refs)
        count = len(refs)
        assert count >= 6
        assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
        mount(MS_REMOUNT, 50 << 20)
        fill(refs)
        assert len(refs) >= count + 3, (count, len(refs))
        assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
        print("done")
    """
    run_mounted(code, tmp_path)


def test_f55_folder_that_is_removed_is_a_clear_error(tmp_path):
    """The error names the folder; nothing stored is lost; once the folder is back, spilling goes on."""
    folder = tmp_path / "spill"
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(folder))
    folder.rmdir()
    refs = []
    with pytest.raises(OutOfDiskError, match=rf"(?s){folder}.*No such file or directory.*\nhint: "):
        fill(refs)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))
    folder.mkdir()
    fill(refs)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"object_spilling_directory": "/proc/nowhere"}, ValueError, r"/proc/nowhere.*\nhint: "),
        ({"object_spilling_directory": 3}, TypeError, "object_spilling_directory"),
        ({"_system_config": {"object_spilling_config": json.dumps({"type": "smart_open", "params": {"uri": "s3://x"}})}}, ImportError, "s3"),
        ({"_system_config": {"object_spilling_config": "{"}}, ValueError, "JSON"),
        ({"_system_config": {"local_fs_capacity_threshold": 1.5}}, ValueError, "local_fs_capacity_threshold"),
        ({"_system_config": {"object_spilling_quota_bytes": "1G"}}, TypeError, "object_spilling_quota_bytes"),
    ],
)
def test_f55_bad_settings_are_refused_at_init(options, error, text):
    """What can't work is said when the runtime starts."""
    with pytest.raises(error, match=f"(?s){text}"):
        init(num_cpus=1, **options)


def test_driver_killed_while_it_spills_leaves_nothing(tmp_path):
    """SIGKILL of the driver in the middle: no process, no file."""
    code = """
        import sys
        import numpy as np
        import ray
        ray.init(num_cpus=1, object_store_memory=80 << 20, object_spilling_directory=sys.argv[1])
        refs = []
        while True:
            refs.append(ray.put(np.full(10 << 20, 1, np.uint8)))
            if len(refs) == 12:
                print("spilling", flush=True)
            if len(refs) > 30:
                del refs[:10]
    """
    folder = tmp_path / "spill"
    with start_script(code, cwd=tmp_path, args=[str(folder)]) as script:
        script.wait_for_output("spilling")
        (daemon,) = of_role("daemon", script.pid)
        assert bytes_on_disk(folder, daemon.pid) > 0
        script.signal(signal.SIGKILL)
        script.popen.wait()
        script.check_nothing_left(10)
        assert os.listdir(folder) == []


def test_worker_killed_while_it_spills_gives_everything_back(tmp_path):
    """SIGKILL of a worker in the middle: its call fails, its memory and its disk are free again, and the driver spills on."""
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(tmp_path))

    @ray.remote(max_retries=0)
    def die():
        refs = []
        for i in range(COUNT):
            refs.append(ray.put(part(i)))
            if i == COUNT - 1:
                os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote())
    wait_for(lambda: bytes_on_disk(tmp_path) == 0, 5)
    refs = []
    fill(refs)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


def test_spilling_session_ends_without_leaks(no_leak, tmp_path):
    """Threads, descriptors and mappings of spilling go with the session, also when it ends in the middle of it."""
    init(num_cpus=1, object_store_memory=STORE_BYTES, object_spilling_directory=str(tmp_path))

    @ray.remote
    def make(i):
        return part(i)

    refs = [make.remote(i) for i in range(COUNT)]
    fill(refs, 2 * COUNT)
    ray.shutdown()
    del refs
    no_leak.check()
    assert os.listdir(tmp_path) == []
