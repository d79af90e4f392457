"""Objects spilled to storage that fsspec knows: read by everybody, removed with their references, and with the session whatever has died."""

import json
import os
import signal

import pytest

import ray
from ray.exceptions import ObjectLostError
from support import init, is_alive, wait_for
from support.parts import PART_BYTES, STORE_BYTES, is_part, part
from support.scripts import run_script

np = pytest.importorskip("numpy")
pytest.importorskip("fsspec")

COUNT = 12

pytestmark = [pytest.mark.usefixtures("no_runtime"), pytest.mark.limit(60)]


def config(*uris):
    return {"object_spilling_config": json.dumps({"type": "smart_open", "params": {"uri": list(uris)}})}


def stored(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def away(tmp_path):
    """A session that spills to a folder behind fsspec."""
    folder = tmp_path / "bucket"
    init(num_cpus=2, object_store_memory=STORE_BYTES, _system_config=config(f"file://{folder}"))
    return folder


def test_storage_holds_what_does_not_fit_until_its_references_go(away):
    """Everything is readable in any order; files go with their references, and the folder with the session."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert len(stored(away)) * PART_BYTES >= COUNT * PART_BYTES - STORE_BYTES
    for i in [*range(COUNT), 1, 0]:
        assert is_part(ray.get(refs[i]), i)
    kept = refs[::5]
    del refs
    wait_for(lambda: len(stored(away)) <= len(kept), 5)
    assert all(is_part(ray.get(ref), 5 * i) for i, ref in enumerate(kept))
    ray.shutdown()
    assert list(away.iterdir()) == []


def test_storage_is_read_by_tasks_actors_and_borrowers(away):
    """As an argument, inside a list, by an actor that spilled by itself."""

    @ray.remote
    def check(array, i):
        return is_part(array, i)

    @ray.remote
    def check_all(refs):
        return [is_part(ray.get(ref), i) for i, ref in enumerate(refs)]

    @ray.remote(num_cpus=0)
    class Maker:
        def fill(self):
            self.refs = [ray.put(part(i)) for i in range(COUNT)]
            return self.refs

    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert stored(away)
    assert all(ray.get([check.remote(ref, i) for i, ref in enumerate(refs)]))
    assert ray.get(check_all.remote(refs)) == [True] * COUNT
    del refs
    maker = Maker.remote()
    theirs = ray.get(maker.fill.remote())
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(theirs))


def test_storage_values_are_ready_and_awaited_like_others(away):
    """`wait`, futures, and read-only arrays."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    ready, rest = ray.wait(refs, num_returns=COUNT, timeout=0)
    assert (len(ready), rest) == (COUNT, [])
    array = refs[0].future().result(timeout=20)
    assert is_part(array, 0)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_storage_folders_take_turns(tmp_path):
    """Two URIs: both are used."""
    folders = [tmp_path / "a", tmp_path / "b"]
    init(num_cpus=1, object_store_memory=STORE_BYTES, _system_config=config(*(f"file://{folder}" for folder in folders)))
    refs = [ray.put(part(i)) for i in range(COUNT)]
    assert all(stored(folder) for folder in folders)
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs))


def test_storage_that_refuses_is_told_once_and_the_disk_is_used(tmp_path):
    """A warning names the place and the reason; nothing is lost."""
    (tmp_path / "file").write_text("")
    code = f"""
import json, numpy as np, ray
config = json.dumps({{"type": "smart_open", "params": {{"uri": "file://{tmp_path}/file/below"}}}})
ray.init(num_cpus=1, include_dashboard=False, object_store_memory={STORE_BYTES}, _system_config={{"object_spilling_config": config}})
refs = [ray.put(np.full({PART_BYTES}, i, np.uint8)) for i in range({COUNT})]
print("all there", all(ray.get(ref)[-1] == i for i, ref in enumerate(refs)))
"""
    done = run_script(code, cwd=tmp_path)
    assert "all there True" in done.stdout, done.output
    assert done.stderr.count("objects can't be spilled to") == 1, done.output
    assert "/file/below" in done.stderr


def test_storage_that_loses_a_file_is_an_error_of_its_reader(away):
    """ObjectLostError with the reason; others are readable."""
    refs = [ray.put(part(i)) for i in range(COUNT)]
    stored_before = {path: path.read_bytes()[-1] for path in stored(away)}
    path, lost = next(iter(stored_before.items()))
    path.unlink()
    with pytest.raises(ObjectLostError, match="could not be read from storage"):
        ray.get(refs[lost])
    assert all(is_part(ray.get(ref), i) for i, ref in enumerate(refs) if i != lost)


def test_storage_of_a_dead_owner_goes_with_the_session(away):
    """A killed actor leaves files, and the end of the session removes them."""

    @ray.remote(num_cpus=0)
    class Maker:
        def fill(self):
            self.refs = [ray.put(part(i)) for i in range(COUNT)]
            return os.getpid()

    pid = ray.get(Maker.remote().fill.remote())
    assert stored(away)
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    ray.shutdown()
    assert list(away.iterdir()) == []


def test_storage_without_fsspec_support_is_refused_at_the_start():
    """A protocol that nobody knows: `init` says so."""
    with pytest.raises(ValueError, match="nonsense"):
        init(num_cpus=1, _system_config=config("nonsense://place"))
    with pytest.raises(ValueError, match="type must be one of"):
        init(num_cpus=1, _system_config={"object_spilling_config": json.dumps({"type": "tape"})})
