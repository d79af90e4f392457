"""What both checkers must accept, and what they must infer. Checked by test_typing.py, never run."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, ParamSpec

from typing_extensions import assert_type

import ray
from ray import ObjectRef, ObjectRefGenerator
from ray.actor import ActorClass, ActorHandle, ActorProxy
from ray.remote_function import RemoteFunction

P = ParamSpec("P")


@ray.remote
def area(width: int, height: int = 1, *, unit: str = "m") -> float:
    return float(width * height) if unit else 0.0


@ray.remote(num_cpus=2, max_retries=0)
def label(number: int) -> str:
    return str(number)


@ray.remote(num_returns=2)
def halves(text: str) -> tuple[str, str]:
    return text[:1], text[1:]


class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    @ray.method
    def add(self, by: int, *, times: int = 1) -> int:
        self.n += by * times
        return self.n

    @ray.method(num_returns=1)
    def show(self) -> str:
        return str(self.n)

    def add_twice(self, by: int) -> int:
        return self.add(by) + self.add(by, times=1)

    @ray.method
    async def later(self) -> bytes:
        return b""

    @ray.method
    def steps(self, most: int) -> Iterator[int]:
        yield from range(most)

    @ray.method(num_returns="streaming")
    async def later_steps(self) -> AsyncIterator[str]:
        yield ""


@ray.remote
def numbers(most: int) -> Generator[int, None, None]:
    yield from range(most)


@ray.remote(num_cpus=0)
def words() -> Iterator[str]:
    yield ""


def generators(counter: ActorProxy[Counter]) -> None:
    assert_type(numbers.remote(3), ObjectRefGenerator[int])
    assert_type(words.remote(), ObjectRefGenerator[str])
    for ref in numbers.remote(3):
        assert_type(ref, ObjectRef[int])
    assert_type(next(words.remote()), ObjectRef[str])
    assert_type(ray.wait([words.remote()])[0], list[ObjectRefGenerator[str]])
    assert_type(words.remote().completed(), ObjectRef[None])
    assert_type(counter.steps.remote(2), ObjectRefGenerator[int] | Any)
    assert_type(counter.later_steps.remote(), ObjectRefGenerator[str] | Any)


async def asynchronous_generators() -> None:
    async for ref in numbers.remote(3):
        assert_type(await ref, int)


# mypy does not apply class decorators; the call does what `@ray.remote` on the class does, for both checkers.
RemoteCounter = ray.remote(Counter)


def calls() -> None:
    ref = area.remote(2, height=3, unit="km")
    assert_type(ref, ObjectRef[float])
    assert_type(area.remote(2), ObjectRef[float])
    assert_type(label.remote(number=1), ObjectRef[str])
    assert_type(area.options(num_cpus=1, name="big").remote(2, 3), ObjectRef[float])
    assert_type(area.options(num_returns=2).remote(1), list[ObjectRef[Any]])
    assert_type(area.options(num_returns=0).remote(1), None)
    assert_type(halves.remote("ab"), list[ObjectRef[Any]])


def references_as_arguments() -> None:
    two = ray.put(2)
    assert_type(two, ObjectRef[int])
    assert_type(area.remote(two), ObjectRef[float])
    assert_type(area.remote(two, 3), ObjectRef[float])
    assert_type(area.remote(2, two), ObjectRef[float])
    assert_type(area.remote(two, two, unit="km"), ObjectRef[float])


def values() -> None:
    ref = area.remote(2)
    assert_type(ray.get(ref), float)
    assert_type(ray.get([ref, ref], timeout=1.5), list[float])
    ready, waiting = ray.wait([ref], num_returns=1, timeout=None, fetch_local=False)
    assert_type(ready, list[ObjectRef[float]])
    assert_type(waiting, list[ObjectRef[float]])
    assert_type(ray.get(ray.put("text")), str)
    assert_type(ref.future().result(), float)
    ray.cancel(ref, force=False, recursive=True)


async def awaited() -> None:
    assert_type(await area.remote(2), float)


def actors() -> None:
    assert_type(RemoteCounter, ActorClass[Counter])
    handle = RemoteCounter.remote(1)
    assert_type(handle, ActorHandle[Counter])
    assert_type(RemoteCounter.options(name="one", lifetime="detached", max_restarts=3).remote(start=1), ActorHandle[Counter])
    handle.add.remote(1, times=2)
    ray.kill(handle, no_restart=True)
    assert_type(ray.get_actor("one"), ActorHandle[Any])


def typed_methods(counter: ActorProxy[Counter]) -> None:
    """Through `ActorProxy` the methods marked with `@ray.method` are known; the union with the plain handle adds Any."""
    assert_type(counter.add.remote(1, times=2), ObjectRef[int] | Any)
    assert_type(counter.add.options(name="shown").remote(1), ObjectRef[int] | Any)
    assert_type(counter.show.remote(), ObjectRef[str] | Any)
    assert_type(counter.later.remote(), ObjectRef[bytes] | Any)
    assert_type(counter.add.remote(ray.put(1)), ObjectRef[int] | Any)


def passed_on(function: RemoteFunction[Callable[P, ObjectRef[str]]], *args: P.args, **kwargs: P.kwargs) -> ObjectRef[str]:
    """A wrapper keeps the parameters of what it wraps."""
    return function.remote(*args, **kwargs)


passed_on(label, number=1)
