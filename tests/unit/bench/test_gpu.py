"""bench/run.py gpu on a fake GPU: every check and measurement, and reported failures."""

import contextlib
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_backend
import gpu_models
import numpy
import onnx
import pytest
from answers import MismatchError
from gpu import Run, file_name
from gpu_answers import Question, check_all_close, check_close
from gpu_backend import Lent, RawSession
from gpu_measures import MEASURES
from gpu_models import all_models, real_models, resnet
from gpu_steps import Pace, on_cpu, predict
from gpu_table import tables
from gpu_worker import STEPS, Message, run_steps, supervise, worker
from python_runtime import load_runtime
from report import CheckedReport
from run import main

from gpux.config.settings import Settings, read_settings
from gpux.errors import ConfigurationError, RuntimeMissingError
from gpux.execution.session import Session, create_session
from gpux.http.app import create_app
from gpux.http.application import Application
from gpux.http.middleware import Recorders
from gpux.http.server import Server
from gpux.model import Model
from gpux.serving.engine import Engine
from gpux.serving.service import Service
from gpux.tensors import cuda
from gpux.tensors.cuda import Stream
from tests.support.fake_gpu import DeviceTensor, FakeSession, FakeStream

pytestmark = pytest.mark.full

GPU = {"gpu": "Stand-In 1000", "driver_cuda": 13000, "cupy": "14", "onnxruntime": "1"}


@pytest.fixture(scope="module")
def made_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(autouse=True)
def _models_in_a_test_folder(monkeypatch: pytest.MonkeyPatch, made_models: Path) -> None:
    monkeypatch.setattr(gpu_models, "FOLDER", made_models)


# The device.


class BoundedSession(FakeSession):
    """Enforces a memory limit, as the arena of the CUDA provider does."""

    limit_bytes = 2**45

    def run(self, binding: Any, options: Any) -> None:
        counts = getattr(binding, "counts", [0])
        if 4 * max(counts) > self.limit_bytes:
            raise RuntimeError("Failed to allocate memory for requested buffer")
        super().run(binding, options)

    def create_binding(self) -> Any:
        binding = super().create_binding()
        if [node.name for node in self.inputs] != ["count"]:
            return binding
        return _Counting(binding)


