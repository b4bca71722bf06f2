"""A model's declared inputs and outputs, and the rules that follow from them.

Pure: no I/O, no state. Defines the element types, the four kinds of input with the ranks that a
value may have, and which outputs drop their batch axis in an unbatched response. Requests are
checked by the core: a value against its declared shape by src/_fastpath/sink.hpp, and the shapes of
different inputs against each other by src/_fastpath/request.hpp.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

# Highest rank of a tensor, and of a value for an open input; the core has the same limit.
MAX_AXES = 32

Kind = Literal["batched", "single", "fixed", "open"]
# When an output loses a leading axis of size 1: `with_request` if the request is one item.
Unbatching = Literal["never", "with_request", "always"]


@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type of tensors.

    Attributes:
        code: ONNX's number (TensorProto.DataType), also used by the core.
        name: name in messages and in /info.
        onnx: ONNX Runtime's name of a tensor with this type.
        word: JSON's name of an element.
        nbytes: bytes per element; 0 for strings.
        numpy: NumPy's name; None if NumPy lacks the type.
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
    """The type in which NumPy stores the elements: uint16 for bfloat16."""
    return element if element.numpy else BY_NAME["uint16"]


# The size of a fixed axis; the name of a dynamic axis, or None if it has none.
Dim = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as the model declares it.

    Attributes:
        name: the input's or output's name.
        type: its element type.
        dims: its dimensions; empty for a scalar and for an undeclared shape, which ONNX Runtime
            does not distinguish.
        batched: whether the leading axis is the batch axis; None: inferred from its dimension.
    """

    name: str
    type: ElementType
    dims: tuple[Dim, ...]
    batched: bool | None = None

    @cached_property
    def kind(self) -> Kind:
        """How a value relates to the batch: see docs/numbers.md, "Kinds of input"."""
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
        """Lowest rank of a value."""
        if self.kind == "open" or self.flat_items:
            return 0
        return len(self.dims) - (1 if self.kind in ("batched", "single") else 0)

    @cached_property
    def max_axes(self) -> int:
        """Highest rank of a value."""
        return len(self.dims) if self.dims else MAX_AXES

    @cached_property
    def shape_text(self) -> str:
        """The declared shape in messages: `[batch, 3, None]`."""
        if self.kind == "open":
            return f"at most {MAX_AXES} axes"
        return f"[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class NonTensorSpec:
    """A declared output that is not a tensor: a sequence or a map.

    Attributes:
        name: the output's name.
        onnx: ONNX Runtime's name of the type, e.g. `seq(map(int64,tensor(float)))`.
    """

    name: str
    onnx: str


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in the model's order.

    Attributes:
        inputs: those that every run needs.
        outputs: those that are served.
        optional: inputs that a run may do without: initializers that a caller may override. They
            decide neither the kind nor the structure of a request.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec | NonTensorSpec, ...]
    optional: tuple[TensorSpec, ...] = ()

    @cached_property
    def batch_axes(self) -> frozenset[Dim]:
        """Leading dimensions of the batched inputs; None stands for an unnamed axis.

        A size stands for a fixed axis that the config declares to be the batch axis.
        """
        return frozenset(spec.dims[0] for spec in self.inputs if spec.kind == "batched")

    @cached_property
    def is_numeric(self) -> bool:
        """Whether all inputs and outputs are tensors of numbers or booleans, for IOBinding."""
        return all(
            isinstance(spec, TensorSpec) and spec.type.nbytes > 0
            for spec in (*self.inputs, *self.optional, *self.outputs)
        )

    @cached_property
    def has_lengths(self) -> bool:
        """Whether items may differ in shape: an input has a dynamic axis after its first."""
        return any(not isinstance(dim, int) for spec in self.inputs for dim in spec.dims[1:])

    @cached_property
    def is_single(self) -> bool:
        """Whether the model takes one item at a time: it has single inputs and no batched ones."""
        kinds = {spec.kind for spec in self.inputs}
        return "single" in kinds and "batched" not in kinds

    def sizes(self, given: Mapping[str, tuple[int, ...]]) -> dict[str | None, int]:
        """Sizes of the dynamic axes that a request determines, by name.

        Args:
            given: the shapes of its inputs, by name.

        None stands for the unnamed leading axes of batched inputs.
        """
        sizes: dict[str | None, int] = {}
        for spec in self.inputs:
            shape = given.get(spec.name)
            if shape is None:
                continue
            if spec.kind == "batched" and spec.dims[0] is None:
                sizes.setdefault(None, shape[0])
            for dim, size in zip(spec.dims, shape, strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        return sizes

    def output_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...] | None]:
        """Predicts the output shapes from the input shapes.

        Args:
            shapes: shapes of a run's inputs, by name, with all axes.

        Returns:
            For each output, its shape if each axis is fixed or named like an axis of an input; None
            where only the run can tell. The model's nodes need not keep what the names promise.
        """
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            for dim, size in zip(spec.dims, shapes.get(spec.name, ()), strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        predicted: list[tuple[int, ...] | None] = []
        for output in self.outputs:
            # Without a declared shape it may be a scalar, or anything.
            dims = output.dims if isinstance(output, TensorSpec) else ()
            found = [dim if isinstance(dim, int) else sizes.get(dim or "") for dim in dims]
            known = bool(found) and None not in found
            predicted.append(tuple(size for size in found if size is not None) if known else None)
        return predicted

    def unbatching(self, output: TensorSpec | NonTensorSpec) -> Unbatching:
        """When an output loses its leading axis in the response, if it has size 1 there."""
        if isinstance(output, NonTensorSpec) or not output.dims:
            return "never"
        if self.is_single:
            is_single = output.dims[0] == 1 if output.batched is None else output.batched
            return "always" if is_single else "never"
        is_batched = output.batched
        if is_batched is None:
            is_batched = output.dims[0] in self.batch_axes
        return "with_request" if is_batched else "never"


def names(specs: Iterable[TensorSpec | NonTensorSpec]) -> list[str]:
    """The names of inputs or outputs."""
    return [spec.name for spec in specs]
