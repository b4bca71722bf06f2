"""Mixed traffic on several servers for an hour, or as long as wanted.

    python tests/soak.py --minutes 60

Concurrent clients of every kind: valid and invalid requests, huge bodies and responses, clients
that are slow, stall or leave, batches, texts (if `tokenizers` is installed), requests beyond the
deadline or the queue, and monitoring. Every response is checked by value, progress is printed once
a minute. It prints the failures and exits with code 1 if

- a response is wrong, or has a status that its request cannot have;
- a server's memory grows: a line fitted to its resident memory, from the end of the warm-up (the
  first quarter, ten minutes at most) to the end, may rise by 24 MiB, or by 96 MiB in runs of less
  than ten minutes, in which the largest responses still coincide for the first time;
- a thread or a descriptor is left when the clients have gone;
- a server writes to stderr, its access log is incomplete, or SIGTERM ends it with an exit code
  other than 0.

Durations are not checked: a busy machine fails nothing.
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
    head,
    metric,
    post,
    serve,
    wait_until,
)

_MAX_GROWTH_BYTES = 24 * 2**20
_MAX_SHORT_GROWTH_BYTES = 96 * 2**20
_SHORT_SECONDS = 600.0
_MAX_WARM_UP_SECONDS = 600.0
_ENDLESS = b'{"steps":100000000}'


class Tally:
    """The outcomes of all requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two fields below
        self._outcomes: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self.stops = threading.Event()

    def count(self, outcome: object) -> None:
        """Counts a status, or another outcome of a request."""
        with self._lock:
            self._outcomes[str(outcome)] += 1

    def fail(self, who: str, what: str) -> None:
        """Records the first failure of each kind and stops all clients."""
        with self._lock:
            self._failures.setdefault(who, what)
        self.stops.set()

    @property
    def outcomes(self) -> dict[str, int]:
        """Counts by outcome."""
        with self._lock:
            return dict(sorted(self._outcomes.items()))

    @property
    def failures(self) -> dict[str, str]:
        """The first failure by kind of client."""
        with self._lock:
            return dict(self._failures)


@dataclass
class User:
    """A simulated user: its server, its random generator, and the tally of its responses."""

    server: ServerProcess
    rng: random.Random
    tally: Tally

    def check(self, response: Response, *statuses: int) -> int:
        """Counts a response, which must have one of these statuses."""
        assert response.status in statuses, (response.status, response.body[:300])
        self.tally.count(response.status)
        return response.status

    def pause(self, seconds: float) -> None:
        """Waits for a random time up to `seconds`, or until all clients stop."""
        self.tally.stops.wait(self.rng.uniform(0, seconds))

    def numbers(self, count: int) -> list[float]:
        """Random numbers with the same text in float32 and float64."""
        return [self.rng.randrange(-8000, 8000) / 8 for _ in range(count)]


def same(actual: object, expected: object) -> None:
    """Fails with both values unless they are equal."""
    if actual != expected:
        raise AssertionError(f"answered {str(actual)[:500]}, expected {str(expected)[:500]}")


# Kinds of clients, each called in a loop.


def send_rows(user: User) -> None:
    """Sequential requests on one connection, with one item or up to 40 rows."""
    with Client(user.server) as client:
        for _ in range(20):
            width = user.rng.randrange(1, 30)
            rows = [user.numbers(width) for _ in range(user.rng.choice((1, 1, 2, 8, 40)))]
            value: Any = rows[0] if user.rng.random() < 0.5 else rows
            client.send(post(json.dumps({"x": value}).encode()))
            response = client.read()
            user.check(response, 200)
            same(response.json, {"y": value})
            user.pause(0.02)


def send_pipelined(user: User) -> None:
    """Pipelined requests on one connection, the last one invalid."""
    values = [user.numbers(4) for _ in range(8)]
    with Client(user.server) as client:
        client.send(*(post(json.dumps({"x": value}).encode()) for value in values), post(b"{"))
        for value in values:
            response = client.read()
            user.check(response, 200)
            same(response.json, {"y": value})
        user.check(client.read(), 400)


_INVALID = (
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
    (b"GET /predict HTTP/1.1\r\nHost: a\r\n\r\n", 405, None),
    (post(b"{}").replace(b"application/json", b"text/plain"), 415, None),
    (b"NONSENSE\r\n\r\n", 400, None),
    (head(None, "Transfer-Encoding: chunked") + b"zz\r\n", 400, None),
)