class _Counting:
    """A binding that reads the count in its bound input."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self._address = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)

    def bind_input(self, name: str, *where: Any) -> None:
        self._address = where[-1]
        self._binding.bind_input(name, *where)

    @property
    def counts(self) -> list[int]:
        return [ctypes.c_int64.from_address(self._address).value]


def lend(array: Any) -> Lent:
    value = DeviceTensor(array)
    return Lent(value, value.array.ctypes.data)


class StandIn:
    """gpu_backend.Backend without a device.

    Args:
        stream: makes the streams of its sessions.
        used: successive results of used_bytes(); the last one repeats.
    """

    provider = "cpu"

    def __init__(
        self, stream: Callable[[], FakeStream] = FakeStream, used: Sequence[int] = (7,)
    ) -> None:
        self._stream = stream
        self._used = list(used)
        self.graphs_work = True
        self.libraries: Mapping[str, Callable[[Any], Lent]] = {"a library": lend}

    def create_session(self, settings: Settings) -> Session:
        nodes = {node.op_type for node in onnx.load(settings.model).graph.node}
        no_graphs = "the model has control flow (Loop)" if "Loop" in nodes else None
        if not self.graphs_work:
            no_graphs = "this device has none"
        if no_graphs and settings.cuda_graph == "on":
            raise ConfigurationError(f"runtime.cuda_graph is on, but {no_graphs}")
        raw = create_session(replace(settings, provider="cpu"))
        session = BoundedSession(raw, self._stream(), no_graphs)
        if settings.gpu_memory_limit_bytes:
            session.limit_bytes = settings.gpu_memory_limit_bytes
        return session

    def raw(self, file: Path, *, graphs: bool) -> RawSession:
        onnxruntime = load_runtime()
        raw = onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
        return RawSession(onnxruntime, raw, "cpu", graphs=graphs)

    def bare_copy(self, stream: Stream) -> Callable[[int, int, int], None]:
        del stream

        def bare(target: int, source: int, nbytes: int) -> None:
            ctypes.memmove(target, source, nbytes)

        return bare

    def used_bytes(self) -> int:
        return self._used.pop(0) if len(self._used) > 1 else self._used[0]

    def lenders(self) -> Mapping[str, Callable[[Any], Lent]]:
        return self.libraries

    @contextlib.contextmanager
    def serve(self, path: Path) -> Iterator[int]:
        settings = replace(read_settings({}, {"model": str(path), "port": "0"}), threads=4)
        model = Model(self.create_session(settings), settings)
        service = Service(settings)
        service.open(Engine(model))
        server = Server(
            Application(service, create_app(service, settings.max_body_bytes), Recorders()),
            settings,
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server.port
        finally:
            server.stop()
            thread.join()


class BrokenStream(FakeStream):
    """Loses the first four bytes of each copy to the device."""

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        super().copy_in(target, source, nbytes)
        ctypes.memset(target, 0x3E, min(4, nbytes))


def tiny() -> Pace:
    return Pace(
        small=True,
        shapes=9,
        clients=4,
        client_seconds=0.2,
        limited_bytes=2**12,
        copy_bytes=(2**16, 2**18),
        copy_rounds=2,
        copy_round_seconds=1e-4,
        batches=(8, 1),
        latency_seconds=0.05,
        latency_turn_seconds=1e-3,
        http_connections=(1, 3),
        http_seconds=0.1,
        memory_first=20,
        memory_requests=60,
        memory_seconds=60,
    )


def new_run(outputs: Sequence[Path] = ()) -> Run:
    return Run(GPU, {}, tiny(), outputs)


def launcher(
    backend: StandIn, deadline: float = float("inf")
) -> Callable[[Sequence[str]], Iterator[Message]]:
    """Runs the worker in this process."""

    def launch(names: Sequence[str]) -> Iterator[Message]:
        messages: list[Message] = []
        run_steps(backend, [STEPS[name] for name in names], tiny(), deadline, messages.append)
        yield from messages
        yield {"gone": "it has done its work"}

    return launch


def do(*names: str, backend: StandIn | None = None) -> CheckedReport:
    return new_run().do(names, launcher(backend or StandIn()))


def statuses(report: CheckedReport) -> dict[str, str]:
    return {figure["end"]: figure["status"] for figure in report.figures if "end" in figure}


# All steps.


@pytest.mark.parametrize("name", STEPS)
def test_each_step_passes_on_the_stand_in(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = do(name)
    assert statuses(report) == {name: "passed"}, capsys.readouterr().err
    assert report.failed == []
    assert "Nothing failed." in report.text()


def test_all_figures_are_there() -> None:
    report = do(*(step.name for step in MEASURES))
    assert report.failed == []

    def of(group: str) -> list[Any]:
        return [figure for figure in report.figures if figure["group"] == group]

    assert [figure["bytes"] for figure in of("copy")] == [2**16, 2**18]
    ways = 6
    assert len(of("latency")) == 3 * 2 * ways
    for figure in of("latency"):
        assert figure["requests"] >= 3
        assert 0 < figure["best_us"] <= figure["p50_us"] <= figure["p99_us"]
        assert (figure["over_raw_p50"] is None) == figure["by"].startswith("ONNX Runtime")
        assert (figure["over_plain_p50"] is None) == (not figure["by"].endswith("graph"))
    asked = [(figure["model"], figure["connections"]) for figure in of("http")]
    assert asked == [("mlp", 1), ("mlp", 3), ("resnet50", 1), ("resnet50", 3)]
    assert all(figure["requests_per_second"] > 0 for figure in of("http"))
    assert [figure["requests"] for figure in of("memory")] == [60]
    json.dumps(report.figures)
    promised = report.table.rpartition("\n\n")[2]
    assert promised.count("host to device") == 2
    assert "not measured" not in promised


# Failures.


@pytest.mark.parametrize(
    "name",
    [
        *("session", "type float32", "type int64", "type bool", "changing shapes"),
        *("shapes only the run knows", "names that promise wrongly", "nodes left to the CPU"),
        *("inputs read by the host", "model mlp", "a full GPU", "clients at once", "copies"),
        *("latency mlp", "memory", "HTTP mlp"),
    ],
)
def test_a_wrong_answer_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = do(name, backend=StandIn(BrokenStream))
    assert statuses(report) == {name: "FAILED"}
    assert report.failed == [name]
    assert f"FAILED: {name}." in report.text()
    assert name in capsys.readouterr().err


def test_a_failure_hides_no_other_step() -> None:
    report = do("session", "copies", "type int8", "HTTP mlp", backend=StandIn(BrokenStream))
    assert set(statuses(report).values()) == {"FAILED"}
    assert list(statuses(report)) == ["session", "copies", "type int8", "HTTP mlp"]


def test_a_way_that_fails_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    backend = StandIn()
    backend.graphs_work = False
    report = do("latency mlp", backend=backend)
    assert report.failed == ["latency mlp"]
    measured = {figure["by"] for figure in report.figures if figure["group"] == "latency"}
    assert measured == {"ONNX Runtime", "ONNX Runtime, graph", "engine", "engine, JSON"}
    assert "engine, graph: ConfigurationError" in capsys.readouterr().err
    assert "this device has none" in report.text()


def test_graphs_that_are_not_captured_fail() -> None:
    backend = StandIn()
    backend.graphs_work = False
    report = do("model mlp", backend=backend)
    assert report.failed == ["model mlp"]
    assert "no graph was captured: this device has none" in report.text()


def test_memory_that_grows_is_told() -> None:
    mib = 2**20
    report = do("memory", backend=StandIn(used=[10 * mib, 300 * mib, 80 * mib, 90 * mib]))
    figure = report.figures[-1]
    assert figure["grown_bytes"] == 80 * mib
    assert figure["max_grown_bytes"] == 290 * mib
    assert "80.00 MiB" in report.table
    assert "MISSED" in report.table


def test_no_library_is_no_failure() -> None:
    backend = StandIn()
    backend.libraries = {}
    report = do("tensors of other libraries", backend=backend)
    assert statuses(report) == {"tensors of other libraries": "left out"}
    assert report.failed == []


def test_a_tensor_that_was_copied_is_found() -> None:
    backend = StandIn()
    backend.libraries = {"numpy": lambda array: Lent(array, array.ctypes.data)}
    report = do("tensors of other libraries", backend=backend)
    assert "numpy: the tensor was copied before the run" in report.text()


def test_what_does_not_fit_into_the_time_is_left_out() -> None:
    launch = launcher(StandIn(), deadline=time.monotonic() + 5.5)
    report = new_run().do(["session", "model bert", "latency bert", "type int8"], launch)
    assert statuses(report) == {
        "session": "passed",
        "model bert": "left out",
        "latency bert": "left out",
        "type int8": statuses(report)["type int8"],
    }
    assert "no time was left" in report.text()
    assert report.failed == []


def test_figures_are_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    launch = launcher(StandIn())
    seen: list[int] = []

    def spy(names: Sequence[str]) -> Iterator[Message]:
        for message in launch(names):
            yield message
            if file.exists():
                seen.append(len(json.loads(file.read_text())["figures"]))

    new_run([file]).do(["type int8", "copies"], spy)
    assert seen == [1, 1, 2, 3, 4, 4]
    content = json.loads(file.read_text())
    assert content["benchmark"] == "gpu"
    assert content["versions"]["gpu"]["gpu"] == "Stand-In 1000"
    assert content["settings"]["tolerances"]["float32"] == 1e-5


# Workers.


def test_a_worker_that_dies_or_stands_still_is_replaced() -> None:
    script = """
