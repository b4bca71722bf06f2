"""The checks of `gpu`: a GPU's results are those of the CPU, whatever happens."""

import json
from collections.abc import Callable, Mapping
from functools import partial

import numpy
from answers import Array, check_bits
from gpu_answers import (
    FEW_LAYERS_TOLERANCE,
    MODEL_TOLERANCE,
    TOLERANCES,
    Question,
    body_of,
    check_all_close,
    check_close,
)
from gpu_backend import folder_with
from gpu_clients import ask_at_once, info, post
from gpu_models import (
    boxes,
    clipped,
    convolved,
    distinct,
    doubled,
    looped,
    repeated,
    typed,
    written,
)
from gpu_steps import (
    Bench,
    LeftOutError,
    Pace,
    Step,
    check_that,
    loaded,
    on_cpu,
    predict,
)

from gpux.errors import ConfigurationError, InferenceError
from gpux.serving.engine import Engine
from gpux.tensors.signature import ELEMENT_TYPES, ElementType

_TYPES = [element for element in ELEMENT_TYPES if element.nbytes]
# Beyond the memory of any machine, and the address space of today's processors.
_NEVER_FITS = 2**45
_ROWS_OF_CLIENTS = 8


def _random() -> numpy.random.Generator:
    return numpy.random.default_rng(7)


def _session(bench: Bench) -> str:
    """A session with all its nodes on the device."""
    model = bench.pace.models["mlp"]
    inputs = model.inputs(_random(), 4)
    expected = predict(on_cpu(model.file()), inputs)
    with loaded(bench.backend, model.file()) as ours:
        check_all_close("mlp", predict(ours, inputs), expected, FEW_LAYERS_TOLERANCE)
        placed = ours.describe()["nodes"]
    name = bench.backend.provider
    check_that(placed is None or set(placed) == {name}, f"nodes are not all on {name}: {placed}")
    return f"{placed[name]} nodes" if placed else "ONNX Runtime does not tell where nodes run"


def _type(element: ElementType, bench: Bench) -> str:
    """One element type, from Python and from JSON: exact if moved, close if computed."""
    file = written(f"type-{element.name}", lambda: typed(element.code))
    shape = (33, 20)
    if element.name == "bool":
        x = _random().random(shape) < 0.5
    elif "int" in element.name:
        x = _random().integers(0 if element.name[0] == "u" else -11, 12, shape, element.numpy)
    else:
        x = _random().standard_normal(shape, numpy.float32).astype(element.numpy or "float32")
    cpu = on_cpu(file)
    # NumPy has no bfloat16, so the CPU's outputs define the expected numbers.
    expected = predict(cpu, {"x": x})
    tolerance = TOLERANCES.get(element.name, 0)
    wide = numpy.float64 if element.name == "float64" else numpy.float32
    body = body_of({"x": x if x.dtype.kind != "f" else x.astype(wide)})
    text = json.loads(Engine(cpu).predict(body))
    with loaded(bench.backend, file) as model:
        for _ in range(6):
            got = predict(model, {"x": x})
            for name in ("same", "moved"):
                check_bits(f"{element.name}, output {name!r}", got[name], expected[name])
            check_close(element.name, got["computed"], expected["computed"], tolerance)
        response = json.loads(Engine(model).predict(body))
        check_that(response["same"] == text["same"], "the JSON of what was only moved differs")
        check_that(response["moved"] == text["moved"], "the JSON of what was only moved differs")
        computed, like = numpy.asarray(response["computed"]), numpy.asarray(text["computed"])
        check_close(f"{element.name}, JSON", computed, like, tolerance)
        placed = model.describe()["nodes"]
    return f"{'within ' + format(tolerance, 'g') if tolerance else 'exactly'}; nodes {placed}"


def _changing_shapes(bench: Bench) -> str:
    """Images of a new size with each request; some sizes recur."""
    file = written("convolved", convolved)
    cpu = on_cpu(file)
    random = _random()
    with loaded(bench.backend, file) as model:
        for number in range(bench.pace.shapes):
            rows, height, width = (int(size) for size in random.integers(1, 9, 3))
            shape = (rows, 3, 8 * height, 8 * width + number % 3)
            inputs = {"image": random.random(shape, numpy.float32)}
            expected = predict(cpu, inputs)
            for _ in range(1 + 5 * (number % 8 == 0)):
                got = predict(model, inputs)
                check_all_close(f"images {shape}", got, expected, FEW_LAYERS_TOLERANCE)
        none = predict(model, {"image": numpy.zeros((1, 3, 1, 1), numpy.float32)})
        check_that(none["means"].shape == (1, 8), "an image of one pixel")
        graphs = model.describe()["cuda_graph"]
    return f"{bench.pace.shapes} shapes; {_graphs_text(graphs)}"


