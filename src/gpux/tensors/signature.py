"""What a model declares of its inputs and outputs, and the rules that follow from it.

Pure: no I/O, no state. Here are the table of element types, the four kinds of input with the axes
that a value may have, which sizes must agree between inputs, and which outputs lose their batch
axis in an unbatched answer. The checks of a single value against its declared shape are the
core's (src/_fastpath/sink.hpp).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from gpux.errors import DisagreementError

# Axes that a tensor may have, and a value for an open input; the core holds as many.
MAX_AXES = 32

Kind = Literal["batched", "single", "fixed", "open"]


@dataclass(frozen=True, slots=True)
class ElementType:
    """A type of tensor elements.

    Attributes:
        code: ONNX's number for it (TensorProto.DataType), which the core uses too.
        name: the name in messages and in /info.
        onnx: ONNX Runtime's name for a tensor of it.
        word: what JSON calls such an element.
        nbytes: size of one element; 0 for strings.
        numpy: NumPy's name for it; None where NumPy has none.
    """

    code: int
    name: str
    onnx: str
    word: Literal["number", "string", "boolean"]
    nbytes: int
    numpy: str | None


ELEMENT_TYPES = (
    ElementType(1, "float32", "tensor(float)", "number", 4, "float32"),
    ElementType(11, "float64", "tensor(double)", "number", 8, "float64"),
    ElementType(10, "float16", "tensor(float16)", "number", 2, "float16"),
    ElementType(16, "bfloat16", "tensor(bfloat16)", "number", 2, None),
    ElementType(3, "int8", "tensor(int8)", "number", 1, "int8"),
    ElementType(5, "int16", "tensor(int16)", "number", 2, "int16"),
    ElementType(6, "int32", "tensor(int32)", "number", 4, "int32"),
    ElementType(7, "int64", "tensor(int64)", "number", 8, "int64"),
    ElementType(2, "uint8", "tensor(uint8)", "number", 1, "uint8"),
    ElementType(4, "uint16", "tensor(uint16)", "number", 2, "uint16"),
    ElementType(12, "uint32", "tensor(uint32)", "number", 4, "uint32"),
    ElementType(13, "uint64", "tensor(uint64)", "number", 8, "uint64"),
    ElementType(9, "bool", "tensor(bool)", "boolean", 1, "bool"),
    ElementType(8, "string", "tensor(string)", "string", 0, None),
)
BY_NAME = {element.name: element for element in ELEMENT_TYPES}
BY_ONNX = {element.onnx: element for element in ELEMENT_TYPES}
BY_CODE = {element.code: element for element in ELEMENT_TYPES}


def stored_as(element: ElementType) -> ElementType:
    """A type of the same size that NumPy has."""
    return element if element.numpy else BY_NAME["uint16"]


# A size where the model fixes it, a name or None where it does not.
Dim = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the model declares it.

    Attributes:
        name: the input's or output's name.
        type: the type of its elements.
        dims: its axes; an empty tuple for a scalar and for an undeclared shape, which ONNX Runtime
            does not tell apart.
        batched: whether the leading axis is that of the batch; None where its size tells.
    """

    name: str
    type: ElementType
    dims: tuple[Dim, ...]
    batched: bool | None = None

    @cached_property
    def kind(self) -> Kind:
        """How a value relates to the batch: see contract.md, "From a value to a tensor"."""
        if not self.dims:
            return "open"
        if self.batched is not None:
            return "batched" if self.batched else "fixed"
        if not isinstance(self.dims[0], int):
            return "batched"
        return "single" if self.dims[0] == 1 else "fixed"

    @cached_property
    def flat_items(self) -> bool:
        """Whether a flat list is a list of items: only for [batch, 1]."""
        return self.kind == "batched" and self.dims[1:] == (1,)

    @cached_property
    def min_axes(self) -> int:
        """The fewest axes that a value may have."""
        if self.kind == "open" or self.flat_items:
            return 0
        return len(self.dims) - (1 if self.kind in ("batched", "single") else 0)

    @cached_property
    def max_axes(self) -> int:
        """The most axes that a value may have."""
        return len(self.dims) if self.dims else MAX_AXES

    @cached_property
    def shape_text(self) -> str:
        """The declared shape for messages: `[batch, 3, None]`."""
        if self.kind == "open":
            return f"at most {MAX_AXES} axes"
        return f"[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class OtherSpec:
    """An output that is no tensor: a sequence or a map.

    Attributes:
        name: the output's name.
        onnx: ONNX Runtime's name of the type, such as `seq(map(int64,tensor(float)))`.
    """

    name: str
    onnx: str


