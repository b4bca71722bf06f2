"""Mixed traffic on several servers for an hour, or as long as wanted.

    python tests/soak.py --minutes 60

Clients of every kind at once: good and wrong ones, huge bodies and answers, clients that are slow,
stand still or leave, batches, texts (where `tokenizers` is installed), requests beyond their
deadline or beyond the queue, and whoever watches over servers. Each answer is checked by value. A
line a minute tells how it goes. It ends with exit code 1, and what failed, if

- an answer is wrong, or is a status that its request may not have;
- a server's memory grows: a line through what it occupied, from the end of the warm-up (the first
  quarter, ten minutes at most) to the end, may rise by 24 MiB, or by 96 in less than ten minutes,
  in which the largest answers still meet for the first time;
- a thread or a descriptor is left over when the clients have gone;
- a server says anything on stderr, its access log is not whole, or SIGTERM ends it with anything
  but exit code 0.

No time is judged: a busy machine fails nothing.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from prometheus_client.parser import text_string_to_metric_families

from gpux.config.settings import cores
from tests.support import bert_models, onnx_models, oracle, servers
from tests.support.ort import run, same_bits
from tests.support.packaged_models import find_in_package
from tests.support.servers import (
    Client,
    Response,
    ServerProcess,
    figure,
    head,
    post,
    serve,
    wait_until,
)

_MAY_GROW_BYTES = 24 * 2**20
_MAY_GROW_SOON_BYTES = 96 * 2**20
_SOON_SECONDS = 600.0
_MAX_WARM_UP_SECONDS = 600.0
_FOR_EVER = b'{"steps":100000000}'


class Tally:
    """What came of all requests. Of many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two fields below
        self._fates: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self.stops = threading.Event()

    def note(self, fate: object) -> None:
        """Counts a status, or what else became of a request."""
        with self._lock:
            self._fates[str(fate)] += 1

    def fail(self, who: str, what: str) -> None:
        """Notes the first failure of each kind; all clients stop."""
        with self._lock:
            self._failures.setdefault(who, what)
        self.stops.set()

    @property
    def fates(self) -> dict[str, int]:
        """How often each was noted."""
        with self._lock:
            return dict(sorted(self._fates.items()))

    @property
    def failures(self) -> dict[str, str]:
        """By the kind of client."""
        with self._lock:
            return dict(self._failures)


@dataclass
class Party:
    """What a client needs: its server, its chance, and where it tells of answers."""

    server: ServerProcess
    chance: random.Random
    tally: Tally

    def check(self, answer: Response, *statuses: int) -> int:
        """Counts an answer that may have one of these statuses."""
        assert answer.status in statuses, (answer.status, answer.body[:300])
        self.tally.note(answer.status)
        return answer.status

    def pause(self, seconds: float) -> None:
        """Waits up to so long, and no longer than clients are wanted."""
        self.tally.stops.wait(self.chance.uniform(0, seconds))

    def numbers(self, count: int) -> list[float]:
        """Numbers whose text is the same in float32 and float64."""
        return [self.chance.randrange(-8000, 8000) / 8 for _ in range(count)]


def same(answered: object, expected: object) -> None:
    """Fails, with both of them, if two values are not equal."""
    if answered != expected:
        raise AssertionError(f"answered {str(answered)[:500]}, expected {str(expected)[:500]}")


# Kinds of clients. Each of these is called again and again.


def ask_rows(party: Party) -> None:
    """One request after the other over a connection, with an item, or up to 40 rows."""
    with Client(party.server) as client:
        for _ in range(20):
            width = party.chance.randrange(1, 30)
            rows = [party.numbers(width) for _ in range(party.chance.choice((1, 1, 2, 8, 40)))]
            value: Any = rows[0] if party.chance.random() < 0.5 else rows
            client.send(post(json.dumps({"x": value}).encode()))
            answer = client.read()
            party.check(answer, 200)
            same(answer.json, {"y": value})
            party.pause(0.02)


