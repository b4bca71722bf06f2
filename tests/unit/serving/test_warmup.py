"""warmup: the batch sizes that run before the first request."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gpux._engine import Request
from gpux.config.settings import Settings, read_settings
from gpux.errors import InferenceError
from gpux.model import Model, load, load_model
from gpux.serving.engine import Engine
from gpux.serving.warmup import read_recorded, warm_up
from tests.support.fake_gpu import load_on_fake_gpu
from tests.support.model_runs import is_all_returned, observe_runs
from tests.support.onnx_models import catalogue, write_folder

Find = Callable[[str], Path]


def warm(
    model: Model,
    settings: Settings,
    file: Path | None,
    max_seconds: float = 60.0,
    failing: Mapping[int, Exception] | None = None,
) -> list[tuple[int, ...]]:
    """Warms a model up as a server does.

    Args:
        model, settings, max_seconds: of the server.
        file: with a recorded request, if any.
        failing: the errors of runs, by their number of rows.

    Returns:
        The shape of the first input in each run after the trial.
    """
    recorded = None if file is None else read_recorded(file, model)
    engine = Engine(model, settings, recorded.rows if recorded else ())
    shapes: list[tuple[int, ...]] = []

    def record(request: Request) -> None:
        shapes.append(request.form(request.names[0])[0])
        if failing and shapes[-1][0] in failing:
            raise failing[shapes[-1][0]]

    observe_runs(model, record)
    warm_up(engine, recorded, max_seconds)
    # pytest keeps log records, and thus errors, whose tracebacks refer to requests.
    assert failing or is_all_returned(model)
    return shapes


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A request of two rows for `matrix`."""
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}))
    return file


@pytest.mark.parametrize(
    ("most", "sizes"), [(32, [1, 2, 4, 8, 16, 32]), (6, [1, 2, 4, 6]), (2, [1, 2]), (1, [])]
)
def test_a_recorded_request_runs_as_it_is_and_in_every_batch_size(
    model_file: Find, recorded: Path, most: int, sizes: list[int]
) -> None:
    model = load(model_file("matrix"), "cpu")
    shapes = warm(model, Settings(model=model.file, max_batch_size=most), recorded)
    assert shapes == [(2, 3), *((size, 3) for size in sizes)]


@pytest.mark.parametrize(("length", "sizes"), [(500_000, [1, 2, 4]), (3_000_000, [])])
def test_no_memory_is_taken_for_large_batches(
    model_file: Find, tmp_path: Path, length: int, sizes: list[int]
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"x": [[0] * length, [1] * length]}))
    model = load(model_file("matrix"), "cpu")
    shapes = warm(model, Settings(model=model.file), file)
    assert [shape[0] for shape in shapes] == [2, *sizes]
    assert model.pool.idle_bytes == 0


def test_a_generated_request_runs_in_every_batch_size(model_file: Find) -> None:
    model = load(model_file("photo"), "cpu")
    assert warm(model, Settings(model=model.file), None) == [(1, 3, 224, 224)]
    model = load(model_file("matrix"), "cpu")
    shapes = warm(model, Settings(model=model.file, max_batch_size=4), None)
    assert [shape[0] for shape in shapes] == [1, 1, 2, 4]
    assert len({shape[1] for shape in shapes}) == 1


def test_without_batches_one_is_enough(model_file: Find) -> None:
    model = load(model_file("matrix"), "cpu")
    shapes = warm(model, Settings(model=model.file, batching="off"), None)
    assert len(shapes) == 1


@pytest.mark.parametrize("name", ["opened", "single", "fixed", "slow", "sequences", "string"])
def test_models_without_rows_are_warmed_up_too(model_file: Find, name: str) -> None:
    model = load(model_file(name), "cpu")
    assert len(warm(model, Settings(model=model.file), None)) == 1


def test_what_is_generated_may_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "model.onnx"
    file.write_bytes(catalogue().SerializeToString())
    model = load(file, "cpu")
    engine = Engine(model, Settings(model=model.file))
    warm_up(engine, None)
    assert engine.batching.limits is None
    (message,) = caplog.messages
    assert message.startswith("no generated request could be run before the first one comes: Infer")
    assert caplog.records[0].levelname == "INFO"


def test_a_batch_that_fails_does_not_end_the_start(
    model_file: Find, recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(model_file("matrix"), "cpu")
    settings = Settings(model=model.file, max_batch_size=8)
    shapes = warm(model, settings, recorded, failing={4: InferenceError("no room")})
    assert [shape[0] for shape in shapes] == [2, 1, 2, 4]
    assert caplog.messages == [
        "a batch could not be run before the first request: Inference failed: no room"
    ]


def test_a_slow_model_is_left_alone_after_a_while(
    model_file: Find, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(model_file("matrix"), "cpu")
    assert warm(model, Settings(model=model.file), None, 0.0) == []
    assert caplog.messages == []  # logged below WARNING


def test_every_padded_length(tmp_path: Path) -> None:
    gpux_yml = "serving: {padding: {x: 0}, buckets: [4, 8], max_batch_size: 2}"
    folder = write_folder(tmp_path / "folder", "matrix", gpux_yml)
    (folder / "request.json").write_text(json.dumps({"x": [1.0, 2.0, 3.0]}))
    settings = read_settings({}, {"model": str(folder), "provider": "cpu"})
    shapes = warm(load_model(settings), settings, folder / "request.json")
    assert shapes == [(1, 3), (1, 3), (2, 3), (2, 4), (2, 8)]


def test_a_recorded_request_has_its_cuda_graphs(model_file: Find, recorded: Path) -> None:
    """On the fake GPU: one per size; none for a generated request, whose shapes are made up."""
    settings = Settings(model=model_file("matrix"), max_batch_size=4)
    model, _, _ = load_on_fake_gpu(model_file("matrix"))
    warm(model, settings, recorded)
    # As it is, one row, the largest batch.
    assert model.execution.describe()["cuda_graph"]["captured"] == 3
    model, _, _ = load_on_fake_gpu(model_file("matrix"))
    warm(model, replace(settings), None)
    assert model.execution.describe()["cuda_graph"]["captured"] == 0