def _unknown_shapes(bench: Bench) -> str:
    """NonMaxSuppression: the output shape is known only after the run."""
    file = written("boxes", boxes)
    cpu = on_cpu(file)
    random = _random()
    counts = set()
    with loaded(bench.backend, file) as model:
        for number in range(30):
            near = random.random((1, 40, 2), numpy.float32) * 3
            inputs = {
                "boxes": numpy.concatenate([near, near + 1], axis=2),
                "scores": random.random((1, 1, 40), numpy.float32) * (number % 3),
            }
            expected = predict(cpu, inputs)
            check_all_close("NonMaxSuppression", predict(model, inputs), expected, 0)
            counts.add(len(expected["selected"]))
    check_that(len(counts) > 2 and 0 in counts, f"the boxes were too much alike: {counts}")
    return f"from {min(counts)} to {max(counts)} boxes"


def _wrong_promises(bench: Bench) -> str:
    """A model whose axis names contradict the sizes of its outputs."""
    with loaded(bench.backend, written("doubled", doubled)) as model:
        for rows in (1, 2, 2, 2, 2, 2, 5):
            x = _random().standard_normal((rows, 3), numpy.float32)
            got = predict(model, {"x": x})
            check_bits("twice", got["twice"], numpy.concatenate([x, x]))
            check_bits("negative", got["negative"], -x)
        graphs = model.describe()["cuda_graph"]
    return _graphs_text(graphs)


def _other_libraries(bench: Bench) -> str:
    """Device tensors of other libraries, read in place."""
    lenders = bench.backend.lenders()
    if not lenders:
        raise LeftOutError("no other library has tensors on the device")
    mlp = bench.pace.models["mlp"]
    inputs = mlp.inputs(_random(), 4)
    expected = predict(on_cpu(mlp.file()), inputs)
    with loaded(bench.backend, mlp.file()) as model:
        for library, lend in lenders.items():
            for _ in range(6):
                exported = lend(inputs["x"])
                request = model.inputs.collect({"x": exported.value})
                in_place = request.content("x")[0] == exported.address
                del request
                check_that(in_place, f"{library}: the tensor was copied before the run")
                got = model.predict({"x": exported.value})
                check_all_close(library, got, expected, FEW_LAYERS_TOLERANCE)
    return ", ".join(lenders)


def _left_to_cpu(bench: Bench) -> str:
    """Nodes that ONNX Runtime puts on the CPU are counted, and the output is right."""
    x = numpy.array([3, 1, 3, 2, 1], numpy.float32)
    with loaded(bench.backend, written("distinct", distinct)) as model:
        for _ in range(5):
            check_bits("y", predict(model, {"x": x})["y"], numpy.array([-1, -2, -3], "float32"))
        placed, graphs = model.placement, model.describe()["cuda_graph"]
    if placed is None:
        return "ONNX Runtime does not tell where nodes run"
    on_the_cpu = placed.get("cpu", [])
    check_that(any("Unique" in node for node in on_the_cpu), f"not counted: {placed}")
    return f"on the CPU: {', '.join(on_the_cpu)}; {_graphs_text(graphs)}"


def _read_by_the_host(bench: Bench) -> str:
    """Inputs that a kernel reads on the host: their values change, their shapes do not."""
    x = _random().standard_normal((4, 5), numpy.float32)
    with loaded(bench.backend, written("clipped", clipped)) as model:
        for number in range(12):
            low, high = numpy.float32(-0.1 * number), numpy.float32(0.05 * number)
            limits = {"low": numpy.asarray(low), "high": numpy.asarray(high)}
            got = predict(model, {"x": x, **limits})
            check_bits(f"from {low:g} to {high:g}", got["y"], numpy.clip(x, low, high))
        graphs = model.describe()["cuda_graph"]
    return _graphs_text(graphs)


def _no_capture(bench: Bench) -> str:
    """A model that cannot be captured reports why, runs all the same, and is rejected by `on`."""
    file = written("looped", looped)
    x = _random().standard_normal((2, 3), numpy.float32)
    with loaded(bench.backend, file) as model:
        for steps in (3, 1, 4, 4, 4, 4, 4):
            got = predict(model, {"steps": numpy.array(steps), "x": x})
            check_bits("y", got["y"], x * numpy.float32(2**steps))
        reason = model.describe()["cuda_graph"]["reason"]
    check_that("control flow" in str(reason), f"the reason that it gives: {reason}")
    try:
        with loaded(bench.backend, file, cuda_graph="on"):
            pass
    except ConfigurationError as error:
        check_that("control flow" in str(error), f"cuda_graph: on is refused with: {error}")
    else:
        check_that(False, "cuda_graph: on was not refused")
    return str(reason)


