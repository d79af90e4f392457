"""Shared memory where /dev/shm is small or absent, where memory files are forbidden, and where a limit holds for them."""

import pytest

from support.hosts import PROGRAM, WORKED, private_mounts, run, worked

pytestmark = pytest.mark.limit(60)


@pytest.mark.parametrize(
    "setup",
    ["mount -t tmpfs -o size=4k none /dev/shm", "mount -t tmpfs -o ro none /dev/shm", "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"],
    ids=["tiny", "read-only", "absent"],
)
def test_f57_shared_memory_file_system_does_not_matter(tmp_path, setup):
    """Objects of 60 MB work where /dev/shm is of 4 KiB, closed, or not there: they live in memfds."""
    code = PROGRAM + "held = [ray.put(b'x' * 20_000_000) for _ in range(3)]\nassert ray.get([size.remote(ref) for ref in held]) == [20_000_000] * 3\n"
    done = run(tmp_path, code, under=private_mounts(setup))
    assert worked(done), done


def test_f57_memory_files_forbidden_give_a_clear_error_at_init(tmp_path):
    """A sandbox that refuses memfd_create: `init` names it and the way out, and leaves nothing behind."""
    done = run(tmp_path, FORBID_MEMFD + PROGRAM)
    assert done.rc == 1, done
    message = done.stderr[done.stderr.index("RuntimeError") :]
    assert "could not start ray: " in message and "memfd_create" in message and "hint: " in message and "seccomp" in message, done


def test_proc_not_mounted_gives_a_clear_error_at_init(tmp_path):
    """Without /proc there is no way to hand out memory for reading: `init` says so."""
    done = run(tmp_path, under=private_mounts("umount -l /proc"))
    assert done.rc == 1, done
    assert done.stderr.strip().splitlines()[-2:] == [
        "RuntimeError: could not start ray: /proc is not mounted, and shared memory is handed to readers through it.",
        "hint: mount -t proc proc /proc",
    ], done


def test_limit_of_file_sizes_below_the_least_gives_a_clear_error_at_init(tmp_path):
    """`ulimit -f` holds for memory files, too: `init` says so and names it."""
    done = run(tmp_path, under=["prlimit", "--fsize=100000:100000"])
    assert done.rc == 1, done
    last = done.stderr.strip().splitlines()[-2:]
    assert "could not start ray: " in last[0] and "ulimit -f is 100000 bytes" in last[0] and "hint: " in last[1], done


def test_limit_of_file_sizes_names_itself_when_an_object_is_larger(tmp_path):
    """An object larger than `ulimit -f` is refused with its name; smaller ones work before and after."""
    code = f"""
import ray
ray.init(num_cpus=1, include_dashboard=False)
assert len(ray.get(ray.put(b"x" * 1_000_000))) == 1_000_000
try:
    ray.put(b"x" * 20_000_000)
except ray.exceptions.ObjectStoreFullError as error:
    print(error)
assert len(ray.get(ray.put(b"x" * 1_000_000))) == 1_000_000
print({WORKED!r})
"""
    done = run(tmp_path, code, under=["prlimit", "--fsize=8000000:8000000"])
    assert worked(done), done
    assert "ulimit -f is 8000000 bytes" in done.stdout and "hint: " in done.stdout, done


def test_limit_of_address_space_names_itself_when_an_object_does_not_fit(tmp_path):
    """`ulimit -v` too small for an object gives an error that names it; the store does not keep what could not be mapped."""
    code = f"""
import mmap, resource, numpy, ray
ray.init(num_cpus=1, include_dashboard=False)
assert len(ray.get(ray.put(b"x" * 1_000_000))) == 1_000_000
data = numpy.ones(25_000_000)
used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        ray.put(data)
    except ray.exceptions.RaySystemError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
total, free = ray.cluster_resources()["object_store_memory"], ray.available_resources()["object_store_memory"]
assert total - free < 100_000_000, (total, free)
assert len(ray.get(ray.put(data))) == 25_000_000
print({WORKED!r})
"""
    done = run(tmp_path, code)
    assert worked(done), done
    assert done.stdout.count("ulimit -v is ") == 3 and "hint: " in done.stdout, done


# A filter that answers memfd_create with EPERM, as the profiles of some sandboxes do, and lets everything else pass.
FORBID_MEMFD = """
import ctypes, platform, struct
NUMBER = {"x86_64": 319, "aarch64": 279}[platform.machine()]
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_EPERM = 0x7FFF0000, 0x00050001
steps = [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 1, NUMBER), (RETURN, 0, 0, FAIL_EPERM), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no new privileges"
assert libc.prctl(22, 2, program) == 0, ctypes.get_errno()
"""
