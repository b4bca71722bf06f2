"""Values by input name → the tensors of one request, which fit the model and each other.

Bodies (protocol.py) and Python callers (model.py) both come through here, so that they meet the
same rules and the same messages.
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

# What a value became: a block of ours, strings, or a tensor that another library lent.
Content = Block | list[str] | View
# A value that was read: the input, its content, the shape, and how it was given.
Read = tuple[str, Content, tuple[int, ...], bool, bool]


class InputReader:
    """Reads the inputs of one model. Immutable; used by all threads at once.

    Args:
        io: what may be sent.
        pool: where the blocks of tensors come from.
        text: makes ids of texts, where the model takes them.
        config: gpux.yml, for what is wrong with a default.
        stream: of the GPU that the model runs on; None for the CPU.
        host_inputs: what it reads on the host all the same.

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
        # Texts, and what is made from them, do not stand in one body.
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
        """The tensors of a body.

        Args:
            body: any bytes.

        Raises:
            ClientError: the first thing that is wrong: in the text, in its order; then missing
                inputs in the model's order, then sizes that disagree.
            InferenceError: the tokenizer failed.
            MemoryError: there is no room for the tensors.

        The GIL is released while a long body is read.
        """
        return self._complete(decode(body, self._table, self._pool))

    def collect(self, values: Mapping[str, object]) -> Request:
        """The tensors that Python values make.

        Args:
            values: by input name, in the order in which errors are looked for. What a value may be:
                gpux._fastpath.walk.

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
        """A tensor that another library has on the model's own GPU, to be read where it lies.

        Only what can be bound as it is; anything else goes through the host, element by element.
        The elements themselves are not looked at: infinities and NaN pass.
        """
        stream = self._stream
        if stream is None or not self._signature.is_numeric or spec.name in self._host_inputs:
            return None
        if device_of(value) != stream.device:
            return None
        # The library makes our stream wait for what it has still to write.
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
        """The request that values make, with what is made from texts and what is left out."""
        tensors: dict[str, Tensor | StringTensor] = {}
        given: dict[str, InputForm] = {}
        request_blocks: list[Block] = []
        for name, content, shape, as_items, as_one_item in read:
            given[name] = InputForm(shape, as_items, as_one_item)
            tensors[name] = self._tensor(name, content, shape, request_blocks)
        try:
            if self._text is not None:
                self._read_texts(self._text, tensors, given, request_blocks)
            unbatched = self._signature.is_unbatched(given)
            if len(tensors) < len(self._signature.inputs):
                self._fill_in(tensors, given, request_blocks)
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

    def _read_texts(
        self,
        reader: TextEncoder,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, InputForm],
        blocks: list[Block],
    ) -> None:
        """Puts ids in the place of texts, and types beside ids that came without them."""
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
        for name, rows in reader.encode(texts):
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
        """Ids by themselves are all of one type, 0, as transformers in Python take them."""
        element, shape = self._types[TYPES], given[IDS].shape
        block = self._pool.take(math.prod(shape) * element.nbytes)
        blocks.append(block)
        block.array(stored_as(element), shape)[...] = 0
        tensors[TYPES] = Tensor(element, shape, block.address, block, block.device)
        given[TYPES] = given[IDS]

    def _fill_in(
        self,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, InputForm],
        blocks: list[Block],
    ) -> None:
        """Puts defaults in the place of what was not given."""
        for spec in self._signature.inputs:
            if spec.name not in tensors and spec.name not in self._defaults:
                raise MissingInputError(spec.name)
        sizes = self._signature.sizes(given)
        for name, default in self._defaults.items():
            if name not in tensors:
                tensors[name] = default.fill(sizes, self._pool, blocks)
                given[name] = InputForm(tensors[name].shape, as_items=False, as_one_item=False)


class _Default:
    """What stands for an input that a request leaves out.

    One value fills all of the tensor; one item is repeated for each row of the batch; for an input
    without a batch it is the whole tensor.

    Raises:
        ClientError: the value does not fit its input.
    """

    def __init__(self, entry: ServedInput, io: ModelIO, pool: Pool) -> None:
        spec = entry.spec
        self._spec = spec
        is_one_value = spec.min_axes > 0 and not isinstance(entry.default, list)
        # An element by itself is what an input without declared axes takes.
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
        """The tensor for a request.

        Args:
            sizes: of the axes that the request settles.
            pool: where its block comes from.
            blocks: the request's, to which it is added.
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


# Sizes of a request multiply: a default may not take more memory than bodies may.
_MAX_FILLED_ELEMENTS = 2**27


def _check_sizes_are_known(spec: TensorSpec, io: ModelIO) -> None:
    """One value fills a tensor only if each request tells how large it is."""
    config = {
        dim
        for entry in io.inputs
        if entry.name != spec.name and entry.default is UNSET and not entry.is_text
        for dim in entry.spec.dims
        if isinstance(dim, str)
    }
    for axis, dim in enumerate(spec.dims):
        is_batch_axis = axis == 0 and spec.kind == "batched"
        if not isinstance(dim, int) and not is_batch_axis and dim not in config:
            problem = (
                f"one value cannot fill {spec.shape_text}: no other input tells its axis {axis}"
            )
            raise InvalidShapeError(spec.name, (), problem)
