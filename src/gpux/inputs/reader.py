"""Converts values by input name to the tensors of one request, and checks them.

Request bodies (serving/engine.py) and Python values (model.py) both pass through here, so that the
same rules and error messages apply to them.
"""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from gpux._dlpack import device_of, take
from gpux._engine import Pipeline, Request
from gpux._fastpath import Block, InputSpec, Pool, fit, walk
from gpux.config.schema import ModelConfig
from gpux.errors import (
    ClashingInputsError,
    ClientError,
    InvalidShapeError,
    InvalidValueError,
    MissingInputError,
    UnknownInputError,
)
from gpux.inputs.model_io import IDS, TEXT, TYPES, ModelIO, ServedInput
from gpux.inputs.pipeline import group_of
from gpux.inputs.tokenizer import TextEncoder
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import ALIGNMENT_BYTES, array_of
from gpux.tensors.signature import TensorSpec

if TYPE_CHECKING:
    import numpy


class InputReader:
    """Reads the inputs of one model. Immutable; shared by all threads.

    Args:
        io: the inputs that clients may send.
        pipeline: the model's.
        text: encodes texts as ids; None if the model accepts no texts.
        config: gpux.yml, to locate an invalid default.
        stream: the stream of the model's GPU; None on the CPU.
        host_inputs: inputs that a model on a GPU reads on the host.

    Raises:
        ConfigurationError: a default does not fit its input.

    Attributes:
        may_complete: whether an input that is missing may have a value all the same: a default, or
            one made from a text.
    """

    def __init__(
        self,
        io: ModelIO,
        pipeline: Pipeline,
        text: TextEncoder | None = None,
        config: ModelConfig | None = None,
        stream: Stream | None = None,
        host_inputs: Collection[str] = (),
    ) -> None:
        self._signature = io.signature
        self._pipeline = pipeline
        self._pool = pipeline.pool
        self._text = text
        self._stream = stream
        self._host_inputs = host_inputs
        self._types = {entry.name: entry.spec.type for entry in io.inputs}
        self._specs = {spec.name: spec for spec in pipeline.specs}
        self._groups = {entry.name: group_of(entry) for entry in io.inputs}
        self._missing = {entry.name: entry.spec for entry in io.inputs if entry.null_is_nan}
        self._defaults: dict[str, _Default] = {}
        for entry in io.inputs:
            if entry.default is not UNSET:
                try:
                    self._defaults[entry.name] = _Default(entry, io, self._pool)
                except ClientError as error:
                    (config or ModelConfig()).fail(
                        "inputs", entry.name, "default", problem=str(error)
                    )
        # The model's inputs, without those optional ones for which it has a value.
        self._needed = [
            entry.name
            for entry in io.inputs
            if not entry.is_text
            and (not entry.is_optional or entry.required or entry.name in self._defaults)
        ]
        self.may_complete = text is not None or bool(self._defaults or self._missing)

    def decode(self, body: bytes) -> Request:
        """Decodes a request body to tensors.

        Args:
            body: any bytes.

        Raises:
            ClientError: the first error: those in the body, in its order; then missing inputs, in
                the model's order; then sizes that disagree.
            InferenceError: the tokenizer failed.
            MemoryError: there is no room for the tensors.

        The GIL is released while the body is read.
        """
        request, is_complete = self._pipeline.decode(body)
        return request if is_complete else self.complete(request)

    def collect(self, values: Mapping[str, object]) -> Request:
        """Converts Python values to tensors.

        Args:
            values: by input name, checked in this order. gpux._fastpath.walk documents which
                values are accepted.

        Raises:
            ClientError, InferenceError, MemoryError: as decode().
        """
        request = self._pipeline.request()
        for name, value in values.items():
            spec = self._specs.get(name)
            if spec is None:
                raise UnknownInputError(str(name), list(self._specs))
            self._check_clash(name, request)
            if not self._borrow(spec, value, request):
                request.put(name, *walk(spec, value, self._pool))
        return self.complete(request)

    def _borrow(self, spec: InputSpec, value: object, request: Request) -> bool:
        """Borrows a tensor that another library has on the model's GPU; False for other values.

        Only for tensors that can be bound as they are: others go through the host, element by
        element. The elements are not checked: infinities and NaN pass.
        """
        stream = self._stream
        if stream is None or not self._signature.is_numeric or spec.name in self._host_inputs:
            return False
        if device_of(value) != stream.device:
            return False
        # The producer makes our stream wait for its pending writes.
        view = take(value, stream=stream.address)
        is_same = view.type_code == self._types[spec.name].code
        if not is_same or not view.is_dense or view.address % ALIGNMENT_BYTES:
            return False
        request.put(spec.name, view, *fit(spec, view.shape))
        return True

    def _check_clash(self, name: str, request: Request) -> None:
        group = self._groups[name]
        for other in request.names if group else ():
            if self._groups[other] == 3 - group:
                raise ClashingInputsError(*((name, other) if group == 1 else (other, name)))

    def complete(self, request: Request) -> Request:
        """Completes a request, with the ids of its texts and the defaults of missing inputs.

        Raises:
            ClientError, InferenceError, MemoryError: as decode().
        """
        sent_as = {} if self._text is None else self._encode_texts(self._text, request)
        request.decide_unbatched()
        self._add_defaults(request)
        request.check_agreement(sent_as)
        return request

    def _encode_texts(self, encoder: TextEncoder, request: Request) -> dict[str, str]:
        """Replaces texts by ids, and adds token types to ids sent without them.

        Returns:
            By input that was made from texts, the client's name for it.
        """
        given = [name for name in request.names if self._groups[name] == 1]
        if not given:
            has_ids = any(self._groups[name] == 2 for name in request.names)
            if not has_ids and IDS not in self._defaults:
                raise MissingInputError(TEXT)
            needs_types = self._groups.get(TYPES) == 2 and TYPES not in self._defaults
            if needs_types and IDS in request and TYPES not in request:
                self._add_types(request)
            return {}
        forms = [request.form(name) for name in given]
        as_items = any(as_items for _, as_items, _ in forms)
        as_one_item = all(as_one_item for _, _, as_one_item in forms)
        texts = {name: request.strings(name) for name in given}
        for name in given:
            request.drop(name)
        encoded = list(encoder.encode(texts))
        for name, rows in encoded:
            content, shape, _, _ = walk(self._specs[name], rows, self._pool)
            request.put(name, content, shape, as_items, as_one_item)
        return {name: TEXT for name, _ in encoded}

    def _add_types(self, request: Request) -> None:
        """Adds token types for ids sent without them: all 0, as transformers does in Python."""
        element = self._types[TYPES]
        form = request.form(IDS)
        block = self._pool.take(math.prod(form[0]) * element.nbytes)
        array_of(block, element, form[0])[...] = 0
        request.put(TYPES, block, *form)

    def _add_defaults(self, request: Request) -> None:
        """Adds the defaults of missing inputs, and NaN for those with `missing: nan`."""
        missing = [name for name in self._needed if name not in request]
        if not missing:
            return
        given = {name: request.form(name)[0] for name in request.names}
        sizes = self._signature.sizes(given)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in missing:
            if name in self._defaults:
                continue
            spec = self._missing.get(name)
            shape = None if spec is None else self._shape_of_missing(spec, sizes, given)
            if shape is None:
                raise MissingInputError(name)
            shapes[name] = shape
        for name, shape in shapes.items():
            request.put(name, _filled_with_nan(self._missing[name], shape, self._pool), shape)
        for name in missing:
            if name in self._defaults:
                self._defaults[name].fill(request, sizes, self._pool)

    def _shape_of_missing(
        self,
        spec: TensorSpec,
        sizes: Mapping[str | None, int],
        given: Mapping[str, tuple[int, ...]],
    ) -> tuple[int, ...] | None:
        """The shape by the inputs that were given; None if they leave a size unknown."""
        rows = [
            given[other.name][0]
            for other in self._signature.inputs
            if other.kind == "batched" and other.name in given
        ]
        shape: list[int] = []
        for axis, dim in enumerate(spec.dims):
            size = dim if isinstance(dim, int) else sizes.get(dim) if dim is not None else None
            if size is None and axis == 0 and spec.kind == "batched" and rows:
                size = rows[0]
            if size is None:
                return None
            shape.append(size)
        return tuple(shape) if given else None


