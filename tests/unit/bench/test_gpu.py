"""bench/run.py gpu on a fake GPU: every measurement, and reported failures."""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import pytest

from common.answers import MismatchError
from common.reference import Reference, run_alone
from common.report import Figure
from gpu import backend, gpu, models
from gpu.gpu import file_name, goals, tables
from gpu.measures import STEPS, Pace
from gpu.models import copied, real_models, resnet
from gpu.worker import command, print_figures, run_worker
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, RuntimeMissingError
from gpux.execution.session import Session, create_session
from gpux.tensors.cuda import Stream
from run import main
from tests.support.fake_gpu import FakeSession, FakeStream

pytestmark = pytest.mark.full

GPU = {"gpu": "Stand-In 1000", "driver_cuda": 13000, "cupy": "14"}
TINY = Pace(
    small=True,
    copy_bytes=(2**16, 2**18),
    copy_rounds=2,
    copy_round_seconds=1e-4,
    batches=(8, 1),
    latency_rounds=2,
    latency_turn_seconds=1e-3,
    memory_first=20,
    memory_requests=60,
)


@pytest.fixture(scope="module")
def made_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(autouse=True)
def _models_in_a_test_folder(monkeypatch: pytest.MonkeyPatch, made_models: Path) -> None:
    monkeypatch.setattr(models, "FOLDER", made_models)


class StandIn:
    """gpu.backend.Backend without a device.

    Args:
        stream: makes the streams of its sessions.
        used: successive results of used_bytes(); the last one repeats.
        no_graphs: why nothing is captured.
    """

    def __init__(
        self,
        stream: Callable[[], FakeStream] = FakeStream,
        used: Sequence[int] = (7,),
        no_graphs: str | None = None,
    ) -> None:
        self._stream = stream
        self._used = list(used)
        self._no_graphs = no_graphs

    def create_session(self, settings: Settings) -> Session:
        raw = create_session(replace(settings, provider="cpu"))
        return FakeSession(raw, self._stream(), self._no_graphs)

    def alone(self, file: Path, *, graphs: bool) -> Reference:
        return Reference(file, graphs=graphs)

    def bare_copy(self, stream: Stream) -> Callable[[int, int, int], None]:
        del stream

        def bare(target: int, source: int, nbytes: int) -> None:
            ctypes.memmove(target, source, nbytes)

        return bare

    def used_bytes(self) -> int:
        return self._used.pop(0) if len(self._used) > 1 else self._used[0]


class BrokenStream(FakeStream):
    """Loses the first four bytes of each copy to the device."""

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        super().copy_in(target, source, nbytes)
        ctypes.memset(target, 0x3E, min(4, nbytes))


def measured(name: str, stand_in: StandIn | None = None) -> list[Figure]:
    return list(STEPS[name](stand_in or StandIn(), TINY))


# All steps.


def test_copies_are_measured() -> None:
    figures = measured("copies")
    assert [figure["kib"] for figure in figures] == [64, 256]
    assert all(figure["path_us"] > 0 for figure in figures)


@pytest.mark.parametrize("model", ["mlp", "resnet50"])
def test_every_way_is_measured(model: str) -> None:
    figures = measured(f"latency {model}")
    assert len(figures) == 2 * 6
    for figure in figures:
        assert figure["requests"] >= 2
        assert 0 < figure["best_us"] <= figure["p50_us"] <= figure["p99_us"]
        assert ("over_alone" not in figure) == figure["by"].startswith("ONNX Runtime")
        assert ("over_plain" not in figure) == (not figure["by"].endswith("graph"))


def test_memory_that_grows_is_seen() -> None:
    (figure,) = measured("memory", StandIn(used=[10 * 2**20, 90 * 2**20]))
    assert figure == {"group": "memory", "requests": 60, "grown_mib": 80.0}
    assert {goal.verdict for goal in goals([figure])} == {"not measured", "MISSED"}


@pytest.mark.parametrize("name", ["copies", "latency mlp", "latency resnet50", "memory"])
def test_a_wrong_result_ends_the_step(name: str) -> None:
    with pytest.raises(MismatchError):
        measured(name, StandIn(BrokenStream))


def test_graphs_that_are_not_captured_fail() -> None:
    with pytest.raises((AssertionError, ConfigurationError), match="this device has none"):
        measured("latency mlp", StandIn(no_graphs="this device has none"))


# Workers.


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("pass", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed: SIGSEGV"),
        ("raise SystemExit(5)", "ended with exit code 5"),
        ("import time; time.sleep(100)", "took longer than 2 s"),
    ],
)
def test_how_a_worker_ends_is_said(script: str, why: str) -> None:
    printing = 'import json; print(json.dumps({"group": "memory"}), flush=True);'
    *figures, end = run_worker("memory", [sys.executable, "-c", printing + script], 2)
    assert figures == [{"group": "memory"}]
    assert (end["step"], end["status"]) == ("memory", "FAILED" if why else "passed")
    assert end["detail"].endswith(why)


