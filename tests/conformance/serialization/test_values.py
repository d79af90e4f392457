"""Values of many kinds, there and back."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import math
import pathlib
import pickle
import re
import typing
import uuid

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=2)


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


class Flags(enum.IntFlag):
    A = 1
    B = 2


Point = collections.namedtuple("Point", ["x", "y"])


class Typed(typing.NamedTuple):
    name: str
    size: int = 3


@dataclasses.dataclass
class Record:
    name: str
    tags: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


class WithState:
    def __init__(self):
        self.kept, self.dropped = 1, 2

    def __getstate__(self):
        return {"kept": self.kept}

    def __setstate__(self, state):
        self.__dict__.update(state, dropped=None)


@ray.remote
def same(x):
    return x


@ray.remote
def described(x):
    return type(x).__name__, repr(x)


VALUES = {
    "enum": Colour.RED,
    "flags": Flags.A | Flags.B,
    "namedtuple": Point(1, y=2),
    "typed namedtuple": Typed("a"),
    "dataclass": Record("a", [1]),
    "frozen dataclass": Frozen(3),
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    "decimal": decimal.Decimal("1.10"),
    "fraction": fractions.Fraction(1, 3),
    "path": pathlib.PurePosixPath("/a/b"),
    "uuid": uuid.UUID(int=5),
    "pattern": re.compile("a+", re.IGNORECASE),
    "complex": 1 + 2j,
    "large int": 1 << 200,
    "range": range(3, 9, 2),
    "slice": slice(1, None, 2),
    "set": {1, "a"},
    "frozenset": frozenset([1, 2]),
    "counter": collections.Counter("abca"),
    "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    "deque": collections.deque([1, 2], maxlen=5),
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "a type": dict,
    "a function of a module": json.dumps,
    "a built-in": len,
    "surrogates": "\ud800",
    "empty": [(), [], {}, "", b""],
    "infinity": math.inf,
}


@pytest.mark.parametrize("kind", VALUES)
def test_value_arrives_equal(kind):
    """In the driver again, with its type."""
    value = VALUES[kind]
    got = ray.get(same.remote(value))
    assert got == value
    assert type(got) is type(value)


def test_value_enum_members_are_the_members():
    """Enums compare by identity, after a trip as before."""
    assert ray.get(ray.put(Colour.GREEN)) is Colour.GREEN
    assert ray.get(ray.put(None)) is None


def test_value_default_dict_keeps_its_factory():
    """A lambda as the factory, too."""
    value = collections.defaultdict(lambda: 7, a=1)
    got = ray.get(same.remote(value))
    assert (got["a"], got["b"]) == (1, 7)


def test_value_getstate_and_setstate_are_used():
    """The class decides what travels."""
    got = ray.get(same.remote(WithState()))
    assert (got.kept, got.dropped) == (1, None)


def test_value_shared_inside_tuples_stays_shared():
    """The same object twice in a value is the same object twice after it."""
    inner = Record("x")
    first, second = ray.get(ray.put((inner, inner)))
    assert first is second


def test_value_cycles_arrive():
    """An object that refers to itself."""
    record = Record("self")
    record.tags.append(record)
    got = ray.get(same.remote(record))
    assert got.tags[0] is got


def test_value_local_class_instances():
    """A class of a function: instances, inheritance and class attributes."""

    class Base:
        factor = 3

        def times(self, x):
            return self.factor * x

    class Child(Base):
        def __init__(self, y):
            self.y = y

        def times(self, x):
            return super().times(x) + self.y

    @ray.remote
    def use(one):
        return one.times(2), isinstance(one, Base)

    assert ray.get(use.remote(Child(1))) == (7, True)


def test_value_lambda_and_closure():
    """Functions without a name, with what they captured."""
    step = 5
    functions = ray.get(ray.put([lambda x: x + step, functools.partial(pow, 2)]))
    assert [f(3) for f in functions] == [8, 8]


def test_value_recursive_closure():
    """A local function that calls itself."""

    def factorial(n):
        return 1 if n <= 1 else n * factorial(n - 1)

    assert ray.get(ray.remote(lambda f: f(5)).remote(factorial)) == 120


def test_value_closure_over_a_module():
    """A module that was captured is imported where it arrives."""
    import string as module

    assert ray.get(ray.remote(lambda: module.ascii_lowercase[:3]).remote()) == "abc"
    assert ray.get(ray.put(math)) is math


def test_value_bound_methods_and_static_ones():
    """A method takes its object along."""

    class Adder:
        def __init__(self, n):
            self.n = n

        def add(self, x):
            return x + self.n

        @staticmethod
        def twice(x):
            return 2 * x

        @classmethod
        def make(cls, n):
            return cls(n)

    apply = ray.remote(lambda f, x: f(x))
    assert ray.get(apply.remote(Adder(4).add, 1)) == 5
    assert ray.get(apply.remote(Adder.twice, 2)) == 4
    assert ray.get(ray.remote(lambda f: f(9).n).remote(Adder.make)) == 9


def test_value_class_itself_travels():
    """A local class is used where it arrives."""

    class Thing:
        size = 4

    assert ray.get(ray.remote(lambda cls: cls().size).remote(Thing)) == 4


def test_value_decorated_function_keeps_its_name():
    """functools.wraps."""

    def twice(f):
        @functools.wraps(f)
        def wrapped(*args):
            return 2 * f(*args)

        return wrapped

    @twice
    def named(x):
        return x

    assert ray.get(ray.remote(lambda f: (f.__name__, f(4))).remote(named)) == ("named", 8)


def test_value_memoryview_and_bytearray_contents():
    """Contents arrive; a bytearray inside a value can be written to where it arrives."""
    got = ray.get(same.remote([bytearray(b"abc")]))
    assert bytes(got[0]) == b"abc"


def test_value_abstract_and_generic_classes():
    """ABCs and generics, local ones, too."""
    import abc

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class Square(Shape):
        def area(self):
            return 4

    T = typing.TypeVar("T")

    class Box(typing.Generic[T]):
        def __init__(self, item):
            self.item = item

    assert ray.get(ray.remote(lambda shape: shape.area()).remote(Square())) == 4
    assert ray.get(ray.remote(lambda box: box.item).remote(Box[int](3))) == 3


def test_value_descriptor_of_a_property():
    """Properties of a local class work where it arrives."""

    class Circle:
        def __init__(self, r):
            self.r = r

        @property
        def wide(self):
            return 2 * self.r

    assert ray.get(ray.remote(lambda one: one.wide).remote(Circle(2))) == 4


def test_value_reduce_that_returns_references():
    """Objects whose `__reduce__` gives a reference: it is counted, and read where it arrives."""

    class Lazy:
        def __init__(self, ref):
            self.ref = ref

        def __reduce__(self):
            return Lazy, (self.ref,)

    @ray.remote
    def read(lazy):
        return ray.get(lazy.ref)

    lazy = Lazy(ray.put([1] * 1000))
    assert ray.get(read.remote(lazy)) == [1] * 1000
    again = ray.get(ray.put(lazy))
    del lazy
    assert ray.get(again.ref) == [1] * 1000


def test_value_deeply_nested_lists_that_fit():
    """A few hundred levels."""
    value = []
    for _ in range(200):
        value = [value]
    got = ray.get(same.remote(value))
    depth = 0
    while got:
        got, depth = got[0], depth + 1
    assert depth == 200


def test_value_too_deep_is_refused_and_the_runtime_goes_on():
    """A RecursionError or what is made of it, in the caller."""
    value = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises((RecursionError, TypeError, pickle.PicklingError)):
        ray.put(value)
    while value:
        value = value[0]
    assert ray.get(ray.put(1)) == 1


def test_value_pydantic_models():
    """Models of pydantic, defined here, with validators, nested."""
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):
        x: int = 1

    class Outer(pydantic.BaseModel):
        name: str
        inner: Inner = Inner()
        numbers: list[int] = []

        @pydantic.field_validator("name")
        @classmethod
        def not_empty(cls, value):
            if not value:
                raise ValueError("empty")
            return value

    @ray.remote
    def use(model):
        try:
            type(model)(name="")
        except pydantic.ValidationError:
            refused = True
        return model.model_dump(), refused, model

    dumped, refused, back = ray.get(use.remote(Outer(name="a", numbers=[1])))
    assert dumped == {"name": "a", "inner": {"x": 1}, "numbers": [1]}
    assert refused
    assert back.model_dump() == dumped
