"""session: the options passed to ONNX Runtime, and how its errors are handled."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import gpux
from gpux.config.schema import ModelConfig
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, InferenceError, ModelError, RuntimeMissingError
from gpux.execution.session import Session, create_session
from gpux.tensors.outputs import to_python
from tests.support.ort import needs_placement

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Find = Callable[[str], Path]

# ONNX Runtime's own messages.
NOT_ALL_ON_GPU = (
    "This session cannot use the graph capture feature as "
    "requested by the user as all compute graph nodes have not been partitioned to the "
    "CUDAExecutionProvider"
)
CONTROL_FLOW = (
    "This session cannot use the CUDA Graph feature as requested "
    "by the user  as the model has control flow nodes which can't be supported by CUDA Graphs."
)


class FakeOptions:
    """Session options that record what they are given.

    Attributes:
        entries: the config entries.
        cuda: the options of the CUDA provider; None on the CPU.
    """

    def __init__(self, threads: int, optimization: int) -> None:
        assert (threads >= 1, optimization) == (True, 99)
        self.entries: dict[str, str] = {}
        self.add_config_entry = self.entries.__setitem__
        self.cuda: dict[str, str] | None = None
        self.refusal: str | None = None

    def append_cuda(self, provider_options: dict[str, str]) -> None:
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        self.cuda = provider_options


class FakeRuntime:
    """The part of gpux._engine that sessions need.

    Attributes:
        providers: those that it was built with.
        sessions: the options of each session.
        refusals: errors raised by the next sessions, in order; None: no error.
        append_refusal: error of the CUDA provider.
        inputs: by name, the memory from which the model reads each.
        opened: how often CUDA's libraries were opened.
    """

    def __init__(self, providers: list[str]) -> None:
        self.providers = providers
        self.sessions: list[FakeOptions] = []
        self.refusals: list[str | None] = []
        self.append_refusal: str | None = None
        self.inputs: dict[str, str] | None = {"x": "Cuda"}
        self.opened = 0

    def options(self, threads: int, optimization: int) -> FakeOptions:
        options = FakeOptions(threads, optimization)
        options.refusal = self.append_refusal
        return options

    def session(self, path: Path, options: FakeOptions) -> Any:
        del path
        self.sessions.append(options)
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise RuntimeError(refusal)
        inputs = self.inputs
        return SimpleNamespace(
            inputs=[SimpleNamespace(name=name) for name in inputs or ()],
            input_memory=lambda: None if inputs is None else list(inputs.values()),
        )

    def open_libraries(self, provider: Path) -> None:
        assert provider.name == "libonnxruntime_providers_cuda.so"
        self.opened += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime([CUDA, CPU])
    for name, replacement in {
        "available_providers": lambda: runtime.providers,
        "load_runtime": lambda: None,
        "open_cuda_libraries": runtime.open_libraries,
        "CudaStream": lambda device: SimpleNamespace(address=77 + device),
        "NativeSession": runtime.session,
        "SessionOptions": runtime.options,
    }.items():
        monkeypatch.setattr(f"gpux.execution.session.{name}", replacement)
    return runtime


SETTINGS = Settings(model=Path("m.onnx"), provider="cuda", device=1)


def test_everything_goes_through_our_stream(fake: FakeRuntime) -> None:
    session = create_session(SETTINGS)
    (options,) = fake.sessions
    assert options.cuda == {
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
    assert options.entries == {
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
        "session.record_ep_graph_assignment_info": "1",
    }
    assert fake.opened == 1


def test_what_the_file_says_goes_over_our_choices(fake: FakeRuntime) -> None:
    create_session(
        replace(
            SETTINGS,
            cuda_graph="off",
            gpu_memory_limit_bytes=2**30,
            provider_options={"use_tf32": True, "cudnn_conv_use_max_workspace": 0},
        )
    )
    options = fake.sessions[0].cuda
    assert options is not None
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
    graphs = [options.cuda and options.cuda["enable_cuda_graph"] for options in fake.sessions]
    assert graphs == ["1", "0"]
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


def test_where_inputs_are_read_must_be_known(fake: FakeRuntime) -> None:
    fake.inputs = None
    with pytest.raises(ConfigurationError, match="does not report where a model reads its inputs"):
        create_session(SETTINGS)


def test_no_model_is_said_as_it_is(fake: FakeRuntime) -> None:
    fake.refusals = ["Load model failed"] * 3
    with pytest.raises(ModelError, match=r"^m\.onnx: Load model failed$"):
        create_session(SETTINGS)
    assert len(fake.sessions) == 1
    # `auto` tries the CPU, too: the provider might be to blame.
    with pytest.raises(ModelError, match=r"^m\.onnx: Load model failed$"):
        create_session(replace(SETTINGS, provider="auto"))
    assert len(fake.sessions) == 3


def test_a_provider_that_cannot_be_used_leaves_no_session_of_its_options(
    fake: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    fake.append_refusal = "/src/bridge.cc:12 Failed to load shared library"
    said = "ONNX Runtime could not use CUDA: Failed to load shared library"
    with pytest.raises(ConfigurationError, match=f"^provider cuda: {said}"):
        create_session(SETTINGS)
    assert fake.sessions == []
    with caplog.at_level(logging.WARNING):
        session = create_session(replace(SETTINGS, provider="auto"))
    assert session.provider == "cpu"
    assert session.stream is None
    assert [options.cuda for options in fake.sessions] == [None]
    assert f"CUDA could not be used: {said}" in caplog.text


def test_a_model_that_only_the_cpu_can_load(
    fake: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    fake.refusals = ["CUDA failure 2: out of memory"]
    with caplog.at_level(logging.WARNING):
        session = create_session(replace(SETTINGS, provider="auto"))
    assert session.provider == "cpu"
    assert fake.sessions[-1].cuda is None
    assert "CUDA could not be used: m.onnx: CUDA failure 2" in caplog.text


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
    assert [options.cuda for options in fake.sessions] == [None]
    assert fake.opened == 0
    assert (session.provider, session.stream) == ("cpu", None)


# The real ONNX Runtime.


def real(file: Path) -> Session:
    return create_session(Settings(model=file, provider="cpu"))


@needs_placement
def test_the_placement_of_nodes(model_file: Find) -> None:
    assert real(model_file("detector")).placement() is not None
    placed = real(model_file("table")).placement()
    assert placed == {"cpu": ["Gather /look/up"]}


def test_an_old_runtime_does_not_tell_the_placement() -> None:
    native: Any = SimpleNamespace(assignments=lambda: None)
    assert Session(native).placement() is None


def test_outputs_outlive_the_next_run(model_file: Find) -> None:
    model = gpux.load(model_file("matrix"), "cpu")
    first, second = (model.inputs.collect({"x": [[float(n), 0.5]]}) for n in (1, 2))
    kept = model.execution.run(first)
    model.execution.run(second)
    (output,) = model.signature.outputs
    assert to_python(kept, 0, output).tolist() == [[1.0, 0.5]]


def test_options_say_whether_a_run_waits(model_file: Find) -> None:
    session = real(model_file("matrix"))
    plain, waiting = session.create_options(), session.create_options(3, synchronize=True)
    assert plain.entries == {
        "gpu_graph_id": "-1",
        "disable_synchronize_execution_providers": "1",
    }
    assert waiting.entries == {"gpu_graph_id": "3"}


@pytest.mark.parametrize(
    "name",
    [
        *("numbers", "strings", "opened", "unnamed", "labelled", "zipmap", "sequences", "scalars"),
        *("takes_sequence", "takes_optional", "takes_map", "takes_float8", "optional", "described"),
        pytest.param("takes_int4", marks=needs_placement),  # 1.22 has no Cast to it
    ],
)
def test_what_a_model_declares_is_what_the_python_module_says(model_file: Find, name: str) -> None:
    file = model_file(name)
    session = real(file)
    reference = onnxruntime.InferenceSession(file, providers=[CPU])
    for declared, nodes in (
        (session.inputs, reference.get_inputs()),
        (session.outputs, reference.get_outputs()),
        (session.initializers, reference.get_overridable_initializers()),
    ):
        assert [(entry.name, entry.onnx, list(entry.dims)) for entry in declared] == [
            (node.name, node.type, node.shape if node.type.startswith("tensor") else [])
            for node in nodes
        ]
    meta, expected = session.metadata(), reference.get_modelmeta()
    assert meta == {
        "producer": expected.producer_name,
        "graph": expected.graph_name,
        "domain": expected.domain,
        "description": expected.description,
        "graph_description": expected.graph_description,
        "version": expected.version,
        "custom": expected.custom_metadata_map,
    }


def identity(file: Path, **renamed: bytes) -> Path:
    """A model of an input XXXXXX, an output YYYYYY and a node NNNNNN, with some renamed."""
    tensor = ("batch", 2)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["XXXXXX"], ["YYYYYY"], name="NNNNNN"),
            helper.make_node("Identity", ["WWWWWW"], ["ZZZZZZ"]),
        ],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, tensor) for n in ("XXXXXX", "WWWWWW")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, tensor) for n in ("YYYYYY", "ZZZZZZ")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, {"KKKKKK": "VVVVVV"})
    content = model.SerializeToString()
    for name, replacement in renamed.items():
        assert len(name) == len(replacement)
        content = content.replace(name.encode(), replacement)
    file.write_bytes(content)
    return file


def with_external_data(file: Path) -> Path:
    """A model that adds numbers of the file weights.bin."""
    weights = numpy_helper.from_array(numpy.arange(512, dtype="float32"), "k")
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "k"], ["y"])],
        "g",
        [tensor],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 512])],
        [weights],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, file, save_as_external_data=True, location="weights.bin")
    return file


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    file = with_external_data(tmp_path / "m.onnx")
    assert (tmp_path / "weights.bin").stat().st_size >= 2048
    (answer,) = gpux.load(file, "cpu").predict({"x": [[0.0] * 512]}).values()
    assert answer.tolist() == [list(range(512))]


def test_a_model_in_the_format_of_onnx_runtime(model_file: Find, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = os.fspath(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model_file("matrix"), options, providers=[CPU])
    model = gpux.load(tmp_path / "m.ort", "cpu")
    assert model.predict({"x": [[1.0, 2.0]]})["y"].tolist() == [[1.0, 2.0]]


@needs_placement
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    names = {key: f"名{key[0]}名".encode("gbk") + b"!" for key in ("XXXXXX", "YYYYYY", "NNNNNN")}
    names["KKKKKK"] = names["VVVVVV"] = names["NNNNNN"]
    shown = {key: name.decode("utf-8", "replace") for key, name in names.items()}
    model = gpux.load(identity(tmp_path / "m.onnx", **names), "cpu")
    answer = model.predict({shown["XXXXXX"]: [[1.0, 2.0]], "WWWWWW": [[3.0, 4.0]]})
    assert {name: value.tolist() for name, value in answer.items()} == {
        shown["YYYYYY"]: [[1.0, 2.0]],
        "ZZZZZZ": [[3.0, 4.0]],
    }
    assert model.describe()["metadata"][shown["KKKKKK"]] == shown["VVVVVV"]
    assert model.placement is not None
    assert f"Identity {shown['NNNNNN']}" in model.placement["cpu"]


def test_names_that_are_shown_alike_are_refused(tmp_path: Path) -> None:
    file = identity(tmp_path / "m.onnx", XXXXXX=b"\xf0name1", WWWWWW=b"\xf1name1")
    with pytest.raises(ModelError, match=r"m\.onnx: two names are not UTF-8 and equal where they"):
        real(file)


def test_what_fails_is_said_once(
    tmp_path: Path, model_file: Find, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        real(broken)
    assert "No graph was found" in str(caught.value) or "does not have a graph" in str(caught.value)
    assert "onnxruntime" not in str(caught.value)
    file = with_external_data(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin"):
        real(file)
    model = gpux.load(model_file("table"), "cpu")
    with pytest.raises(InferenceError, match="out of data bounds"):
        model.predict({model.signature.inputs[0].name: [10**6]})
    assert capfd.readouterr().err == ""


# What gpux.yml says.


def with_config(file: Path, **settings: Any) -> Session:
    config = ModelConfig(file.with_name("gpux.yml"))
    return create_session(Settings(model=file, provider="cpu", config=config, **settings))


def test_free_dimensions_fix_the_axes_of_a_name(model_file: Find) -> None:
    assert real(model_file("matrix")).inputs[0].dims[0] == "batch"
    session = with_config(model_file("matrix"), free_dimensions={"batch": 3})
    assert session.inputs[0].dims[0] == 3
    problem = (
        r"gpux\.yml: runtime\.free_dimensions\.rows: no input has an axis .*; they are 'batch'"
    )
    with pytest.raises(ConfigurationError, match=problem):
        with_config(model_file("matrix"), free_dimensions={"rows": 3})
    with pytest.raises(ConfigurationError, match="no axis of the model's inputs has a name"):
        with_config(model_file("fixed"), free_dimensions={"batch": 3})


def test_session_options_reach_the_session(model_file: Find) -> None:
    assert with_config(model_file("matrix"), session_options={"unknown.to.all": True})
    with pytest.raises(ModelError):
        with_config(model_file("matrix"), session_options={"session.load_model_format": "ORT"})


def test_custom_ops_that_cannot_be_registered(model_file: Find, tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_text("no library")
    problem = r"gpux\.yml: runtime\.custom_ops\[0\]: .*ops\.so"
    with pytest.raises(ConfigurationError, match=problem):
        with_config(model_file("matrix"), custom_ops=(library,))
