"""gpu: requests on a fake GPU; the order of calls, and who owns which block when."""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest

from gpux._fastpath import Block, Pool
from gpux.cli.examples import find_examples
from gpux.errors import DeadlineError, InferenceError, InvalidShapeError
from gpux.execution.deadline import deadline_after
from gpux.execution.gpu import GpuExecution
from gpux.model import Model, load
from gpux.tensors.memory import PINNED, Tensor
from gpux.tensors.request import tensors_of
from gpux.tensors.signature import BY_CODE
from tests.support.fake_gpu import DeviceTensor, FakeSession, FakeStream, load_on_fake_gpu
from tests.support.gpu_cases import (
    LOADED,
    check_alias,
    check_boxes,
    check_doubled,
    check_sixteen_threads,
)
from tests.support.servers import wait_until

Find = Callable[[str], Path]


class CheckedBlock(Block):
    """A block of the fake GPU that is overwritten when it is freed, and tells if it was in use."""

    def __init__(self, block: Block, stream: FakeStream, too_early: list[int]) -> None:
        super().__init__(block, block.address, block.nbytes, block.device)
        self.stream, self.too_early = stream, too_early

    def __del__(self) -> None:
        if self.stream.is_in_use(self):
            self.too_early.append(self.address)
        ctypes.memset(self.address, 0xEE, self.nbytes)


Load = Callable[..., tuple[Model, FakeStream, FakeSession]]


@pytest.fixture
def idle_blocks() -> None:
    """For tests of the pools' figures: blocks are reused. Else each is freed when it is dropped."""


@pytest.fixture
def on_fake_gpu(
    model_file: Find, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Load]:
    """Loads a model by name on the fake GPU. No block may be freed while the stream uses it."""
    too_early: list[int] = []
    if "idle_blocks" not in request.fixturenames:
        for name in ("allocate", "allocate_pinned"):
            make = getattr(FakeStream, name)

            def checked(stream: FakeStream, nbytes: int, make: Any = make) -> Block:
                return CheckedBlock(make(stream, nbytes), stream, too_early)

            monkeypatch.setattr(FakeStream, name, checked)
        monkeypatch.setattr("gpux.model.Pool", partial(Pool, max_idle_bytes=0))
        monkeypatch.setattr("gpux.execution.gpu._MAX_IDLE_DEVICE_BYTES", 0)

    def find(name: str, **settings: Any) -> tuple[Model, FakeStream, FakeSession]:
        return load_on_fake_gpu(model_file(name), **settings)

    yield find
    assert too_early == []


def execution_of(model: Model) -> GpuExecution:
    assert isinstance(model.execution, GpuExecution)
    return model.execution


def used_bytes(model: Model) -> tuple[int, int]:
    """Bytes in use: (pinned, on the device)."""
    return model.pool.used_bytes, execution_of(model).device_pool.used_bytes


def allocations(model: Model) -> int:
    return model.pool.allocations + execution_of(model).device_pool.allocations


# The same results.


@pytest.mark.parametrize("name", LOADED)
def test_the_answers_are_those_of_the_cpu(name: str, model_file: Find, on_fake_gpu: Load) -> None:
    on_cpu = load(model_file(name), "cpu")
    model, _, _ = on_fake_gpu(name)
    examples = find_examples(on_cpu)
    assert examples
    for _ in range(6):  # the last ones are replays
        for example in examples.values():
            assert model.respond(example.body) == on_cpu.respond(example.body)
    assert used_bytes(model)[0] == 0


