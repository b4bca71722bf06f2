"""session: the options passed to ONNX Runtime, and how its errors are handled."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gpux
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, ModelError, RuntimeMissingError
from gpux.execution.session import Session, create_session
from gpux.tensors.outputs import to_python
from tests.support.ort import needs_placement

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Find = Callable[[str], Path]

# ONNX Runtime's own messages.
NOT_ALL_ON_GPU = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as "
    "requested by the user as all compute graph nodes have not been partitioned to the "
    "CUDAExecutionProvider"
)
CONTROL_FLOW = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the CUDA Graph feature as requested "
    "by the user  as the model has control flow nodes which can't be supported by CUDA Graphs."
)


class FakeRuntime:
    """The part of the onnxruntime module that sessions need.

    Attributes:
        sessions: the providers requested for each session.
        refusals: errors raised by the next sessions, in order; None: no error.
        inputs: by name, the memory from which the model reads each.
        has_gpu: if False, a CUDA session falls back to the CPU, as the real one does.
    """

    __version__ = "1.31.1"
    GraphOptimizationLevel = SimpleNamespace(ORT_ENABLE_ALL=99)

    def __init__(self, providers: list[str]) -> None:
        self.providers = providers
        self.sessions: list[list[Any]] = []
        self.refusals: list[str | None] = []
        self.has_gpu = True
        self.inputs = {"x": "Cuda"}
        self.preloaded = 0
        fake = self

        class InferenceSession:
            def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
                del path
                fake.sessions.append(providers)
                self.options = options
                refusal = fake.refusals.pop(0) if fake.refusals else None
                if refusal is not None:
                    raise RuntimeError(refusal)
                named = [name if isinstance(name, str) else name[0] for name in providers]
                self.providers = named if fake.has_gpu else [CPU]
                self.falls_back = True

            def get_providers(self) -> list[str]:
                return self.providers

            def get_inputs(self) -> list[Any]:
                return [SimpleNamespace(name=name) for name in fake.inputs]

            def get_input_memory_infos(self) -> list[Any]:
                return [SimpleNamespace(name=memory) for memory in fake.inputs.values()]

            def disable_fallback(self) -> None:
                self.falls_back = False

        class Options:
            def __init__(self) -> None:
                self.entries: dict[str, str] = {}
                self.add_session_config_entry = self.entries.__setitem__

        self.InferenceSession = InferenceSession
        self.SessionOptions = Options

    def get_available_providers(self) -> list[str]:
        return self.providers

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcudnn.so.9")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime([CUDA, CPU])
    monkeypatch.setattr("gpux.execution.session.load_runtime", lambda: runtime)
    monkeypatch.setattr(
        "gpux.execution.session.CudaStream", lambda device: SimpleNamespace(address=77 + device)
    )
    return runtime


SETTINGS = Settings(model=Path("m.onnx"), provider="cuda", device=1)


def test_everything_goes_through_our_stream(fake: FakeRuntime) -> None:
    session = create_session(SETTINGS)
    ((name, options), other) = fake.sessions[0]
    assert (name, other) == (CUDA, CPU)
    assert options == {
        "device_id": "1",
        "user_compute_stream": "78",
        "enable_cuda_graph": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    assert session.provider == "cuda"
    assert session.stream is not None
    assert session.stream.address == 78
    assert session.no_graphs is None
    assert not session.raw.falls_back
    assert session.raw.options.entries["session.intra_op.allow_spinning"] == "0"
    assert fake.preloaded == 1


def test_what_the_file_says_goes_over_our_choices(fake: FakeRuntime) -> None:
    create_session(
        replace(
            SETTINGS,
            cuda_graph="off",
            gpu_memory_limit_bytes=2**30,
            provider_options={"use_tf32": True, "cudnn_conv_use_max_workspace": 0},
        )
    )
    options = fake.sessions[0][0][1]
    assert options["use_tf32"] == "1"
    assert options["cudnn_conv_use_max_workspace"] == "0"
    assert options["gpu_mem_limit"] == str(2**30)
    assert options["enable_cuda_graph"] == "0"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NOT_ALL_ON_GPU, "not all of the model's nodes run on the GPU"),
        (CONTROL_FLOW, "the model has control flow"),
    ],
)
def test_a_model_that_cannot_be_captured_runs_without(
    fake: FakeRuntime, said: str, reason: str
) -> None:
    fake.refusals = [said]
    session = create_session(SETTINGS)
    assert [providers[0][1]["enable_cuda_graph"] for providers in fake.sessions] == ["1", "0"]
    assert session.no_graphs is not None
    assert reason in session.no_graphs
    fake.refusals = [said]
    with pytest.raises(ConfigurationError, match=f"runtime.cuda_graph is on, but {reason}"):
        create_session(replace(SETTINGS, cuda_graph="on"))


def test_inputs_that_are_read_on_the_host_are_known_and_never_captured(fake: FakeRuntime) -> None:
    assert create_session(SETTINGS).host_inputs == frozenset()
    fake.inputs = {"x": "Cuda", "shape": "Cpu", "count": "CudaPinned"}
    session = create_session(SETTINGS)
    assert session.host_inputs == {"shape", "count"}
    assert session.no_graphs == "the model reads input 'count' on the host"
    with pytest.raises(ConfigurationError, match=r"is on, but the model reads input 'count'"):
        create_session(replace(SETTINGS, cuda_graph="on"))
    # Not queried for the CPU.
    assert create_session(replace(SETTINGS, provider="cpu")).host_inputs == frozenset()


def test_no_model_is_said_as_it_is(fake: FakeRuntime) -> None:
    fake.refusals = ["[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model failed"]
    with pytest.raises(ModelError, match=r"^m\.onnx: Load model failed$"):
        create_session(SETTINGS)
    assert len(fake.sessions) == 1


def test_a_session_that_became_one_of_the_cpu_is_refused(
    fake: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    fake.has_gpu = False
    with pytest.raises(ConfigurationError, match="provider cuda: ONNX Runtime could not use CUDA"):
        create_session(SETTINGS)
    fake.sessions.clear()
    with caplog.at_level(logging.WARNING):
        session = create_session(replace(SETTINGS, provider="auto"))
    assert session.provider == "cpu"
    assert session.stream is None
    assert fake.sessions[-1] == [CPU]
    assert "CUDA could not be used: ONNX Runtime could not use CUDA" in caplog.text


@pytest.mark.parametrize("error", [ConfigurationError, RuntimeMissingError])
def test_no_gpu_or_no_cupy(
    fake: FakeRuntime,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(device: int) -> None:
        raise error(f"nothing at {device}")

    monkeypatch.setattr("gpux.execution.session.CudaStream", fail)
    with pytest.raises(error, match=r"^provider cuda: nothing at 1$"):
        create_session(SETTINGS)
    assert fake.sessions == []
    assert create_session(replace(SETTINGS, provider="auto")).provider == "cpu"
    assert "nothing at 1" in caplog.text


def test_a_build_without_cuda(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    fake.providers = [CPU]
    with pytest.raises(ConfigurationError, match=r"provider cuda: this ONNX Runtime was built "):
        create_session(SETTINGS)
    # CUDA was not requested: no warning.
    assert create_session(replace(SETTINGS, provider="auto")).provider == "cpu"
    assert caplog.text == ""


def test_a_cpu_session_knows_nothing_of_gpus(fake: FakeRuntime) -> None:
    session = create_session(replace(SETTINGS, provider="cpu"))
    assert fake.sessions == [[CPU]]
    assert fake.preloaded == 0
    assert (session.provider, session.stream) == ("cpu", None)


def test_what_the_libraries_print_does_not_stand_in_the_answer(
    fake: FakeRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    create_session(SETTINGS)
    assert fake.preloaded
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "libcudnn" in captured.err


# The real ONNX Runtime.


def real(file: Path) -> Session:
    return create_session(Settings(model=file, provider="cpu"))


@needs_placement
def test_the_placement_of_nodes(model_file: Find) -> None:
    assert real(model_file("detector")).placement() is not None
    placed = real(model_file("table")).placement()
    assert placed == {"cpu": ["Gather /look/up"]}


@pytest.mark.parametrize(
    ("version", "is_alias"),
    [("1.22.1", True), ("1.29.0", True), ("1.30.0", False), ("2.0.0", False)],
)
def test_a_binding_of_an_old_runtime_is_not_reused(version: str, is_alias: bool) -> None:
    runtime = FakeRuntime([CPU])
    runtime.__version__ = version
    raw = SimpleNamespace(get_providers=lambda: [CPU])
    assert Session(runtime, raw).outputs_alias_binding == is_alias


def test_outputs_outlive_the_next_run(model_file: Find) -> None:
    model = gpux.load(model_file("matrix"), "cpu")
    first, second = (model.inputs.collect({"x": [[float(n), 0.5]]}) for n in (1, 2))
    for _ in range(2):
        kept = model.run(first)
        model.run(second)
        assert [to_python(value).tolist() for value in kept.values()] == [[[1.0, 0.5]]]
        model._session.outputs_alias_binding = True  # works with any version
    first.release()
    second.release()


def test_an_old_runtime_does_not_tell_the_placement() -> None:
    raw = SimpleNamespace(get_providers=lambda: [CPU])
    assert Session(FakeRuntime([CPU]), raw).placement() is None


def test_options_say_whether_a_run_waits(model_file: Find) -> None:
    session = real(model_file("matrix"))
    plain, waiting = session.create_options(), session.create_options(3, synchronize=True)
    assert plain.get_run_config_entry("gpu_graph_id") == "-1"
    assert plain.get_run_config_entry("disable_synchronize_execution_providers") == "1"
    assert waiting.get_run_config_entry("gpu_graph_id") == "3"
    with pytest.raises(RuntimeError):
        waiting.get_run_config_entry("disable_synchronize_execution_providers")