def send_invalid(user: User) -> None:
    request, status, detail = user.rng.choice(_INVALID)
    with Client(user.server) as client:
        client.send(request)
        response = client.read()
        user.check(response, status)
        same(response.detail, detail or response.detail)


def send_slowly(user: User) -> None:
    """A request sent a few bytes at a time."""
    value = user.numbers(3)
    request = post(json.dumps({"x": value}).encode())
    with Client(user.server) as client:
        while request:
            size = user.rng.randrange(1, 20)
            client.send(request[:size])
            request = request[size:]
            user.pause(0.05)
        response = client.read()
        user.check(response, 200)
        same(response.json, {"y": value})


def stall(user: User) -> None:
    """Half a request: 408 after 20 seconds, and the end of the connection."""
    with Client(user.server) as client:
        client.send(post(b'{"x":[1]}')[: user.rng.choice((10, 60, -3))])
        user.check(client.read(), 408)
        assert client.at_end(), "the connection goes on after 408"


def leave(user: User) -> None:
    """Disconnects before the response, at any byte of the request."""
    request = post(json.dumps({"x": user.numbers(50)}).encode())
    with Client(user.server) as client:
        client.send(request[: user.rng.randrange(1, len(request) + 1)])
        user.pause(0.01)
        if user.rng.random() < 0.5:
            client.reset()
    user.tally.count("left")


def send_masked(user: User) -> None:
    """Rows of integers of different lengths, batched with padding; results must be exact."""
    rows, width = user.rng.choice((1, 1, 3)), user.rng.randrange(1, 60)
    ids = [[user.rng.randrange(-(2**40), 2**40) for _ in range(width)] for _ in range(rows)]
    mask = [[user.rng.randrange(2) for _ in range(width)] for _ in range(rows)]
    kept = [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(ids, mask, strict=True)]
    response = user.server.post({"ids": ids, "mask": mask})
    user.check(response, 200)
    expected = {
        "states": [[[a, 2 * a, -a] for a in row] for row in kept],
        "kept": kept,
        "sum": [sum(row) for row in kept],
    }
    same(response.json, expected)


def send_pictures(user: User, pictures: Sequence[tuple[bytes, Any]]) -> None:
    """A body of 3 MB of JSON, or one above the limit."""
    body, expected = user.rng.choice(pictures)
    if user.rng.random() < 0.2:
        response = user.server.post(body + b" " * 2_000_000)
        user.check(response, 413)
        return
    response = user.server.post(body)
    user.check(response, 200)
    assert same_bits([response.json["probabilities"]], expected), (response.json, expected)


def read_large(user: User) -> None:
    """A response of up to 4 MB, read immediately, with pauses, or in part."""
    count = user.rng.randrange(1, 1_000_000)
    with Client(user.server) as client:
        client.send(post(b'{"count":[%d]}' % count))
        manner = user.rng.choice(("at once", "slowly", "in part"))
        client.stream.peek(1)
        if manner == "in part":
            client.stream.read(user.rng.randrange(1000))
            user.tally.count("left")
            return
        if manner == "slowly":
            user.pause(2)
        response = client.read()
        user.check(response, 200)
        same(response.body, b'{"ones":[' + b"1.0," * (count - 1) + b"1.0]}")


def exceed_deadline(user: User) -> None:
    """A run that would practically never end, with a short deadline."""
    limit = f"X-Request-Timeout: {user.rng.uniform(0.05, 0.3):.3f}"
    with Client(user.server) as client:
        client.send(head(len(_ENDLESS), limit), _ENDLESS)
        if user.rng.random() < 0.3:  # leaves while it runs or is queued
            user.pause(0.05)
            user.tally.count("left")
            return
        user.check(client.read(), 504, 503)


