"""What the tokenizing of long texts does to other requests of the same server.

One model takes texts and token ids alike. Short requests of ids are timed alone, and while another
client sends long texts. Both have one connection, so that what they wait for is each other.
"""

import json
import random
import string
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from common.answers import Question
from common.cases import CASES, FOLDER
from common.load import Load, medians, put_under_load, wrk_command
from common.reference import run_alone
from common.report import CannotMeasureError, Figure
from common.servers import Server
from common.timing import take_turns
from server.contenders import Contender
from server.environments import Environment

_WORDS = 30_000  # of a text
_PATIENCE_SECONDS = 20.0


def measure_beside(
    contenders: Mapping[Contender, Environment],
    rounds: int,
    seconds: float,
    missing: dict[str, str],
) -> Iterator[Figure]:
    """Measures servers of this project.

    Args:
        contenders: with their environments.
        rounds: turns of each, alone and beside texts.
        seconds: of each turn.
        missing: gets the reasons for what could not be measured.
    """
    model, ids, texts, question = _prepare()
    with ExitStack() as stack:
        turns: dict[tuple[str, bool], Callable[[], Load]] = {}
        for contender, environment in contenders.items():
            try:
                starting = contender.serve(environment, model, ids.read_bytes())
                server = stack.enter_context(starting)
                with server.client() as client:
                    client.post(texts.read_bytes())
            except CannotMeasureError as error:
                missing[f"{contender.name}, texts"] = str(error)
                continue
            server.processes.freeze()
            for is_beside, file in ((False, None), (True, texts)):
                turn = _turn(server, ids, file, seconds, question.check)
                turns[contender.name, is_beside] = turn
        taken = take_turns([turns], rounds)
    for name in dict.fromkeys(name for name, _ in taken):
        alone, beside = (medians(taken[name, each])["p99_ms"] for each in (False, True))
        if alone is not None and beside is not None:
            figure: Figure = {"group": "beside", "server": name, "alone_p99_ms": alone}
            yield {**figure, "beside_p99_ms": beside, "ratio": beside / alone}


def _turn(
    server: Server, ids: Path, texts: Path | None, seconds: float, check: Callable[[bytes], None]
) -> Callable[[], Load]:
    """A turn of requests of ids, beside texts over one more connection unless these are None."""

    def turn() -> Load:
        server.processes.resume()
        command = wrk_command(server, texts, 1) if texts else ["true"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sending:
            try:
                return put_under_load(server, ids, 1, seconds, check)
            finally:
                sending.kill()
                server.processes.wait_until_idle(_PATIENCE_SECONDS)
                server.processes.freeze()

    return turn


def _prepare() -> tuple[Path, Path, Path, Question]:
    """Writes the model's folder, a request of ids and one of a long text."""
    folder = FOLDER / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    model.write_bytes(CASES["tokens"].model().SerializeToString())
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    ids, texts = folder / "ids.json", folder / "texts.json"
    request = {"input_ids": [[1, 2, 3, 4]], "attention_mask": [[1, 1, 1, 1]]}
    ids.write_text(json.dumps(request))
    chance = random.Random(0)
    words = ["".join(chance.choices(string.ascii_lowercase, k=6)) for _ in range(_WORDS)]
    texts.write_text(json.dumps({"text": " ".join(words)}))
    return model, ids, texts, Question("texts", ids.read_bytes(), run_alone(model, request))


def _tokenizer() -> dict[str, object]:
    """A WordPiece tokenizer that splits words into letters."""
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: number for number, token in enumerate(["[UNK]", *letters])},
    }
    return {"version": "1.0", "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": model}