def ask_in_a_row(party: Party) -> None:
    """Several requests at once on one connection, one of which is wrong."""
    values = [party.numbers(4) for _ in range(8)]
    with Client(party.server) as client:
        client.send(*(post(json.dumps({"x": value}).encode()) for value in values), post(b"{"))
        for value in values:
            answer = client.read()
            party.check(answer, 200)
            same(answer.json, {"y": value})
        party.check(client.read(), 400)


_WRONG = (
    (post(b"[1]"), 400, "Request body must be a JSON object of input names to values"),
    (post(b"{}"), 400, "Missing required input: 'x'"),
    (post(b'{"x":"one"}'), 400, "Invalid input type for 'x': expected array"),
    (post(b'{"x":[1,null]}'), 400, "Invalid value for 'x' at [1]: expected number, got null"),
    (post(b'{"x":[[1,2],[3]]}'), 400, "Invalid shape for 'x' at [1]: expected 2 values, got 1"),
    (
        post(b'{"x":[[1e39]]}'),
        400,
        "Invalid value for 'x' at [0][0]: 1e39 is out of range for float32",
    ),
    (head(2, path="/nowhere") + b"{}", 404, "No such route: /nowhere"),
    (b"GET /predict HTTP/1.1\r\n\r\n", 405, None),
    (post(b"{}").replace(b"application/json", b"text/plain"), 415, None),
    (b"NONSENSE\r\n\r\n", 400, None),
    (head(None, "Transfer-Encoding: chunked") + b"zz\r\n", 400, None),
)


def ask_wrongly(party: Party) -> None:
    request, status, detail = party.chance.choice(_WRONG)
    with Client(party.server) as client:
        client.send(request)
        answer = client.read()
        party.check(answer, status)
        same(answer.detail, detail or answer.detail)


def ask_slowly(party: Party) -> None:
    """A request a few bytes at a time."""
    value = party.numbers(3)
    request = post(json.dumps({"x": value}).encode())
    with Client(party.server) as client:
        while request:
            size = party.chance.randrange(1, 20)
            client.send(request[:size])
            request = request[size:]
            party.pause(0.05)
        answer = client.read()
        party.check(answer, 200)
        same(answer.json, {"y": value})


def stand_still(party: Party) -> None:
    """Half a request: nothing comes of it but 408, after 20 seconds."""
    with Client(party.server) as client:
        client.send(post(b'{"x":[1]}')[: party.chance.choice((10, 60, -3))])
        party.check(client.read(), 408)
        assert client.at_end(), "the connection goes on after 408"


def leave(party: Party) -> None:
    """Goes before the answer, wherever the request is."""
    whole = post(json.dumps({"x": party.numbers(50)}).encode())
    with Client(party.server) as client:
        client.send(whole[: party.chance.randrange(1, len(whole) + 1)])
        party.pause(0.01)
        if party.chance.random() < 0.5:
            client.reset()
    party.tally.note("left")


def ask_for_masked(party: Party) -> None:
    """Integers of different lengths, which run together padded; exactly."""
    rows, width = party.chance.choice((1, 1, 3)), party.chance.randrange(1, 60)
    ids = [[party.chance.randrange(-(2**40), 2**40) for _ in range(width)] for _ in range(rows)]
    mask = [[party.chance.randrange(2) for _ in range(width)] for _ in range(rows)]
    kept = [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(ids, mask, strict=True)]
    answer = party.server.post({"ids": ids, "mask": mask})
    party.check(answer, 200)
    right = {
        "states": [[[a, 2 * a, -a] for a in row] for row in kept],
        "kept": kept,
        "sum": [sum(row) for row in kept],
    }
    same(answer.json, right)


def ask_for_pictures(party: Party, pictures: Sequence[tuple[bytes, Any]]) -> None:
    """3 MB of JSON, or more than the server takes."""
    body, expected = party.chance.choice(pictures)
    if party.chance.random() < 0.2:
        answer = party.server.post(body + b" " * 2_000_000)
        party.check(answer, 413)
        return
    answer = party.server.post(body)
    party.check(answer, 200)
    assert same_bits([answer.json["probabilities"]], expected), (answer.json, expected)