class InputForm(NamedTuple):
    """How a value was given for an input.

    Attributes:
        shape: of the tensor, all axes included.
        as_items: the value lacked declared axes, which were added.
        as_one_item: it was a single item, to which the batch axis was added.
        sent_as: the name that the client gave it, if not the input's: ids may be made from a text.
    """

    shape: tuple[int, ...]
    as_items: bool
    as_one_item: bool
    sent_as: str | None = None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in its order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec | OtherSpec, ...]

    @cached_property
    def batch_axes(self) -> frozenset[Dim]:
        """The batched inputs' leading axes, by name; None stands for an unnamed one.

        A size stands for an axis that is fixed, and declared to be the batch's all the same.
        """
        return frozenset(spec.dims[0] for spec in self.inputs if spec.kind == "batched")

    @cached_property
    def is_numeric(self) -> bool:
        """All inputs and outputs are tensors of numbers or booleans, as IOBinding needs them."""
        return all(
            isinstance(spec, TensorSpec) and spec.type.nbytes > 0
            for spec in (*self.inputs, *self.outputs)
        )

    @cached_property
    def has_lengths(self) -> bool:
        """Whether items may have different shapes: an input has a dynamic axis behind its first."""
        return any(not isinstance(dim, int) for spec in self.inputs for dim in spec.dims[1:])

    @cached_property
    def is_single(self) -> bool:
        """A model of one item at a time: it has single inputs and no batched one."""
        kinds = {spec.kind for spec in self.inputs}
        return "single" in kinds and "batched" not in kinds

    @cached_property
    def _dynamic_axes(self) -> tuple[tuple[TensorSpec, tuple[tuple[int, str], ...]], ...]:
        """For each input the named axes that other inputs have as well."""
        named = [
            (spec, tuple((axis, dim) for axis, dim in enumerate(spec.dims) if isinstance(dim, str)))
            for spec in self.inputs
        ]
        return tuple((spec, axes) for spec, axes in named if axes) if len(named) > 1 else ()

    def check_agreement(self, given: Mapping[str, InputForm]) -> None:
        """Checks that the sizes of different inputs fit each other.

        Dimensions with the same name must have the same size across inputs. Unnamed leading axes of
        batched inputs are compared only if one of these inputs was given as items: given with all
        their axes, they may mean different things (a recurrent model's state leads with its
        layers), and the model judges.

        Args:
            given: the inputs of a request, by name.

        Raises:
            DisagreementError: two inputs differ.
        """
        sizes: dict[str, list[tuple[str, int]]] = {}
        for spec, axes in self._dynamic_axes:
            value = given.get(spec.name)
            if value is None:
                continue
            for axis, dim in axes:
                _compare(sizes, dim, value.sent_as or spec.name, value.shape[axis])
        unnamed = [
            (given[spec.name].sent_as or spec.name, given[spec.name])
            for spec in self.inputs
            if spec.kind == "batched" and spec.dims[0] is None and spec.name in given
        ]
        if len(unnamed) > 1 and any(value.as_items for _, value in unnamed):
            rows: dict[str, list[tuple[str, int]]] = {}
            for name, value in unnamed:
                _compare(rows, "batch", name, value.shape[0])

    def sizes(self, given: Mapping[str, InputForm]) -> dict[str | None, int]:
        """The sizes of the axes that a request settles, by name.

        None stands for the unnamed leading axes of batched inputs.
        """
        sizes: dict[str | None, int] = {}
        for spec in self.inputs:
            value = given.get(spec.name)
            if value is None:
                continue
            if spec.kind == "batched" and spec.dims[0] is None:
                sizes.setdefault(None, value.shape[0])
            for dim, size in zip(spec.dims, value.shape, strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        return sizes

    def output_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...] | None]:
        """The shapes of the outputs, where they follow from those of the inputs.

        Args:
            shapes: of a run's inputs, by name, all axes included.

        Returns:
            For each output its shape if each axis is fixed, or named as an axis of an input is;
            None where only the run can tell. A model's nodes need not keep what names promise.
        """
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            for dim, size in zip(spec.dims, shapes.get(spec.name, ()), strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        foreseen: list[tuple[int, ...] | None] = []
        for output in self.outputs:
            # Without declared axes it may be a scalar, or anything.
            dims = output.dims if isinstance(output, TensorSpec) else ()
            found = [dim if isinstance(dim, int) else sizes.get(dim or "") for dim in dims]
            is_known = bool(found) and None not in found
            foreseen.append(tuple(size for size in found if size is not None) if is_known else None)
        return foreseen

    def is_unbatched(self, given: Mapping[str, InputForm]) -> bool:
        """Whether a request is one item: each batched input in it came as one, one at least."""
        batched = [
            given[spec.name].as_one_item
            for spec in self.inputs
            if spec.kind == "batched" and spec.name in given
        ]
        return bool(batched) and all(batched)

    def loses_leading_axis(
        self, output: TensorSpec, shape: Sequence[int], *, unbatched: bool
    ) -> bool:
        """Whether an output is answered without its leading axis.

        Args:
            output: as the model declares it.
            shape: its sizes in this run.
            unbatched: whether the request was one item.
        """
        if not output.dims or not shape or shape[0] != 1:
            return False
        leading = output.dims[0]
        if self.is_single:
            return leading == 1 if output.batched is None else output.batched
        if output.batched is not None:
            return unbatched and output.batched
        return unbatched and leading in self.batch_axes


def _compare(seen: dict[str, list[tuple[str, int]]], axis: str, name: str, size: int) -> None:
    """Checks one more size of an axis against those that other inputs gave it."""
    sizes = seen.setdefault(axis, [])
    for other in sizes:
        if other[0] != name and other[1] != size:
            raise DisagreementError(axis, other, (name, size))
    sizes.append((name, size))


def names(specs: Iterable[TensorSpec | OtherSpec]) -> list[str]:
    """The names of inputs or outputs."""
    return [spec.name for spec in specs]
