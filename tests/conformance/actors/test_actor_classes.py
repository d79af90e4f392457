"""What a class may look like to become an actor."""

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)

BAD_OPTIONS = [
    ({"num_cpus": -1}, ValueError),
    ({"max_restarts": -2}, ValueError),
    ({"max_restarts": 1.5}, TypeError),
    ({"max_task_retries": -2}, ValueError),
    ({"max_concurrency": -1}, ValueError),
    ({"max_pending_calls": -2}, ValueError),
    ({"lifetime": "eternal"}, ValueError),
    ({"name": ""}, ValueError),
    ({"name": 3}, TypeError),
    ({"namespace": ""}, ValueError),
    ({"namespace": 3}, TypeError),
    ({"get_if_exists": True}, ValueError),
    ({"num_returns": 2}, ValueError),
    ({"max_retries": 2}, ValueError),
    ({"max_calls": 1}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS, ids=lambda value: str(value) if isinstance(value, dict) else None)
def test_actor_option_bad_value_is_refused(options, error):
    """A wrong option raises in the caller, at the latest at the creation."""

    @ray.remote
    class Actor:
        pass

    with pytest.raises(error):
        Actor.options(**options).remote()


def test_actor_class_without_constructor_works():
    """A class need not define `__init__`."""

    @ray.remote
    class Bare:
        def hello(self):
            return "hello"

    assert ray.get(Bare.remote().hello.remote()) == "hello"


def test_actor_class_made_remote_later_leaves_the_original_usable():
    """`ray.remote(cls)` does not touch the class itself."""

    class Plain:
        def value(self):
            return 3

    remote = ray.remote(Plain)
    assert Plain().value() == 3
    assert ray.get(remote.remote().value.remote()) == 3


def test_actor_inherits_methods_and_super_works():
    """Methods of base classes are callable, overridden ones win, `super()` reaches the base."""

    class Base:
        def __init__(self, name):
            self.name = name

        def hello(self):
            return f"hello {self.name}"

        def overridden(self):
            return "base"

    @ray.remote
    class Derived(Base):
        def __init__(self, name):
            super().__init__(name.upper())

        def overridden(self):
            return "derived of " + super().overridden()

    actor = Derived.remote("ann")
    assert ray.get([actor.hello.remote(), actor.overridden.remote()]) == ["hello ANN", "derived of base"]


def test_actor_static_and_class_methods_are_callable():
    """Static and class methods can be called through a handle."""

    @ray.remote
    class Actor:
        label = "of the class"

        @staticmethod
        def static(x):
            return x + 1

        @classmethod
        def of_class(cls, x):
            return cls.label, x

    actor = Actor.remote()
    assert ray.get([actor.static.remote(1), actor.of_class.remote(2)]) == [2, ("of the class", 2)]


def test_actor_properties_work_inside_and_are_hidden_outside():
    """Properties serve the class's own methods; a handle does not offer them."""

    @ray.remote
    class Actor:
        def __init__(self):
            self._width = 3

        @property
        def area(self):
            return self._width**2

        @area.setter
        def area(self, value):
            self._width = value**0.5

        def grow(self):
            self.area = 16
            return self.area

    actor = Actor.remote()
    assert ray.get(actor.grow.remote()) == 16
    with pytest.raises(AttributeError):
        _ = actor.area


def test_actor_private_and_special_methods_are_callable():
    """Methods with underscores, `__call__` and `__len__` included, can be called remotely."""

    @ray.remote
    class Actor:
        def _hidden(self):
            return "hidden"

        def __call__(self, x):
            return x * 2

        def __len__(self):
            return 5

    actor = Actor.remote()
    assert ray.get([actor._hidden.remote(), actor.__call__.remote(4), actor.__len__.remote()]) == ["hidden", 8, 5]


def test_actor_generic_and_dataclass_classes_work():
    """Classes with type parameters and generated constructors become actors."""
    from dataclasses import dataclass
    from typing import Generic, TypeVar

    T = TypeVar("T")

    @ray.remote
    class Holder(Generic[T]):
        def __init__(self, value: T):
            self.value = value

        def read(self) -> T:
            return self.value

    @ray.remote
    @dataclass
    class Point:
        x: int
        y: int = 2

        def total(self):
            return self.x + self.y

    assert ray.get([Holder.remote([1]).read.remote(), Point.remote(5).total.remote()]) == [[1], 7]


def test_actor_class_attribute_is_per_process():
    """A class attribute changed by one actor does not change for another."""

    @ray.remote
    class Actor:
        shared = 0

        def bump(self):
            type(self).shared += 1
            return type(self).shared

    a, b = Actor.remote(), Actor.remote()
    assert ray.get([a.bump.remote(), a.bump.remote(), b.bump.remote()]) == [1, 2, 1]


def test_actor_class_cannot_be_subclassed():
    """The remote form is not a base class: TypeError, at the definition."""

    @ray.remote
    class Base:
        pass

    with pytest.raises(TypeError):

        class Derived(Base):
            pass

        Derived.remote()


def test_actor_handle_shows_class_and_id():
    """`repr` of a handle names the class and its id."""

    @ray.remote
    class Visible:
        pass

    text = repr(Visible.remote())
    assert text.startswith("Actor(")
    assert "Visible, " in text