def read_much(party: Party) -> None:
    """An answer of up to 4 MB, which is read at once, with pauses, or not to its end."""
    count = party.chance.randrange(1, 1_000_000)
    with Client(party.server) as client:
        client.send(post(b'{"count":[%d]}' % count))
        manner = party.chance.choice(("at once", "slowly", "in part"))
        client.stream.peek(1)
        if manner == "in part":
            client.stream.read(party.chance.randrange(1000))
            party.tally.note("left")
            return
        if manner == "slowly":
            party.pause(2)
        answer = client.read()
        party.check(answer, 200)
        same(answer.body, b'{"ones":[' + b"1.0," * (count - 1) + b"1.0]}")


def ask_beyond_the_deadline(party: Party) -> None:
    """What would run for ever, for as long as it is wanted."""
    limit = f"X-Request-Timeout: {party.chance.uniform(0.05, 0.3):.3f}"
    with Client(party.server) as client:
        client.send(head(len(_FOR_EVER), limit), _FOR_EVER)
        if party.chance.random() < 0.3:  # nobody waits for the run, or for its turn
            party.pause(0.05)
            party.tally.note("left")
            return
        party.check(client.read(), 504, 503)


def crowd(party: Party) -> None:
    """More at once than there is room for."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(party.server)) for _ in range(12)]
        for client in clients:
            client.send(post(b'{"steps":%d}' % party.chance.randrange(1, 500)))
        for client in clients:
            answer = client.read()
            if party.check(answer, 200, 503, 504) == 200:
                same(answer.json, {"sum": 128.0})
    party.pause(0.5)


def ask_about_texts(party: Party, texts: Sequence[tuple[str, list[float]]]) -> None:
    """One text, or several of different lengths."""
    chosen = party.chance.sample(texts, party.chance.choice((1, 1, 4)))
    answer = party.server.post({"text": [text for text, _ in chosen]})
    party.check(answer, 200)
    expected = [probabilities for _, probabilities in chosen]
    answered = answer.json["sentiment"]
    assert numpy.allclose(answered, expected, rtol=0, atol=1e-5), (answered, expected)


def watch(party: Party) -> None:
    """What Prometheus, an orchestrator and a curious person ask for."""
    answer = party.server.request("GET", "/metrics")
    party.check(answer, 200)
    assert list(text_string_to_metric_families(answer.body.decode())), answer.body
    for path in ("/health", "/health/live", "/health/ready"):
        answer = party.server.request("GET", path)
        party.check(answer, 200)
        same(answer.json["status"], "healthy")
    answer = party.server.request("GET", "/info")
    party.check(answer, 200)
    same(answer.json["format"], "onnx")
    party.pause(1)


# The servers.


@dataclass
class Place:
    """A server, and what is known of it.

    Attributes:
        name: in the table.
        server: runs.
        kinds: what its clients do, each in so many threads.
        logs: it writes an access log as JSON.
    """

    name: str
    server: ServerProcess
    kinds: Sequence[tuple[Callable[[Party], None], int]]
    logs: bool = False
    descriptors: int = field(init=False)
    threads: int = field(init=False)
    resident: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.server.request("GET", "/health").status == 200
        wait_until(self._is_alone, "its client is forgotten")
        self.descriptors = self.server.descriptors()
        self.threads = self.server.threads()

    def _is_alone(self) -> bool:
        return figure(self.server, "gpux_in_flight_requests") == 0

    def look(self, seconds: float) -> None:
        """Notes what it occupies now."""
        assert self.server.process.poll() is None, f"{self.name} has ended"
        self.resident.append((seconds, self.server.resident_bytes()))

    def growth_bytes(self, warm_up_seconds: float) -> float:
        """By how much a line through what it occupied rises, from then on to the end."""
        times, sizes = numpy.array([s for s in self.resident if s[0] >= warm_up_seconds]).T
        slope, _ = numpy.polyfit(times - times[0], sizes, 1)
        return float(slope * (times[-1] - times[0]))

    def check_end(self) -> None:
        """Fails if anything is left over of the clients, or of the server after SIGTERM."""
        wait_until(self._is_alone, f"no request is at {self.name}")
        wait_until(
            lambda: self.server.descriptors() <= self.descriptors,
            f"{self.name} has no more than {self.descriptors} descriptors again",
        )
        # Those that run the model begin with the first request that waits.
        most = self.threads + cores() + 1
        assert self.server.threads() <= most, (self.server.threads(), self.threads)
        counted = {
            status: int(figure(self.server, "gpux_requests_total", status=status))
            for status in ("200", "400", "408")
        }
        unrecorded = int(figure(self.server, "gpux_unrecorded_requests_total"))
        same(self.server.end(), 0)
        same(self.server.stderr.text, "")
        if self.logs:
            self._check_log(counted, unrecorded)

    def _check_log(self, counted: dict[str, int], unrecorded: int) -> None:
        """Whether there is a line for each request to the model that was counted."""
        lines = [line for line in self.server.stdout.text.splitlines() if line.startswith("{")]
        told: Counter[str] = Counter()
        for entry in map(json.loads, lines):
            if (entry.get("method"), entry.get("path")) == ("POST", "/predict"):
                told[str(entry["status"])] += 1
        missing = {status: count - told[status] for status, count in counted.items()}
        assert sum(map(abs, missing.values())) <= unrecorded, (missing, unrecorded)


def places(folder: Path, stack: ExitStack) -> Iterator[Place]:
    """Starts the servers, each with its clients."""

    def start(name: str, path: Path, *options: str) -> ServerProcess:
        print(f"Starting {name}", flush=True)
        return stack.enter_context(serve(path, "--timeout", "600", *options))

    yield Place(
        "matrix",
        start("matrix", onnx_models.write("matrix", folder), "--access-log", "json"),
        [
            (ask_rows, 4),
            (ask_in_a_row, 1),
            (ask_wrongly, 1),
            (ask_slowly, 2),
            (stand_still, 3),
            (leave, 1),
            (watch, 1),
        ],
        logs=True,
    )
    padded = onnx_models.write_folder(
        folder / "masked", "masked", "serving: {padding: {ids: 0, mask: 0}}"
    )
    yield Place("masked", start("masked", padded), [(ask_for_masked, 4), (watch, 1)])
    photo = onnx_models.write("photo", folder)
    chance = numpy.random.default_rng(1)
    pixels = [chance.random((1, 3, 224, 224), numpy.float32) for _ in range(3)]
    pictures = [
        (json.dumps({"image": x.tolist()}).encode(), run(photo, {"image": x})["probabilities"])
        for x in pixels
    ]
    yield Place(
        "photo",
        start("photo", photo, "--max-body", "4MB", "--threads", "4"),
        [(partial(ask_for_pictures, pictures=pictures), 2), (watch, 1)],
    )
    yield Place(
        "repeat",
        start("repeat", onnx_models.write("repeat", folder), "--threads", "4"),
        [(read_much, 3), (watch, 1)],
    )
    yield Place(
        "slow",
        start("slow", onnx_models.write("slow", folder), "--max-queue", "4", "--timeout", "10"),
        [(ask_beyond_the_deadline, 3), (crowd, 1), (watch, 1)],
    )
    if has_tokenizers():
        bert = bert_models.write_folder(folder / "bert")
        texts = list(known_texts(bert))
        server = start("bert", bert, "--access-log", "text")
        yield Place("bert", server, [(partial(ask_about_texts, texts=texts), 4), (watch, 1)])


def has_tokenizers() -> bool:
    """Whether texts can be served, and asked about."""
    try:
        import tokenizers  # noqa: F401

        find_in_package(bert_models.MINILM, "tokenizer.json")
    except BaseException as error:  # pytest's skip is none of Exception
        print(f"Without texts: {error}", flush=True)
        return False
    return True


def known_texts(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """Texts, and what the model of the folder answers: by ONNX Runtime, each text alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    words = ("good", "bad", "café", "GPUX", "don't", "terrible")
    for length in range(1, 60):
        text = " ".join(itertools.islice(itertools.cycle(words), length % 7, length % 7 + length))
        encoding = tokenizer.encode(text)
        feeds = zip(
            bert_models.INPUTS,
            (encoding.ids, encoding.attention_mask, encoding.type_ids),
            strict=True,
        )
        arrays = {name: numpy.array([values], numpy.int64) for name, values in feeds}
        logits = run(folder / "model.onnx", arrays)["logits"]
        yield text, oracle.activate("softmax", logits)[0].tolist()


