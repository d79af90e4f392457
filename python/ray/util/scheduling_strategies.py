"""Where tasks and actors may go: values of the option `scheduling_strategy`.

Example:
    >>> from ray.util.scheduling_strategies import In, NodeLabelSchedulingStrategy
    >>> f.options(scheduling_strategy=NodeLabelSchedulingStrategy({"zone": In("a")})).remote()
"""

from __future__ import annotations

from typing import TypeAlias

from ray._core.calls.strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
    "SchedulingStrategyT",
]

SchedulingStrategyT: TypeAlias = str | PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy | NodeLabelSchedulingStrategy | None
"""What the option takes. The strings are "DEFAULT" and "SPREAD"."""
