"""Values by input name → the tensors of one request, which fit the model and each other.

Bodies (protocol.py) and Python callers (model.py) both come through here, so that they meet the
same rules and the same messages.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from msgspec import UNSET

from gpux._fastpath import InputSpec, walk
from gpux.declaration import Declaration
from gpux.errors import (
    ClashingInputsError,
    ClientError,
    InvalidShapeError,
    InvalidValueError,
    MissingInputError,
    UnknownInputError,
)
from gpux.interface import IDS, TEXT, TYPES, Accepted, Interface
from gpux.memory import Block, HostPool, StringTensor, Tensor
from gpux.tensor import BY_NAME, ElementType, Given, TensorSpec
from gpux.text import MOST_CHARACTERS, TextReader


@dataclass(frozen=True, slots=True)
class Request:
    """The inputs of one run. Owns its blocks until release().

    Attributes:
        tensors: by input name; each input of the model that the request gives.
        unbatched: the request is one item, and so is its answer.
    """

    tensors: Mapping[str, Tensor | StringTensor]
    unbatched: bool
    _blocks: list[Block]
    _pool: HostPool

    def release(self) -> None:
        """Gives the blocks back.

        Call it when nothing reads the tensors any more. The answer does: ONNX Runtime hands out the
        input's own memory where an output of the graph is one of its inputs.
        """
        while self._blocks:
            self._pool.give(self._blocks.pop())


@dataclass(frozen=True, slots=True)
class _Known:
    """An input that may be sent."""

    spec: TensorSpec
    native: InputSpec
    most_characters: int | None


class InputReader:
    """Reads the inputs of one model. Immutable; used by all threads at once.

    Args:
        interface: what may be sent.
        pool: where the blocks of tensors come from.
        text: makes ids of texts, where the model takes them.
        told: gpux.yml, for what is wrong with a default.

    Raises:
        ConfigurationError: a default does not fit its input.
    """

    def __init__(
        self,
        interface: Interface,
        pool: HostPool,
        text: TextReader | None = None,
        told: Declaration | None = None,
    ) -> None:
        self._signature = interface.signature
        self._pool = pool
        self._text = text
        self._inputs = {
            entry.name: _Known(
                entry.spec,
                InputSpec(entry.spec),
                MOST_CHARACTERS if entry.is_text else entry.declared.max_length,
            )
            for entry in interface.inputs
        }
        self._from_text = frozenset(entry.name for entry in interface.inputs if entry.from_text)
        self._texts = frozenset(entry.name for entry in interface.inputs if entry.is_text)
        self._defaults: dict[str, _Default] = {}
        for entry in interface.inputs:
            if entry.default is not UNSET:
                try:
                    self._defaults[entry.name] = _Default(entry, interface, pool)
                except ClientError as error:
                    (told or Declaration()).refuse(
                        "inputs", entry.name, "default", problem=str(error)
                    )

    def collect(self, values: Mapping[str, object]) -> Request:
        """The tensors that these values make.

        Args:
            values: by input name, in the order in which errors are looked for. What a value may be:
                gpux._fastpath.walk.

        Raises:
            ClientError: the first thing that is wrong: the values in their order, then missing
                inputs in the model's order, then sizes that disagree.
            InferenceError: the tokenizer failed.
            MemoryError: there is no room for the tensors.
        """
        tensors: dict[str, Tensor | StringTensor] = {}
        given: dict[str, Given] = {}
        request_blocks: list[Block] = []
        try:
            for name, value in values.items():
                known = self._inputs.get(name)
                if known is None:
                    raise UnknownInputError(str(name), list(self._inputs))
                if self._text is not None:
                    self._check_clash(name, given)
                tensors[name], given[name] = self._read(known, value, request_blocks)
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

    def _read(
        self, known: _Known, value: object, blocks: list[Block]
    ) -> tuple[Tensor | StringTensor, Given]:
        """The tensor that a value makes, and how it was given."""
        content, shape, as_items, as_one_item = walk(known.native, value, self._pool)
        given = Given(shape, as_items, as_one_item)
        if isinstance(content, list):
            if known.most_characters is not None:
                _check_lengths(known.spec, content, known.most_characters, given)
            return StringTensor(shape, content), given
        blocks.append(content)
        return Tensor(known.spec.type, shape, content.address, content), given

    def _check_clash(self, name: str, given: Mapping[str, Given]) -> None:
        """Ids are sent, or made from a text: not both."""
        others = self._from_text if name in self._texts else self._texts
        if name not in self._texts and name not in self._from_text:
            return
        for other in given:
            if other in others:
                raise ClashingInputsError(
                    *((name, other) if name in self._texts else (other, name))
                )

    def _read_texts(
        self,
        reader: TextReader,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, Given],
        blocks: list[Block],
    ) -> None:
        """Puts ids in the place of texts, and types beside ids that came without them."""
        texts: dict[str, list[str]] = {}
        sent: list[Given] = []
        for name in self._texts & given.keys():
            tensor = tensors.pop(name)
            assert isinstance(tensor, StringTensor)
            texts[name] = tensor.values
            sent.append(given.pop(name))
        if not texts:
            if self._from_text.isdisjoint(given) and IDS not in self._defaults:
                raise MissingInputError(TEXT)
            is_sent = TYPES in given or TYPES in self._defaults
            if TYPES in self._from_text and IDS in given and not is_sent:
                self._add_types(tensors, given, blocks)
            return
        for name, rows in reader.encode(texts).items():
            tensor, whole = self._read(self._inputs[name], rows, blocks)
            tensors[name] = tensor
            given[name] = Given(
                whole.shape,
                as_items=any(each.as_items for each in sent),
                as_one_item=all(each.as_one_item for each in sent),
                sent_as=TEXT,
            )

    def _add_types(
        self,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, Given],
        blocks: list[Block],
    ) -> None:
        """Ids by themselves are all of one type, 0, as transformers in Python take them."""
        element, shape = self._inputs[TYPES].spec.type, given[IDS].shape
        block = self._pool.take(math.prod(shape) * element.nbytes)
        blocks.append(block)
        block.array(_stored_as(element), shape)[...] = 0
        tensors[TYPES] = Tensor(element, shape, block.address, block)
        given[TYPES] = given[IDS]

    def _fill_in(
        self,
        tensors: dict[str, Tensor | StringTensor],
        given: dict[str, Given],
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
                given[name] = Given(tensors[name].shape, as_items=False, as_one_item=False)


class _Default:
    """What stands for an input that a request leaves out.

    One value fills all of the tensor; one item is repeated for each row of the batch; for an input
    without a batch it is the whole tensor.

    Raises:
        ClientError: the value does not fit its input.
    """

    def __init__(self, entry: Accepted, interface: Interface, pool: HostPool) -> None:
        spec = entry.spec
        self._spec = spec
        is_one_value = spec.least_axes > 0 and not isinstance(entry.default, list)
        # An element by itself is what an input without declared axes takes.
        read_as = TensorSpec(spec.name, spec.type, ()) if is_one_value else spec
        content, shape, _, _ = walk(InputSpec(read_as), entry.default, pool)
        if is_one_value:
            _check_sizes_are_known(spec, interface)
            self._dims = spec.dims
        else:
            if spec.kind == "batched" and shape[0] != 1:
                raise InvalidShapeError(spec.name, (), f"expected one item, got {shape[0]}")
            self._dims = (*spec.dims[:1], *shape[1:]) if spec.kind == "batched" else shape
        self._values: list[str] = []
        self._array: numpy.ndarray[Any, Any] | None = None
        if isinstance(content, list):
            self._values = content
            if entry.declared.max_length is not None:
                given = Given(shape, as_items=False, as_one_item=False)
                _check_lengths(spec, content, entry.declared.max_length, given)
        else:
            self._array = content.array(_stored_as(spec.type), shape).copy()
            pool.give(content)

    def fill(
        self, sizes: Mapping[str | None, int], pool: HostPool, blocks: list[Block]
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
        if count > _MOST_FILLED_ELEMENTS:
            problem = f"its default cannot fill {list(shape)}, which is too large"
            raise InvalidShapeError(self._spec.name, (), problem)
        if self._array is None:
            return StringTensor(shape, self._values * (count // max(len(self._values), 1)))
        block = pool.take(count * self._spec.type.nbytes)
        blocks.append(block)
        block.array(_stored_as(self._spec.type), shape)[...] = self._array
        return Tensor(self._spec.type, shape, block.address, block)


# Sizes of a request multiply: a default may not take more memory than bodies may.
_MOST_FILLED_ELEMENTS = 2**27


def _stored_as(element: ElementType) -> ElementType:
    """A type of the same size that NumPy has."""
    return element if element.numpy else BY_NAME["uint16"]


def _check_sizes_are_known(spec: TensorSpec, interface: Interface) -> None:
    """One value fills a tensor only if each request tells how large it is."""
    told = {
        dim
        for entry in interface.inputs
        if entry.name != spec.name and entry.default is UNSET and not entry.is_text
        for dim in entry.spec.dims
        if isinstance(dim, str)
    }
    for axis, dim in enumerate(spec.dims):
        is_batch_axis = axis == 0 and spec.kind == "batched"
        if not isinstance(dim, int) and not is_batch_axis and dim not in told:
            problem = (
                f"one value cannot fill {spec.shape_text}: no other input tells its axis {axis}"
            )
            raise InvalidShapeError(spec.name, (), problem)


def _check_lengths(spec: TensorSpec, values: Sequence[str], most: int, given: Given) -> None:
    """Checks that no text has more than `most` characters."""
    for index, value in enumerate(values):
        if len(value) > most:
            place = [int(i) for i in numpy.unravel_index(index, given.shape)] if given.shape else []
            if given.as_one_item:
                place = place[len(place) - spec.least_axes :]
            elif given.as_items:  # a flat list for [batch, 1]
                place = place[:1]
            problem = f"expected at most {most} characters, got {len(value)}"
            raise InvalidValueError(spec.name, place, problem)
