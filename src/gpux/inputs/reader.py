"""Converts values by input name to the tensors of one request, and checks them.

Request bodies (serving/engine.py) and Python values (model.py) both pass through here, so that the
same rules and error messages apply to them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy
from msgspec import UNSET

from gpux._dlpack import View, device_of, take
from gpux._fastpath import InputSpec, InputTable, decode, fit, walk
from gpux.config.schema import ModelConfig
from gpux.errors import (
    ClashingInputsError,
    ClientError,
    InvalidShapeError,
    MissingInputError,
    UnknownInputError,
)
from gpux.inputs.model_io import IDS, TEXT, TYPES, ModelIO, ServedInput
from gpux.inputs.tokenizer import MAX_CHARACTERS, TextEncoder
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import ALIGNMENT_BYTES, Block, Device, Pool, StringTensor, Tensor
from gpux.tensors.request import Request
from gpux.tensors.signature import InputForm, TensorSpec, stored_as

# What a value is converted to: a block, strings, or a tensor borrowed from another library.
Content = Block | list[str] | View
# A converted value: input name, content, shape, as_items, as_one_item (see InputForm).
Read = tuple[str, Content, tuple[int, ...], bool, bool]


class InputReader:
    """Reads the inputs of one model. Immutable; shared by all threads.

    Args:
        io: the inputs that clients may send.
        pool: source of the tensors' blocks.
        text: encodes texts as ids; None if the model accepts no texts.
        config: gpux.yml, to locate an invalid default.
        stream: the stream of the model's GPU; None on the CPU.
        host_inputs: inputs that a model on a GPU reads on the host.

    Raises:
        ConfigurationError: a default does not fit its input.
    """

    def __init__(
        self,
        io: ModelIO,
        pool: Pool,
        text: TextEncoder | None = None,
        config: ModelConfig | None = None,
        stream: Stream | None = None,
        host_inputs: Collection[str] = (),
    ) -> None:
        self._signature = io.signature
        self._pool = pool
        self._text = text
        self._stream = stream
        self._host_inputs = host_inputs
        self._types = {entry.name: entry.spec.type for entry in io.inputs}
        self._specs = {
            entry.name: InputSpec(
                entry.spec, MAX_CHARACTERS if entry.is_text else entry.config.max_length
            )
            for entry in io.inputs
        }
        # A body must not have both texts and inputs that are made from them.
        self._groups = {
            entry.name: 1 if entry.is_text else 2 if entry.from_text else 0 for entry in io.inputs
        }
        self._table = InputTable(list(self._specs.values()), list(self._groups.values()))
        self._defaults: dict[str, _Default] = {}
        for entry in io.inputs:
            if entry.default is not UNSET:
                try:
                    self._defaults[entry.name] = _Default(entry, io, pool)
                except ClientError as error:
                    (config or ModelConfig()).fail(
                        "inputs", entry.name, "default", problem=str(error)
                    )

    def decode(self, body: bytes) -> Request:
        """Decodes a request body to tensors.

        Args:
            body: any bytes.

        Raises:
            ClientError: the first error: those in the body, in its order; then missing inputs, in
                the model's order; then sizes that disagree.
            InferenceError: the tokenizer failed.
            MemoryError: there is no room for the tensors.

        The GIL is released while a long body is read.
        """
        return self._complete(decode(body, self._table, self._pool))

    def collect(self, values: Mapping[str, object]) -> Request:
        """Converts Python values to tensors.

        Args:
            values: by input name, checked in this order. gpux._fastpath.walk documents which
                values are accepted.

        Raises:
            ClientError, InferenceError, MemoryError: as decode().
        """
        read: list[Read] = []
        try:
            for name, value in values.items():
                spec = self._specs.get(name)
                if spec is None:
                    raise UnknownInputError(str(name), list(self._specs))
                self._check_clash(name, read)
                read.append(self._borrow(spec, value) or (name, *walk(spec, value, self._pool)))
        except BaseException:
            for _, content, *_ in read:
                if isinstance(content, Block):
                    self._pool.give(content)
            raise
        return self._complete(read)

    def _borrow(self, spec: InputSpec, value: object) -> Read | None:
        """Borrows a tensor that another library has on the model's GPU; None for other values.

        Only for tensors that can be bound as they are: others go through the host, element by
        element. The elements are not checked: infinities and NaN pass.
        """
        stream = self._stream
        if stream is None or not self._signature.is_numeric or spec.name in self._host_inputs:
            return None
        if device_of(value) != stream.device:
            return None
        # The producer makes our stream wait for its pending writes.
        view = take(value, stream=stream.address)
        is_same = view.type_code == self._types[spec.name].code
        if not is_same or not view.is_dense or view.address % ALIGNMENT_BYTES:
            return None
        return (spec.name, view, *fit(spec, view.shape))

    def _check_clash(self, name: str, read: Sequence[Read]) -> None:
        group = self._groups[name]
        for other, *_ in read:
            if group and self._groups[other] == 3 - group:
                raise ClashingInputsError(*((name, other) if group == 1 else (other, name)))

    def _complete(self, read: Sequence[Read]) -> Request:
        """Builds the request, with the ids of its texts and the defaults of missing inputs."""
        tensors: dict[str, Tensor | StringTensor] = {}
        given: dict[str, InputForm] = {}
        request_blocks: list[Block] = []
        for name, content, shape, as_items, as_one_item in read:
            given[name] = InputForm(shape, as_items, as_one_item)
            tensors[name] = self._tensor(name, content, shape, request_blocks)
        try:
            if self._text is not None:
                self._encode_texts(self._text, tensors, given, request_blocks)
            unbatched = self._signature.is_unbatched(given)
            if len(tensors) < len(self._signature.inputs):
                self._add_defaults(tensors, given, request_blocks)
            self._signature.check_agreement(given)
        except BaseException:
            for block in request_blocks:
                self._pool.give(block)
            raise
        return Request(tensors, unbatched, request_blocks, self._pool)

    def _tensor(
        self, name: str, content: Content, shape: tuple[int, ...], blocks: list[Block]
    ) -> Tensor | StringTensor:
        if isinstance(content, list):
            return StringTensor(shape, content)
        if isinstance(content, Block):
            blocks.append(content)
        return Tensor(self._types[name], shape, content.address, content, Device(*content.device))

    def _encode_texts(
        self,
        encoder: TextEncoder,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, InputForm],
        blocks: list[Block],
    ) -> None:
        """Replaces texts by ids, and adds token types to ids sent without them."""
        texts: dict[str, list[str]] = {}
        sent: list[InputForm] = []
        for name in [name for name in given if self._groups[name] == 1]:
            tensor = tensors.pop(name)
            assert isinstance(tensor, StringTensor)
            texts[name] = tensor.values
            sent.append(given.pop(name))
        if not texts:
            has_ids = any(self._groups[name] == 2 for name in given)
            if not has_ids and IDS not in self._defaults:
                raise MissingInputError(TEXT)
            needs_types = self._groups.get(TYPES) == 2 and TYPES not in self._defaults
            if needs_types and IDS in given and TYPES not in given:
                self._add_types(tensors, given, blocks)
            return
        for name, rows in encoder.encode(texts):
            content, shape, _, _ = walk(self._specs[name], rows, self._pool)
            tensors[name] = self._tensor(name, content, shape, blocks)
            given[name] = InputForm(
                shape,
                as_items=any(each.as_items for each in sent),
                as_one_item=all(each.as_one_item for each in sent),
                sent_as=TEXT,
            )

    def _add_types(
        self,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, InputForm],
        blocks: list[Block],
    ) -> None:
        """Adds token types for ids sent without them: all 0, as transformers does in Python."""
        element, shape = self._types[TYPES], given[IDS].shape
        block = self._pool.take(math.prod(shape) * element.nbytes)
        blocks.append(block)
        block.array(stored_as(element), shape)[...] = 0
        tensors[TYPES] = Tensor(element, shape, block.address, block, block.device)
        given[TYPES] = given[IDS]

    def _add_defaults(
        self,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, InputForm],
        blocks: list[Block],
    ) -> None:
        """Adds the defaults of missing inputs."""
        for spec in self._signature.inputs:
            if spec.name not in tensors and spec.name not in self._defaults:
                raise MissingInputError(spec.name)
        sizes = self._signature.sizes(given)
        for name, default in self._defaults.items():
            if name not in tensors:
                tensors[name] = default.fill(sizes, self._pool, blocks)
                given[name] = InputForm(tensors[name].shape, as_items=False, as_one_item=False)


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
            self._array = content.array(stored_as(spec.type), shape).copy()
            pool.give(content)

    def fill(
        self, sizes: Mapping[str | None, int], pool: Pool, blocks: list[Block]
    ) -> Tensor | StringTensor:
        """Creates the tensor for a request.

        Args:
            sizes: sizes of the axes that the request determines, by name.
            pool: source of its block.
            blocks: the request's blocks, to which it is added.
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
            return StringTensor(shape, self._values * (count // max(len(self._values), 1)))
        block = pool.take(count * self._spec.type.nbytes)
        blocks.append(block)
        block.array(stored_as(self._spec.type), shape)[...] = self._array
        return Tensor(self._spec.type, shape, block.address, block, block.device)


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