def _filled_with_nan(spec: TensorSpec, shape: tuple[int, ...], pool: Pool) -> Block:
    count = math.prod(shape)
    if count > _MAX_FILLED_ELEMENTS:
        problem = f"NaN cannot fill {list(shape)}, which is too large"
        raise InvalidShapeError(spec.name, (), problem)
    block = pool.take(count * spec.type.nbytes)
    nan = _BFLOAT16_NAN if spec.type.numpy is None else math.nan
    array_of(block, spec.type, shape)[...] = nan
    return block


class _Default:
    """The default of an input, for requests without it.

    A single value fills the whole tensor; a single item is repeated for each item of the batch; for
    an input without a batch axis the default is the whole tensor.

    Raises:
        ClientError: the default does not fit its input.
    """

    def __init__(self, entry: ServedInput, io: ModelIO, pool: Pool) -> None:
        spec = entry.spec
        self._spec = spec
        is_one_value = spec.min_axes > 0 and not isinstance(entry.default, list)
        # Read as an open input, which accepts a bare element.
        read_as = TensorSpec(spec.name, spec.type, ()) if is_one_value else spec
        _check_finite(spec.name, entry.default, ())
        content, shape, _, _ = walk(
            InputSpec(read_as, entry.config.max_length), entry.default, pool
        )
        if is_one_value:
            _check_sizes_are_known(spec, io)
            self._dims = spec.dims
        else:
            if spec.kind == "batched" and shape[0] != 1:
                raise InvalidShapeError(spec.name, (), f"expected one item, got {shape[0]}")
            self._dims = (*spec.dims[:1], *shape[1:]) if spec.kind == "batched" else shape
        self._values: list[str] = []
        self._array: numpy.ndarray[Any, Any] | None = None
        if isinstance(content, list):
            self._values = content
        else:
            self._array = array_of(content, spec.type, shape).copy()

    def fill(self, request: Request, sizes: Mapping[str | None, int], pool: Pool) -> None:
        """Gives a request the default.

        Args:
            request: one without the input.
            sizes: sizes of the axes that the request determines, by name.
            pool: source of the tensor's block.
        """
        is_batched = self._spec.kind == "batched"
        shape = tuple(
            dim
            if isinstance(dim, int)
            else sizes.get(dim, 1)
            if axis == 0 and is_batched
            else sizes[dim]
            for axis, dim in enumerate(self._dims)
        )
        count = math.prod(shape)
        if count > _MAX_FILLED_ELEMENTS:
            problem = f"its default cannot fill {list(shape)}, which is too large"
            raise InvalidShapeError(self._spec.name, (), problem)
        if self._array is None:
            values = self._values * (count // max(len(self._values), 1))
            request.put(self._spec.name, values, shape)
            return
        block = pool.take(count * self._spec.type.nbytes)
        array_of(block, self._spec.type, shape)[...] = self._array
        request.put(self._spec.name, block, shape)


def _check_finite(name: str, value: object, path: tuple[int, ...]) -> None:
    """Checks a default, which /info shows as JSON."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_finite(name, item, (*path, index))
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(name, path, f"{value} is not a finite number")


_BFLOAT16_NAN = 0x7FC0

# A request's sizes multiply: a default must not take more memory than bodies may.
_MAX_FILLED_ELEMENTS = 2**27


def _check_sizes_are_known(spec: TensorSpec, io: ModelIO) -> None:
    """Checks that each request determines the size of a tensor that one value fills."""
    known = {
        dim
        for entry in io.inputs
        if entry.name != spec.name and entry.default is UNSET and not entry.is_text
        for dim in entry.spec.dims
        if isinstance(dim, str)
    }
    for axis, dim in enumerate(spec.dims):
        is_batch_axis = axis == 0 and spec.kind == "batched"
        if not isinstance(dim, int) and not is_batch_axis and dim not in known:
            problem = (
                f"one value cannot fill {spec.shape_text}: no other input tells its axis {axis}"
            )
            raise InvalidShapeError(spec.name, (), problem)