import json, os, signal, subprocess, sys, time
def say(**message): print(json.dumps(message), flush=True)
for step in sys.argv[1:]:
    say(begin=step)
    if step == "dies": os.kill(os.getpid(), signal.SIGSEGV)
    if step == "leaves": sys.exit(5)
    if step == "stands still":
        subprocess.Popen(["sleep", "100"])
        time.sleep(100)
    say(figure={"of": step})
    say(end=step, status="passed", detail="", seconds=0)
"""

    def launch(names: Sequence[str]) -> Iterator[Message]:
        deadline = time.monotonic() + 60
        arguments = [sys.executable, "-c", script]
        return worker(arguments, names, lambda name: 1.5 if name else 30, deadline)

    started_at = time.monotonic()
    messages = list(supervise(["a", "dies", "b", "leaves", "stands still", "c"], launch))
    assert time.monotonic() - started_at < 20
    ends = {message["end"]: message for message in messages if "end" in message}
    assert list(ends) == ["a", "dies", "b", "leaves", "stands still", "c"]
    assert [ends[name]["status"] for name in "abc"] == ["passed"] * 3
    assert ends["dies"]["detail"] == "the process crashed: SIGSEGV"
    assert ends["leaves"]["detail"] == "the process ended with exit code 5"
    assert ends["stands still"]["detail"] == "took longer than 2 s"
    assert [message["figure"]["of"] for message in messages if "figure" in message] == list("abc")


def test_the_end_of_all_time_ends_a_step() -> None:
    late = worker([sys.executable, "-c", "import time; time.sleep(60)"], [], lambda _: 60, -1e9)
    assert list(late) == [{"gone": "no time was left"}]


def test_a_worker_that_never_begins_loses_its_first_step() -> None:
    def launch(names: Sequence[str]) -> Iterator[Message]:
        del names
        yield {"gone": "the process ended with exit code 1"}

    ends = [(message["end"], message["status"]) for message in supervise(["a", "b"], launch)]
    assert ends == [("a", "FAILED"), ("b", "FAILED")]


# The command.


def run(*arguments: str) -> int:
    return main(["gpu", *arguments])


def with_cupy(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    """Fakes a CuPy that finds this number of GPUs; None: its driver fails."""

    def device_count() -> int:
        if count is None:
            raise RuntimeError("cudaErrorInsufficientDriver: an old\ndriver")
        return count

    runtime = SimpleNamespace(getDeviceCount=device_count)
    fake = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(gpu_backend, "load_cupy", lambda: fake)


def test_without_cupy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert run() == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gpu: CuPy cannot be imported")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("count", "says"),
    [(None, "gpu: no NVIDIA driver with a GPU: cudaErrorIns"), (0, "gpu: the driver knows no GPU")],
)
def test_without_a_driver(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int | None,
    says: str,
) -> None:
    with_cupy(monkeypatch, count)
    assert run() == 3
    error = capsys.readouterr().err
    assert error.startswith(says)
    assert error.count("\n") == 1


def test_without_an_onnxruntime_for_cuda(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Any:
        raise RuntimeMissingError("ONNX Runtime is not installed")

    with_cupy(monkeypatch, 1)
    monkeypatch.setattr(gpu_backend, "load_runtime", missing)
    assert run() == 3
    assert capsys.readouterr().err == "gpu: ONNX Runtime is not installed\n"
    only_cpu = SimpleNamespace(
        __version__="1.31", get_available_providers=lambda: ["CPUExecutionProvider"]
    )
    monkeypatch.setattr(gpu_backend, "load_runtime", lambda: only_cpu)
    assert run() == 3
    assert "(1.31) was built without CUDA" in capsys.readouterr().err


def test_a_session_that_cannot_be_made_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs the real worker, in a process of its own, without a GPU."""
    if has_gpu():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(gpu, "find_gpu", lambda: GPU)
    assert run("--quick", "--step", "session", "--step", "type int8") == 3
    assert "gpu: provider cuda: " in capsys.readouterr().err.splitlines()[-1]


