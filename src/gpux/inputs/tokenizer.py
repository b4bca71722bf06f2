"""Texts → the ids that a transformer takes, by the model's own tokenizer.json.

The only importer of tokenizers (Hugging Face), which an extra installs. It turns each text into its
tokens; cutting, special tokens and padding are done here. The library would keep all that it cuts
off, of two long texts in every combination, which takes gigabytes. How special tokens go around a
text is learnt from it, once.
"""

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy

from gpux.config.schema import ModelConfig
from gpux.errors import (
    ConfigurationError,
    DisagreementError,
    InferenceError,
    InvalidShapeError,
    MissingInputError,
    install_command,
)
from gpux.inputs.model_io import IDS, MASK, PAIR, TEXT, TYPES, ModelIO, takes_ids
from gpux.tensors.signature import Signature

logger = logging.getLogger(__name__)

_DEFAULT_MAX_LENGTH = 512
# Of one text, and about as many at once: the library takes some 200 bytes for each while it works.
MAX_CHARACTERS = 2**20
# Of one request, over all inputs that are made from its texts. Padding multiplies the number of
# texts by the longest of them: this is 10,922 texts of 512 tokens, with mask and types, and as
# int64 128 MiB, twice the largest body. A transformer needs far more for so many at once.
_MAX_NUMBERS = 2**24


