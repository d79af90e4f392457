"""References and handles that go through plain cloudpickle, and `ray.cloudpickle` itself."""

import pickle

import pytest

import ray
from ray import cloudpickle

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.runtime(num_cpus=2)


def test_out_of_band_reference_comes_back():
    """dumps and loads in one process."""
    ref = ray.put("value")
    again = cloudpickle.loads(cloudpickle.dumps(ref))
    assert again == ref
    assert ray.get(again) == "value"


def test_out_of_band_reference_keeps_its_object():
    """The bytes may outlive the reference: the object stays for whoever reads them."""
    data = cloudpickle.dumps(ray.put([1] * 100_000))
    for _ in range(3):
        ray.put([2] * 100_000)
    assert ray.get(cloudpickle.loads(data))[5] == 1


def test_out_of_band_reference_is_read_in_another_process():
    """As bytes in an argument."""
    data = cloudpickle.dumps(ray.put("value"))

    @ray.remote
    def read(data):
        return ray.get(cloudpickle.loads(data))

    assert ray.get(read.remote(data)) == "value"


def test_out_of_band_actor_handle_works():
    """A handle through cloudpickle is a handle."""

    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    counter = Counter.remote()
    ray.get(counter.add.remote())
    again = cloudpickle.loads(cloudpickle.dumps(counter))
    assert ray.get(again.add.remote()) == 2


def test_out_of_band_remote_function_works():
    """A remote function through cloudpickle is one."""

    @ray.remote
    def double(x):
        return 2 * x

    assert ray.get(cloudpickle.loads(cloudpickle.dumps(double)).remote(4)) == 8


def test_cloudpickle_sends_what_pickle_can_not():
    """Lambdas, closures and local classes; plain pickle reads the bytes."""
    step = 3

    class Local:
        x = 4

    f, cls = pickle.loads(cloudpickle.dumps((lambda n: n + step, Local)))
    assert (f(1), cls.x) == (4, 4)


def test_cloudpickle_has_the_interface_of_pickle():
    """dump, load, dumps, loads, protocols."""
    import io

    file = io.BytesIO()
    cloudpickle.dump({"a": 1}, file)
    file.seek(0)
    assert cloudpickle.load(file) == {"a": 1}
    assert cloudpickle.loads(cloudpickle.dumps([1], protocol=2)) == [1]


def test_cloudpickle_pickler_can_be_derived_from():
    """`CloudPickler` with a reducer of one's own."""
    import io

    class Upper(cloudpickle.CloudPickler):
        def persistent_id(self, value):
            return "it" if value == "special" else None

    class Reader(pickle.Unpickler):
        def persistent_load(self, key):
            return key

    file = io.BytesIO()
    Upper(file).dump(["special", lambda: 5])
    file.seek(0)
    got = Reader(file).load()
    assert (got[0], got[1]()) == ("it", 5)


def test_cloudpickle_sends_modules_that_have_no_file():
    """With what is in them."""
    import types

    module = types.ModuleType("made_here")
    module.size = 3
    assert ray.get(ray.remote(lambda: module.size).remote()) == 3


def test_cloudpickle_out_of_band_buffers():
    """Protocol 5 with a callback for buffers."""
    buffers = []
    array = np.arange(1000)
    data = cloudpickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    assert np.array_equal(pickle.loads(data, buffers=buffers), array)