@pytest.mark.parametrize("graph", ["auto", "on", "off"])
def test_changing_values_of_one_shape(graph: str, on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("matrix", cuda_graph=graph)
    for number in range(20):
        values = numpy.random.default_rng(number).random((3, 5), numpy.float32)
        assert (model.predict({"x": values})["y"] == values).all()


def test_an_output_that_is_an_input(on_fake_gpu: Load) -> None:
    check_alias(on_fake_gpu("alias")[0])


def test_sizes_that_only_the_run_knows(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("boxes")
    check_boxes(model)
    assert stream.log.count("run") == 3
    assert used_bytes(model) == (0, 0)


def test_zero_sizes(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("matrix")
    for _ in range(6):
        assert model.predict({"x": numpy.zeros((2, 0))})["y"].shape == (2, 0)
    assert "in 0" not in stream.log


def test_names_that_promise_what_the_nodes_do_not_keep(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("doubled")
    check_doubled(model)
    # The first request ran twice; from then on ONNX Runtime allocates. Such a model has no graphs.
    assert stream.log.count("run") == 9
    assert "can be placed" in model.describe()["cuda_graph"]["reason"]
    assert used_bytes(model) == (0, 0)


def test_strings_go_through_the_executor_too(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("mixed")
    assert model.describe()["cuda_graph"]["reason"].startswith("the model takes or answers strings")
    examples = find_examples(model)
    assert examples
    assert stream.adopted == ["gpux-executor_0"]
    assert used_bytes(model) == (0, 0)


def test_what_the_model_reads_on_the_host_stays_there(on_fake_gpu: Load) -> None:
    """ONNX Runtime would copy it at binding time, before our copy to the device is done."""
    model, stream, _ = on_fake_gpu("repeat", host_inputs=["count"])
    for number in (3, 1, 5, 2, 4, 4, 4, 4):
        assert model.predict({"count": [number]})["ones"].shape == (number,)
    assert not any(entry.startswith("in") for entry in stream.log)
    # A graph would replay the count of its capture.
    graphs = model.describe()["cuda_graph"]
    assert graphs["captured"] == 0
    assert graphs["reason"] == "the model reads input 'count' on the host"
    assert used_bytes(model) == (0, 0)


def test_a_lent_tensor_that_is_read_on_the_host_is_brought_there(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("repeat", host_inputs=["count"])
    tensor = DeviceTensor(numpy.array([3]))
    assert model.predict({"count": tensor})["ones"].shape == (3,)
    assert tensor.host_exports == 1


# The order of calls.


def test_small_tensors_share_their_copies(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("sentiment", cuda_graph="off")
    model.predict({"input_ids": [[1, 2, 3]] * 2, "attention_mask": [[1, 1, 1]] * 2})
    # 48 bytes each, the second at offset 64.
    assert stream.log == ["in 112", "run", "out 16", "event"]


@pytest.mark.usefixtures("idle_blocks")
def test_a_large_tensor_is_copied_from_where_it_was_decoded(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("photo", cuda_graph="off")
    model.predict({model.signature.inputs[0].name: numpy.zeros((1, 3, 224, 224))})
    assert stream.log[:2] == [f"in {3 * 224 * 224 * 4}", "run"]
    assert stream.log[-1] == "event"
    # No second host block of that size was needed.
    assert model.pool.allocations == 2


def test_one_event_for_a_request_and_no_other_wait(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("matrix")
    for _ in range(20):
        model.predict({"x": [[1.0, 2.0]]})
    # Here a capture is a run like any other.
    assert stream.log == ["in 8", "run", "out 8", "event"] * 20


@pytest.mark.usefixtures("idle_blocks")
def test_nothing_is_allocated_in_the_steady_state(on_fake_gpu: Load) -> None:
    for name in ("sentiment", "numbers", "boxes"):
        model, _, _ = on_fake_gpu(name, cuda_graph="off")
        body = next(iter(find_examples(model).values())).body
        gc.collect()  # what tried the examples
        before = allocations(model)
        for _ in range(50):
            model.respond(body)
        # The thread that ran a request may drop its blocks only after the next one has begun.
        blocks = len(model.signature.inputs) + len(model.signature.outputs) + 2
        assert allocations(model) <= before + blocks


def test_the_next_request_is_launched_while_one_runs(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("matrix", cuda_graph="off")
    stream.done.clear()
    with ThreadPoolExecutor(5) as callers:
        futures = [callers.submit(model.predict, {"x": [[float(number)]]}) for number in range(5)]
        wait_until(lambda: stream.log.count("event") == 2, "two are on the stream")
        # The third waits for a slot.
        assert not any(future.done() for future in futures)
        assert stream.log.count("run") == 2
        stream.done.set()
        assert [future.result(60)["y"].tolist() for future in futures] == [
            [[float(number)]] for number in range(5)
        ]
    assert used_bytes(model) == (0, 0)


# Graphs.


def test_shapes_that_come_again_run_as_a_graph(on_fake_gpu: Load) -> None:
    model, _, session = on_fake_gpu("matrix")
    for rows in (1, 1, 2, 1, 1, 2, 1, 2, 2):
        values = numpy.random.default_rng(rows).random((rows, 3), numpy.float32)
        assert (model.predict({"x": values})["y"] == values).all()
    assert session.graphs == [-1, -1, -1, -1, 0, -1, 0, -1, 1]
    assert model.describe()["cuda_graph"] == {
        "mode": "auto",
        "captured": 2,
        "most": 8,
        "replays": 1,
        "reason": None,
    }
    # Each graph keeps the memory of its input and output.
    assert used_bytes(model) == (0, 4 * 4096)


def test_a_capture_has_the_device_to_itself(on_fake_gpu: Load) -> None:
    """The fake GPU asserts that nothing allocates or waits during a capture."""
    model, stream, session = on_fake_gpu("matrix", cuda_graph="on")
    with ThreadPoolExecutor(16) as callers:

        def is_right(number: int) -> bool:
            values = numpy.full((number % 12 + 1, 3), number, numpy.float32)
            return bool((model.predict({"x": values})["y"] == values).all())

        assert all(callers.map(is_right, range(400)))
    assert set(range(8)) <= set(session.graphs)
    assert stream.ended_captures == 0
    assert used_bytes(model)[0] == 0


def test_a_capture_that_fails_costs_nobody_an_answer(
    on_fake_gpu: Load, caplog: pytest.LogCaptureFixture
) -> None:
    model, stream, session = on_fake_gpu("matrix", cuda_graph="on")
    session.failures.append(RuntimeError("operation not permitted when stream is capturing"))
    assert model.predict({"x": [[3.0]]})["y"].tolist() == [[3.0]]
    assert session.graphs == [0, -1]
    assert stream.ended_captures == 1
    assert "operation not permitted" in model.describe()["cuda_graph"]["reason"]
    assert "No more CUDA graphs" in caplog.text
    assert model.predict({"x": [[4.0]]})["y"].tolist() == [[4.0]]
    assert session.graphs == [0, -1, -1]
    assert used_bytes(model) == (0, 0)


def test_a_model_that_cannot_be_captured_is_not(on_fake_gpu: Load) -> None:
    model, _, session = on_fake_gpu("matrix", no_graphs="it has control flow")
    for _ in range(6):
        model.predict({"x": [[1.0]]})
    assert set(session.graphs) == {-1}
    assert model.describe()["cuda_graph"]["reason"] == "it has control flow"


# Failures.


def test_a_run_that_fails_takes_nothing_with_it(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("table", cuda_graph="off")
    for _ in range(5):
        with pytest.raises(InferenceError, match="out of data bounds") as caught:
            model.predict({"ids": [[9]]})
        assert caught.value.__cause__ is not None
        del caught
        assert used_bytes(model) == (0, 0)
        assert model.predict({"ids": [[3]]})["embedding"].tolist() == [[[6.0, 7.0]]]
    assert stream.log.count("event") == 10


def test_a_replay_that_fails_leaves_the_graph_alone(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("table", cuda_graph="on")
    assert model.predict({"ids": [[3]]})["embedding"].tolist() == [[[6.0, 7.0]]]
    with pytest.raises(InferenceError, match="out of data bounds"):
        model.predict({"ids": [[9]]})
    assert model.predict({"ids": [[1]]})["embedding"].tolist() == [[[2.0, 3.0]]]


def test_a_full_device_is_an_error_of_that_request_alone(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("matrix")
    stream.max_allocation_bytes = 10_000
    large = numpy.zeros((1, 20_000), numpy.float32)
    for _ in range(3):
        with pytest.raises(MemoryError):  # on the host, while decoding
            model.predict({"x": large})
        assert model.predict({"x": [[1.0]]})["y"].tolist() == [[1.0]]
    stream.max_allocation_bytes = 2**40
    request = model.inputs.collect({"x": large})
    for _ in range(3):
        stream.max_allocation_bytes = 10_000
        with pytest.raises(InferenceError, match="full"):
            model.execution.run(request)
        assert model.predict({"x": [[1.0]]})["y"].tolist() == [[1.0]]
    del request
    assert used_bytes(model)[0] == 0


@pytest.mark.usefixtures("idle_blocks")
def test_idle_blocks_make_room(on_fake_gpu: Load) -> None:
    """Memory that ONNX Runtime cannot allocate may be idle in the pool."""
    model, _, session = on_fake_gpu("matrix", cuda_graph="off")
    model.predict({"x": numpy.zeros((1, 50_000))})
    assert execution_of(model).device_pool.idle_bytes > 200_000
    session.failures.append(RuntimeError("Failed to allocate memory for requested buffer"))
    assert model.predict({"x": [[1.0]]})["y"].tolist() == [[1.0]]
    assert execution_of(model).device_pool.idle_bytes < 20_000
    # Only one retry: a second failure is final.
    session.failures += [RuntimeError("CUDA error: out of memory")] * 2
    with pytest.raises(InferenceError, match="out of memory"):
        model.predict({"x": [[1.0]]})
    assert session.failures == []
    assert used_bytes(model) == (0, 0)


def test_a_run_at_its_deadline_is_stopped(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("slow")
    for _ in range(2):
        request = model.inputs.decode(b'{"steps": 1000000}')
        with pytest.raises(DeadlineError):
            model.execution.run(request, deadline_after(0.1))
        del request
        assert used_bytes(model) == (0, 0)
        assert model.predict({"steps": 1})["sum"] == 128.0


def test_a_caller_who_leaves_gets_nothing_and_loses_nothing(
    on_fake_gpu: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stream, session = on_fake_gpu("matrix")
    session.gate.clear()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.predict({"x": [[1.0]]})
    # The run goes on: the stream still owns its blocks.
    assert used_bytes(model)[0] > 0
    session.gate.set()
    assert model.predict({"x": [[2.0]]})["y"].tolist() == [[2.0]]
    wait_until(lambda: used_bytes(model) == (0, 0), "the blocks are back")
    assert stream.log.count("event") == 2


# Threads.


@pytest.mark.usefixtures("eager_threads")
def test_sixteen_threads_get_their_own_answers(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("alias")
    check_sixteen_threads(model, turns=60)
    assert used_bytes(model)[0] == 0


def test_close_ends_the_thread(on_fake_gpu: Load) -> None:
    def executors() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if one.name.startswith("gpux-executor")}

    model, _, _ = on_fake_gpu("matrix")
    model.predict({"x": [[1.0]]})
    before = executors()
    execution_of(model).close()
    assert before - executors()


# Tensors of other libraries.


def test_a_tensor_on_the_same_gpu_is_read_where_it_lies(on_fake_gpu: Load) -> None:
    model, stream, session = on_fake_gpu("matrix", cuda_graph="on")
    values = numpy.random.default_rng(1).random((4, 3), numpy.float32)
    tensor = DeviceTensor(values)
    assert (model.predict({"x": tensor})["y"] == values).all()
    assert stream.log == ["run", "out 48", "event"]
    assert tensor.streams == [stream.address], "the library makes our stream wait"
    assert session.graphs == [-1], "a graph reads from its own addresses"
    assert used_bytes(model) == (0, 0)


def test_one_item_on_the_gpu(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("matrix")
    outputs = model.predict({"x": DeviceTensor(numpy.ones(3, numpy.float32))})
    assert outputs["y"].tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_of_the_wrong_shape_is_refused_unread(on_fake_gpu: Load) -> None:
    model, stream, _ = on_fake_gpu("photo")
    name = model.signature.inputs[0].name
    with pytest.raises(InvalidShapeError, match=r"expected \[1, 3, 224, 224\], got \[3, 8, 8\]"):
        model.predict({name: DeviceTensor(numpy.ones((3, 8, 8), numpy.float32))})
    assert stream.log == []


@pytest.mark.parametrize("index", [0, 1])
def test_another_type_or_gpu_goes_through_the_host(on_fake_gpu: Load, index: int) -> None:
    model, stream, _ = on_fake_gpu("matrix")
    tensor = DeviceTensor(numpy.ones((2, 2), numpy.float64 if index == 0 else numpy.float32), index)
    assert model.predict({"x": tensor})["y"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert tensor.host_exports == 1
    assert stream.log[0] == "in 16"


def test_the_tensors_of_a_request_are_there_for_other_libraries(on_fake_gpu: Load) -> None:
    model, _, _ = on_fake_gpu("numbers")
    body = next(iter(find_examples(model).values())).body
    request = model.inputs.decode(body)
    inputs = {
        name: numpy.asarray(tensor).copy()
        for name, tensor in tensors_of(request, model.signature.inputs).items()
    }
    outputs = model.execution.run(request)
    for index, spec in enumerate(model.signature.outputs):
        code, shape, address = outputs.tensor(index)
        tensor = Tensor(BY_CODE[code], shape, address, outputs, PINNED)
        assert tensor.__dlpack_device__() == (3, 0)
        array = numpy.asarray(tensor)
        assert array.ravel().tolist() == inputs[spec.name.removesuffix("_out")].ravel().tolist()
    assert outputs.encode(request.unbatched).startswith(b"{")
    del request, outputs, tensor, array
    assert used_bytes(model) == (0, 0)
