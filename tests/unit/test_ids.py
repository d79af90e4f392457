"""Ids: lengths, layouts, values."""

import pickle

import pytest

from ray._core import ids
from ray._core.ids import ActorID, JobID, PlacementGroupID, TaskID, UniqueID

SIZES = {
    "ActorClassID": 28,
    "ActorID": 16,
    "ClusterID": 28,
    "FunctionID": 28,
    "JobID": 4,
    "NodeID": 28,
    "PlacementGroupID": 18,
    "TaskID": 24,
    "UniqueID": 28,
    "WorkerID": 28,
}
CLASSES = [getattr(ids, name) for name in SIZES]


@pytest.mark.parametrize("cls", CLASSES)
def test_id_is_a_value(cls):
    """Bytes in, bytes out; equal, hashable, picklable, printable."""
    data = b"\xab" * SIZES[cls.__name__]
    one = cls(data)
    assert cls.size() == one.size() == SIZES[cls.__name__]
    assert one == cls.from_binary(data) == cls.from_hex("ab" * cls.size()) == pickle.loads(pickle.dumps(one))
    assert (one.binary(), one.hex(), bytes(one), hash(one)) == (data, data.hex(), data, hash(cls(data)))
    assert repr(one) == f"{cls.__name__}({data.hex()})"
    assert one != data
    assert not one.is_nil()


@pytest.mark.parametrize("cls", CLASSES)
def test_id_nil_has_all_bits_set(cls):
    """And says so."""
    assert cls.nil().is_nil()
    assert cls.nil().binary() == b"\xff" * cls.size()


@pytest.mark.parametrize("cls", CLASSES)
def test_id_of_wrong_shape_is_refused(cls):
    """Other lengths and types."""
    with pytest.raises(ValueError, match=cls.__name__):
        cls(b"12345")
    with pytest.raises(TypeError):
        cls("text")
    with pytest.raises(ValueError):
        cls.from_hex("zz")


def test_ids_of_different_kinds_differ():
    """Even with equal bytes."""
    assert ids.NodeID(b"a" * 28) != ids.WorkerID(b"a" * 28)


def test_ids_are_not_ordered():
    """As on Ray."""
    with pytest.raises(TypeError):
        _ = JobID.from_int(1) < JobID.from_int(2)


@pytest.mark.parametrize("cls", [UniqueID, ActorID, PlacementGroupID])
def test_random_ids_differ(cls):
    """Two are never equal."""
    assert cls.from_random() != cls.from_random()


def test_job_id_is_a_number():
    """In little-endian bytes."""
    job = JobID.from_int(7)
    assert (job.int(), job.binary()) == (7, b"\x07\x00\x00\x00")
    with pytest.raises(OverflowError):
        JobID.from_int(2**32)


def test_ids_contain_each_other():
    """A task's id ends with its actor's, an actor's with its job's."""
    job = JobID.from_int(7)
    driver = TaskID.for_driver_task(job)
    assert driver.hex() == "ff" * 20 + "07000000"
    actor = ActorID.of(job, driver, 1)
    assert actor.job_id == job
    call = TaskID.for_actor_task(job, driver, 1, actor)
    assert (call.actor_id(), call.job_id()) == (actor, job)
    assert TaskID.for_actor_creation_task(actor).hex() == "ff" * 8 + actor.hex()
    assert TaskID.for_normal_task(job, driver, 1) == TaskID.for_normal_task(job, driver, 1) != TaskID.for_normal_task(job, driver, 2)
    assert PlacementGroupID.of(job).hex().endswith("07000000")
    assert TaskID.for_fake_task(job).job_id() == job
    with pytest.raises(TypeError):
        PlacementGroupID.of(5)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (UniqueID, 10322805909862771770),
        (TaskID, 11666906697242818592),
        (ActorID, 12336625743787602161),
        (JobID, 9081821742726985274),
        (PlacementGroupID, 9130042964061987159),
    ],
)
def test_shard_hash_is_rays(cls, expected):
    """Observed on Ray 2.60."""
    assert cls(b"\xab" * cls.size()).redis_shard_hash() == expected
