"""Ids of jobs, tasks, actors, nodes, workers and placement groups, with Ray's lengths.

Plain values: hashable, comparable, picklable, not ordered. `ObjectRef`, the counted reference, is native.
Layouts: job 4 bytes; actor = unique 12 + job; task = unique 8 + actor; placement group = unique 14 + job; all others 28 bytes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from ray._native import ObjectRef as ObjectID

__all__ = [
    "ActorClassID",
    "ActorID",
    "BaseID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
]

_MASK = (1 << 64) - 1


class BaseID:
    """An id of a fixed number of bytes.

    Args:
        id: The bytes.

    Raises:
        TypeError: `id` is not bytes.
        ValueError: `id` has the wrong length.
    """

    __slots__ = ("_id",)
    SIZE = 28

    def __init__(self, id: bytes) -> None:
        if not isinstance(id, bytes):
            raise TypeError(f"{type(self).__name__} is made from bytes, got {type(id).__name__}")
        if len(id) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes, got {len(id)}")
        self._id = id

    @classmethod
    def size(cls) -> int:
        """Number of bytes."""
        return cls.SIZE

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> Self:
        """Make an id from its bytes."""
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str | bytes) -> Self:
        """Make an id from its hexadecimal form.

        Raises:
            ValueError: Not hexadecimal, or of the wrong length.
        """
        text = hex_id.decode() if isinstance(hex_id, bytes) else hex_id
        return cls(bytes.fromhex(text))

    @classmethod
    def nil(cls) -> Self:
        """The id that stands for none: all bits set."""
        return cls(b"\xff" * cls.SIZE)

    def binary(self) -> bytes:
        """The bytes."""
        return self._id

    def hex(self) -> str:
        """The bytes in hexadecimal."""
        return self._id.hex()

    def is_nil(self) -> bool:
        """Whether this is the id that stands for none."""
        return self._id == b"\xff" * self.SIZE

    def redis_shard_hash(self) -> int:
        """A 64-bit number that is the same in every process."""
        return _murmur64a(self._id)

    def __bytes__(self) -> bytes:
        return self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseID) and type(self) is type(other) and self._id == other._id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._id,)


def _murmur64a(data: bytes) -> int:
    """MurmurHash64A with seed 0. Source: A. Appleby, MurmurHash2, 64-bit version, public domain."""
    m, r = 0xC6A4A7935BD1E995, 47
    h = (len(data) * m) & _MASK
    whole = len(data) - len(data) % 8
    for i in range(0, whole, 8):
        k = (int.from_bytes(data[i : i + 8], "little") * m) & _MASK
        k = ((k ^ (k >> r)) * m) & _MASK
        h = ((h ^ k) * m) & _MASK
    if whole < len(data):
        h = ((h ^ int.from_bytes(data[whole:], "little")) * m) & _MASK
    h = ((h ^ (h >> r)) * m) & _MASK
    return h ^ (h >> r)


def _digest8(*parts: bytes) -> bytes:
    from hashlib import blake2b

    return blake2b(b"".join(parts), digest_size=8).digest()


def _check(name: str, value: object, cls: type) -> None:
    if not isinstance(value, cls):
        raise TypeError(f"{name} must be a {cls.__name__}, got {type(value).__name__}")


class UniqueID(BaseID):
    """An id of 28 bytes without inner structure."""

    __slots__ = ()

    @classmethod
    def from_random(cls) -> Self:
        """Make a new random id."""
        return cls(os.urandom(cls.SIZE))


class NodeID(UniqueID):
    """Id of a node."""

    __slots__ = ()


class WorkerID(UniqueID):
    """Id of a worker process."""

    __slots__ = ()


class ClusterID(UniqueID):
    """Id of a cluster."""

    __slots__ = ()


class FunctionID(UniqueID):
    """Id of an exported function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """Id of an exported actor class."""

    __slots__ = ()