def test_an_error_is_the_last_line() -> None:
    lines: list[str] = []

    def figures() -> Iterator[Figure]:
        yield {"group": "memory"}
        raise ValueError("too\nlong")

    assert print_figures(figures, lines.append) == 1
    script = f"print({''.join(lines)!r}, end=''); raise SystemExit(1)"
    *_, end = run_worker("memory", [sys.executable, "-c", script], 60)
    assert (end["status"], end["detail"]) == ("FAILED", "ValueError: too long")


def test_a_worker_without_a_gpu_says_so() -> None:
    """Runs the real worker."""
    *figures, end = run_worker("memory", command("memory", quick=True), 60)
    if end["status"] == "FAILED":
        assert figures == []
        assert end["detail"].startswith("ConfigurationError: provider cuda: ")


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
    monkeypatch.setattr(backend, "load_cupy", lambda: fake)


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
    monkeypatch.setattr(backend, "load_runtime", missing)
    assert run() == 3
    assert capsys.readouterr().err == "gpu: ONNX Runtime is not installed\n"
    monkeypatch.setattr(backend, "load_runtime", lambda: None)
    monkeypatch.setattr(backend, "available_providers", lambda: ["CPUExecutionProvider"])
    assert run() == 3
    assert "was built without CUDA" in capsys.readouterr().err


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[StandIn], None]:
    """The command, with its steps in this process and its results in the test's folder."""
    monkeypatch.setattr(gpu, "find_gpu", lambda: GPU)
    monkeypatch.setattr(gpu, "_RESULTS", tmp_path)

    def use(stand_in: StandIn) -> None:
        def run_step(step: str, *_: Any) -> Iterator[Figure]:
            lines: list[str] = []
            print_figures(lambda: STEPS[step](stand_in, TINY), lines.append)
            script = f"print({''.join(lines)!r}, end='')"
            yield from run_worker(step, [sys.executable, "-c", script], 60)

        monkeypatch.setattr(gpu, "run_worker", run_step)

    return use


def test_the_command_writes_its_results(
    in_process: Callable[[StandIn], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    in_process(StandIn())
    file = tmp_path / "elsewhere.json"
    steps = ["--step", "memory", "--step", "copies"]
    assert run("--quick", "--results", "--json", str(file), *steps) == 0
    captured = capsys.readouterr()
    assert captured.out.count("host to device, 64 KiB: of a bare copy") == 1
    assert captured.err.startswith("memory: passed")
    assert (tmp_path / "gpu-stand-in-1000.txt").read_text() == captured.out
    written = json.loads((tmp_path / "gpu-stand-in-1000.json").read_text())
    assert written == json.loads(file.read_text())
    assert written["settings"]["quick"] is True


def test_a_failure_hides_no_other_step(
    in_process: Callable[[StandIn], None], capsys: pytest.CaptureFixture[str]
) -> None:
    in_process(StandIn(BrokenStream))
    assert run("--step", "memory", "--step", "copies") == 1
    captured = capsys.readouterr()
    assert "FAILED: memory, copies." in captured.out
    assert "MismatchError" in captured.out


# Goals, models, results.


def test_what_was_promised_stands_beside_what_was_reached() -> None:
    def latency(model: str, batch: int, by: str, **ratios: float) -> dict[str, Any]:
        return {"group": "latency", "model": model, "batch": batch, "by": by, **ratios}

    figures = [
        latency("resnet50", 8, "engine", over_alone=1.1),
        latency("mlp", 1, "engine, graph", over_plain=0.7),
        {"group": "memory", "requests": 100_000, "grown_mib": -5.0},
    ]
    assert {goal.what: goal.verdict for goal in goals(figures)} == {
        "host to device, any number of KiB: of a bare copy": "not measured",
        "resnet50, batch 8: p50 over ONNX Runtime alone": "reached",
        "mlp, batch 1: p50 with a graph over without": "MISSED",
        "device memory after all requests, above the first": "aim reached",
    }
    assert tables([]) == ["", "", ""]


def test_a_gpus_name_becomes_a_files() -> None:
    assert file_name("NVIDIA H200") == "nvidia-h200"
    assert file_name("NVIDIA H100 80GB HBM3 ") == "nvidia-h100-80gb-hbm3"


def test_the_models_are_valid_and_of_the_size_that_they_say() -> None:
    for model in (*real_models(small=True).values(), copied()):
        onnx.checker.check_model(model.build(), full_check=True)
    graph = resnet().graph
    sizes = {weight.name: int(numpy.prod(weight.dims)) for weight in graph.initializer}
    statistics = [node.input[3:] for node in graph.node if node.op_type == "BatchNormalization"]
    assert len([node for node in graph.node if node.op_type == "Conv"]) == 53
    not_trained = sum(sizes[name] for names in statistics for name in names)
    assert sum(sizes.values()) - not_trained == 25_557_032


def test_outputs_depend_on_the_inputs() -> None:
    """A constant output would pass every check."""
    for model in real_models(small=True).values():
        inputs = model.inputs(numpy.random.default_rng(1), 4)
        (output,) = run_alone(model.file(), inputs).values()
        assert numpy.isfinite(output).all()
        spread = numpy.abs(output - output[:1])[1:].max(axis=1)
        assert (spread > 0.05 * numpy.abs(output).max()).all(), model.name