def _real_model(name: str, bench: Bench) -> str:
    """A model of real size: plain runs close to the CPU's, graph replays equal to them."""
    model = bench.pace.models[name]
    random = _random()
    asked = [model.inputs(random, 2) for _ in range(3)]
    cpu = on_cpu(model.file())
    expected = [predict(cpu, inputs) for inputs in asked]
    del cpu
    first: list[Mapping[str, Array]] = []
    with loaded(bench.backend, model.file()) as ours:
        for turn in range(5):
            for number, inputs in enumerate(asked):
                got = predict(ours, inputs)
                if turn == 0:
                    check_all_close(name, got, expected[number], MODEL_TOLERANCE)
                    first.append(got)
                for output, array in got.items():
                    what = f"{name}, turn {turn}, output {output!r}, against its plain run"
                    check_bits(what, array, first[number][output])
        graphs = ours.describe()["cuda_graph"]
        placed = ours.describe()["nodes"]
    check_that(graphs["captured"] == 1, f"no graph was captured: {graphs['reason']}")
    check_that(graphs["replays"] > 5, f"only {graphs['replays']} replays")
    return f"within {MODEL_TOLERANCE:g}; nodes {placed}; {_graphs_text(graphs)}"


def _full(bench: Bench) -> str:
    """A request that does not fit fails alone: the next one succeeds."""
    file = written("repeated", repeated)
    limit = bench.pace.limited_bytes

    def asked(port: int, count: int) -> int:
        status, text = post(port, json.dumps({"count": [count]}).encode())
        if status == 200:
            check_that(json.loads(text) == {"sum": count + 1.0}, f"a wrong answer: {text!r}")
        return status

    with loaded(bench.backend, file, gpu_memory_limit_bytes=limit) as model:
        for _ in range(2):
            try:
                model.predict({"count": [limit]})
            except InferenceError as error:
                said = str(error)
            else:
                check_that(False, f"{4 * limit} bytes fit into {limit}")
            check_that(model.predict({"count": [100]})["sum"] == 101, "the answer after it")
    answered = 0
    with (
        folder_with(file, f"runtime: {{gpu_memory_limit: {limit}}}\n") as limited,
        bench.backend.serve(limited) as port,
    ):
        for count in (limit, _NEVER_FITS, limit):
            status = asked(port, count)
            check_that(status == 500, f"{count} elements were answered with {status}, not 500")
            for _ in range(5):
                check_that(asked(port, 1000) == 200, "the server did not serve any more")
                answered += 1
        check_that(info(port)["name"], "/info")
    return f"three times 500, and {answered} answers between and after them: {said[:80]}"


def _clients(bench: Bench) -> str:
    """Many concurrent clients with requests of several shapes, each checking its own responses."""
    mlp = bench.pace.models["mlp"]
    cpu = on_cpu(mlp.file())
    random = _random()

    def question(thread: int, rows: int) -> Question:
        inputs = mlp.inputs(random, rows)
        what = f"client {thread}, {rows} rows"
        expected = predict(cpu, inputs)
        return Question(what, body_of(inputs), expected, FEW_LAYERS_TOLERANCE)

    questions = [
        [question(thread, rows) for rows in range(1, _ROWS_OF_CLIENTS + 1)]
        for thread in range(bench.pace.clients)
    ]

    def choose(thread: int, number: int) -> Question:
        return questions[thread][(number * (thread + 3)) % _ROWS_OF_CLIENTS]

    with bench.backend.serve(mlp.file()) as port:
        answers = ask_at_once(port, bench.pace.clients, bench.pace.client_seconds, choose)
        graphs = info(port)["cuda_graph"]
    return (
        f"{len(answers.seconds):,} answers in {answers.span_seconds:.0f} s; {_graphs_text(graphs)}"
    )


def _graphs_text(graphs: Mapping[str, object]) -> str:
    text = f"graphs: {graphs['captured']} captured, {graphs['replays']} replays"
    return f"{text}, {graphs['reason']}" if graphs["reason"] else text


def _check(
    name: str,
    run: Callable[[Bench], str],
    seconds: Callable[[Pace], float] = lambda _: 3,
) -> Step:
    return Step(name, "check", run, seconds)


SESSION = "session"
CHECKS = [
    _check(SESSION, _session),
    *(_check(f"type {element.name}", partial(_type, element)) for element in _TYPES),
    _check("changing shapes", _changing_shapes),
    _check("shapes only the run knows", _unknown_shapes),
    _check("names that promise wrongly", _wrong_promises),
    _check("tensors of other libraries", _other_libraries, lambda _: 10),
    _check("nodes left to the CPU", _left_to_cpu),
    _check("inputs read by the host", _read_by_the_host),
    _check("a model without graphs", _no_capture),
    *(
        _check(f"model {name}", partial(_real_model, name), lambda _: 20)
        for name in ("mlp", "resnet50", "bert")
    ),
    _check("a full GPU", _full, lambda _: 20),
    _check("clients at once", _clients, lambda pace: pace.client_seconds + 10),
]