def overload(user: User) -> None:
    """More concurrent requests than the server has room for."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(user.server)) for _ in range(12)]
        for client in clients:
            client.send(post(b'{"steps":%d}' % user.rng.randrange(1, 500)))
        for client in clients:
            response = client.read()
            if user.check(response, 200, 503, 504) == 200:
                same(response.json, {"sum": 128.0})
    user.pause(0.5)


def send_texts(user: User, texts: Sequence[tuple[str, list[float]]]) -> None:
    """One text, or several of different lengths."""
    chosen = user.rng.sample(texts, user.rng.choice((1, 1, 4)))
    response = user.server.post({"text": [text for text, _ in chosen]})
    user.check(response, 200)
    expected = [probabilities for _, probabilities in chosen]
    actual = response.json["sentiment"]
    assert numpy.allclose(actual, expected, rtol=0, atol=1e-5), (actual, expected)


def watch(user: User) -> None:
    """The requests of Prometheus, an orchestrator and an operator."""
    response = user.server.request("GET", "/metrics")
    user.check(response, 200)
    assert list(text_string_to_metric_families(response.body.decode())), response.body
    for path in ("/health", "/health/live", "/health/ready"):
        response = user.server.request("GET", path)
        user.check(response, 200)
        same(response.json["status"], "healthy")
    response = user.server.request("GET", "/info")
    user.check(response, 200)
    same(response.json["format"], "onnx")
    user.pause(1)


# The servers.


@dataclass
class Target:
    """A server under test, and measurements of it.

    Attributes:
        name: in the printed lines.
        server: running.
        kinds: functions of its clients, each with its number of threads.
        logs: whether it writes an access log as JSON.
    """

    name: str
    server: ServerProcess
    kinds: Sequence[tuple[Callable[[User], None], int]]
    logs: bool = False
    descriptors: int = field(init=False)
    threads: int = field(init=False)
    resident: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.server.request("GET", "/health").status == 200
        wait_until(self._is_idle, "its client is forgotten")
        self.descriptors = self.server.descriptors()
        self.threads = self.server.threads()

    def _is_idle(self) -> bool:
        return metric(self.server, "gpux_in_flight_requests") == 0

    def sample(self, seconds: float) -> None:
        """Records its resident memory."""
        assert self.server.process.poll() is None, f"{self.name} has ended"
        self.resident.append((seconds, self.server.resident_bytes()))

    def growth_bytes(self, warm_up_seconds: float) -> float:
        """The rise of a line fitted to its resident memory after the warm-up."""
        times, sizes = numpy.array([s for s in self.resident if s[0] >= warm_up_seconds]).T
        slope, _ = numpy.polyfit(times - times[0], sizes, 1)
        return float(slope * (times[-1] - times[0]))

    def check_end(self) -> None:
        """Fails if clients left a thread or descriptor, or SIGTERM does not end it cleanly."""
        wait_until(self._is_idle, f"no request is at {self.name}")
        wait_until(
            lambda: self.server.descriptors() <= self.descriptors,
            f"{self.name} has no more than {self.descriptors} descriptors again",
        )
        # The threads that run the model start with the first request that is queued.
        limit = self.threads + cores() + 1
        assert self.server.threads() <= limit, (self.server.threads(), self.threads)
        counted = {
            status: int(metric(self.server, "gpux_requests_total", status=status))
            for status in ("200", "400", "408")
        }
        unrecorded = int(metric(self.server, "gpux_unrecorded_requests_total"))
        same(self.server.end(), 0)
        same(self.server.stderr.text, "")
        if self.logs:
            self._check_log(counted, unrecorded)

    def _check_log(self, counted: dict[str, int], unrecorded: int) -> None:
        """Fails unless there is a line for each counted request to the model."""
        lines = [line for line in self.server.stdout.text.splitlines() if line.startswith("{")]
        logged: Counter[str] = Counter()
        for entry in map(json.loads, lines):
            if (entry.get("method"), entry.get("path")) == ("POST", "/predict"):
                logged[str(entry["status"])] += 1
        missing = {status: count - logged[status] for status, count in counted.items()}
        assert sum(map(abs, missing.values())) <= unrecorded, (missing, unrecorded)


def start_targets(folder: Path, stack: ExitStack) -> Iterator[Target]:
    """Starts the servers and defines the clients of each."""

    def start(name: str, path: Path, *options: str) -> ServerProcess:
        print(f"Starting {name}", flush=True)
        return stack.enter_context(serve(path, "--timeout", "600", *options))

    yield Target(
        "matrix",
        start("matrix", onnx_models.write("matrix", folder), "--access-log", "json"),
        [
            (send_rows, 4),
            (send_pipelined, 1),
            (send_invalid, 1),
            (send_slowly, 2),
            (stall, 3),
            (leave, 1),
            (watch, 1),
        ],
        logs=True,
    )
    padded = onnx_models.write_folder(
        folder / "masked", "masked", "serving: {padding: {ids: 0, mask: 0}}"
    )
    yield Target("masked", start("masked", padded), [(send_masked, 4), (watch, 1)])
    photo = onnx_models.write("photo", folder)
    rng = numpy.random.default_rng(1)
    pixels = [rng.random((1, 3, 224, 224), numpy.float32) for _ in range(3)]
    pictures = [
        (json.dumps({"image": x.tolist()}).encode(), run(photo, {"image": x})["probabilities"])
        for x in pixels
    ]
    yield Target(
        "photo",
        start("photo", photo, "--max-body", "4MB"),
        [(partial(send_pictures, pictures=pictures), 2), (watch, 1)],
    )
    yield Target(
        "repeat",
        start("repeat", onnx_models.write("repeat", folder)),
        [(read_large, 3), (watch, 1)],
    )
    yield Target(
        "slow",
        start("slow", onnx_models.write("slow", folder), "--max-queue", "4", "--timeout", "10"),
        [(exceed_deadline, 3), (overload, 1), (watch, 1)],
    )
    if has_tokenizers():
        bert = bert_models.write_folder(folder / "bert")
        texts = list(known_texts(bert))
        server = start("bert", bert, "--access-log", "text")
        yield Target("bert", server, [(partial(send_texts, texts=texts), 4), (watch, 1)])


def has_tokenizers() -> bool:
    """Whether a text model can be served and checked."""
    try:
        import tokenizers  # noqa: F401

        find_in_package(bert_models.MINILM, "tokenizer.json")
    except BaseException as error:  # pytest's Skipped is not an Exception
        print(f"Without texts: {error}", flush=True)
        return False
    return True


def known_texts(folder: Path) -> Iterator[tuple[str, list[float]]]:
    """Texts and the model's expected output, from ONNX Runtime, each text alone."""
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


