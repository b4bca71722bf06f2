"""padding: requests of different lengths in one batch get the same results as alone."""

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpux._engine import Outputs, Pipeline, Request
from gpux._fastpath import Pool
from gpux.config.schema import ModelConfig, read_config
from gpux.config.settings import Settings, read_settings
from gpux.errors import ConfigurationError
from gpux.inputs.model_io import merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.model import Model, load, load_model
from gpux.serving.batch import MixedRowsError, batch_key, collate, shapes_of, split
from gpux.serving.batch_plan import BatchLimits, WaitingRequest, plan
from gpux.serving.engine import Engine
from gpux.serving.padding import PaddedLayout, Padding, find_padding
from gpux.tensors.memory import Tensor, array_of
from gpux.tensors.request import tensors_of
from gpux.tensors.signature import BY_CODE, BY_NAME, Signature, TensorSpec
from tests.support.bert_models import edit_tokenizer, remove_pad_token, write_echo, write_folder
from tests.support.fake_gpu import load_on_fake_gpu
from tests.support.model_runs import check_64_threads
from tests.support.served_engine import Scheduled, ServedEngine

Find = Callable[[str, str], Path]
Dims = tuple[int | str | None, ...]

_MASKED = "serving: {padding: {ids: 0, mask: 0}, buckets: [4, 8, 12]}"


def settings_of(folder: Path, **changed: Any) -> Settings:
    settings = read_settings({}, {"model": str(folder)}, variables={})
    return replace(settings, provider="cpu", **changed)


def engine_of(folder: Path, **changed: Any) -> Engine:
    settings = settings_of(folder, **changed)
    return Engine(load_model(settings), settings)


# Buckets and layout.


def padding_of(*buckets: int, is_left: bool = False) -> Padding:
    """For a model with `x` [batch, n, 2, m], `y` [batch, m] and `z` [batch, 3]."""
    return Padding(
        {"x": -1, "y": 0.5},
        {"x": numpy.int32(-1), "y": numpy.float32(0.5)},
        buckets,
        {"x": ((1, "n"), (3, "m")), "y": ((1, "m"),)},
        (((1, "n"), (3, "m")), ((1, "m"),), ()),
        is_left,
    )


_SPECS = (
    TensorSpec("x", BY_NAME["int32"], ("batch", "n", 2, "m")),
    TensorSpec("y", BY_NAME["float32"], ("batch", "m")),
    TensorSpec("z", BY_NAME["bfloat16"], ("batch", 3)),
)
SIGNATURE = Signature(_SPECS, _SPECS)


def test_sizes_are_rounded_up_to_the_next_bucket() -> None:
    padding = padding_of(16, 32, 64)
    rounded = {0: 0, 1: 16, 15: 16, 16: 16, 17: 32, 33: 64, 64: 64, 65: 65, 1000: 1000}
    assert {size: padding.round_up(size) for size in rounded} == rounded


def test_a_batch_is_as_wide_as_it_must_be() -> None:
    """Equal lengths are not padded; others are, to the bucket of the longest."""
    padding = padding_of(4, 8)
    shapes = [{"x": (1, n, 2, 3), "y": (1, 3), "z": (1, 3)} for n in (1, 2, 3)]
    assert padding.lay_out(shapes).widths == {"n": 4}
    assert padding.lay_out(shapes[:1] * 3).widths == {}
    assert padding.axes == ("n", "m")


def test_the_sizes_of_a_warm_up() -> None:
    assert list(padding_of(4, 8).sizes()) == [{"n": 4, "m": 4}, {"n": 8, "m": 8}]


_ITEMS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


def pipeline_for_items() -> Pipeline:
    return create_pipeline(merge_config(SIGNATURE, ModelConfig()), Pool())


def request_of(pipeline: Pipeline, number: int, rows: int, n: int, m: int) -> Request:
    """A request with random elements, seeded by its number."""
    random_ = numpy.random.default_rng(number)
    request = pipeline.request()
    for spec in SIGNATURE.inputs:
        shape = {"x": (rows, n, 2, m), "y": (rows, m), "z": (rows, 3)}[spec.name]
        block = pipeline.pool.take(math.prod(shape) * spec.type.nbytes)
        array_of(block, spec.type, shape)[...] = random_.integers(0, 1000, shape)
        request.put(spec.name, block, shape)
    return request


def arrays_of_request(request: Request) -> dict[str, Any]:
    tensors = tensors_of(request, SIGNATURE.inputs)
    return {name: numpy.asarray(tensor) for name, tensor in tensors.items()}


