"""What both checkers must refuse: each line marked `# error`, and no other. Checked by test_typing.py, never run."""

import ray
from ray.actor import ActorProxy


@ray.remote
def area(width: int, height: int = 1, *, unit: str = "m") -> float:
    return float(width * height) if unit else 0.0


class Counter:
    @ray.method
    def add(self, by: int) -> int:
        return by


def calls() -> None:
    area.remote()  # error
    area.remote("2")  # error
    area.remote(2, 3, "km")  # error
    area.remote(2, depth=3)  # error
    area.remote(2, unit=5)  # error
    area(2)  # error


def options() -> None:
    area.options(num_cpu=1)  # error
    area.options(num_cpus="two")  # error
    area.options(max_calls=1)  # error
    ray.remote(num_cpu=1)  # error


def values() -> None:
    ref = area.remote(2)
    forgotten: float = ref  # error
    ray.get(5)  # error
    ray.get([1, 2])  # error
    ray.get(ref, 1.0)  # error
    ray.wait(ref)  # error
    ray.cancel("ref")  # error
    ray.cancel(ref, True)  # error
    ref.missing  # error  # noqa: B018
    text: str = ray.get(ref)  # error
    print(forgotten, text)


def actors(counter: ActorProxy[Counter]) -> None:
    counter.add.remote("1")  # error
    counter.add.remote(1, by=1)  # error
    ray.kill("counter")  # error
