"""Values larger than the owner's heap, and a store that holds eight of them: what the tests of spilling fill it with."""

from typing import Any

MIB = 1024 * 1024
STORE_BYTES = 80 * MIB
PART_BYTES = 10 * MIB


def part(i: int) -> Any:
    import numpy as np

    return np.full(PART_BYTES, i, np.uint8)


def is_part(array: Any, i: int) -> bool:
    """Every byte of it, from the first to the last."""
    return bool(array.nbytes == PART_BYTES and array.min() == array.max() == i)