def run_client(kind: Callable[[User], None], user: User) -> None:
    """Runs a client until the end or the first failure."""
    name = getattr(kind, "__name__", None) or kind.func.__name__  # type: ignore[attr-defined]
    while not user.tally.stops.is_set():
        try:
            kind(user)
        except Exception:
            user.tally.fail(name, traceback.format_exc())
        user.pause(0.05)


def soak(minutes: float) -> dict[str, str]:
    """Runs the test. Returns the failures."""
    tally = Tally()
    duration = 60 * minutes
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        targets = list(start_targets(Path(folder), stack))
        users = [
            (kind, User(target.server, random.Random(number), tally))
            for target in targets
            for kind, count in target.kinds
            for number in range(count)
        ]
        with ThreadPoolExecutor(len(users)) as clients:
            try:
                for kind, user in users:
                    clients.submit(run_client, kind, user)
                _monitor(targets, tally, duration)
            except Exception:
                tally.fail("the servers", traceback.format_exc())
            finally:
                tally.stops.set()
        if not tally.failures:
            for target in targets:
                _check(target, tally, duration)
        if tally.failures:
            for target in targets:
                target.server.kill()
                if target.server.stderr.text:
                    tally.fail(f"{target.name}'s stderr", target.server.stderr.text)
    return tally.failures


def _monitor(targets: Sequence[Target], tally: Tally, duration: float) -> None:
    """Samples the servers until the end, and prints a line each minute."""
    start = time.monotonic()
    printed = 0.0
    while not tally.stops.wait(min(1.0, duration / 100)):
        seconds = time.monotonic() - start
        for target in targets:
            target.sample(seconds)
        if seconds >= printed + 60 or seconds >= duration:
            printed = seconds
            print(_line(targets, tally, seconds), flush=True)
        if seconds >= duration:
            return


def _line(targets: Sequence[Target], tally: Tally, seconds: float) -> str:
    state = [
        f"{target.name} {target.resident[-1][1] / 2**20:.0f} MiB"
        f" {target.server.threads()}t {target.server.descriptors()}d"
        for target in targets
    ]
    outcomes = ", ".join(f"{outcome}: {count}" for outcome, count in tally.outcomes.items())
    return f"{seconds / 60:6.1f} min | {outcomes} | {' | '.join(state)}"


def _check(target: Target, tally: Tally, duration: float) -> None:
    growth = target.growth_bytes(min(duration / 4, _MAX_WARM_UP_SECONDS))
    limit = _MAX_SHORT_GROWTH_BYTES if duration < _SHORT_SECONDS else _MAX_GROWTH_BYTES
    print(f"{target.name}: {growth / 2**20:+.1f} MiB after the warm-up", flush=True)
    try:
        assert growth <= limit, f"it may have grown by {limit / 2**20:.0f} MiB"
        target.check_end()
    except Exception:
        tally.fail(target.name, traceback.format_exc())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    servers.PATIENCE_SECONDS = 300.0  # for a busy machine
    failures = soak(parser.parse_args().minutes)
    for who, what in failures.items():
        print(f"FAILED: {who}\n{what}", file=sys.stderr)
    print(f"Soak: {'failed' if failures else 'passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