def arrays_of_outputs(outputs: Outputs) -> list[Any]:
    """The outputs as arrays, which keep them alive."""
    arrays = []
    for index in range(len(outputs)):
        code, shape, address = outputs.tensor(index)
        arrays.append(numpy.asarray(Tensor(BY_CODE[code], shape, address, outputs)))
    return arrays


@given(_ITEMS, st.booleans())
def test_what_is_gathered_and_scattered_is_what_it_was(
    items: list[tuple[int, int, int]], is_left: bool
) -> None:
    pipeline, padding = pipeline_for_items(), padding_of(2, 4, 8, is_left=is_left)
    requests = [request_of(pipeline, number, *item) for number, item in enumerate(items)]
    layout = padding.lay_out([shapes_of(request, SIGNATURE) for request in requests])
    batch = collate(requests, pipeline, layout)
    whole = arrays_of_request(batch)
    own = [arrays_of_request(request) for request in requests]
    for name, pad_value in (("x", -1), ("y", 0.5)):
        padded = whole[name].size - sum(arrays[name].size for arrays in own)
        assert (whole[name] == pad_value).sum() == padded
    # Padding lies on one side: the outermost element of the other is the request's own.
    corner = (0, *[-1 if is_left else 0] * 3)
    first = own[0]["x"]
    assert whole["x"].size == 0 or first.size == 0 or whole["x"][corner] == first[corner]
    outputs = pipeline.outputs(list(tensors_of(batch, SIGNATURE.inputs).values()), 0.0)
    del batch, requests
    rows = [item[0] for item in items]
    for arrays, part in zip(own, split(outputs, rows, layout), strict=True):
        for mine, output in zip(arrays.values(), arrays_of_outputs(part), strict=True):
            assert output.shape == mine.shape
            assert (output == mine).all()
    del own, outputs, part, output, mine, arrays, whole, first
    assert pipeline.pool.used_bytes == 0


@given(_ITEMS, st.integers(1, 8))
def test_a_plan_puts_those_together_that_fit(
    items: list[tuple[int, int, int]], max_rows: int
) -> None:
    """Mixed shapes: each request runs once, oldest first, only with others of its buckets."""
    pipeline, padding = pipeline_for_items(), padding_of(2, 4, 8)
    waiting = []
    for number, item in enumerate(items):
        key = batch_key(request_of(pipeline, number, *item), SIGNATURE, padding)
        waiting.append(WaitingRequest(key, item[0], float(number)))
    remaining = list(range(len(items)))
    while remaining:
        chosen = plan([waiting[number] for number in remaining], BatchLimits(max_rows), 1e9).batch
        assert chosen[0] == 0
        batch = [items[remaining[index]] for index in chosen]
        for axis in (1, 2):
            assert len({padding.round_up(item[axis]) for item in batch}) == 1
        remaining = [number for index, number in enumerate(remaining) if index not in chosen]


def test_an_output_that_is_not_as_long_as_its_axis_says() -> None:
    pipeline, padding = pipeline_for_items(), padding_of(4)
    requests = [request_of(pipeline, 0, 1, 2, 3), request_of(pipeline, 1, 1, 2, 1)]
    layout = padding.lay_out([shapes_of(request, SIGNATURE) for request in requests])
    tensors = tensors_of(request_of(pipeline, 2, 2, 2, 5), SIGNATURE.inputs)
    wrong = pipeline.outputs(list(tensors.values()), 0.0)
    with pytest.raises(MixedRowsError, match=r"an output of shape \[2, 2, 2, 5\] for m 4"):
        split(wrong, [1, 1], layout)


# Models.


def body_of(model: Model, lengths: Mapping[str, int], rng: random.Random) -> dict[str, Any]:
    """A request of one item, or of one to three rows, with random values."""
    rows = rng.choice([None, 1, 2, 3])
    body: dict[str, Any] = {}
    for spec in model.signature.inputs:
        shape = [rows] * bool(rows)
        shape += [dim if isinstance(dim, int) else lengths[str(dim)] for dim in spec.dims[1:]]
        body[spec.name] = _nested(shape, spec.name, rng)
    return body


