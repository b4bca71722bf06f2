"""Plans which tensors of a request share one copy between the host and a GPU.

A copy costs some microseconds whatever its size, so small tensors are packed together. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpux.tensors.memory import ALIGNMENT_BYTES

# Larger tensors get a copy of their own: packing them would cost a second copy on the host.
_SMALL_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The layout of tensors in device memory.

    Attributes:
        parts: sizes in bytes of the blocks to copy; one copy each.
        slots: for each tensor, the index of its part and its offset there in bytes.
    """

    parts: tuple[int, ...]
    slots: tuple[tuple[int, int], ...]

    def tensors_in(self, part: int) -> list[int]:
        """Indices of the tensors in a part."""
        return [tensor for tensor, (index, _) in enumerate(self.slots) if index == part]


def plan_copies(sizes_bytes: Sequence[int]) -> CopyPlan:
    """Packs all small tensors into one part, and puts each larger one into a part of its own.

    Args:
        sizes_bytes: size of each tensor.

    Returns:
        The plan; every offset is a multiple of 64.
    """
    parts: list[int] = []
    slots: list[tuple[int, int]] = []
    shared: int | None = None  # index of the part of the small tensors
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
