"""The fast path, in Cython over a C++ core: src/_fastpath/fastpath.pyx."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from typing_extensions import Buffer

from gpux.tensors.signature import TensorSpec

__all__ = ["Body", "InputSpec", "InputTable", "activate", "decode", "encode", "fit", "walk"]

class Body(Buffer):
    """Memory for a request body: a writable buffer while it is received, then bytes."""

    def __init__(self, nbytes: int) -> None: ...
    def take(self) -> bytes:
        """Returns the body as bytes, without a copy."""

class _Block(Protocol):
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

_B = TypeVar("_B", bound=_Block)

class _Pool(Protocol[_B]):
    def take(self, nbytes: int, /) -> _B: ...
    def give(self, block: _B, /) -> None: ...

class InputSpec:
    """One model input, as the fast path needs it. Immutable; shared by all threads."""

    @property
    def name(self) -> str: ...
    def __init__(self, declared: TensorSpec, max_characters: int | None = None) -> None: ...

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

def decode(
    body: bytes, table: InputTable, pool: _Pool[_B]
) -> list[tuple[str, _B | list[str], tuple[int, ...], bool, bool]]:
    """Reads a request body."""

def activate(name: str, type_code: int, shape: tuple[int, ...], source: int, target: int) -> None:
    """Applies an activation over the last axis of a tensor."""

def encode(
    members: list[tuple[bytes, bytes] | tuple[bytes, int, tuple[int, ...], int]],
) -> bytes:
    """Writes a response as one JSON object."""