class JobID(BaseID):
    """Id of a job: a number in 4 little-endian bytes."""

    __slots__ = ()
    SIZE = 4

    @classmethod
    def from_int(cls, value: int) -> Self:
        """Make the id of job number `value`, 0 to 2**32 - 1.

        Raises:
            OverflowError: Out of range.
        """
        return cls(value.to_bytes(cls.SIZE, "little"))

    def int(self) -> int:
        """The job number."""
        return int.from_bytes(self._id, "little")


class ActorID(BaseID):
    """Id of an actor."""

    __slots__ = ()
    SIZE = 16

    @classmethod
    def of(cls, job_id: JobID, parent_task_id: TaskID, parent_task_counter: int) -> Self:  # noqa: ARG003  Ray's signature
        """Make a new id for an actor that a task creates. Two calls never give the same id."""
        _check("job_id", job_id, JobID)
        _check("parent_task_id", parent_task_id, TaskID)
        return cls(os.urandom(cls.SIZE - JobID.SIZE) + job_id.binary())

    @classmethod
    def from_random(cls) -> Self:
        """Make a random id."""
        return cls(os.urandom(cls.SIZE))

    @property
    def job_id(self) -> JobID:
        """The job that created the actor."""
        return JobID(self._id[-JobID.SIZE :])


class TaskID(BaseID):
    """Id of a task or actor call."""

    __slots__ = ()
    SIZE = 24

    @classmethod
    def for_fake_task(cls, job_id: JobID) -> Self:
        """Make a random id in a job."""
        _check("job_id", job_id, JobID)
        return cls(os.urandom(cls.SIZE - JobID.SIZE) + job_id.binary())

    @classmethod
    def for_driver_task(cls, job_id: JobID) -> Self:
        """The id of a job's driver."""
        _check("job_id", job_id, JobID)
        return cls(b"\xff" * (cls.SIZE - JobID.SIZE) + job_id.binary())

    @classmethod
    def for_actor_creation_task(cls, actor_id: ActorID) -> Self:
        """The id of the call that constructs an actor."""
        _check("actor_id", actor_id, ActorID)
        return cls(b"\xff" * 8 + actor_id.binary())

    @classmethod
    def for_actor_task(cls, job_id: JobID, parent_task_id: TaskID, parent_task_counter: int, actor_id: ActorID) -> Self:
        """The id of the `parent_task_counter`-th call that a task makes, to an actor."""
        _check("actor_id", actor_id, ActorID)
        unique = _digest8(job_id.binary(), parent_task_id.binary(), parent_task_counter.to_bytes(8, "little"))
        return cls(unique + actor_id.binary())

    @classmethod
    def for_normal_task(cls, job_id: JobID, parent_task_id: TaskID, parent_task_counter: int) -> Self:
        """The id of the `parent_task_counter`-th call that a task makes."""
        _check("job_id", job_id, JobID)
        nobody = ActorID(b"\xff" * (ActorID.SIZE - JobID.SIZE) + job_id.binary())
        return cls.for_actor_task(job_id, parent_task_id, parent_task_counter, nobody)

    def actor_id(self) -> ActorID:
        """The actor that the call belongs to."""
        return ActorID(self._id[-ActorID.SIZE :])

    def job_id(self) -> JobID:
        """The job that the call belongs to."""
        return JobID(self._id[-JobID.SIZE :])


class PlacementGroupID(BaseID):
    """Id of a placement group."""

    __slots__ = ()
    SIZE = 18

    @classmethod
    def of(cls, job_id: JobID) -> Self:
        """Make a new id in a job."""
        _check("job_id", job_id, JobID)
        return cls(os.urandom(cls.SIZE - JobID.SIZE) + job_id.binary())

    @classmethod
    def from_random(cls) -> Self:
        """Make a random id."""
        return cls(os.urandom(cls.SIZE))


def __getattr__(name: str) -> Any:
    if name == "ObjectID":  # Ray's older name of the reference; lazily, so that this module works without the extension module
        from ray._native import ObjectRef

        return ObjectRef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
