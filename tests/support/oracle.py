"""The slow, obvious reference implementation of the fast path and the batch rules.

Written from the contract of the HTTP interface, not from the C++: a recursive function reads values
in order, numbers are rounded as fractions, shortest texts are found by trial. Of gpux, only the
declarations (TensorSpec, InputForm) and errors are used. Four parts:

- `convert`: a value and a declared input → the input's tensor, or the error;
- `encode_number`, `encode_tensor`: elements → JSON text;
- `find_disagreement`: which inputs of a request disagree on a size;
- `is_unbatched`, `loses_leading_axis`: which outputs are returned without their batch axis.

Where the contract is silent, these rules apply:

- An element fixes the rank when it starts, an empty list when it ends. Before that, no size and no
  kind of sibling is expected, only the lowest and the highest rank that the input allows. After an
  empty list, the model's fixed sizes are expected only at the value's end, where it is aligned.
- What starts past a fixed size is a fault of the shape: the whole shape is told, or `got more` if
  the value is irregular, has an object that is no {"b64": …}, or is no JSON to its end. Otherwise
  its kind is checked (list or element, number or string), and only then its value.
- Of a {"b64": …}, the first key tells whether it is one. Its members are read before it is judged:
  first whether it may stand there, then its shape, its length, its text and its elements.
- A NumPy array equals the nested list, but has its shape even without elements.
- In a text, the first error is reported and the rest is not read. A value in the wrong position or
  of the wrong kind is an error at its first byte; a number out of range and a string that is too
  long, at the last byte. A syntax error is at the first impossible byte; for an invalid literal,
  escape or multi-byte character, at its own first byte.
"""

import base64
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy

from gpux.errors import (
    ClashingInputsError,
    DuplicateInputError,
    EmptyBatchError,
    InvalidBodyError,
    InvalidJSONError,
    InvalidShapeError,
    InvalidTypeError,
    InvalidValueError,
    UnknownInputError,
)
from gpux.tensors.signature import Dim, TensorSpec

# The element types.


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary floating-point format in the style of IEEE 754.

    Attributes:
        width: of an element, in bits.
        precision: significant bits, including the implicit one.
        min_exponent: the smallest positive number is 2**min_exponent.
    """

    width: int
    precision: int
    min_exponent: int

    @property
    def infinity(self) -> int:
        """The bits of positive infinity: all exponent bits are set."""
        return ((1 << (self.width - self.precision)) - 1) << (self.precision - 1)

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.width - 1)


FLOATS = {
    "float64": FloatFormat(64, 53, -1074),
    "float32": FloatFormat(32, 24, -149),
    "float16": FloatFormat(16, 11, -24),
    "bfloat16": FloatFormat(16, 8, -133),
}
INTEGERS = {
    f"{prefix}int{bits}": (low, high)
    for bits in (8, 16, 32, 64)
    for prefix, low, high in (("", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), ("u", 0, 2**bits - 1))
}


def round_to_bits(magnitude: Fraction, float_format: FloatFormat) -> int:
    """The bits of a non-negative number, rounded once, to nearest, ties to even.

    The bits of infinity if the number rounds past the largest finite one.
    """
    if magnitude == 0:
        return 0
    exponent = _floor_log2(magnitude)
    unit = max(exponent - float_format.precision + 1, float_format.min_exponent)
    # round() of a Fraction rounds ties to even.
    significand = round(magnitude / _power(2, unit))
    # The implicit bit of a normal number adds one to the exponent, and so does a carry.
    steps = unit - float_format.min_exponent
    bits = (steps << (float_format.precision - 1)) + significand
    return min(bits, float_format.infinity)


def exact_value(bits: int, float_format: FloatFormat) -> Fraction:
    """The magnitude of a finite number, from its bits."""
    bits &= ~float_format.sign
    assert bits < float_format.infinity
    steps, significand = divmod(bits, 1 << (float_format.precision - 1))
    if steps > 0:
        significand += 1 << (float_format.precision - 1)
        steps -= 1
    return significand * _power(2, float_format.min_exponent + steps)


def _power(radix: int, exponent: int) -> Fraction:
    return Fraction(radix) ** exponent


def _floor_log2(value: Fraction) -> int:
    estimate = value.numerator.bit_length() - value.denominator.bit_length()
    return estimate if _power(2, estimate) <= value else estimate - 1


def _floor_log10(value: Fraction) -> int:
    estimate = len(str(value.numerator)) - len(str(value.denominator))
    return estimate if _power(10, estimate) <= value else estimate - 1


# From a value to a tensor.


class InputForm(NamedTuple):
    """The form in which a request gives an input."""

    shape: tuple[int, ...]
    as_items: bool
    as_one_item: bool


class Converted(NamedTuple):
    """A value as a tensor.

    Attributes:
        shape: with all axes.
        elements: in C order, as little-endian bytes or as strings.
        as_items: the value lacked declared axes.
        as_one_item: the value was one item, without the batch axis.
    """

    shape: tuple[int, ...]
    elements: list[bytes] | list[str]
    as_items: bool
    as_one_item: bool


def convert(value: object, declared: TensorSpec, *, null_is_nan: bool = False) -> Converted:
    """Converts a value to the tensor of a declared input.

    Args:
        value: from Python.
        declared: the input.
        null_is_nan: whether None stands for NaN.

    Raises:
        InvalidTypeError, InvalidValueError, InvalidShapeError, EmptyBatchError: the first error in
            reading order.
    """
    reader = _Reader(declared, null_is_nan)
    try:
        reader.read(value, ())
    except _OutgrownError:
        raise reader.outgrown(_measure(value)) from None
    return reader.finish()


class _OutgrownError(Exception):
    """A list is longer than the model's fixed size."""


