"""DLPack consumer and producer, without copies: src/_fastpath/dlpack.pyx."""

from collections.abc import Sequence
from typing import Any, final

__all__ = ["View", "capsule", "device_of", "take"]

@final
class View:
    """Memory borrowed from a producer. Immutable; created by take() only."""

    @property
    def address(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def type_code(self) -> int: ...
    @property
    def itemsize(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]: ...
    @property
    def is_dense(self) -> bool: ...
    @property
    def read_only(self) -> bool: ...

def take(value: Any, stream: int | None = None, device: tuple[int, int] | None = None) -> View:
    """Borrows the memory of another library's tensor."""

def device_of(value: object) -> tuple[int, int] | None:
    """The device of a tensor, as its `__dlpack_device__` reports it."""

def capsule(
    owner: object,
    address: int,
    type_code: int,
    shape: Sequence[int],
    device: tuple[int, int],
    versioned: bool,
) -> object:
    """Exports memory: the return value of a `__dlpack__`."""
