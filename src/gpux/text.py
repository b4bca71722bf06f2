"""Text → the ids that a transformer takes, by the model's own tokenizer.json.

The only importer of tokenizers (Hugging Face), which an extra installs.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpux.declaration import Declaration
from gpux.errors import (
    ConfigurationError,
    DisagreementError,
    InferenceError,
    InvalidShapeError,
    MissingInputError,
)
from gpux.tensor import BY_NAME, Signature, TensorSpec

logger = logging.getLogger(__name__)

TEXT = "text"
PAIR = "text_pair"
IDS = "input_ids"
TYPES = "token_type_ids"
# What an encoding of the tokenizer has for each input of the model.
_PARTS = {IDS: "ids", "attention_mask": "attention_mask", TYPES: "type_ids"}
_DEFAULT_MAX_LENGTH = 512
_INSTALL = "pip install 'gpux[text]'"


class TextReader:
    """Makes a model's ids from texts. Immutable; used by all threads at once.

    Args:
        tokenizer: of Hugging Face's library, set up to cut and to pad.
        ids: the model's input_ids.
        fills: the names of the model's inputs that are made from texts.
        pads: whether texts of different lengths can be in one batch.

    Attributes:
        specs: the inputs that it adds: a text is one item, a list of texts a batch.
        fills: as given.
    """

    def __init__(self, tokenizer: Any, ids: TensorSpec, fills: Sequence[str], *, pads: bool):
        self._tokenizer = tokenizer
        self._pads = pads
        self.fills = tuple(fills)
        self.specs = tuple(
            TensorSpec(name, BY_NAME["string"], ids.dims[:1], ids.batched) for name in (TEXT, PAIR)
        )

    def encode(self, texts: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        """The rows of the model's inputs.

        Args:
            texts: `text`, and `text_pair` for models that compare two.

        Returns:
            By input: a row for each text, all of one length.

        Raises:
            ClientError: one half of the pairs is missing, or longer than the other; or the texts
                cannot be made equally long.
            InferenceError: the tokenizer failed.

        The GIL is released while the texts are read.
        """
        if TEXT not in texts:
            raise MissingInputError(TEXT)
        batch: list[Any] = texts[TEXT]
        if PAIR in texts:
            pairs = texts[PAIR]
            if len(batch) != len(pairs):
                raise DisagreementError("batch", (TEXT, len(batch)), (PAIR, len(pairs)))
            batch = list(zip(batch, pairs, strict=True))
        try:
            encodings = self._tokenizer.encode_batch_fast(batch)
        except BaseException as error:
            # A panic of its Rust code is no Exception.
            if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
                raise
            raise InferenceError("the tokenizer could not read the text") from error
        if not self._pads:
            lengths = {len(encoding) for encoding in encodings}
            if len(lengths) > 1:
                problem = f"the texts have from {min(lengths)} to {max(lengths)} tokens, "
                problem += "and the tokenizer names no token to pad the shorter ones with"
                raise InvalidShapeError(TEXT, (), problem)
        return {
            name: [getattr(encoding, _PARTS[name]) for encoding in encodings] for name in self.fills
        }


def open_tokenizer(file: Path | None, model: Signature, told: Declaration) -> TextReader | None:
    """The reader of texts for a model; None if it takes none.

    Args:
        file: a tokenizer.json, if there is one.
        model: what it is to be read for.
        told: gpux.yml.

    Raises:
        ConfigurationError: a tokenizer that cannot be used, where gpux.yml asks for it.
    """
    preprocessing = told.content.preprocessing
    named = preprocessing.tokenizer is not None
    inputs = {spec.name: spec for spec in model.inputs}
    ids = inputs.get(IDS)
    takes_ids = ids is not None and ids.type.name in ("int64", "int32") and len(ids.dims) == 2
    if named and not takes_ids:
        problem = f"the model has no input '{IDS}' of int64 or int32 with two axes"
        told.refuse("preprocessing", "tokenizer", problem=problem)
    if file is None or not takes_ids or TEXT in inputs:
        for key in ("max_length", "pad_token"):
            if getattr(preprocessing, key) is not None:
                told.refuse("preprocessing", key, problem="there is no tokenizer to use it")
        return None
    assert ids is not None
    try:
        tokenizer = _load(file)
    except ImportError:
        problem = f"the package tokenizers is not installed: {_INSTALL}"
        if named:
            told.refuse("preprocessing", "tokenizer", problem=problem)
        logger.warning("%s is not used, and texts are not taken: %s", file, problem)
        return None
    _cut(tokenizer, _max_length(tokenizer, ids, told))
    pads = _pad(tokenizer, ids, told)
    fills = [name for name in _PARTS if name in inputs and len(inputs[name].dims) == 2]
    return TextReader(tokenizer, ids, fills, pads=pads)


def _load(file: Path) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more exact
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{file}: cannot be read as a tokenizer: {reason}") from error


def _max_length(tokenizer: Any, ids: TensorSpec, told: Declaration) -> int:
    """Tokens at which a text is cut: gpux.yml's, the tokenizer's own or 512, and the model's."""
    places: list[tuple[str, ...]] = []
    lengths: list[int] = []
    of_text = told.inputs[TEXT].max_length if TEXT in told.inputs else None
    for place, length in (
        (("inputs", TEXT, "max_length"), of_text),
        (("preprocessing", "max_length"), told.content.preprocessing.max_length),
    ):
        if length is not None:
            places.append(place)
            lengths.append(length)
    if len(lengths) > 1:
        told.refuse(*places[0], problem="it is given as preprocessing.max_length as well")
    size = ids.dims[1]
    if not lengths:
        own = tokenizer.truncation["max_length"] if tokenizer.truncation else _DEFAULT_MAX_LENGTH
        return min(own, size) if isinstance(size, int) else int(own)
    special = tokenizer.num_special_tokens_to_add(is_pair=True)
    if lengths[0] <= special:
        problem = f"expected more than the {special} tokens that go around a pair of texts"
        told.refuse(*places[0], problem=f"{problem}, got {lengths[0]}")
    if isinstance(size, int) and lengths[0] > size:
        problem = f"expected at most {size}, as '{IDS}' is {ids.shape_text}, got {lengths[0]}"
        told.refuse(*places[0], problem=problem)
    return lengths[0]


