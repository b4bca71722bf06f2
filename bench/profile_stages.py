"""Attributes sampled stacks of a live server to the stages of a request. Pure.

A stack is the frames of one thread at one moment, outermost first, as py-spy writes them:
`function (file:line)`, and `function (library)` for native code.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Stack = tuple[str, ...]
# How often each stack was seen.
Samples = Mapping[Stack, int]

IDLE = "idle"
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a request.

    Attributes:
        name: in tables.
        about: a description.
        frames: matches the frames that enter it.
    """

    name: str
    about: str
    frames: re.Pattern[str]


def _stage(name: str, about: str, *frames: str) -> Stage:
    return Stage(name, about, re.compile("|".join(frames)))


# Idle threads, waiting for the next request or for nothing: not counted unless it is for the GIL.
_WAITING = re.compile(
    r"^(handler_thread|ThreadedTaskDispatcher\.handler_thread) .*task\.py"
    r"|^Watchdog::watch |^Scheduler\._take |^Workers\._next_task "
)
_BLOCKED = re.compile(
    r"^(PyThread_acquire_lock_timed|poll|epoll_wait|select|pthread_cond_wait|syscall) "
    r"|^select_(poll|epoll)_poll_impl "
)
_LOCKS = re.compile(r"\(threading\.py|\.so[\d.]*\)$")
_POLL = re.compile(r"^(poll|epoll_wait) \(|^select_(poll|epoll)_poll_impl ")

# Only threads that wait for the GIL wait for a condition with a timeout.
_GIL = re.compile(r"^(take_gil|pthread_cond_timedwait|__pthread_cond_timedwait\S*) \(")
_RUNTIME = re.compile(r"onnxruntime\w*\.so|\(libonnxruntime")

# Addresses of unnamed functions, and line numbers.
_NOISE = re.compile(r"^0x[0-9a-f]+ |:\d+(?=\)$)")

# The innermost frame that matches one of these determines a stack's stage; among several matching
# stages, the first.
STAGES = (
    _stage("decode", "JSON text to tensors", r"\(gpux/inputs/", r"^decode \("),
    _stage("encode", "tensors to JSON text", r"^encode\b.* \((gpux/tensors/outputs|_engine)"),
    _stage("run", "ONNX Runtime", r"^(IOBinding|Session|OrtDevice|OrtValue|InferenceSession)\b"),
    _stage("bind, fetch", "tensors to and from ONNX Runtime", r"\(gpux/execution/"),
    _stage(
        "queue", "waiting for a free run, and who gives it", r"\(gpux/serving/(scheduler|turns)\.py"
    ),
    _stage(
        "engine",
        "the rest of engine.predict",
        r"\(gpux/(serving/(engine|batch)|model|tensors/memory)\.py",
    ),
    _stage("read", "the body, out of the server's buffers", r"^read_body "),
    _stage("metrics", "what is counted", r"\(gpux/observability/metrics\.py|\(prometheus_client/"),
    _stage("app", "routes, headers, Falcon", r"\(gpux/http/app\.py", r"\(falcon/"),
    _stage("buffers", "bodies and answers put together in memory", r"\(waitress/buffers\.py"),
    _stage(
        "write",
        "the answer, on its way to the socket",
        r"^(Task|WSGITask|CountedTask)\.(write|build_response_header|finish) ",
        r"\.(write_soon|_flush_some|handle_write) ",
        r"\.handle_write_event ",
    ),
    _stage(
        "HTTP parsing",
        "request lines, headers, where a body ends",
        r"\(waitress/(parser|receiver|rfc7230)\.py",
        r"^(?!LongBody\.receive ).*\(gpux/http/parser\.py",
        r"\.received ",
    ),
    _stage(
        "hand over",
        "from the thread of the sockets to one that works, and back",
        r"\.add_task ",
        r"\(gpux/http/dispatcher\.py",
        r"^Workers\.submit ",
        r"\.pull_trigger ",
        r"^(trigger|_triggerbase)\.",
    ),
    _stage("turns", "which worker goes on", r"^Workers\.(relieve|_(?!wait|work))"),
    _stage(
        "WSGI",
        "waitress's task around the app",
        r"\(waitress/(task|proxy_headers|channel)\.py",
        r"\(gpux/http/tasks\.py",
    ),
    _stage(
        "sockets",
        "poll, recv, send",
        r"\(waitress/",
        r"\(gpux/http/(server|channel|data_rate|parser|sockets)\.py",
    ),
    _stage("granian", "sockets, HTTP parsing and hand over, in Rust", r"_granian\S*\.so"),
)
GIL_WAIT = "GIL wait"
ABOUT = {stage.name: stage.about for stage in STAGES} | {
    GIL_WAIT: "waiting for the interpreter, in whichever stage",
    OTHER: "the interpreter itself, and whatever the table does not know",
}