# The run.


def attend(kind: Callable[[Party], None], party: Party) -> None:
    """A client, until the end or the first failure."""
    name = getattr(kind, "__name__", None) or kind.func.__name__  # type: ignore[attr-defined]
    while not party.tally.stops.is_set():
        try:
            kind(party)
        except Exception:
            party.tally.fail(name, traceback.format_exc())
        party.pause(0.05)


def soak(minutes: float) -> dict[str, str]:
    """Runs all of it; answers what failed."""
    tally = Tally()
    duration = 60 * minutes
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = list(places(Path(folder), stack))
        parties = [
            (kind, Party(place.server, random.Random(number), tally))
            for place in found
            for kind, count in place.kinds
            for number in range(count)
        ]
        with ThreadPoolExecutor(len(parties)) as clients:
            try:
                for kind, party in parties:
                    clients.submit(attend, kind, party)
                _look(found, tally, duration)
            except Exception:
                tally.fail("the servers", traceback.format_exc())
            finally:
                tally.stops.set()
        if not tally.failures:
            for place in found:
                _check(place, tally, duration)
        if tally.failures:
            for place in found:
                place.server.kill()
                if place.server.stderr.text:
                    tally.fail(f"{place.name}'s stderr", place.server.stderr.text)
    return tally.failures


