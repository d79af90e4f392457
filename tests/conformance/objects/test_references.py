"""Refs as values: in containers, across processes, in futures, pickled by hand."""

import asyncio
import concurrent.futures
import pickle

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)


@ray.remote
def make(value):
    return value


def test_ref_in_every_container_stays_readable():
    """Lists, tuples, dicts, sets, objects and nestings of them carry refs."""

    class Box:
        def __init__(self, ref):
            self.ref = ref

    def kinds(ref):
        return [[ref], (ref,), {"k": ref}, {ref: 1}, {ref}, Box(ref), [[{"a": ({"b": ref},)}]]]

    @ray.remote
    def read(values):
        listed, tupled, valued, keyed, held, box, deep = values
        refs = [listed[0], tupled[0], valued["k"], *keyed, *held, box.ref, deep[0][0]["a"][0]["b"]]
        return ray.get(refs)

    assert ray.get(read.remote(kinds(ray.put("v")))) == ["v"] * 7
    assert ray.get(read.remote(kinds(make.remote("t")))) == ["t"] * 7


def test_ref_returned_and_forwarded_several_times_is_readable():
    """A ref may travel through a chain of processes and outlive all but its owner."""

    @ray.remote
    def forward(box):
        return box

    box = [make.remote("far")]
    for _ in range(4):
        box = ray.get(forward.remote(box))
    assert ray.get(box[0]) == "far"


def test_ref_kept_by_an_actor_outlives_the_drivers_copy():
    """An actor that keeps a ref can read it when nobody else holds it any more."""

    @ray.remote
    class Keeper:
        def keep(self, box):
            self.ref = box[0]

        def read(self):
            return len(ray.get(self.ref))

        def share(self):
            return [self.ref]

    keeper = Keeper.remote()
    ref = ray.put(b"x" * 2_000_000)
    ray.get(keeper.keep.remote([ref]))
    del ref
    assert ray.get(keeper.read.remote()) == 2_000_000
    assert len(ray.get(ray.get(keeper.share.remote())[0])) == 2_000_000


def test_ref_dropped_right_after_the_call_is_still_an_argument():
    """Arguments live until the call has used them, even if the caller lets go at once."""

    @ray.remote
    def size(data, box):
        return len(data) + len(ray.get(box[0]))

    result = size.remote(ray.put(b"x" * 500_000), [ray.put(b"y" * 500_000)])
    assert ray.get(result) == 1_000_000


def test_ref_inside_a_stored_object_keeps_its_target():
    """An object that contains refs keeps what they point to."""
    outer = ray.put([ray.put([ray.put("innermost")])])
    middle = ray.get(outer)[0]
    del outer
    assert ray.get(ray.get(middle)[0]) == "innermost"


def test_ref_ten_thousand_in_one_object_are_readable():
    """Many refs in one value travel together."""

    @ray.remote
    def total(refs):
        return sum(ray.get(refs))

    assert ray.get(total.remote([ray.put(i) for i in range(10_000)])) == sum(range(10_000))


def test_ref_pickled_by_hand_can_be_read_in_the_driver():
    """A ref that went through ray's cloudpickle or plain pickle still reads its object."""
    ref = ray.put("pickled")
    assert ray.get(ray.cloudpickle.loads(ray.cloudpickle.dumps(ref))) == "pickled"
    assert ray.get(pickle.loads(pickle.dumps(ref))) == "pickled"


def test_ref_pickled_by_hand_can_be_read_in_a_task():
    """A ref sent as bytes that only the user understands can be read at the other end."""
    ref = ray.put("smuggled")

    @ray.remote
    def read(data):
        return ray.get(ray.cloudpickle.loads(data))

    assert ray.get(read.remote(ray.cloudpickle.dumps(ref))) == "smuggled"


def test_ref_pickled_by_hand_keeps_its_object_alive():
    """Bytes in the user's hands keep the object: nobody can know when they are used."""
    data = ray.cloudpickle.dumps(ray.put(b"z" * 1_000_000))
    assert len(ray.get(ray.cloudpickle.loads(data))) == 1_000_000


def test_ref_copy_is_the_same_ref():
    """`copy` and `deepcopy` give equal refs."""
    import copy

    ref = ray.put(1)
    assert copy.copy(ref) == ref
    assert copy.deepcopy({"a": [ref]})["a"][0] == ref


def test_ref_awaited_in_the_driver_gives_the_value():
    """`await ref` works in the driver's own event loop, also gathered, also for errors."""

    @ray.remote
    def fail():
        raise ValueError("awaited")

    async def main():
        one = await make.remote(1)
        many = await asyncio.gather(*[make.remote(i) for i in range(20)])
        with pytest.raises(ValueError, match="awaited"):
            await fail.remote()
        return one, many

    assert asyncio.run(main()) == (1, list(range(20)))


def test_ref_awaited_with_timeout_leaves_the_value_readable(gate):
    """An abandoned `await` loses nothing."""

    @ray.remote
    def late():
        gate.pass_through()
        return "late"

    ref = late.remote()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref, 0.1)
        gate.open()
        return await ref

    assert asyncio.run(main()) == "late"
    assert ray.get(ref) == "late"


def test_ref_future_resolves_in_a_thread():
    """`ref.future()` is a concurrent future with the value or the error."""

    @ray.remote
    def fail():
        raise KeyError("future")

    future = make.remote("value").future()
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == "value"
    assert isinstance(fail.remote().future().exception(30), KeyError)


def test_ref_futures_work_with_as_completed():
    """Futures of refs fit the standard library's tools."""
    futures = [make.remote(i).future() for i in range(10)]
    assert sorted(done.result() for done in concurrent.futures.as_completed(futures, 30)) == list(range(10))


def test_ref_as_future_runs_callbacks():
    """Callbacks of a ref's future run when the value is there."""
    seen = concurrent.futures.Future()
    make.remote(5).future().add_done_callback(lambda done: seen.set_result(done.result()))
    assert seen.result(30) == 5