def has_gpu() -> bool:
    try:
        cuda.CudaStream(0)
    except (ConfigurationError, RuntimeMissingError):
        return False
    return True


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[StandIn], None]:
    """The command, with workers in this process and results in the test's folder."""
    monkeypatch.setattr(gpu, "find_gpu", lambda: GPU)
    monkeypatch.setattr(gpu, "_RESULTS", tmp_path)

    def use(backend: StandIn) -> None:
        def worker(
            arguments: Sequence[str], names: Sequence[str], **limits: Any
        ) -> Iterator[Message]:
            assert arguments[1].endswith("gpu_worker.py")
            assert limits["limits"]("copies") > limits["limits"]("")
            return launcher(backend)(names)

        monkeypatch.setattr(gpu, "worker", worker)

    return use


def test_the_command_writes_its_results(
    in_process: Callable[[StandIn], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    in_process(StandIn())
    file = tmp_path / "elsewhere.json"
    steps = ["--step", "session", "--step", "copies"]
    assert run("--quick", "--results", "--json", str(file), *steps) == 0
    captured = capsys.readouterr()
    assert captured.out.count("host to device, 64 KiB: of a bare copy") == 1
    assert captured.err.startswith("Stand-In 1000: at most 240 s\nsession")
    assert (tmp_path / "gpu-stand-in-1000.txt").read_text() == captured.out
    written = json.loads((tmp_path / "gpu-stand-in-1000.json").read_text())
    assert written == json.loads(file.read_text())
    assert written["settings"]["quick"] is True


def test_the_command_fails_after_all_was_measured(
    in_process: Callable[[StandIn], None], capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(StandIn(BrokenStream))
    assert run("--step", "type int8", "--step", "memory", "--step", "a full GPU") == 1
    captured = capsys.readouterr()
    assert "FAILED: type int8, memory, a full GPU." in captured.out
    assert "device memory" in captured.out


# Tables, models, results.


def test_what_was_promised_is_said_beside_what_was_got() -> None:
    def latency(model: str, batch: int, by: str, **ratios: float) -> dict[str, Any]:
        keys = ("over_raw_p50", "over_raw_best", "over_plain_p50", "over_plain_best")
        times = dict.fromkeys(("p50_us", "p99_us", "best_us"), 1.0)
        fields = {"group": "latency", "model": model, "batch": batch, "by": by, "requests": 1}
        return {**fields, **times, **dict.fromkeys(keys), **ratios}

    figures = [
        latency("resnet50", 8, "engine", over_raw_p50=1.1, over_raw_best=1.0),
        latency("mlp", 1, "engine, graph", over_plain_p50=0.7, over_plain_best=0.3),
        {"group": "memory", "requests": 100_000, "grown_bytes": -5},
    ]
    rows = [line.split("  ") for line in tables([], figures).rpartition("\n\n")[2].splitlines()]
    verdicts = {row[0]: row[-1].strip() for row in rows[2:]}
    assert verdicts == {
        "host to device: of a bare copy": "not measured",
        "resnet50, batch 8: p50 over ONNX Runtime alone": "reached",
        "mlp, batch 1: p50 with a graph over without": "MISSED",
        "device memory after 100,000 requests, above the first": "aim reached",
    }
    assert tables([], []).count("not measured") == 4


def test_a_gpus_name_becomes_a_files() -> None:
    assert file_name("NVIDIA H200") == "nvidia-h200"
    assert file_name("NVIDIA H100 80GB HBM3 ") == "nvidia-h100-80gb-hbm3"


def test_the_models_are_valid_and_of_the_size_that_they_say() -> None:
    for model in all_models():
        onnx.checker.check_model(model, full_check=True)
    graph = resnet().graph
    sizes = {weight.name: int(numpy.prod(weight.dims)) for weight in graph.initializer}
    statistics = [node.input[3:] for node in graph.node if node.op_type == "BatchNormalization"]
    assert len([node for node in graph.node if node.op_type == "Conv"]) == 53
    not_trained = sum(sizes[name] for names in statistics for name in names)
    assert sum(sizes.values()) - not_trained == 25_557_032


def test_the_models_answer_what_they_are_asked() -> None:
    """Outputs depend on the inputs: a constant output would pass every check."""
    for model in real_models(small=True).values():
        inputs = model.inputs(numpy.random.default_rng(1), 4)
        (output,) = predict(on_cpu(model.file()), inputs).values()
        assert numpy.isfinite(output).all()
        spread = numpy.abs(output - output[:1])[1:].max(axis=1)
        assert (spread > 0.05 * numpy.abs(output).max()).all(), model.name


def test_close_is_close() -> None:
    right = numpy.array([1.0, -100.0, 0.0], "float32")
    check_close("x", right + numpy.float32(1e-4), right, 1e-5)
    check_close("x", numpy.array([numpy.nan]), numpy.array([numpy.nan]), 0)
    for wrong, says in (
        (right + numpy.float32(2e-3), "differs by up to 0.002 where the largest number is 100"),
        (right.astype("float64"), "float64"),
        (right[:2], r"\[2\]"),
        (numpy.array([1.0, -100.0, numpy.nan], "float32"), "not finite"),
    ):
        with pytest.raises(MismatchError, match=says):
            check_close("x", wrong, right, 1e-5)
    with pytest.raises(MismatchError, match="1 of 1 elements differ"):
        check_close("x", numpy.array([1]), numpy.array([2]), 1)
    with pytest.raises(MismatchError, match="outputs"):
        check_all_close("x", {}, {"y": right}, 1)
    question = Question("x", b"", {"y": right}, 1e-5)
    question.check(b'{"y":[1.00001,-100,0]}')
    for text in (b'{"y":[1.1,-100,0]}', b'{"y":[1,-100]}', b'{"z":[1,-100,0]}', b'{"detail":"x"}'):
        with pytest.raises(MismatchError):
            question.check(text)
