"""Reads random decimals as each float type and compares the bits with Python and NumPy.

    python tests/core/decimals.py [NUMBERS] [SEED]

NUMBERS is the count per type, besides the decimals that are out of its range and must be rejected.
Each is read in the middle of a long list, by the reader's fast paths, and some near the end of a
short one, by the general path. The oracle is float(), which is David Gay's algorithm, with NumPy's
rounding of float64 to float32 and float16, and the rounding to bfloat16 below. Exits with 1 and a
few examples if anything differs.
"""

import ctypes
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import compress
from typing import Any

import numpy

from gpux._engine import Pipeline
from gpux._fastpath import InputSpec, InputTable, Pool
from gpux.errors import ClientError
from gpux.tensors.signature import BY_NAME, TensorSpec

Array = numpy.ndarray[Any, Any]

BATCH = 20_000


def to_bfloat16(values: Array) -> Array:
    """Rounds once, to nearest even: scales the significand to an integer for rint()."""
    magnitude = numpy.abs(values)
    _, exponent = numpy.frexp(magnitude)
    # Eight significant bits, fewer for subnormals, whose last bit is 2**-133.
    ulp = numpy.maximum(exponent - 8, -133)
    # Both scalings are exact, as the float64 is normal or below half of the last bit.
    rounded = numpy.ldexp(numpy.rint(numpy.ldexp(magnitude, -ulp)), ulp)
    with numpy.errstate(over="ignore"):
        single = rounded.astype(numpy.float32)  # exact, or infinite
    bits: Array = (single.view(numpy.uint32) >> 16).astype(numpy.uint16)
    bits |= numpy.signbit(values).astype(numpy.uint16) << 15
    return bits


# By type: float64 → bits, and the bits of infinity.
TYPES: dict[str, tuple[Callable[[Array], Array], int]] = {
    "float64": (lambda values: values.view(numpy.uint64), 0x7FF0000000000000),
    "float32": (lambda values: values.astype(numpy.float32).view(numpy.uint32), 0x7F800000),
    "float16": (lambda values: values.astype(numpy.float16).view(numpy.uint16), 0x7C00),
    "bfloat16": (to_bfloat16, 0x7F80),
}
PIPELINES = {
    name: Pipeline(
        None,
        InputTable([InputSpec(TensorSpec("x", BY_NAME[name], ("n",)))], [0]),
        [(BY_NAME[name].code, False, False, False, "x", [])],
        [],
        [],
        Pool(),
    )
    for name in TYPES
}


# The decimals.


def digits(source: random.Random, count: int) -> str:
    return str(source.randrange(10**count)).zfill(count)


def plain(source: random.Random) -> str:
    """`1.234`, as most floats are written, of each length that the fast path has."""
    return f"{source.randrange(10)}.{digits(source, source.randint(1, 19))}"


def scaled(source: random.Random) -> str:
    """Up to 20 digits with a point anywhere, and mostly a small exponent."""
    text = digits(source, source.randint(1, 20))
    point = source.randint(1, len(text))
    integer = text[:point].lstrip("0") or "0"
    fraction = "." + text[point:] if point < len(text) else ""
    exponent = source.choice(["", f"e{source.randint(-45, 38)}", f"E{source.randint(-30, 20):+d}"])
    return integer + fraction + exponent


def wide(source: random.Random) -> str:
    """The whole range of float64 and beyond."""
    text = digits(source, source.randint(1, 25)).lstrip("0") or "0"
    return f"{text}e{source.randint(-345, 308) - len(text) + 1}"


def long(source: random.Random) -> str:
    """Up to 800 digits."""
    count = source.choice([21, 25, 30, 40, 60, 100, 200, 400, 767, 768, 769, 800])
    text = digits(source, count)
    integer = source.choice([0, 1, 1, 5, 20])
    whole = text[:integer].lstrip("0") or "0"
    return f"{whole}.{text[integer:]}{source.choice(['', 'e-5', 'e20', 'e-300'])}"


def float64s(source: random.Random) -> str:
    """Any float64, as its shortest text or with 17 to 19 digits."""
    value = numpy.uint64(source.getrandbits(63)).view(numpy.float64)
    if not numpy.isfinite(value):
        return "1"
    return source.choice([repr(float(value)), f"{value:.16e}", f"{value:.17e}", f"{value:.18e}"])


def unit(source: random.Random) -> str:
    """Pixels and probabilities, as float64 and float32 texts."""
    value = source.random()
    return source.choice(
        [repr(value), f"{value:.17f}", f"{value:.9f}", f"{value:.7g}", f"{value:.4f}"]
    )


