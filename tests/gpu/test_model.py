"""Models on a real GPU give the same results as on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from gpux.cli.examples import find_examples
from gpux.errors import ConfigurationError, DeadlineError, InferenceError
from gpux.execution.deadline import deadline_after
from gpux.execution.gpu import GpuExecution
from gpux.model import Model, load
from tests.support.gpu_cases import (
    LOADED,
    check_alias,
    check_boxes,
    check_doubled,
    check_sixteen_threads,
)
from tests.support.onnx_models import NUMBER_TYPES

Load = Callable[..., Model]


@pytest.mark.parametrize("name", LOADED)
def test_the_answers_are_those_of_the_cpu(
    name: str,
    model_file: Callable[[str], Path],
    on_gpu: Load,
    alike: Callable[[bytes, bytes], bool],
) -> None:
    on_cpu, other = load(model_file(name), "cpu"), on_gpu(name)
    examples = find_examples(on_cpu)
    assert examples
    for _ in range(6):  # the last ones are replays
        for example in examples.values():
            actual = other.respond(example.body)
            assert alike(actual, example.answer), (actual, example.answer)


def test_every_type_comes_back_bit_for_bit(on_gpu: Load) -> None:
    model = on_gpu("numbers")
    random = numpy.random.default_rng(3)
    for turn in range(8):
        inputs: dict[str, Any] = {}
        for name in NUMBER_TYPES:
            shape = tuple(random.integers(1, 50, 2)) if turn % 2 else (7, 9)
            if name == "bool":
                inputs[name] = random.random(shape) < 0.5
            elif "int" in name:
                limits = numpy.iinfo(name)
                inputs[name] = random.integers(limits.min, limits.max, shape, name, endpoint=True)
            else:
                numbers = random.standard_normal(shape, numpy.float32)
                if name == "bfloat16":  # keep only values exact in bfloat16
                    numbers = (numbers.view("uint32") & 0xFFFF0000).view("float32")
                inputs[name] = numbers if name == "bfloat16" else numbers.astype(name)
        outputs = model.predict(inputs)
        for name, numbers in inputs.items():
            assert outputs[f"{name}_out"].dtype == numbers.dtype
            assert outputs[f"{name}_out"].tobytes() == numbers.tobytes(), name


def test_infinities_and_nan(
    model_file: Callable[[str], Path], on_gpu: Load, alike: Callable[[bytes, bytes], bool]
) -> None:
    body = b'{"a": [[1, -1, 0, 3, 1e308]], "b": [[0, 0, 0, 7, 1e-10]]}'
    actual = on_gpu("quotients").respond(body)
    expected = load(model_file("quotients"), "cpu").respond(body)
    assert alike(actual, expected), (actual, expected)
    assert b"null" in actual


def test_zero_sizes(on_gpu: Load) -> None:
    model = on_gpu("matrix")
    for _ in range(6):
        assert model.predict({"x": numpy.zeros((2, 0))})["y"].shape == (2, 0)
        assert model.predict({"x": [[1.5]]})["y"].tolist() == [[1.5]]


def test_sizes_that_only_the_run_knows(on_gpu: Load) -> None:
    check_boxes(on_gpu("boxes"))


def test_names_that_promise_what_the_nodes_do_not_keep(on_gpu: Load) -> None:
    check_doubled(on_gpu("doubled"))


def test_an_output_that_is_an_input(on_gpu: Load) -> None:
    check_alias(on_gpu("alias"))


def test_shapes_that_are_read_by_the_host(on_gpu: Load) -> None:
    """Expand reads its shape, and Loop its trip count, on the host."""
    model = on_gpu("repeat")
    for count in (3, 1, 7, 3, 3, 3, 3, 3, 0, 2):
        assert model.predict({"count": [count]})["ones"].tolist() == [1.0] * count
    model = on_gpu("slow")
    for steps in (1, 2, 2, 2, 2, 2, 1):
        assert model.predict({"steps": steps})["sum"] == 128.0


def test_strings(on_gpu: Load) -> None:
    model = on_gpu("strings")
    texts = [["a", "é\0b", ""], ["", "😀", "x" * 1000]]
    for _ in range(5):
        assert model.predict({"texts": texts})["same"].tolist() == texts
    assert model.describe()["cuda_graph"]["reason"].startswith("the model takes or answers strings")


def test_a_run_that_fails_takes_nothing_with_it(on_gpu: Load) -> None:
    model = on_gpu("sevens")
    for _ in range(5):
        with pytest.raises(InferenceError):
            model.predict({"x": [[1.0, 2.0, 3.0]]})
        assert model.predict({"x": [[1.0] * 14]})["y"].shape == (2, 7)


def test_a_run_at_its_deadline_is_stopped(on_gpu: Load) -> None:
    model = on_gpu("slow")
    for _ in range(2):
        request = model.inputs.decode(b'{"steps": 10000000}')
        with pytest.raises(DeadlineError):
            model.execution.run(request, deadline_after(0.2))
        del request
        assert model.predict({"steps": 1})["sum"] == 128.0


def test_where_the_nodes_are(on_gpu: Load) -> None:
    model = on_gpu("sentiment")
    described = model.describe()
    assert described["provider"] == "cuda"
    assert described["device"] == "cuda:0"
    assert model.placement is not None
    assert described["nodes"] == {name: len(nodes) for name, nodes in model.placement.items()}
    assert set(described["nodes"]) == {"cuda"}
    text_placement = on_gpu("text").placement
    assert text_placement is not None
    # String operators run on the CPU, and are listed.
    assert any("LabelEncoder" in node for node in text_placement["cpu"])


def test_auto_is_cuda_here(model_file: Callable[[str], Path]) -> None:
    model = load(model_file("matrix"), "auto")
    assert model.device == "cuda:0"
    assert model.predict({"x": [[1.0]]})["y"].tolist() == [[1.0]]


def test_a_gpu_that_is_not_there(on_gpu: Load) -> None:
    with pytest.raises(ConfigurationError, match="there is no GPU 99"):
        on_gpu("matrix", device=99)


def test_what_does_not_fit_fails_alone(on_gpu: Load) -> None:
    model = on_gpu("repeat", gpu_memory_limit_bytes=2**25)
    for _ in range(3):
        with pytest.raises(InferenceError, match=r"(?i)memory"):
            model.predict({"count": [2**26]})
        assert model.predict({"count": [3]})["ones"].tolist() == [1.0] * 3
    unlimited = on_gpu("repeat")
    with pytest.raises(InferenceError, match=r"(?i)memory"):
        unlimited.predict({"count": [2**45]})
    assert unlimited.predict({"count": [3]})["ones"].tolist() == [1.0] * 3


@pytest.mark.usefixtures("eager_threads")
def test_sixteen_threads_get_their_own_answers(on_gpu: Load) -> None:
    check_sixteen_threads(on_gpu("alias"), turns=100)


def test_nothing_is_allocated_in_the_steady_state(on_gpu: Load) -> None:
    model = on_gpu("photos", cuda_graph="off")
    images = numpy.random.default_rng(0).random((2, 3, 224, 224), numpy.float32)
    name = model.signature.inputs[0].name
    assert isinstance(model.execution, GpuExecution)
    execution = model.execution

    def allocations() -> int:
        return model.pool.allocations + execution.device_pool.allocations

    for _ in range(3):
        model.predict({name: images})
    before = allocations()
    for _ in range(50):
        model.predict({name: images})
    assert allocations() == before
