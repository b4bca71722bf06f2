"""The fast path, in Cython over a C++ core: src/_fastpath/."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from typing_extensions import Buffer

from gpux.tensors.signature import TensorSpec

__all__ = ["Body", "InputSpec", "InputTable", "activate", "decode", "encode", "fit", "walk"]

class Body(Buffer):
    """Memory for the body of a request: filled as it comes, then bytes."""

    def __init__(self, nbytes: int) -> None: ...
    def take(self) -> bytes:
        """The body as bytes, without a copy."""

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
    """What the fast path needs to know of one model input. Immutable; shared by all threads."""

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
    """Checks one value against a model input and writes it down as that input's tensor."""

def fit(spec: InputSpec, shape: Sequence[int]) -> tuple[tuple[int, ...], bool, bool]:
    """What walk() says of the shape of an array whose elements all fit."""

def decode(
    body: bytes, table: InputTable, pool: _Pool[_B]
) -> list[tuple[str, _B | list[str], tuple[int, ...], bool, bool]]:
    """Reads the body of a request."""

def activate(name: str, type_code: int, shape: tuple[int, ...], source: int, target: int) -> None:
    """Applies an activation over the last axis of a tensor."""

def encode(
    members: list[tuple[bytes, bytes] | tuple[bytes, int, tuple[int, ...], int]],
) -> bytes:
    """Writes an answer as one JSON object."""
