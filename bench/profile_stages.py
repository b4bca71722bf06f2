"""Stacks of a live server → the share of each stage of a request: pure.

A stack is the frames of one thread at one moment, the outermost first, as py-spy writes them:
`function (file:line)`, and `function (library)` for what is not Python.
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
    """What a frame stands for.

    Attributes:
        name: of the stage.
        about: for people.
        frames: matches the frames that begin it.
    """

    name: str
    about: str
    frames: re.Pattern[str]


def _stage(name: str, about: str, *frames: str) -> Stage:
    return Stage(name, about, re.compile("|".join(frames)))


# Threads that wait for the next request, or for nothing: not counted, unless it is the GIL.
_WAITING = re.compile(
    r"^(handler_thread|ThreadedTaskDispatcher\.handler_thread) .*task\.py"
    r"|^Watchdog\._watch |^Scheduler\._take |^Workers\._next_task "
)
_BLOCKED = re.compile(
    r"^(PyThread_acquire_lock_timed|poll|epoll_wait|select|pthread_cond_wait|syscall) "
    r"|^select_(poll|epoll)_poll_impl "
)
_LOCKS = re.compile(r"\(threading\.py|\.so[\d.]*\)$")
_POLL = re.compile(r"^(poll|epoll_wait) \(|^select_(poll|epoll)_poll_impl ")

# A thread that wants the GIL waits for a condition with a time limit, as nothing else here does.
_GIL = re.compile(r"^(take_gil|pthread_cond_timedwait|__pthread_cond_timedwait\S*) \(")
_RUNTIME = re.compile(r"onnxruntime\w*\.so|\(libonnxruntime")

# Addresses of what has no name, and the numbers of lines.
_NOISE = re.compile(r"^0x[0-9a-f]+ |:\d+(?=\)$)")

# Of a stack's frames the innermost that is found here says where it is; of several stages that
# would do, the first.
STAGES = (
    _stage("decode", "JSON text to tensors", r"\(gpux/inputs/", r"^decode \("),
    _stage("encode", "tensors to JSON text", r"^encode\b.* \((gpux/serving/encoder|_fastpath)"),
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
    """What py-spy wrote as `raw`: stacks without threads' names, addresses and line numbers.

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
    """The stage that a stack is in; IDLE where it waits for work, OTHER where nothing is known."""
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
    # A thread with no frame of ours, such as those of ONNX Runtime's pool, waits or works for it.
    if _is_of_runtime(stack):
        return IDLE if "pthread_cond" in innermost else "run"
    return IDLE if _BLOCKED.match(innermost) else OTHER


@dataclass(frozen=True, slots=True)
class Share:
    """Of one stage.

    Attributes:
        of_all: its samples, of all in which a thread had a request.
        of_work: those in which it was at work, of all in which a thread was: neither waited for the
            GIL, nor for a lock, nor for another thread.
    """

    of_all: float
    of_work: float


def shares(samples: Samples) -> dict[str, Share]:
    """The share of each stage in all that is not idle, the largest first."""
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
    """The innermost frame that is no lock's: who waits."""
    return next((frame for frame in reversed(named) if not _LOCKS.search(frame)), "")


def _is_of_runtime(stack: Sequence[str]) -> bool:
    """Whether the innermost library that can be told is ONNX Runtime's."""
    for frame in reversed(stack):
        if "(libc" not in frame and "(libstdc++" not in frame and "(libpthread" not in frame:
            return _RUNTIME.search(frame) is not None
    return False


def _without_repeats(frames: Iterable[str]) -> list[str]:
    """Frames without those whose name is unknown and whose library is that of the one before."""
    kept: list[str] = []
    for frame in frames:
        if frame.startswith("(") and kept and kept[-1].endswith(frame):
            continue
        kept.append(frame)
    return kept