def _cut(tokenizer: Any, max_length: int) -> None:
    own = tokenizer.truncation or {}
    # Of pairs the longer text is cut. What is cut off is dropped, so there is no stride.
    tokenizer.enable_truncation(
        max_length, direction=own.get("direction", "right"), strategy="longest_first", stride=0
    )


def _pad(tokenizer: Any, ids: TensorSpec, told: Declaration) -> bool:
    """Has shorter texts padded; answers whether the tokenizer says with what."""
    own = tokenizer.padding or {}
    told_token = told.content.preprocessing.pad_token
    token = told_token or own.get("pad_token") or _find_pad_token(tokenizer)
    if token is None:
        tokenizer.no_padding()
        return False
    token_id = tokenizer.token_to_id(token)
    if told_token is not None and token_id is None:
        told.refuse("preprocessing", "pad_token", problem=f"{token!r} is no token of the tokenizer")
    if told_token is None:
        token_id = own.get("pad_id", token_id)
    size = ids.dims[1]
    tokenizer.enable_padding(
        direction=own.get("direction", "right"),
        pad_id=token_id,
        pad_type_id=own.get("pad_type_id", 0),
        pad_token=token,
        # To the longest of the batch, whatever length is baked in; to the model's, if it has one.
        length=size if isinstance(size, int) else None,
        pad_to_multiple_of=None if isinstance(size, int) else own.get("pad_to_multiple_of"),
    )
    return True


def _find_pad_token(tokenizer: Any) -> str | None:
    """The special token whose name says that it pads."""
    special = [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.special and "pad" in token.content.lower()
    ]
    return special[0] if len(special) == 1 else None