def read_stacks(text: str) -> Samples:
    """Parses py-spy's `raw` format; drops thread names, addresses and line numbers.

    Raises:
        ValueError: a line has no number at its end.
    """
    samples: Counter[Stack] = Counter()
    for line in text.splitlines():
        frames, _, number = line.rpartition(" ")
        stack = [_NOISE.sub("", frame) for frame in frames.split(";")]
        if stack and stack[0].startswith("thread ("):
            del stack[0]
        samples[tuple(_without_repeats(stack))] += int(number)
    return samples


def stage_of(stack: Stack) -> str:
    """The stage of a stack; IDLE if it waits for work, OTHER if unknown."""
    named = [frame for frame in stack if not frame.startswith("(")]
    innermost = _innermost(stack)
    if _GIL.match(innermost) and not _is_of_runtime(stack):
        return GIL_WAIT
    if _POLL.match(innermost):
        return IDLE
    if _BLOCKED.match(innermost) and _WAITING.match(_waiter(named)):
        return IDLE
    for frame in reversed(named):
        for stage in STAGES:
            if stage.frames.search(frame):
                return stage.name
    # A thread without a frame of ours belongs to ONNX Runtime's pool: idle or running.
    if _is_of_runtime(stack):
        return IDLE if "pthread_cond" in innermost else "run"
    return IDLE if _BLOCKED.match(innermost) else OTHER


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one stage.

    Attributes:
        of_all: of all samples of threads that had a request.
        of_work: of the samples of threads at work: not waiting for the GIL, a lock or another
            thread.
    """

    of_all: float
    of_work: float


def shares(samples: Samples) -> dict[str, Share]:
    """The share of each stage in all non-idle samples, largest first."""
    counted: Counter[str] = Counter()
    worked: Counter[str] = Counter()
    for stack, number in samples.items():
        stage = stage_of(stack)
        if stage != IDLE:
            counted[stage] += number
            if stage != GIL_WAIT and not _BLOCKED.match(_innermost(stack)):
                worked[stage] += number
    of_all, of_work = counted.total(), worked.total()
    return {
        name: Share(number / of_all, worked[name] / of_work if of_work else 0.0)
        for name, number in counted.most_common()
    }


def _innermost(stack: Stack) -> str:
    """The innermost frame that has a name."""
    return next((frame for frame in reversed(stack) if not frame.startswith("(")), "")


def _waiter(named: Sequence[str]) -> str:
    """The innermost frame outside the locking code: the one that waits."""
    return next((frame for frame in reversed(named) if not _LOCKS.search(frame)), "")


def _is_of_runtime(stack: Sequence[str]) -> bool:
    """Whether the innermost frame outside the C and C++ libraries is ONNX Runtime's."""
    for frame in reversed(stack):
        if "(libc" not in frame and "(libstdc++" not in frame and "(libpthread" not in frame:
            return _RUNTIME.search(frame) is not None
    return False


def _without_repeats(frames: Iterable[str]) -> list[str]:
    """Drops unnamed frames of the same library as the frame before."""
    kept: list[str] = []
    for frame in frames:
        if frame.startswith("(") and kept and kept[-1].endswith(frame):
            continue
        kept.append(frame)
    return kept
