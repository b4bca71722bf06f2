"""Which tensors of a request share one copy between the host and a GPU.

A copy costs some microseconds whatever its size: what is small travels together. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpux.tensors.memory import ALIGNMENT_BYTES

# Larger tensors travel alone: they would have to be copied once more to lie beside others.
_SMALL_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How tensors lie in device memory.

    Attributes:
        parts: the sizes of the blocks that are copied, in bytes; one copy each.
        slots: of each tensor: the part that it lies in, and its offset there, in bytes.
    """

    parts: tuple[int, ...]
    slots: tuple[tuple[int, int], ...]

    def tensors_in(self, part: int) -> list[int]:
        """The tensors that lie in a part."""
        return [tensor for tensor, (other, _) in enumerate(self.slots) if other == part]


def plan_copies(sizes_bytes: Sequence[int]) -> CopyPlan:
    """Lays small tensors beside each other in one part, and each other one in a part of its own.

    Args:
        sizes_bytes: of the tensors.

    Returns:
        The packing; every offset is a multiple of 64.
    """
    parts: list[int] = []
    slots: list[tuple[int, int]] = []
    shared: int | None = None  # the part of the small ones
    for size in sizes_bytes:
        if size > _SMALL_BYTES:
            parts.append(size)
            slots.append((len(parts) - 1, 0))
            continue
        if shared is None:
            shared = len(parts)
            parts.append(0)
        offset = -(-parts[shared] // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        parts[shared] = offset + size
        slots.append((shared, offset))
    return CopyPlan(tuple(parts), tuple(slots))
