"""Encodes texts as the ids that a transformer takes, with the model's own tokenizer.json.

The only importer of tokenizers (Hugging Face), which an extra installs. It splits each text into
tokens; truncation, special tokens and padding are done here. The library would keep everything that
it truncates, for a pair of long texts in every combination, which takes gigabytes. Where special
tokens go around a text is learned from it, once.
"""

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import numpy

logger = logging.getLogger(__name__)

_DEFAULT_MAX_LENGTH = 512
# Per text, and about as many per call: the library takes some 200 bytes for each while it works.
MAX_CHARACTERS = 2**20
# Per request, over all inputs that are made from its texts. Padding multiplies the number of texts
# by the longest of them: this is 10,922 texts of 512 tokens, with mask and types, and 128 MiB as
# int64, twice the largest body. A transformer needs far more memory for so many in one run.
_MAX_NUMBERS = 2**24


def open_tokenizer(file: Path | None, model: Signature, config: ModelConfig) -> Any:
    """Opens the tokenizer for a model; None if the model accepts no texts.

    Args:
        file: a tokenizer.json; None without one.
        model: the model's signature.
        config: gpux.yml.

    Raises:
        ConfigurationError: the tokenizer cannot be used, or is missing although gpux.yml needs it.
    """
    preprocessing = config.content.preprocessing
    needed_by = [
        ("preprocessing", key)
        for key in ("tokenizer", "max_length", "pad_token")
        if getattr(preprocessing, key) is not None
    ]
    if preprocessing.tokenizer is not None and not takes_ids(model):
        problem = f"the model has no input '{IDS}' of int64 or int32 with two axes"
        config.fail("preprocessing", "tokenizer", problem=problem)
    if file is None or not takes_ids(model):
        if needed_by:
            config.fail(*needed_by[0], problem="there is no tokenizer to use it")
        return None
    needed_by += [("inputs", name) for name in (TEXT, PAIR) if name in config.inputs]
    try:
        import tokenizers
    except ImportError:
        problem = f"the package tokenizers is not installed: {install_command('text')}"
        if needed_by:
            config.fail(*needed_by[0], problem=problem)
        logger.warning("%s is not used, and no texts are taken: %s", file, problem)
        return None
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more exact
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{file}: cannot be read as a tokenizer: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the tokens of one text, or of a pair.

    Attributes:
        source: 0 for the first text, 1 for the second, None for special tokens.
        ids: ids of the special tokens.
        type_id: token type of each token in the part.
    """

    source: int | None
    ids: list[int]
    type_id: int


@dataclass(frozen=True, slots=True)
class _Padding:
    """How rows are padded to the same length.

    Attributes:
        id, type_id: id and token type of the pad token; id is None if the tokenizer names none.
        is_left: whether padding goes before the text.
        multiple: row lengths are multiples of it.
    """

    id: int | None
    type_id: int
    is_left: bool
    multiple: int


class TextEncoder:
    """Encodes texts as a model's ids. Immutable; shared by all threads.

    Args:
        tokenizer: a tokenizers.Tokenizer; owned, and modified, by this object from now on.
        file: the file that it was read from.
        io: the model's inputs and outputs.
        config: gpux.yml.

    Raises:
        ConfigurationError: a length or the padding of gpux.yml or of the tokenizer is invalid.

    Attributes:
        max_length: maximum number of tokens in a row.
    """

    def __init__(self, tokenizer: Any, file: Path, io: ModelIO, config: ModelConfig) -> None:
        specs = {entry.name: entry.spec for entry in io.inputs}
        leading, length = specs[IDS].dims
        self._tokenizer = tokenizer
        self._batch_axis = leading if isinstance(leading, str) else "batch"
        self._fixed_length = length if isinstance(length, int) else None
        self._inputs = [entry.name for entry in io.inputs if entry.from_text]
        self._pair_is_required = any(entry.name == PAIR and entry.required for entry in io.inputs)
        truncation, padding = tokenizer.truncation or {}, tokenizer.padding or {}
        self._truncates_left = truncation.get("direction") == "left"
        self._padding = _find_padding(tokenizer, padding, config)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # By number of texts: one, or a pair.
        self._layouts = {count: _find_layout(tokenizer, count, file) for count in (1, 2)}
        special = sum(len(part.ids) for part in self._layouts[1])
        self.max_length = _find_max_length(
            truncation.get("max_length"), file, self._fixed_length, special, config
        )

    @property
    def pad_values(self) -> Mapping[str, int]:
        """Pad value of each input; empty if the tokenizer names no pad token."""
        padding = self._padding
        if padding.id is None:
            return {}
        values = {IDS: padding.id, MASK: 0, TYPES: padding.type_id}
        return {name: values[name] for name in self._inputs}

    @property
    def pads_left(self) -> bool:
        """Whether padding goes before the text."""
        return self._padding.is_left

    def encode(
        self, texts: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[str, "numpy.ndarray[Any, Any]"]]:
        """Encodes texts as the model's inputs.

        Args:
            texts: `text`, and `text_pair` for models that compare two; each text of at most
                MAX_CHARACTERS.

        Returns:
            An iterator over (input name, array): one row of integers per text, of equal length.

        Raises:
            ClientError: one half of the pairs is missing, or their numbers differ; or the rows
                cannot be padded to the same length, or would be too large.
            InferenceError: the tokenizer failed.

        The GIL is released while the library tokenizes.
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
        # Of all texts, concatenated.
        ids, types = array("q"), array("q")
        lengths: list[int] = []
        longest = 0
        for tokens in zip(*(self._tokenize(texts[name]) for name in names), strict=True):
            kept = self._truncate(tokens, room)
            before = len(ids)
            for part in layout:
                part_ids = part.ids if part.source is None else kept[part.source]
                ids.extend(part_ids)
                types.extend(array("q", [part.type_id]) * len(part_ids))
            lengths.append(len(ids) - before)
            if lengths[-1] > longest:
                longest = lengths[-1]
                self._check_size(counts[0], longest)
        return self._pad(ids, types, lengths)

    def _tokenize(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yields the tokens of each text; a call takes texts of about MAX_CHARACTERS in all."""
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
                # A panic of its Rust code is not an Exception.
                if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
                    raise
                raise InferenceError("the tokenizer could not read the text") from error
            for encoding in encodings:
                yield encoding.ids
            start = end

    def _truncate(self, tokens: Sequence[list[int]], room: int) -> list[list[int]]:
        """Truncates the tokens of one text, or of a pair, to `room` in all."""
        sizes = _kept_lengths([len(each) for each in tokens], room)
        if self._truncates_left:
            return [each[len(each) - size :] for each, size in zip(tokens, sizes, strict=True)]
        return [each[:size] for each, size in zip(tokens, sizes, strict=True)]

    def _row_length(self, longest: int) -> int:
        """The padded length of rows of which the longest has `longest` tokens."""
        if self._fixed_length is not None:
            return self._fixed_length
        if self._padding.id is None:
            return longest
        return -(-longest // self._padding.multiple) * self._padding.multiple

    def _check_size(self, rows: int, longest: int) -> None:
        width = self._row_length(longest)
        if rows * width * len(self._inputs) > _MAX_NUMBERS:
            problem = f"padded to {width} tokens each, {rows} texts are too many for one request"
            fit = f"{_MAX_NUMBERS // (width * len(self._inputs))} fit"
            raise InvalidShapeError(TEXT, (), f"{problem}: {fit}")

    def _pad(
        self, ids: "array[int]", types: "array[int]", lengths: list[int]
    ) -> Iterator[tuple[str, "numpy.ndarray[Any, Any]"]]:
        """Yields each input's rows, padded to the same length; the mask marks the text."""
        import numpy

        padding, width, shortest = self._padding, self._row_length(max(lengths)), min(lengths)
        if padding.id is None and shortest < width:
            expected = f"{width} tokens in each"
            problem = f"expected {expected}, as the tokenizer names no token to pad with"
            raise InvalidShapeError(TEXT, (), f"{problem}, got {shortest}")
        shape = len(lengths), width
        is_text = numpy.ones(shape, bool)
        if shortest < width:
            positions, ends = numpy.arange(width), numpy.array(lengths)[:, None]
            is_text = positions >= width - ends if padding.is_left else positions < ends
        for name in self._inputs:
            if name == MASK:
                yield name, is_text.view("uint8")
                continue
            tokens, pad_value = (ids, padding.id) if name == IDS else (types, padding.type_id)
            rows = numpy.frombuffer(tokens, "int64")
            if shortest < width:
                padded = numpy.full(shape, pad_value)
                padded[is_text] = rows
                rows = padded
            yield name, rows.reshape(shape)


def _kept_lengths(sizes: list[int], room: int) -> list[int]:
    """How many tokens to keep of one text, or of a pair, whose longer one is truncated first.

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


def _find_layout(tokenizer: Any, count: int, file: Path) -> list[_Part]:
    """Finds where special tokens go around one text, or around and between a pair."""
    # Texts that are one token in any vocabulary that has them; the first known one is used.
    for probe in ("a", "the", "0", ".", "\u4e00"):
        # The faster encode_batch_fast() loses the token types if there is no post-processor.
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
    """The maximum tokens in a row: by gpux.yml, else by the tokenizer or 512, and the model.

    Args:
        own: maximum of the tokenizer; None without one.
        file: the tokenizer's file.
        fixed: fixed row length of the model; None if dynamic.
        special: number of special tokens around one text.
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
    """The tokenizer's padding; gpux.yml may name the pad token for a tokenizer without one."""
    token_id = own.get("pad_id")
    token = config.content.preprocessing.pad_token
    if token is not None:
        token_id = tokenizer.token_to_id(token)
        if token_id is None:
            problem = f"expected a token of the tokenizer, got {token!r}"
            config.fail("preprocessing", "pad_token", problem=problem)
    elif token_id is None:
        # Without padding settings there may still be one special token named like a pad token.
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