def _measure(value: Any) -> tuple[int, ...] | None:
    """The shape of a value; None if it is irregular."""
    if isinstance(value, numpy.ndarray):
        return _measure(value.tolist()) if value.dtype.kind == "O" and value.size else value.shape
    if isinstance(value, dict):
        return None
    if not isinstance(value, list | tuple):
        return ()
    shapes = {_measure(item) for item in value} or {()}
    (shape,) = shapes if len(shapes) == 1 else {None}
    return None if shape is None else (len(value), *shape)


def batch_kind(declared: TensorSpec) -> str:
    """The kind of an input: open, batched, fixed or single."""
    if len(declared.dims) == 0:
        return "open"
    if declared.batched is True:
        return "batched"
    if declared.batched is False:
        return "fixed"
    if not isinstance(declared.dims[0], int):
        return "batched"
    return "single" if declared.dims[0] == 1 else "fixed"


def allowed_ranks(declared: TensorSpec) -> list[int]:
    """The ranks that a value may have."""
    rank = len(declared.dims)
    if batch_kind(declared) == "open":
        return list(range(33))
    if batch_kind(declared) == "fixed":
        return [rank]
    if _allows_flat_items(declared):
        return [0, 1, 2]
    return [rank - 1, rank]


def _allows_flat_items(declared: TensorSpec) -> bool:
    return batch_kind(declared) == "batched" and declared.dims[1:] == (1,)