def open_tokenizer(file: Path | None, model: Signature, config: ModelConfig) -> Any:
    """The tokenizer for a model; None if it takes no texts.

    Args:
        file: a tokenizer.json, if there is one.
        model: what it is to be read for.
        config: gpux.yml.

    Raises:
        ConfigurationError: one that cannot be used, or is missing where gpux.yml needs it.
    """
    preprocessing = config.content.preprocessing
    asked_for = [
        ("preprocessing", key)
        for key in ("tokenizer", "max_length", "pad_token")
        if getattr(preprocessing, key) is not None
    ]
    if preprocessing.tokenizer is not None and not takes_ids(model):
        problem = f"the model has no input '{IDS}' of int64 or int32 with two axes"
        config.fail("preprocessing", "tokenizer", problem=problem)
    if file is None or not takes_ids(model):
        if asked_for:
            config.fail(*asked_for[0], problem="there is no tokenizer to use it")
        return None
    asked_for += [("inputs", name) for name in (TEXT, PAIR) if name in config.inputs]
    try:
        import tokenizers
    except ImportError:
        problem = f"the package tokenizers is not installed: {install_command('text')}"
        if asked_for:
            config.fail(*asked_for[0], problem=problem)
        logger.warning("%s is not used, and no texts are taken: %s", file, problem)
        return None
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more exact
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{file}: cannot be read as a tokenizer: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of what a tokenizer makes of one text, or of two.

    Attributes:
        source: 0 for the first text, 1 for the second, None for special tokens.
        ids: of the special tokens.
        type_id: of each token in it.
    """

    source: int | None
    ids: list[int]
    type_id: int


@dataclass(frozen=True, slots=True)
class _Padding:
    """How rows are made equally long.

    Attributes:
        id, type_id: of the token that pads; no id where the tokenizer names none.
        is_left: it stands before the text.
        multiple: lengths are multiples of it.
    """

    id: int | None
    type_id: int
    is_left: bool
    multiple: int


class TextEncoder:
    """Makes a model's ids from texts. Immutable; used by all threads at once.

    Args:
        tokenizer: of the library; it is the reader's from now on.
        file: where it was read from.
        io: of the model.
        config: gpux.yml.

    Raises:
        ConfigurationError: what gpux.yml or the tokenizer says of lengths or padding cannot be.

    Attributes:
        max_length: tokens of a row at most.
    """

    def __init__(self, tokenizer: Any, file: Path, io: ModelIO, config: ModelConfig) -> None:
        specs = {entry.name: entry.spec for entry in io.inputs}
        leading, length = specs[IDS].dims
        self._tokenizer = tokenizer
        self._batch_axis = leading if isinstance(leading, str) else "batch"
        self._fixed_length = length if isinstance(length, int) else None
        self._fills = [entry.name for entry in io.inputs if entry.from_text]
        self._pair_is_required = any(entry.name == PAIR and entry.required for entry in io.inputs)
        truncation, padding = tokenizer.truncation or {}, tokenizer.padding or {}
        self._cuts_left = truncation.get("direction") == "left"
        self._padding = _find_padding(tokenizer, padding, config)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # By how many texts there are: one, or a pair.
        self._layouts = {count: _learn_layout(tokenizer, count, file) for count in (1, 2)}
        special = sum(len(part.ids) for part in self._layouts[1])
        self.max_length = _find_max_length(
            truncation.get("max_length"), file, self._fixed_length, special, config
        )

    @property
    def fillers(self) -> Mapping[str, int]:
        """What fills rows up, by input; nothing where the tokenizer names no token for it."""
        padding = self._padding
        if padding.id is None:
            return {}
        fillers = {IDS: padding.id, MASK: 0, TYPES: padding.type_id}
        return {name: fillers[name] for name in self._fills}

    @property
    def pads_left(self) -> bool:
        """Whether what fills rows up stands before the text."""
        return self._padding.is_left

    def encode(
        self, texts: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[str, numpy.ndarray[Any, Any]]]:
        """The rows of the model's inputs.

        Args:
            texts: `text`, and `text_pair` for models that compare two; each of at most
                MAX_CHARACTERS.

        Returns:
            Inputs by name, one after the other: a row of integers for each text, all of one length.

        Raises:
            ClientError: one half of the pairs is missing, or longer than the other; or the rows
                cannot be made equally long, or would be too large then.
            InferenceError: the tokenizer failed.

        The GIL is released while the texts are read.
        """
        if TEXT not in texts:
            raise MissingInputError(TEXT)
        if PAIR not in texts and self._pair_is_required:
            raise MissingInputError(PAIR)
        names = [TEXT, PAIR] if PAIR in texts else [TEXT]
        counts = [len(texts[name]) for name in names]
        if len(names) == 2 and counts[0] != counts[1]:
            raise DisagreementError(self._batch_axis, (TEXT, counts[0]), (PAIR, counts[1]))
        layout = self._layouts[len(names)]
        room = self.max_length - sum(len(part.ids) for part in layout)
        if room < 1:
            problem = f"there is no room for a pair in {self.max_length} tokens"
            raise InvalidShapeError(PAIR, (), problem)
        # Of all texts, one after the other.
        ids, types = array("q"), array("q")
        lengths: list[int] = []
        longest = 0
        for tokens in zip(*(self._read(texts[name]) for name in names), strict=True):
            kept = self._cut(tokens, room)
            before = len(ids)
            for part in layout:
                part_ids = part.ids if part.source is None else kept[part.source]
                ids.extend(part_ids)
                types.extend(array("q", [part.type_id]) * len(part_ids))
            lengths.append(len(ids) - before)
            if lengths[-1] > longest:
                longest = lengths[-1]
                self._check_amount(counts[0], longest)
        return self._pad(ids, types, lengths)

    def _read(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The tokens of each text; a few texts at a time, by their length."""
        start = 0
        while start < len(texts):
            end, characters = start, 0
            while end < len(texts) and (end == start or characters < MAX_CHARACTERS):
                characters += len(texts[end])
                end += 1
            try:
                encodings = self._tokenizer.encode_batch_fast(
                    texts[start:end], add_special_tokens=False
                )
            except BaseException as error:
                # A panic of its Rust code is no Exception.
                if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
                    raise
                raise InferenceError("the tokenizer could not read the text") from error
            for encoding in encodings:
                yield encoding.ids
            start = end

    def _cut(self, tokens: Sequence[list[int]], room: int) -> list[list[int]]:
        """What is kept of one text, or of two."""
        sizes = _shares([len(each) for each in tokens], room)
        if self._cuts_left:
            return [each[len(each) - size :] for each, size in zip(tokens, sizes, strict=True)]
        return [each[:size] for each, size in zip(tokens, sizes, strict=True)]

    def _width(self, longest: int) -> int:
        """How long rows are, of which the longest has so many tokens."""
        if self._fixed_length is not None:
            return self._fixed_length
        if self._padding.id is None:
            return longest
        return -(-longest // self._padding.multiple) * self._padding.multiple

    def _check_amount(self, rows: int, longest: int) -> None:
        width = self._width(longest)
        if rows * width * len(self._fills) > _MAX_NUMBERS:
            problem = f"padded to {width} tokens each, {rows} texts are too many for one request"
            fit = f"{_MAX_NUMBERS // (width * len(self._fills))} fit"
            raise InvalidShapeError(TEXT, (), f"{problem}: {fit}")

    def _pad(
        self, ids: "array[int]", types: "array[int]", lengths: list[int]
    ) -> Iterator[tuple[str, numpy.ndarray[Any, Any]]]:
        """Makes rows equally long, and tells what of them is text."""
        padding, width, shortest = self._padding, self._width(max(lengths)), min(lengths)
        if padding.id is None and shortest < width:
            expected = f"{width} tokens in each"
            problem = f"expected {expected}, as the tokenizer names no token to pad with"
            raise InvalidShapeError(TEXT, (), f"{problem}, got {shortest}")
        shape = len(lengths), width
        is_text = numpy.ones(shape, bool)
        if shortest < width:
            places, ends = numpy.arange(width), numpy.array(lengths)[:, None]
            is_text = places >= width - ends if padding.is_left else places < ends
        for name in self._fills:
            if name == MASK:
                yield name, is_text.view("uint8")
                continue
            tokens, filler = (ids, padding.id) if name == IDS else (types, padding.type_id)
            rows = numpy.frombuffer(tokens, "int64")
            if shortest < width:
                padded = numpy.full(shape, filler)
                padded[is_text] = rows
                rows = padded
            yield name, rows.reshape(shape)


def _shares(sizes: list[int], room: int) -> list[int]:
    """How many tokens are kept of one text, or of two, of which the longer one is cut first.

    Source: `longest_first` of the tokenizers library, to the token.
    """
    if sum(sizes) <= room:
        return sizes
    if len(sizes) == 1:
        return [room]
    shorter = min(sizes)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = room - shorter
    return [shorter, longer] if sizes[0] <= sizes[1] else [longer, shorter]


def _learn_layout(tokenizer: Any, count: int, file: Path) -> list[_Part]:
    """Where special tokens stand around one text, or around and between two."""
    # The first text that is a token of its own in any vocabulary that knows it.
    for probe in ("a", "the", "0", ".", "\u4e00"):
        # The faster encode_batch_fast() forgets the types where there is no post-processor.
        (encoding,) = tokenizer.encode_batch([(probe, probe) if count == 2 else probe])
        sources = encoding.sequence_ids
        groups = [list(group) for _, group in groupby(range(len(sources)), sources.__getitem__)]
        layout = [
            _Part(
                sources[group[0]],
                [] if sources[group[0]] is not None else [encoding.ids[i] for i in group],
                encoding.type_ids[group[0]],
            )
            for group in groups
        ]
        found = [part.source for part in layout if part.source is not None]
        if sorted(found) == list(range(count)):
            return layout
    raise ConfigurationError(f"{file}: cannot be used: it makes no tokens of a text")


def _find_max_length(
    own: int | None, file: Path, fixed: int | None, special: int, config: ModelConfig
) -> int:
    """Tokens of a row at most: what gpux.yml says, the tokenizer or 512, and the model.

    Args:
        own: of the tokenizer.
        file: where it was read from.
        fixed: of the model.
        special: tokens that go around one text.
        config: gpux.yml.
    """
    if PAIR in config.inputs and config.inputs[PAIR].max_length is not None:
        config.fail("inputs", PAIR, "max_length", problem=f"it is given for '{TEXT}', for both")
    of_text = config.inputs[TEXT].max_length if TEXT in config.inputs else None
    length = config.content.preprocessing.max_length
    path: tuple[str, ...] = ("preprocessing", "max_length")
    if of_text is not None:
        path = ("inputs", TEXT, "max_length")
        if length is not None:
            config.fail(*path, problem="it is given as preprocessing.max_length as well")
        length = of_text
    around = f"the {special} special tokens around a text"
    if length is not None:
        if length <= special:
            config.fail(*path, problem=f"expected more than {around}, got {length}")
        if fixed is not None and length > fixed:
            problem = f"expected at most {fixed}, the size that '{IDS}' has, got {length}"
            config.fail(*path, problem=problem)
        return length
    length = _DEFAULT_MAX_LENGTH if own is None else own
    if length <= special:
        problem = f"truncation.max_length: expected more than {around}, got {length}"
        raise ConfigurationError(f"{file}: {problem}")
    if fixed is not None and fixed <= special:
        problem = f"'{IDS}' has room for {fixed} tokens, no more than {around}"
        raise ConfigurationError(f"{file}: cannot be used: {problem}")
    return length if fixed is None else min(length, fixed)


def _find_padding(tokenizer: Any, own: Mapping[str, Any], config: ModelConfig) -> _Padding:
    """By the tokenizer; gpux.yml may name a token where it has none."""
    token_id = own.get("pad_id")
    token = config.content.preprocessing.pad_token
    if token is not None:
        token_id = tokenizer.token_to_id(token)
        if token_id is None:
            problem = f"expected a token of the tokenizer, got {token!r}"
            config.fail("preprocessing", "pad_token", problem=problem)
    elif token_id is None:
        # Without settings for padding there may still be a special token whose name says it.
        named = [
            number
            for number, added in tokenizer.get_added_tokens_decoder().items()
            if added.special and "pad" in added.content.lower()
        ]
        token_id = named[0] if len(named) == 1 else None
    return _Padding(
        token_id,
        own.get("pad_type_id", 0),
        own.get("direction") == "left",
        own.get("pad_to_multiple_of") or 1,
    )