def _nested(shape: Sequence[Any], name: str, rng: random.Random) -> Any:
    if not shape:
        return 1 if name == "mask" else rng.randint(0, 3)
    return [_nested(shape[1:], name, rng) for _ in range(shape[0])]


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("masked", _MASKED),
        ("crossed", "serving: {padding: {a: 0, b: -1.5}, buckets: [2, 4, 8]}"),
        ("cube", "serving: {padding: {x: 7}, buckets: [6, 12]}"),
        ("labelled", "serving: {padding: {ids: 3}, buckets: [5, 10, 15]}"),
        ("positioned", "serving: {padding: {x: 0}}"),
    ],
)
def test_64_threads_get_their_own_answers(
    name: str, described: str, folder_for: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In random order, with random lengths and pauses: bit for bit the results of single runs."""
    folder = folder_for(name, described)
    alone = engine_of(folder, batching="off")
    engine = engine_of(folder, batching="on", max_batch_size=16)
    assert engine.batching.padding is not None
    batches = record_batches(monkeypatch)
    rng = random.Random(0)
    bodies = [json.dumps(body_of(alone.model, _Lengths(rng), rng)).encode() for _ in range(60)]
    expected = [alone.model.respond(body) for body in bodies]
    check_64_threads(ServedEngine(engine).predict, list(zip(bodies, expected, strict=True)), 10)
    batches.clear()
    responses = predict_queued(engine, bodies[:30])  # some of these always need padding
    assert responses == [json.loads(response) for response in expected[:30]]
    assert any(len(set(lengths)) > 1 for lengths in batches)
    assert engine.model.pool.used_bytes == 0


class _Lengths(dict[str, int]):
    """A random length for any axis, possibly above the largest bucket."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, axis: str) -> int:
        return self.setdefault(axis, self._rng.randint(1, 14))


def found_padding(folder: Path) -> Padding | str:
    """A model's padding on the CPU, or why there is none."""
    model = load(folder, "cpu")
    return find_padding(model.signature, model.config, model.text_encoder)


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """Records, for each batch, the sizes of its requests."""
    batches: list[list[tuple[int, ...]]] = []
    lay_out = Padding.lay_out

    def recording(self: Padding, requests: Any) -> PaddedLayout:
        layout = lay_out(self, requests)
        batches.append([tuple(sizes.values()) for sizes in layout.sizes])
        return layout

    monkeypatch.setattr(Padding, "lay_out", recording)
    return batches


def test_a_request_that_finds_the_model_free_is_not_padded(
    folder_for: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(folder_for("masked", _MASKED))
    batches = record_batches(monkeypatch)
    response = ServedEngine(engine).predict(b'{"ids":[5,6,7],"mask":[1,1,1]}')
    assert (json.loads(response)["sum"], batches) == (18, [])


def predict_queued(engine: Engine, bodies: Sequence[bytes]) -> list[Any]:
    """The responses to requests that queue while the model is busy."""
    scheduled = Scheduled(engine)
    scheduled.submit(bodies[0])
    while scheduled.threads.calls:  # the tokenizer
        scheduled.threads.step_call()
    asked = []
    for body in bodies:
        asked.append(scheduled.submit(body))
        while scheduled.threads.calls:
            scheduled.threads.step_call()
    scheduled.threads.run_all()
    return [json.loads(submitted.result) for submitted in asked]


def test_sizes_over_the_largest_bucket_are_not_padded(
    folder_for: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(folder_for("masked", _MASKED))
    batches = record_batches(monkeypatch)
    lengths = [13, 9, 14, 13, 12, 0, 1, 13, 0]
    bodies = [json.dumps({"ids": [[1] * n], "mask": [[1] * n]}).encode() for n in lengths]
    responses = predict_queued(engine, bodies)
    assert [response["sum"] for response in responses] == [[length] for length in lengths]
    assert [len(response["states"][0]) for response in responses] == lengths
    # Requests that ran alone are not recorded.
    assert batches == [[(13,)] * 3, [(9,), (12,)], [(0,), (0,)]]


def test_strings_are_cut_too(folder_for: Find) -> None:
    engine = engine_of(folder_for("labelled", "serving: {padding: {ids: 3}}"))
    actual = predict_queued(engine, [b'{"ids":[[0],[1]]}', b'{"ids":[2,1]}', b'{"ids":[[5,0,1]]}'])
    assert [response["words"] for response in actual] == [
        [["none"], ["one"]],
        ["two", "one"],
        [["many", "none", "one"]],
    ]


def test_a_batch_of_different_lengths_on_a_gpu(folder_for: Find) -> None:
    """On the fake GPU: padded in pinned memory, which returns to the pool."""
    settings = settings_of(folder_for("masked", _MASKED))
    model, stream, _ = load_on_fake_gpu(settings.model, config=settings.config, cuda_graph="off")
    engine = Engine(model, settings)
    assert engine.batching.padding is not None
    served, before = ServedEngine(engine), stream.log.count("run")

    def work(number: int) -> bool:
        ids = [number] * (1 + number % 14)
        body = json.dumps({"ids": ids, "mask": [1] * len(ids)}).encode()
        response = json.loads(served.predict(body))
        return bool(response["kept"] == ids and response["sum"] == number * len(ids))

    with ThreadPoolExecutor(32) as callers:
        assert all(callers.map(work, range(300)))
    assert stream.log.count("run") - before < 300, "some ran together"
    assert model.pool.used_bytes == 0


# Which models can be padded, and with which values.


@pytest.mark.parametrize(
    ("name", "described", "problem"),
    [
        ("sentiment", "{padding: {input_ids: 0, attention_mask: 0}}", "output 'logits' differs"),
        ("highest", "{padding: {x: 0}}", "output 'y' differs between rows padded together and one"),
        ("highest", "{padding: {x: -100}}", "output 'y' differs between rows padded"),
    ],
)
def test_a_model_that_looks_at_its_padding(
    name: str, described: str, problem: str, folder_for: Find
) -> None:
    """Requests of equal length are still batched."""
    folder = folder_for(name, f"serving: {described}")
    engine = engine_of(folder)
    info = engine.info()["batching"]
    assert (info["enabled"], info["reason"]) == (True, None)
    assert info["padding"]["enabled"] is False
    assert problem in info["padding"]["reason"]
    with pytest.raises(ConfigurationError, match=r"gpux\.yml: serving\.padding: output"):
        engine_of(folder, batching="on")


def test_what_info_says(folder_for: Find) -> None:
    assert engine_of(folder_for("masked", _MASKED)).info()["batching"]["padding"] == {
        "enabled": True,
        "values": {"ids": 0, "mask": 0},
        "buckets": [4, 8, 12],
        "reason": None,
    }
    for described, reason in {
        "name: plain": "serving.padding does not say with what",
        "serving: {padding: {}}": "serving.padding is empty",
        "serving: {padding: {ids: 0, mask: 0}, batching: 'off'}": "serving.batching is off",
    }.items():
        info = engine_of(folder_for("masked", described)).info()["batching"]
        assert info["padding"] == {"enabled": False, "reason": reason}


def signature_of(inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> Signature:
    element = BY_NAME["float32"]

    def specs(dims: Mapping[str, Dims]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, element, shape) for name, shape in dims.items())

    return Signature(specs(inputs), specs(outputs))


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        ({"x": ("b", "n")}, {"y": ("b", "2*n")}, "axis 1 of output 'y' is '2*n', which no input"),
        ({"x": ("b", "n")}, {"y": ("b", None)}, "axis 1 of output 'y' has no name"),
        ({"x": ("b", None)}, {"y": ("b", 2)}, "axis 1 of 'x' has no name that tells"),
        ({"x": ("b", "n"), "u": ("b", "n")}, {"y": ("b",)}, "'u' has the axis 'n' as well"),
        ({"x": ("b", "b")}, {"y": ("b",)}, "its axis 'b' is the leading one of 'x'"),
        ({"x": ("b", "n")}, {"y": ("n", 2)}, "its axis 'n' is the leading one of 'y'"),
        ({"x": ("b", 4)}, {"y": ("b", 2)}, "'x' has one shape, [b, 4]"),
        ({"x": (1, "n")}, {"y": (1, "n")}, "'x' does not lead with a batch axis"),
    ],
)
def test_axes_that_cannot_be_padded(
    inputs: Mapping[str, Dims], outputs: Mapping[str, Dims], problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "gpux.yml"
    file.write_text("serving: {padding: {x: 0}}")
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        find_padding(signature_of(inputs, outputs), read_config(file, {}))


def test_axes_that_have_nothing_to_do_with_it(tmp_path: Path) -> None:
    """Outputs of fixed size, or with an axis of an input that is not padded."""
    file = tmp_path / "gpux.yml"
    file.write_text("serving: {padding: {x: 0}}")
    signature = signature_of(
        {"x": ("b", "n", 2), "u": ("b", "k")}, {"y": ("b", 2), "z": ("b", "k"), "w": ("b", 5, "n")}
    )
    padding = find_padding(signature, read_config(file, {}))
    assert isinstance(padding, Padding)
    assert padding.inputs == {"x": ((1, "n"),)}
    assert padding.outputs == ((), (), ((2, "n"),))
    assert padding.item_shape("x", (3, 5, 2)) == (8, 2)
    assert padding.item_shape("u", (3, 5)) == (5,)


def test_buckets_that_the_model_cannot_run_are_left_out(folder_for: Find) -> None:
    engine = engine_of(folder_for("positioned", "serving: {padding: {x: 0}}"))
    assert engine.info()["batching"]["padding"]["buckets"] == [*range(4, 33, 4), 40]


def test_an_unnamed_axis_can_be_named(folder_for: Find) -> None:
    described = """
inputs: {image: {shape: [batch, 3, length]}}
outputs: {same_image: {shape: [batch, 3, length]}, same_flag: }
serving: {padding: {image: 0}}
"""
    padding = found_padding(folder_for("described", described))
    assert isinstance(padding, Padding)
    assert padding.inputs == {"image": ((2, "length"),)}
    assert padding.outputs == (((2, "length"),), ())


# Texts.


def test_a_tokenizer_says_with_what(tmp_path: Path) -> None:
    """No config is needed: requests of different lengths get the same results as alone."""
    folder = write_folder(tmp_path / "bert")
    alone, engine = engine_of(folder, batching="off"), engine_of(folder)
    assert engine.info()["batching"]["padding"] == {
        "enabled": True,
        "values": {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0},
        "buckets": [*range(4, 32, 4), *range(32, 64, 8), *range(64, 129, 16)],
        "reason": None,
    }
    counts = (1, 5, 9, 13, 2, 30, 22, 6, 8, 28)
    bodies = [json.dumps({"text": "good " * count}).encode() for count in counts]
    actual = [response["sentiment"] for response in predict_queued(engine, bodies)]
    expected = [json.loads(alone.model.respond(body))["sentiment"] for body in bodies]
    assert numpy.allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_texts_are_padded_on_the_tokenizers_side(tmp_path: Path, side: str) -> None:
    folder = write_echo(tmp_path / "echo", "preprocessing: {pad_token: '[MASK]'}")
    edit_tokenizer(folder, padding={"direction": side, "pad_type_id": 1})
    alone, engine = engine_of(folder, batching="off"), engine_of(folder)
    values = {"input_ids": 103, "attention_mask": 0, "token_type_ids": 1}
    assert engine.info()["batching"]["padding"]["values"] == values
    texts = ("a b c", "a b c d", ["a", "b b b b b"])
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    expected = [json.loads(alone.model.respond(body)) for body in bodies]
    assert predict_queued(engine, bodies) == expected
    model, padding = engine.model, engine.batching.padding
    assert padding is not None
    requests = [model.inputs.decode(body) for body in bodies]
    layout = padding.lay_out([shapes_of(request, model.signature) for request in requests])
    merged = collate(requests, model.pipeline, layout)
    tensors = tensors_of(merged, model.signature.inputs).values()
    batched = [numpy.asarray(tensor).tolist() for tensor in tensors]
    own = [expected[0][name] for name in ("ids", "mask", "types")]
    for tensor, row, pad_value in zip(batched, own, (103, 0, 1), strict=True):
        pads = [pad_value] * (8 - len(row))
        assert tensor[0] == (pads + row if side == "Left" else row + pads)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove_pad_token, "the tokenizer names no token to pad with"),
        # Its positions count from the left, whatever the mask says.
        (
            lambda folder: edit_tokenizer(folder, padding={"direction": "Left"}),
            "output 'logits' differs between rows padded together and one by one",
        ),
    ],
)
def test_a_tokenizer_with_which_there_is_no_padding(
    tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    folder = write_folder(tmp_path / "bert")
    change(folder)
    info = engine_of(folder).info()["batching"]
    assert info["enabled"]
    assert info["padding"] == {"enabled": False, "reason": reason}


def test_a_gpu_has_fewer_buckets(tmp_path: Path) -> None:
    settings = settings_of(write_echo(tmp_path / "echo"))
    model, _, _ = load_on_fake_gpu(settings.model, tokenizer=settings.tokenizer)
    padding = find_padding(model.signature, model.config, model.text_encoder, is_on_gpu=True)
    assert isinstance(padding, Padding)
    assert padding.buckets == (16, 32, 64, 128)


@pytest.mark.parametrize(("tokens", "last"), [(10, (8, 10)), (48, (40, 48)), (9999, (448, 512))])
def test_no_bucket_is_longer_than_a_text(
    tmp_path: Path, tokens: int, last: tuple[int, int]
) -> None:
    folder = write_echo(tmp_path / "echo", f"preprocessing: {{max_length: {tokens}}}")
    padding = found_padding(folder)
    assert isinstance(padding, Padding)
    assert padding.buckets[-2:] == last
    assert list(padding.buckets) == sorted(set(padding.buckets))


def test_the_file_goes_over_the_tokenizer(tmp_path: Path) -> None:
    folder = write_echo(tmp_path / "echo", "serving: {padding: {}}")
    assert found_padding(folder) == "serving.padding is empty"
    fixed = write_echo(tmp_path / "fixed", sequence=8)
    assert found_padding(fixed) == "'input_ids' has one shape, [batch, 8]"