class _Reader:
    def __init__(self, declared: TensorSpec, null_is_nan: bool) -> None:
        self.null_is_nan = null_is_nan
        self.name = declared.name
        self.dims = declared.dims
        self.kind = batch_kind(declared)
        self.allows_flat_items = _allows_flat_items(declared)
        self.type = declared.type.name
        self.word = {"string": "string", "bool": "boolean"}.get(self.type, "number")
        self.ranks = allowed_ranks(declared)
        self.rank: int | None = None
        self.ends_empty = False  # an empty list fixed the rank
        self.sizes: dict[int, int] = {}  # by axis, from the first list that ended on it
        self.numbers: list[bytes] = []
        self.strings: list[str] = []

    def read(self, value: Any, path: tuple[int, ...]) -> None:
        if isinstance(value, list | tuple):
            self.read_list(value, path)
        elif isinstance(value, str | float | bool | bytes):  # NumPy's str_ and float64 as well
            self.read_element(value, path)
        elif isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind not in "mM":
            self.read_array(value, path)
        else:
            self.read_element(value, path)

    def read_list(self, items: Sequence[object], path: tuple[int, ...]) -> None:
        self.check_room(path)
        self.check_list(path)
        for index, item in enumerate(items):
            self.read(item, (*path, index))
        self.end_list(len(items), path)

    def read_array(
        self, array: numpy.ndarray[Any, Any] | numpy.generic, path: tuple[int, ...]
    ) -> None:
        if self.rank is None and array.size == 0:
            if len(path) + array.ndim > max(self.ranks):
                raise self.too_deep()
            self.rank = len(path) + array.ndim
            for axis, size in enumerate(array.shape):
                self.sizes[len(path) + axis] = size
        if array.ndim == 0:
            if array.dtype.kind == "O":
                self.read(array.item(), path)
            else:
                self.read_element(array.item(), path)
            return
        assert isinstance(array, numpy.ndarray)
        self.check_room(path)
        self.check_list(path)
        for index in range(len(array)):
            self.read(array[index, ...], (*path, index))  # stays an array even without axes
        self.end_list(len(array), path)

    def read_element(self, value: Any, path: tuple[int, ...]) -> None:
        self.check_element(_word(value), path)
        if self.word == "string":
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise InvalidValueError(self.name, path, "the string has a lone surrogate")
            self.strings.append(str.__str__(value))
        elif value is None:
            self.numbers.append(self.stored(math.nan, path))
        else:
            self.numbers.append(self.stored(value, path))

    def check_element(self, got: str, path: tuple[int, ...]) -> None:
        """Raises unless an element of the JSON kind `got` is allowed here."""
        if path == () and min(self.ranks) > 0:
            raise self.wrong_type("array", got)
        fits = got == self.word or (self.word == "boolean" and got == "number")
        fits = fits or (got == "null" and self.null_is_nan)
        if fits and self.rank is None:
            self.rank = len(path)
        self.check_room(path)
        if not fits or len(path) != self.rank:
            raise self.mismatch(got, path)

    def check_room(self, path: tuple[int, ...]) -> None:
        """Raises if this position is past the list's fixed size."""
        if path == () or self.rank not in self.ranks or self.kind == "open" or self.ends_empty:
            return
        size = self.dims[self.declared_axis(len(path) - 1)]
        if isinstance(size, int) and path[-1] >= size:
            raise _OutgrownError

    def check_list(self, path: tuple[int, ...]) -> None:
        """Raises unless a list may start here."""
        if len(path) == self.rank:
            raise self.mismatch("array", path)
        if len(path) == max(self.ranks):
            raise self.too_deep()

    def end_list(self, size: int, path: tuple[int, ...]) -> None:
        """Raises unless a list is as long as the earlier ones on its axis."""
        axis = len(path)
        if self.rank is None:
            self.rank = axis + 1
            self.ends_empty = True
        expected = self.sizes.setdefault(axis, size)
        if size != expected:
            noun = "value" if expected == 1 else "values"
            problem = f"expected {expected} {noun}, got {size}"
            raise InvalidShapeError(self.name, path, problem)

    def declared_axis(self, axis: int) -> int:
        """The declared axis for an axis of the value; the rank must be known and allowed."""
        assert self.rank is not None
        if self.allows_flat_items and self.rank == 1:
            return axis
        return axis + len(self.dims) - self.rank

    def stored(self, value: Any, path: tuple[int, ...]) -> bytes:
        """The bytes of a number or a boolean in the input's type."""
        if isinstance(value, bool):
            return bytes([value])
        if isinstance(value, WrittenNumber):
            text, exact, negative = value.quoted, value.exact, value.negative
        elif isinstance(value, float):
            text = float.__repr__(value)
            if not math.isfinite(value) and self.type in FLOATS:
                target = FLOATS[self.type]
                quiet = 1 << (target.precision - 2) if math.isnan(value) else 0
                sign = target.sign if math.copysign(1, value) < 0 else 0
                return (target.infinity | quiet | sign).to_bytes(target.width // 8, "little")
            if not math.isfinite(value):
                raise InvalidValueError(self.name, path, f"{text} is not a finite number")
            exact, negative = Fraction(value), math.copysign(1, value) < 0
        else:
            bits = int.bit_length(value)
            text = int.__repr__(value) if bits <= 256 else f"an integer of {bits} bits"
            exact, negative = Fraction(value), value < 0
        too_large = InvalidValueError(self.name, path, f"{text} is out of range for {self.type}")
        if self.type == "bool":
            if exact not in (0, 1):
                raise too_large
            return bytes([int(exact)])
        if self.type in INTEGERS:
            low, high = INTEGERS[self.type]
            if exact.denominator != 1:
                raise InvalidValueError(self.name, path, f"{text} is not an integer")
            if not low <= exact <= high:
                raise too_large
            width = high.bit_length() + (1 if low < 0 else 0)
            return int(exact).to_bytes(width // 8, "little", signed=low < 0)
        bits = round_to_bits(abs(exact), FLOATS["float64"])
        if bits == FLOATS["float64"].infinity:
            raise too_large
        target = FLOATS[self.type]
        rounded = round_to_bits(exact_value(bits, FLOATS["float64"]), target)
        if rounded == target.infinity:
            raise too_large
        if negative:
            rounded |= target.sign
        return rounded.to_bytes(target.width // 8, "little")

    def finish(self) -> Converted:
        """Checks the shape at the end of the value."""
        elements = self.strings if self.word == "string" else self.numbers
        assert self.rank is not None
        sent = tuple(self.sizes[axis] for axis in range(self.rank))
        if self.kind == "open":
            return Converted(sent, elements, False, False)
        if self.ends_empty:
            sent = self.align(sent)
            self.rank = len(sent)
        if self.rank not in self.ranks:
            raise self.wrong_sizes(sent)
        list_of_items = self.allows_flat_items and self.rank == 1
        added = len(self.dims) - self.rank
        shape = (*sent, 1) if list_of_items else (1,) * added + sent
        for size, dim in zip(shape, self.dims, strict=True):
            if isinstance(dim, int) and size != dim:
                raise self.wrong_sizes(sent)
        if self.kind == "batched" and shape[0] == 0:
            raise EmptyBatchError(self.name)
        return Converted(shape, elements, added > 0, added > 0 and not list_of_items)

    def align(self, sent: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of a value that ends at an empty list, with the axes missing below it."""
        alignments = [self.dims]
        if self.kind in ("batched", "single"):
            alignments.append(self.dims[1:])
        for dims in alignments:
            above, below = dims[: len(sent) - 1], dims[len(sent) :]
            agrees = [
                size == dim for size, dim in zip(sent, above, strict=False) if isinstance(dim, int)
            ]
            if (
                len(dims) >= len(sent)
                and all(agrees)
                and all(isinstance(dim, int) for dim in below)
            ):
                return (*sent, *(dim for dim in below if isinstance(dim, int)))
        return sent

    def mismatch(self, got: str, path: tuple[int, ...]) -> Exception:
        if path == ():
            return self.wrong_type(self.word, got)
        # Before the rank is known, a list is expected where every allowed rank needs one.
        lists_until = min(self.ranks) if self.rank is None else self.rank
        expected = "array" if len(path) < lists_until else self.word
        return InvalidValueError(self.name, path, f"expected {expected}, got {got}")

    def wrong_type(self, expected: str, got: str) -> Exception:
        return InvalidTypeError(self.name, expected, got if got == "null" else None)

    def outgrown(self, shape: tuple[int, ...] | None) -> Exception:
        return self.wrong_shape("more") if shape is None else self.wrong_sizes(shape)

    def wrong_sizes(self, sent: tuple[int, ...]) -> Exception:
        text = _list_text(sent)
        if len(sent) in self.ranks:
            expected = self.dims[: 1 if self.allows_flat_items and len(sent) == 1 else None]
            expected = expected[len(expected) - len(sent) :]
            if self.kind == "batched" and len(sent) == len(self.dims):
                expected, sent = expected[1:], sent[1:]  # rows stay rows
            fixed = [(axis, dim) for axis, dim in enumerate(expected) if isinstance(dim, int)]
            is_in_order = all(sent[axis] == dim for axis, dim in fixed)
            if not is_in_order and Counter(dim for _, dim in fixed) <= Counter(sent):
                text += ": the same sizes in another order"
        return self.wrong_shape(text)

    def too_deep(self) -> Exception:
        limit = max(self.ranks)
        return self.wrong_shape(f"more than {limit} {'axis' if limit == 1 else 'axes'}")

    def wrong_shape(self, got: str) -> Exception:
        is_open = self.kind == "open"
        expected = "at most 32 axes" if is_open else _list_text(self.dims)
        return InvalidShapeError(self.name, (), f"expected {expected}, got {got}")


def _word(value: object) -> str:
    """The name in messages of the kind of a value that is not a list."""
    if value is None:
        return "null"
    for types, word in (
        (bool, "boolean"),
        (int | float, "number"),
        (str, "string"),
        (dict, "object"),
    ):
        if isinstance(value, types):
            return word
    return type(value).__name__


def _list_text(sizes: Sequence[Dim]) -> str:
    return f"[{', '.join(str(size) for size in sizes)}]"


# From the text of a body to tensors.


class TextInput(NamedTuple):
    """An input that a body may contain.

    Attributes:
        declared: the input as declared by the model.
        max_characters: of each string; None for no limit.
        group: inputs of group 1 exclude inputs of group 2.
        null_is_nan: whether null stands for NaN.
    """

    declared: TensorSpec
    max_characters: int | None = None
    group: int = 0
    null_is_nan: bool = False


def decode(body: bytes, inputs: Sequence[TextInput]) -> list[tuple[str, Converted]]:
    """The tensors of a body, in its order.

    Raises:
        InvalidJSONError: with the position, but no message.
        ClientError: any other error that comes first.
    """
    text = _Text(body)
    text.skip_space()
    if text.kind() != "object":
        raise InvalidBodyError
    text.at += 1
    text.skip_space()
    read: dict[str, Converted] = {}
    if text.next() != b"}":
        while True:
            text.skip_space()
            text_input = _read_name(text, inputs, list(read))
            text.skip_space()
            text.expect(b":")
            text.skip_space()
            read[text_input.declared.name] = _read_value(text, text_input)
            text.skip_space()
            if text.next() != b",":
                break
            text.at += 1
    text.expect(b"}")
    text.skip_space()
    if text.next() != b"":
        raise text.fault()
    return list(read.items())


def _read_name(text: "_Text", inputs: Sequence[TextInput], before: Sequence[str]) -> TextInput:
    if text.next() != b'"':
        raise text.fault()
    name = text.string()
    by_name = {one.declared.name: one for one in inputs}
    if name not in by_name:
        raise UnknownInputError(name, list(by_name))
    if name in before:
        raise DuplicateInputError(name)
    for other in before:
        groups = (by_name[name].group, by_name[other].group)
        if groups == (1, 2):
            raise ClashingInputsError(name, other)
        if groups == (2, 1):
            raise ClashingInputsError(other, name)
    return by_name[name]


def _read_value(text: "_Text", text_input: TextInput) -> Converted:
    reader = _Reader(text_input.declared, text_input.null_is_nan)
    start = text.at

    def read(path: tuple[int, ...]) -> None:
        kind = text.kind()
        if kind == "object" and text.starts_base64():
            read_base64(path)
            return
        if kind == "array":
            reader.check_room(path)
            reader.check_list(path)
            reader.end_list(read_items(path), path)
            return
        reader.check_element(kind, path)
        if kind == "number":
            reader.numbers.append(reader.stored(text.number(), path))
        elif kind == "boolean":
            reader.numbers.append(reader.stored(text.literal(), path))
        elif kind == "null":
            text.literal()
            reader.numbers.append(reader.stored(math.nan, path))
        else:
            add_string(text.string(), path)

    def add_string(string: str, path: tuple[int, ...]) -> None:
        limit = text_input.max_characters
        # Of what is not UTF-8, the bytes that continue no character count.
        size = sum(byte & 0xC0 != 0x80 for byte in string.encode(errors="surrogateescape"))
        if limit is not None and size > limit:
            problem = f"expected at most {limit} characters, got {size}"
            raise InvalidValueError(reader.name, path, problem)
        reader.strings.append(string)

    def read_base64(path: tuple[int, ...]) -> None:
        members = text.base64_members(refuse_base64(path))
        refuse = refuse_base64(path)
        if "b64" not in members:
            raise refuse('"b64" is missing')
        if reader.word == "string":
            if len(members) > 1:
                raise refuse('a string has neither "shape" nor "dtype"')
            reader.check_element("string", path)
            decoded = decoded_bytes(members["b64"], refuse)
            add_string(decoded.decode(errors="surrogateescape"), path)
            return
        if "shape" not in members:
            raise refuse('{"b64"} needs "shape"')
        if path != ():
            reader.check_element("object", path)
        shape = tuple(members["shape"])
        if len(shape) > max(reader.ranks):
            raise reader.too_deep()
        reader.rank = len(shape)
        reader.sizes = dict(enumerate(shape))
        reader.finish()
        type_name = members.get("dtype", reader.type)
        size = FLOATS[type_name].width // 8 if type_name in FLOATS else 1
        if type_name in INTEGERS:
            low, high = INTEGERS[type_name]
            size = (high - low).bit_length() // 8
        if math.prod(max(size, 1) for size in shape) * size >= 2**63:
            raise refuse("no tensor has so many elements")
        expected = math.prod(shape) * size
        length = len(members["b64"].encode())
        if length % 4:
            raise refuse('"b64" is not base64 with padding')
        got = length // 4 * 3 - min(_padding(members["b64"]), 2)
        if got != expected:
            raise refuse(f"expected {expected} bytes, got {got}")
        data = decoded_bytes(members["b64"], refuse)
        if type_name == "bool" and set(data) - {0, 1}:
            raise refuse("the bytes of bools are 0 or 1")
        elements = [data[i : i + size] for i in range(0, len(data), size)]
        if type_name == reader.type:
            reader.numbers = elements
            return
        for index, element in enumerate(elements):
            place = tuple(int(i) for i in numpy.unravel_index(index, shape)) if shape else ()
            if type_name == "bool":
                reader.check_element("boolean", place)
                reader.numbers.append(reader.stored(element == b"\1", place))
                continue
            reader.check_element("number", place)
            value = _element_value(element, type_name)
            reader.numbers.append(reader.stored(value, place))

    def refuse_base64(path: tuple[int, ...]) -> Callable[[str], Exception]:
        return lambda problem: InvalidValueError(reader.name, path, problem)

    def decoded_bytes(string: str, refuse: Callable[[str], Exception]) -> bytes:
        try:
            data = base64.b64decode(string, validate=True)
        except ValueError:  # not ASCII, or not base64
            data = b"none"
        if base64.b64encode(data).decode() != string:
            raise refuse('"b64" is not base64 with padding')
        return data

    def read_items(path: tuple[int, ...]) -> int:
        size = 0
        text.at += 1
        text.skip_space()
        if text.next() != b"]":
            while True:
                text.skip_space()
                read((*path, size))
                size += 1
                text.skip_space()
                if text.next() != b",":
                    break
                text.at += 1
        text.expect(b"]")
        return size

    try:
        read(())
    except _OutgrownError:
        text.at = start
        try:
            shape = _measure(text.plain_value())
        except (InvalidJSONError, RecursionError):
            shape = None
        raise reader.outgrown(shape) from None
    return reader.finish()


def _padding(text: str) -> int:
    return len(text) - len(text.rstrip("="))


def _element_value(element: bytes, type_name: str) -> float | int:
    """The number of a little-endian element."""
    if type_name in INTEGERS:
        return int.from_bytes(element, "little", signed=not type_name.startswith("u"))
    float_format = FLOATS[type_name]
    bits = int.from_bytes(element, "little")
    sign = -1.0 if bits & float_format.sign else 1.0
    magnitude = bits & ~float_format.sign
    if magnitude > float_format.infinity:
        return math.copysign(math.nan, sign)
    if magnitude == float_format.infinity:
        return math.copysign(math.inf, sign)
    return math.copysign(float(exact_value(magnitude, float_format)), sign)


class _Text:
    """A parser: a JSON text and the position up to which it was read. Source: RFC 8259, 3629."""

    LITERALS: Mapping[bytes, bool | None] = {b"true": True, b"false": False, b"null": None}
    ESCAPES: Mapping[bytes, str] = {
        b'"': '"',
        b"\\": "\\",
        b"/": "/",
        b"b": "\b",
        b"f": "\f",
        b"n": "\n",
        b"r": "\r",
        b"t": "\t",
    }
    DIGITS = tuple(b"%d" % digit for digit in range(10))

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def next(self) -> bytes:
        """The next byte; empty at the end."""
        return self.body[self.at : self.at + 1]

    def fault(self, at: int | None = None) -> InvalidJSONError:
        return InvalidJSONError(self.at if at is None else at, "")

    def skip_space(self) -> None:
        while self.next() in (b" ", b"\t", b"\n", b"\r"):
            self.at += 1

    def expect(self, byte: bytes) -> None:
        if self.next() != byte:
            raise self.fault()
        self.at += 1

    def kind(self) -> str:
        """The JSON kind of the value that starts here."""
        kinds = {b"[": "array", b"{": "object", b'"': "string", b"-": "number"}
        kinds |= dict.fromkeys(self.DIGITS, "number")
        if self.next() in kinds:
            return kinds[self.next()]
        for word in self.LITERALS:
            if self.body.startswith(word, self.at):
                return _word(self.LITERALS[word])
        raise self.fault()

    def starts_base64(self) -> bool:
        """Whether an object that starts here has such a first key."""
        rest = self.body[self.at + 1 :].lstrip(b" \t\n\r")
        return rest.startswith((b'"b64"', b'"shape"', b'"dtype"'))

    def base64_members(self, refuse: Callable[[str], Exception]) -> dict[str, Any]:
        """The members of a {"b64": …}."""
        members: dict[str, Any] = {}
        while True:
            self.at += 1
            self.skip_space()
            if self.next() != b'"':
                raise self.fault()
            keys = (key for key in ("b64", "shape", "dtype"))
            key = next(
                (k for k in keys if self.body.startswith(b'"%b"' % k.encode(), self.at)), None
            )
            if key is None:
                raise refuse('its keys are "b64", "shape" and "dtype"')
            if key in members:
                raise refuse("a key stands there twice")
            self.at += len(key) + 2
            self.skip_space()
            self.expect(b":")
            self.skip_space()
            if self.next() == b"":
                raise self.fault()
            if key == "b64":
                if self.next() != b'"':
                    raise refuse('"b64" must be a string')
                members[key] = self.string()
            elif key == "shape":
                members[key] = self.base64_shape(refuse('"shape" must be a list of sizes'))
            else:
                types = (*FLOATS, *INTEGERS, "bool")
                named = [
                    one for one in types if self.body.startswith(b'"%b"' % one.encode(), self.at)
                ]
                if not named:
                    problem = '"dtype" must be the name of a type, such as "float32"'
                    raise refuse(problem)
                members[key] = named[0]
                self.at += len(named[0]) + 2
            self.skip_space()
            if self.next() != b",":
                break
        self.expect(b"}")
        return members

    def base64_shape(self, refusal: Exception) -> list[int]:
        if self.next() != b"[":
            raise refusal
        self.at += 1
        self.skip_space()
        sizes: list[int] = []
        while self.next() != b"]" or sizes:
            if self.next() not in (b"", b"]", b"-", *self.DIGITS):
                raise refusal
            size = self.number().exact
            if size.denominator != 1 or not 0 <= size < 2**63:
                raise refusal
            sizes.append(int(size))
            self.skip_space()
            if self.next() == b"]":
                break
            self.expect(b",")
            self.skip_space()
        self.at += 1
        return sizes

    def plain_value(self) -> Any:
        """A value of which only the shape matters."""
        kind = self.kind()
        if kind == "array":
            items = []
            self.at += 1
            self.skip_space()
            if self.next() != b"]":
                while True:
                    self.skip_space()
                    items.append(self.plain_value())
                    self.skip_space()
                    if self.next() != b",":
                        break
                    self.at += 1
            self.expect(b"]")
            return items
        if kind == "object":
            if not self.starts_base64():
                raise self.fault()
            self.base64_members(lambda _: self.fault())
            return 0
        if kind == "number":
            self.number()
        elif kind == "string":
            self.string()
        else:
            self.literal()
        return 0

    def literal(self) -> bool | None:
        word = next(word for word in self.LITERALS if self.body.startswith(word, self.at))
        self.at += len(word)
        return self.LITERALS[word]

    def digits(self) -> str:
        """One or more digits."""
        start = self.at
        while self.next() in self.DIGITS:
            self.at += 1
        if self.at == start:
            raise self.fault()
        return self.body[start : self.at].decode()

    def number(self) -> "WrittenNumber":
        start = self.at
        negative = self.next() == b"-"
        if negative:
            self.at += 1
        if self.next() == b"0":
            self.at += 1
            integer = "0"
        else:
            integer = self.digits()
        fraction, exponent = "", "0"
        if self.next() == b".":
            self.at += 1
            fraction = self.digits()
        if self.next() in (b"e", b"E"):
            self.at += 1
            sign = ""
            if self.next() in (b"-", b"+"):
                sign = "-" if self.next() == b"-" else ""
                self.at += 1
            exponent = sign + self.digits()
        text = self.body[start : self.at].decode()
        return WrittenNumber(text, negative, integer, fraction, exponent)

    def string(self) -> str:
        self.at += 1
        characters: list[str] = []
        while self.next() != b'"':
            if self.next() == b"" or self.next() < b" ":
                raise self.fault()
            characters.append(self.escape() if self.next() == b"\\" else self.character())
        self.at += 1
        return "".join(characters)

    def character(self) -> str:
        """One UTF-8 character, of one to four bytes."""
        for size in (1, 2, 3, 4):
            try:
                character = self.body[self.at : self.at + size].decode()
            except UnicodeDecodeError:
                continue
            self.at += size
            return character
        raise self.fault()

    def escape(self) -> str:
        start = self.at
        self.at += 1
        kind = self.next()
        self.at += 1
        if kind in self.ESCAPES:
            return self.ESCAPES[kind]
        if kind != b"u":
            raise self.fault(start)
        unit = self.hexadecimal()
        if 0xD800 <= unit < 0xDC00 and self.body.startswith(b"\\u", self.at):
            self.at += 2
            second = self.hexadecimal()
            if 0xDC00 <= second < 0xE000:
                return chr(0x10000 + (unit - 0xD800) * 0x400 + (second - 0xDC00))
        if 0xD800 <= unit < 0xE000:
            raise self.fault(start)
        return chr(unit)

    def hexadecimal(self) -> int:
        value = 0
        for _ in range(4):
            digit = b"0123456789abcdef".find(self.next().lower() or b"none")
            if digit < 0:
                raise self.fault()
            value = 16 * value + digit
            self.at += 1
        return value


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number as written in a text.

    Attributes:
        text: the whole number.
        negative: whether it has a minus sign.
        integer, fraction, exponent: its digits; the exponent with its sign.
    """

    text: str
    negative: bool
    integer: str
    fraction: str
    exponent: str

    @property
    def quoted(self) -> str:
        """The text for messages, of bounded length."""
        return self.text if len(self.text) <= 60 else self.text[:60] + "…"

    @property
    def exact(self) -> Fraction:
        """The exact value.

        A magnitude beyond 10**1000 or below 10**-1000 is replaced by another one beyond that limit,
        an integer if the value is one, because exponents may have any length.
        """
        significant = (self.integer + self.fraction).rstrip("0")
        zeros = len(self.integer + self.fraction) - len(significant)
        digits = _integer(significant.lstrip("0"))
        if digits == 0:
            return Fraction(0)
        cut = self.exponent.removeprefix("-").lstrip("0")[:18]
        written = int(cut or "0") * (-1 if self.exponent.startswith("-") else 1)
        exponent = written + zeros - len(self.fraction)
        exponent = min(max(exponent, -1000 - len(significant)), 1000)
        return digits * _power(10, exponent) * (-1 if self.negative else 1)


def _integer(digits: str) -> int:
    """The integer of any number of digits, which int() limits."""
    value = 0
    for start in range(0, len(digits), 4000):
        part = digits[start : start + 4000]
        value = value * 10 ** len(part) + int(part)
    return value


# From a tensor to its text.


def encode_number(bits: int, type_name: str) -> str:
    """An element as JSON text: the shortest that reads back to the same value in its own type.

    Args:
        bits: of the element, as an unsigned integer.
        type_name: `float32`, `uint8`, `bool`, …
    """
    if type_name == "bool":
        return "true" if bits else "false"
    if type_name in INTEGERS:
        low, high = INTEGERS[type_name]
        return str(bits if bits <= high else bits + 2 * low)
    float_format = FLOATS[type_name]
    magnitude = bits & ~float_format.sign
    if magnitude >= float_format.infinity:
        return "null"
    sign = "-" if bits & float_format.sign else ""
    if magnitude == 0:
        return sign + "0.0"
    return sign + _lay_out(*_shortest_digits(magnitude, float_format))


def _shortest_digits(magnitude: int, float_format: FloatFormat) -> tuple[str, int]:
    """The fewest digits that read back to the value, and the power of ten of the first one.

    Decimals of one digit are tried, then of two, and so on: only those just below and just above
    the exact value, as others are farther away. Of two that read back, the nearer one is chosen,
    and of two equally near ones the even one.
    """
    exact = exact_value(magnitude, float_format)
    first_exponent = _floor_log10(exact)
    for last_exponent in range(first_exponent, first_exponent - 18, -1):
        unit = _power(10, last_exponent)
        below = exact // unit
        candidates = [
            digits
            for digits in (below, below + 1)
            if round_to_bits(digits * unit, float_format) == magnitude
        ]
        if candidates:
            nearest = min(candidates, key=lambda digits: (abs(digits * unit - exact), digits % 2))
            text = str(nearest)
            return text.rstrip("0"), last_exponent + len(text) - 1
    raise AssertionError("17 digits tell all values of float64 apart")


def _lay_out(digits: str, exponent: int) -> str:
    """Formats digits like Python's repr() of a float."""
    if not -4 <= exponent < 16:
        fraction = "." + digits[1:] if len(digits) > 1 else ""
        return f"{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    digits = digits.ljust(exponent + 1, "0")
    return f"{digits[: exponent + 1]}.{digits[exponent + 1 :] or '0'}"


def encode_tensor(shape: Sequence[int], texts: Sequence[str]) -> str:
    """Nests elements, given as texts in C order, by their shape."""
    if len(shape) == 0:
        (text,) = texts
        return text
    stride = math.prod(shape[1:])
    rows = (
        encode_tensor(shape[1:], texts[row * stride : (row + 1) * stride])
        for row in range(shape[0])
    )
    return f"[{','.join(rows)}]"


# The batch.


class Disagreement(NamedTuple):
    """Two inputs that disagree on the size of an axis, each as (input, size)."""

    axis: str
    first: tuple[str, int]
    second: tuple[str, int]


def find_disagreement(
    inputs: Sequence[TensorSpec], forms: Mapping[str, InputForm]
) -> Disagreement | None:
    """The first two inputs, in the model's order, that disagree on a size."""
    present = [(spec, forms[spec.name]) for spec in inputs if spec.name in forms]
    named = [
        (dim, spec.name, size)
        for spec, value in present
        for dim, size in zip(spec.dims, value.shape, strict=False)
        if isinstance(dim, str)
    ]
    unnamed = [
        (spec, value)
        for spec, value in present
        if batch_kind(spec) == "batched" and spec.dims[0] is None
    ]
    compared = list(named)
    if any(value.as_items for _, value in unnamed):
        compared += [("batch", spec.name, value.shape[0]) for spec, value in unnamed]
    # Unnamed axes are only compared with each other, even if a named one is called `batch`.
    for start, end in ((0, len(named)), (len(named), len(compared))):
        for later in range(start, end):
            axis, name, size = compared[later]
            for first_axis, first_name, first_size in compared[start:later]:
                if first_axis == axis and first_name != name and first_size != size:
                    return Disagreement(axis, (first_name, first_size), (name, size))
    return None


def is_unbatched(inputs: Sequence[TensorSpec], forms: Mapping[str, InputForm]) -> bool:
    """Whether the request has batched inputs, each of them as one item."""
    single_items = [
        forms[spec.name].as_one_item
        for spec in inputs
        if batch_kind(spec) == "batched" and spec.name in forms
    ]
    return len(single_items) > 0 and False not in single_items


def loses_leading_axis(
    inputs: Sequence[TensorSpec],
    forms: Mapping[str, InputForm],
    output: TensorSpec,
    shape: Sequence[int],
) -> bool:
    """Whether an output is returned without its leading axis.

    Args:
        inputs: of the model.
        forms: of the request's inputs.
        output: as declared; `batched` takes precedence over its dims.
        shape: in this run. A leading axis of another size than 1 is always kept.
    """
    if len(output.dims) == 0 or len(shape) == 0 or shape[0] != 1:
        return False
    if output.batched is False:
        return False
    leading = output.dims[0]
    kinds = [batch_kind(spec) for spec in inputs]
    if "single" in kinds and "batched" not in kinds:
        return output.batched is True or leading == 1
    # A fixed axis may be among them if it is declared as the batch axis.
    batch_axes = [spec.dims[0] for spec in inputs if batch_kind(spec) == "batched"]
    return is_unbatched(inputs, forms) and (output.batched is True or leading in batch_axes)


# Activations.


def activate(activation: str, values: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """Softmax, sigmoid or L2 normalization over the last axis, by definition.

    Computed in float64. Non-finite values propagate by the rules of IEEE 754; a row of norm 0 is
    unchanged.
    """
    if values.size == 0:
        return values
    x = values.astype(numpy.float64)
    with numpy.errstate(all="ignore"):
        if activation == "softmax":
            powers = numpy.exp(x - numpy.max(x, -1, keepdims=True))
            result = powers / numpy.sum(powers, -1, keepdims=True)
        elif activation == "sigmoid":
            result = 1 / (1 + numpy.exp(-x))
        else:
            # Scaled first, because squares may overflow.
            largest = numpy.max(abs(x), -1, keepdims=True)
            scaled = numpy.where(numpy.isfinite(largest) & (largest > 0), x / largest, x)
            length = numpy.sqrt(numpy.sum(scaled * scaled, -1, keepdims=True))
            result = numpy.where(length == 0, x, scaled / length)
        return numpy.asarray(result, values.dtype)
