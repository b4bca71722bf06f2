"""Python's own values to tensors: nested lists and arrays, beside NumPy.

`codec` measures the cost of a body, this that of a call from Python. Calls are timed one at a time,
in one thread, with all data in memory. Every result is compared with NumPy's bit for bit.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from answers import check_bits
from report import Report, table
from timing import Contender, count, race

from gpux._fastpath import Block, InputSpec, Pool, walk
from gpux.tensors.memory import array_of
from gpux.tensors.signature import BY_NAME, Dim, TensorSpec

Array = numpy.ndarray[Any, Any]
Random = numpy.random.Generator

_OURS = "gpux"


@dataclass(frozen=True, slots=True)
class Case:
    """A value to convert.

    Attributes:
        name: in tables.
        type: the tensor's element type.
        make: builds the value.
        goal: the required speed-up over the peer; None without a goal.
    """

    name: str
    type: str
    make: Callable[[Random], Any]
    goal: float | None = None


def _image(random: Random) -> Array:
    return random.random((1, 3, 224, 224))


def _integers(type_name: str, *shape: int) -> Callable[[Random], Array]:
    """Integers over the whole range of a type."""
    limits = numpy.iinfo(type_name)
    return lambda random: random.integers(limits.min, limits.max, shape, type_name, endpoint=True)


def _token_ids(random: Random) -> Array:
    return random.integers(0, 30_522, (32, 512))


def _listed(make: Callable[[Random], Array]) -> Callable[[Random], Any]:
    return lambda random: make(random).tolist()


LISTS = (
    Case("image 3x224x224", "float32", _listed(_image), goal=8),
    Case("image 3x224x224", "float64", _listed(_image)),
    Case("image 3x224x224", "float16", _listed(_image)),
    Case("pixels 3x224x224", "uint8", _listed(_integers("uint8", 1, 3, 224, 224))),
    Case("pixels, ints", "float32", _listed(_integers("uint8", 1, 3, 224, 224))),
    Case("token ids 32x512", "int64", _listed(_token_ids)),
    Case("token ids 32x512", "int32", _listed(_token_ids)),
    Case("whole range 32x512", "int8", _listed(_integers("int8", 32, 512))),
    Case("whole range 32x512", "int64", _listed(_integers("int64", 32, 512))),
    Case("mask 32x512", "bool", _listed(lambda random: random.random((32, 512)) < 0.5)),
    Case("rows 20000x3", "float32", _listed(lambda random: random.standard_normal((20_000, 3)))),
    Case("row 1x4", "float32", _listed(lambda random: random.standard_normal((1, 4)))),
)

ARRAYS = (
    Case("float32 as it is", "float32", lambda random: _image(random).astype("float32")),
    Case("float64 as it is", "float64", _image),
    Case("float64, narrowed", "float32", _image),
    Case("float32, widened", "float64", lambda random: _image(random).astype("float32")),
    Case("uint8, as floats", "float32", _integers("uint8", 1, 3, 224, 224)),
    Case(
        "float32, HWC as CHW",
        "float32",
        lambda random: random.random((1, 224, 224, 3), "float32").transpose(0, 3, 1, 2),
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--rounds", type=count, default=9, help="turns of each contender (default 9)"
    )
    parser.add_argument(
        "--round-ms", type=float, default=50, help="about how long a turn lasts (default 50)"
    )


def measure(options: argparse.Namespace) -> Report:
    """Measures all cases."""
    figures = []
    for group, cases in (("list to tensor", LISTS), ("array to tensor", ARRAYS)):
        for case in cases:
            figures.append(_measure_case(group, case, options))
    rows = [
        [
            figure["group"],
            figure["case"],
            figure["type"],
            f"{figure['numbers']:,}",
            f"{figure['gpux_median_ns']:.2f}",
            figure["peer"],
            f"{figure['peer_median_ns']:.2f}",
            f"{figure['ratio_median']:.1f}x",
            f"{figure['ratio_best']:.1f}x",
            f"≥ {figure['goal']:.0f}x" if figure["goal"] else "",
        ]
        for figure in figures
    ]
    titles = ["", "case", "type", "numbers", "gpux", "peer", "peer's", "ratio", "of best", "goal"]
    return Report(
        benchmark="lists",
        settings={"rounds": options.rounds, "round_ms": options.round_ms},
        figures=figures,
        table=table(titles, rows),
        notes=[
            f"gpux, peer's: ns per number, median of {options.rounds} rounds.",
            "ratio, of best: the peer's time over gpux's, of the median and of the fastest round.",
            "All results were equal bit for bit.",
        ],
    )


def _measure_case(group: str, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one row."""
    value = case.make(numpy.random.default_rng(0))
    numbers = int(numpy.size(value))
    durations = race(_contenders(case, value), options.rounds, options.round_ms / 1e3)
    ours = durations.pop(_OURS)
    ((peer, theirs),) = durations.items()
    return {
        "group": group,
        "case": case.name,
        "type": case.type,
        "numbers": numbers,
        "gpux_best_ns": ours.best / numbers * 1e9,
        "gpux_median_ns": ours.median / numbers * 1e9,
        "peer": peer,
        "peer_best_ns": theirs.best / numbers * 1e9,
        "peer_median_ns": theirs.median / numbers * 1e9,
        "ratio_best": theirs.best / ours.best,
        "ratio_median": theirs.median / ours.median,
        "goal": case.goal,
    }


def _contenders(case: Case, value: Any) -> Sequence[Contender]:
    """The contenders, list or array → tensor."""
    expected = numpy.asarray(value, case.type, order="C")
    element = BY_NAME[case.type]
    dims: tuple[Dim, ...] = ("batch", *expected.shape[1:])
    spec = InputSpec(TensorSpec("x", element, dims))
    pool = Pool()

    def ours() -> Block:
        block, *_ = walk(spec, value, pool)
        assert isinstance(block, Block)
        return block

    def check_block(block: Block) -> None:
        check_bits(f"gpux, {case.name}", array_of(block, element, expected.shape), expected)

    def check_array(array: Array) -> None:
        check_bits(f"NumPy, {case.name}", array, expected)

    # Both allocate, as a caller of NumPy does; ours takes memory from the pool.
    if not isinstance(value, numpy.ndarray):
        name, theirs = "numpy.asarray", lambda: numpy.asarray(value, case.type)
    elif value.dtype == case.type:
        name, theirs = "array.copy", lambda: value.copy(order="C")
    else:
        name, theirs = "array.astype", lambda: value.astype(case.type, order="C")
    return [Contender(_OURS, ours, check_block), Contender(name, theirs, check_array)]