def near_float32(source: random.Random) -> str:
    """Midpoints between float32 neighbours, exact or rounded to fewer digits."""
    bits = numpy.uint32(source.randrange(0x7F800000 - 1))
    low, high = (numpy.uint32(each).view(numpy.float32) for each in (bits, bits + numpy.uint32(1)))
    middle = (float(low) + float(high)) / 2
    text = f"{middle:.{source.choice([8, 14, 15, 16, 17, 18, 20, 60])}e}"
    return text.replace("e", source.choice(["e", "1e", "0e", "000000000001e", "E"]))


def near_halves(source: random.Random) -> str:
    """The same for float16 and bfloat16, whose midpoints have few digits."""
    if source.random() < 0.5:
        bits = source.randrange(0x7C00 - 1)
        low, high = (float(numpy.uint16(each).view(numpy.float16)) for each in (bits, bits + 1))
    else:
        bits = source.randrange(0x7F80 - 1)
        low, high = (
            float(numpy.uint32(each << 16).view(numpy.float32)) for each in (bits, bits + 1)
        )
    text = f"{(low + high) / 2:.{source.choice([3, 6, 10, 17, 45])}e}"
    return text.replace("e", source.choice(["e", "e", "1e", "00000000000000000001e"]))


KINDS = [plain, plain, plain, unit, unit, scaled, scaled, wide, float64s, near_float32, near_halves]


def decimals(source: random.Random, count: int) -> Iterator[str]:
    for i in range(count):
        kind = long if i % 100 == 0 else source.choice(KINDS)
        yield ("-" if source.random() < 0.3 else "") + kind(source)


# The comparison.


def read(type_name: str, texts: list[str], separator: str, behind: str) -> Array:
    """Reads numbers and returns their bits."""
    body = f'{{"x":[{separator.join(texts)}]}}{behind}'.encode()
    request, _ = PIPELINES[type_name].decode(body)
    width = BY_NAME[type_name].nbytes
    written = ctypes.string_at(request.content("x")[0], len(texts) * width)
    return numpy.frombuffer(written, f"u{width}")


def is_rejected(type_name: str, text: str) -> bool:
    try:
        read(type_name, [text], "", "")
    except ClientError as error:
        return str(error).endswith(f"is out of range for {type_name}")
    return False


def compare(texts: list[str], source: random.Random, read_as: Counter[str]) -> Iterator[str]:
    """Yields a message per difference; adds to the counts of numbers read."""
    with numpy.errstate(over="ignore"):
        values = numpy.array([float(text) for text in texts])
        for name, (convert, infinity) in TYPES.items():
            bits = convert(values)
            sign = 1 << (8 * BY_NAME[name].nbytes - 1)
            fits = (bits & bits.dtype.type(sign - 1)) < infinity
            wanted = bits[fits]
            taken = list(compress(texts, fits))
            beyond = list(compress(texts, ~fits))
            read_as[name] += len(taken)
            separator = source.choice([",", ",", ", "])
            found = read(name, taken, separator, " " * 100)
            for i in numpy.flatnonzero(found != wanted)[:5]:
                yield f"{name} {taken[i]}: {found[i]:#x}, not {wanted[i]:#x}"
            # Some again, each as the last number of a body.
            for i in source.sample(range(len(taken)), min(len(taken), len(texts) // 50)):
                (last,) = read(name, [taken[i]], "", "")
                if last != wanted[i]:
                    yield f"{name} {taken[i]} at the end: {last:#x}, not {wanted[i]:#x}"
            for text in source.sample(beyond, min(len(beyond), len(texts) // 50)):
                if not is_rejected(name, text):
                    yield f"{name} {text}: not refused"


def main(count: int, seed: int) -> int:
    source = random.Random(seed)
    differences: list[str] = []
    read_as: Counter[str] = Counter()
    done = 0
    while min(read_as.values(), default=0) < count and len(differences) < 20:
        texts = list(decimals(source, BATCH))
        differences += list(compare(texts, source, read_as))
        done += len(texts)
    for difference in differences:
        print(difference)
    taken = ", ".join(f"{number} as {name}" for name, number in read_as.items())
    print(f"{done} decimals, seed {seed}; read {taken}: {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    numbers, seed = [*map(int, sys.argv[1:]), *[100_000, 0][len(sys.argv) - 1 :]]
    sys.exit(main(numbers, seed))
