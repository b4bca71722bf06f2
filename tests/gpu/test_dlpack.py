"""DLPack with CuPy and PyTorch on a real GPU: zero-copy inputs, and exported outputs."""

from collections.abc import Callable
from typing import Any

import numpy
import pytest

from gpux._engine import Request
from gpux.model import Model
from gpux.tensors.cuda import load_cupy
from gpux.tensors.memory import PINNED, Tensor
from gpux.tensors.signature import BY_CODE, names

Load = Callable[..., Model]
VALUES = numpy.random.default_rng(5).standard_normal((6, 4), numpy.float32)


def torch_or_skip() -> Any:
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch


def on_device(library: str, values: Any) -> tuple[Any, int]:
    """A library's tensor on the GPU, and its address."""
    if library == "cupy":
        array = load_cupy().asarray(values)
        load_cupy().cuda.runtime.deviceSynchronize()
        return array, array.data.ptr
    tensor = torch_or_skip().from_numpy(values.copy()).cuda()
    return tensor, tensor.data_ptr()


@pytest.mark.parametrize("library", ["cupy", "torch"])
def output_of(model: Model, request: Request, name: str) -> Tensor:
    """An output of a run, in pinned memory."""
    outputs = model.execution.run(request)
    index = names(model.signature.outputs).index(name)
    code, shape, address = outputs.tensor(index)
    return Tensor(BY_CODE[code], shape, address, outputs, PINNED)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_tensor_is_read_where_it_lies(library: str, mode: str, on_gpu: Load) -> None:
    model = on_gpu("alias", cuda_graph=mode)
    for number in range(8):
        values = VALUES + number
        tensor, address = on_device(library, values)
        request = model.inputs.collect({"x": tensor})
        assert request.content("x")[0] == address
        assert (numpy.from_dlpack(output_of(model, request, "doubled")) == 2 * values).all()
        del request
        assert (model.predict({"x": tensor})["x"] == values).all()


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_both_kinds_of_input_in_turns(library: str, on_gpu: Load) -> None:
    model = on_gpu("matrix")
    for number in range(12):
        values = VALUES * number
        tensor: Any = on_device(library, values)[0] if number % 2 else values
        assert (model.predict({"x": tensor})["y"] == values).all()


@pytest.mark.parametrize("library", ["cupy", "torch"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float64"])
def test_types_of_other_libraries(library: str, dtype: str, on_gpu: Load) -> None:
    model = on_gpu("numbers")
    values = {
        spec.name: numpy.ones((1, 1), spec.type.numpy or "float32")
        for spec in model.signature.inputs
    }
    numbers = numpy.arange(12).reshape(3, 4).astype(dtype)
    inputs = {**values, dtype: on_device(library, numbers)[0]}
    assert model.predict(inputs)[f"{dtype}_out"].tolist() == numbers.tolist()


def test_a_view_is_read_right_wherever_it_lies(on_gpu: Load) -> None:
    """Not contiguous or not aligned: it cannot be bound without a copy."""
    model = on_gpu("matrix")
    array, _ = on_device("cupy", VALUES)
    try:
        for view, values in ((array.T, VALUES.T), (array[1:], VALUES[1:])):
            assert (model.predict({"x": view})["y"] == values).all()
    except BufferError as error:
        pytest.skip(f"this CuPy does not bring it to the host: {error}")


def test_what_is_still_being_written_is_waited_for(on_gpu: Load) -> None:
    """PyTorch is still writing, on its own stream, when the model is called."""
    torch = torch_or_skip()
    model = on_gpu("matrix")
    model.predict({"x": VALUES})
    own = torch.cuda.Stream()
    for number in range(5):
        with torch.cuda.stream(own):
            tensor = torch.zeros((512, 512), device="cuda")
            torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
            tensor += number + 1
            output = model.predict({"x": tensor})["y"]
        assert (output == number + 1).all()
        own.synchronize()


def test_a_tensor_lives_as_long_as_its_request(on_gpu: Load) -> None:
    model = on_gpu("matrix")
    for number in range(20):
        tensor, _ = on_device("cupy", VALUES + number)
        request = model.inputs.collect({"x": tensor})
        del tensor
        other, _ = on_device("cupy", VALUES * 0 - 1)  # would reuse freed memory
        output = output_of(model, request, "y")
        assert (numpy.from_dlpack(output) == VALUES + number).all()
        del request
        del other


@pytest.mark.parametrize("library", ["numpy", "torch", "cupy"])
def test_answers_are_handed_out_where_they_lie(library: str, on_gpu: Load) -> None:
    """In pinned memory, which not every library accepts."""
    module: Any = torch_or_skip() if library == "torch" else pytest.importorskip(library)
    model = on_gpu("matrix")
    request = model.inputs.collect({"x": VALUES})
    output = output_of(model, request, "y")
    assert output.__dlpack_device__() == tuple(PINNED)
    try:
        imported = module.from_dlpack(output)
    except Exception as error:
        if library == "numpy":
            raise
        pytest.skip(f"{library} does not take page-locked memory: {error}")
    values = imported.get() if library == "cupy" else numpy.asarray(imported)
    assert (values == VALUES).all()