def _look(found: Sequence[Place], tally: Tally, duration: float) -> None:
    """Looks at the servers until the end, and tells of it each minute."""
    began = time.monotonic()
    told = 0.0
    while not tally.stops.wait(min(1.0, duration / 100)):
        seconds = time.monotonic() - began
        for place in found:
            place.look(seconds)
        if seconds >= told + 60 or seconds >= duration:
            told = seconds
            print(_line(found, tally, seconds), flush=True)
        if seconds >= duration:
            return


def _line(found: Sequence[Place], tally: Tally, seconds: float) -> str:
    state = [
        f"{place.name} {place.resident[-1][1] / 2**20:.0f} MiB"
        f" {place.server.threads()}t {place.server.descriptors()}d"
        for place in found
    ]
    fates = ", ".join(f"{fate}: {count}" for fate, count in tally.fates.items())
    return f"{seconds / 60:6.1f} min | {fates} | {' | '.join(state)}"


def _check(place: Place, tally: Tally, duration: float) -> None:
    growth = place.growth_bytes(min(duration / 4, _MAX_WARM_UP_SECONDS))
    most = _MAY_GROW_SOON_BYTES if duration < _SOON_SECONDS else _MAY_GROW_BYTES
    print(f"{place.name}: {growth / 2**20:+.1f} MiB after the warm-up", flush=True)
    try:
        assert growth <= most, f"it may have grown by {most / 2**20:.0f} MiB"
        place.check_end()
    except Exception:
        tally.fail(place.name, traceback.format_exc())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    servers.PATIENCE_SECONDS = 300.0  # a busy machine
    failures = soak(parser.parse_args().minutes)
    for who, what in failures.items():
        print(f"FAILED: {who}\n{what}", file=sys.stderr)
    print(f"Soak: {'failed' if failures else 'passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
