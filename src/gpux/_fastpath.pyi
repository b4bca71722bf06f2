"""Python values to tensors, and their memory: src/_fastpath/fastpath.pyx."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from typing_extensions import Buffer

from gpux.tensors.signature import TensorSpec

__all__ = ["Block", "Body", "Chunks", "InputSpec", "InputTable", "Pool", "activate", "fit", "walk"]

ACTIVATIONS: Mapping[str, int]
CHUNK_FAULTS: Mapping[int, str]

class Block:
    """A block of memory. Whoever refers to it owns it."""

    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def __init__(
        self, memory: object, address: int, nbytes: int, device: tuple[int, int] = ...
    ) -> None: ...

class Pool:
    """A pool of reusable blocks. Thread-safe."""

    def __init__(
        self, make: Callable[[int], Block] | None = None, max_idle_bytes: int = ...
    ) -> None: ...
    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes` bytes, with undefined contents."""

    def free_idle(self) -> None:
        """Frees all idle blocks."""

    @property
    def used_bytes(self) -> int: ...
    @property
    def idle_bytes(self) -> int: ...
    @property
    def allocations(self) -> int: ...

class Body(Buffer):
    """A request body in a block of a pool: a writable buffer, for whoever receives it."""

    def __init__(self, pool: Pool, nbytes: int) -> None: ...
    def __len__(self) -> int: ...

class Chunks:
    """A chunked body: framing in, one contiguous body out. Not thread-safe."""

    def __init__(
        self,
        max_body_bytes: int,
        max_line_bytes: int,
        max_framing_bytes: int,
        max_trailer_bytes: int,
        max_trailer_fields: int,
    ) -> None: ...
    def decode(self, data: Buffer) -> int:
        """Takes the next bytes; returns how many of them belong to this message."""

    def take(self) -> bytes:
        """Returns the body as bytes, without a copy."""

    @property
    def is_complete(self) -> bool: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def nbytes(self) -> int: ...

class _Block(Protocol):
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

_B = TypeVar("_B", bound=_Block, covariant=True)

class _Pool(Protocol[_B]):
    def take(self, nbytes: int, /) -> _B: ...

class InputSpec:
    """One model input, as the fast path needs it. Immutable; shared by all threads."""

    @property
    def name(self) -> str: ...
    def __init__(
        self,
        declared: TensorSpec,
        max_characters: int | None = None,
        null_is_nan: bool = False,
    ) -> None: ...

class InputTable:
    """The inputs that a body may have. Immutable; shared by all threads."""

    @property
    def specs(self) -> tuple[InputSpec, ...]: ...
    def __init__(self, specs: Sequence[InputSpec], groups: Sequence[int]) -> None: ...

def walk(
    spec: InputSpec, value: object, pool: _Pool[_B]
) -> tuple[_B | list[str], tuple[int, ...], bool, bool]:
    """Validates one value against a model input and converts it to that input's tensor."""

def fit(spec: InputSpec, shape: Sequence[int]) -> tuple[tuple[int, ...], bool, bool]:
    """Checks only the shape of an array, as walk() does."""

def activate(name: str, type_code: int, shape: tuple[int, ...], source: int, target: int) -> None:
    """Applies an activation over the last axis of a tensor."""
