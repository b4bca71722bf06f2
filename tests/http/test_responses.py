"""Round trips of numbers, booleans and strings through a server, exact to the last bit."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy
import pytest

from tests.support.onnx_models import NUMBER_TYPES
from tests.support.ort import ortvalue, run, run_bfloat16, same_bits
from tests.support.servers import Find, Response, Serve

INTEGERS = {
    name: (int(numpy.iinfo(name).min), int(numpy.iinfo(name).max))
    for name in NUMBER_TYPES
    if "int" in name
}
FLOATS = ("float32", "float64", "float16", "bfloat16")


def dtype_of(name: str) -> Any:
    return numpy.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def above(value: float) -> str:
    """The next larger float64 as JSON text."""
    return repr(math.nextafter(value, math.inf))


# Type → JSON text → the value that the model receives, which the type represents exactly.
EDGES: dict[str, dict[str, float]] = {
    "float32": {
        "0.1": 0.100000001490116119384765625,
        "16777217": 16777216.0,
        "16777219": 16777220.0,
        "3.4028234663852886e38": 3.4028234663852886e38,
        "3.4028235677973362e38": 3.4028234663852886e38,
        "1e-45": 2.0**-149,
        "1.1754943508222875e-38": 2.0**-126,
        repr(2.0**-150): 0.0,
        above(2.0**-150): 2.0**-149,
        repr(1 + 2.0**-24): 1.0,
        above(1 + 2.0**-24): 1 + 2.0**-23,
        "18446744073709551616": 2.0**64,
        "-9223372036854775808": -(2.0**63),
        # Rounded to float64 first, where it is halfway between two float32 values.
        "9007199791611905": 2.0**53,
    },
    "float64": {
        "0.1": 0.1,
        "0.30000000000000004": 0.1 + 0.2,
        "5e-324": 5e-324,
        "2.4703282292062327e-324": 0.0,
        "2.4703282292062328e-324": 5e-324,
        "2.2250738585072011e-308": 2.225073858507201e-308,
        "2.2250738585072014e-308": 2.0**-1022,
        "1.7976931348623157e308": 1.7976931348623157e308,
        "1e22": 1e22,
        "1e23": 1e23,
        "9007199254740993": 9007199254740992.0,
        "9007199254740993.00000000000000000000001": 9007199254740994.0,
        "18446744073709551615": 2.0**64,
        "1e-400": 0.0,
        "-1e-400": -0.0,
    },
    "float16": {
        "0.1": 0.0999755859375,
        "65504": 65504.0,
        "65519.99": 65504.0,
        "-65519.99": -65504.0,
        "2049": 2048.0,
        "2051": 2052.0,
        repr(2.0**-24): 2.0**-24,
        repr(2.0**-25): 0.0,
        above(2.0**-25): 2.0**-24,
        repr(3 * 2.0**-25): 2.0**-23,
        repr(2.0**-14 - 2.0**-25): 2.0**-14,
        repr(1 + 2.0**-11): 1.0,
        # Rounding through float32 would give 1.
        above(1 + 2.0**-11): 1 + 2.0**-10,
    },
    "bfloat16": {
        "0.1": 0.10009765625,
        "257": 256.0,
        "259": 260.0,
        "3.3895313892515355e38": 3.3895313892515355e38,
        "3.39e38": 3.3895313892515355e38,
        repr(2.0**-133): 2.0**-133,
        repr(2.0**-134): 0.0,
        above(2.0**-134): 2.0**-133,
        repr(1 + 2.0**-8): 1.0,
        # Rounding through float32 would give 1.
        above(1 + 2.0**-8): 1 + 2.0**-7,
    },
    "bool": {"true": True, "false": False, "1": True, "0": False},
}
for name in FLOATS:
    EDGES[name] |= {"0": 0.0, "-0.0": -0.0, "0e5": 0.0, "1": 1.0, "-1E+0": -1.0, "25e-1": 2.5}
for name, (low, high) in INTEGERS.items():
    EDGES[name] = {str(low): low, str(high): high, "0": 0, "1.0": 1, "1e1": 10, "0.5E+1": 5}
    EDGES[name] |= {"1200e-2": 12, "-0": 0, "-0.0": 0}
EDGES["int64"] |= {"9007199254740993": 9007199254740993, "1e18": 10**18}
EDGES["uint64"] |= {"9223372036854775808": 2**63, "1e19": 10**19}


def post_number(server: Serve, name: str, text: str) -> Response:
    """Posts JSON text for one input of the model `numbers`, and zeros for the others."""
    members = (f'"{other}": {text if other == name else "[[0]]"}' for other in NUMBER_TYPES)
    return server("numbers").post(f"{{{', '.join(members)}}}")


def check_number(server: Serve, model_file: Find, name: str, text: str, array: Any) -> None:
    """Posts a text for one input of the model `numbers`, which is this array to ONNX Runtime."""
    response = post_number(server, name, text)
    assert response.status == 200, response
    feeds = {other: numpy.zeros((1, 1), dtype_of(other)) for other in NUMBER_TYPES} | {name: array}
    file, output = model_file("numbers"), f"{name}_out"
    if name == "bfloat16":
        expected = run_bfloat16(file, feeds, output, array)
    else:
        bfloat16 = ortvalue(feeds["bfloat16"])
        expected = run(file, feeds | {"bfloat16": bfloat16}, [output])[output]
    assert same_bits(response.json[output], expected)


@pytest.mark.parametrize("name", NUMBER_TYPES)
def test_edge_values(server: Serve, model_file: Find, name: str) -> None:
    array = numpy.array([list(EDGES[name].values())], dtype_of(name))
    exact = [float(value) if name in FLOATS else int(value) for value in array[0]]
    assert exact == list(EDGES[name].values())  # checks the table itself
    check_number(server, model_file, name, f"[[{', '.join(EDGES[name])}]]", array)


@pytest.mark.parametrize("name", NUMBER_TYPES)
def test_edge_values_beside_a_string(server: Serve, name: str) -> None:
    # A model with string inputs does not run through IOBinding.
    array = numpy.array([list(EDGES[name].values())], dtype_of(name))
    members = dict.fromkeys(NUMBER_TYPES, "[[0]]") | {"text": '["a\\u0000b"]'}
    members[name] = f"[[{', '.join(EDGES[name])}]]"
    body = ", ".join(f'"{key}": {text}' for key, text in members.items())
    result = server("mixed").predict(f"{{{body}}}")
    assert result["text_out"] == ["a\0b"]
    expected = array.astype("float32") if name == "bfloat16" else array
    assert same_bits(result[f"{name}_out"], expected)


@pytest.mark.parametrize("name", FLOATS)
def test_any_bits(server: Serve, model_file: Find, name: str) -> None:
    dtype = dtype_of(name)
    bits = numpy.random.default_rng(5).integers(0, 256, 3000 * dtype.itemsize, numpy.uint8)
    numbers = bits.view(dtype)
    with numpy.errstate(invalid="ignore"):  # ml_dtypes warns about signalling NaNs
        numbers = numbers[numpy.isfinite(numbers)][numpy.newaxis]
    assert numbers.size > 2000
    text = json.dumps(numbers.astype("float64").tolist())
    check_number(server, model_file, name, text, numbers)


@pytest.mark.parametrize("name", INTEGERS)
def test_any_integers(server: Serve, model_file: Find, name: str) -> None:
    low, high = INTEGERS[name]
    rng = numpy.random.default_rng(6)
    numbers = rng.integers(low, high, (20, 50), numpy.dtype(name), endpoint=True)
    check_number(server, model_file, name, json.dumps(numbers.tolist()), numbers)


OUT_OF_RANGE = {name: (str(low - 1), str(high + 1)) for name, (low, high) in INTEGERS.items()}
# Beyond 64 bits the JSON reader may round: this is the next float64 below -2**63.
OUT_OF_RANGE["int64"] = ("-9223372036854777856", str(2**63))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name, texts in OUT_OF_RANGE.items() for text in (*texts, "1e30")),
        ("float16", "65520"),
        ("float16", "-65520"),
        ("float16", "100000"),
        ("bfloat16", "3.4e38"),
        ("bfloat16", "-3.4e38"),
        ("float32", "3.4028235677973366e38"),
        ("float32", "-1e39"),
    ],
)
def test_out_of_range(server: Serve, name: str, text: str) -> None:
    detail = post_number(server, name, f"[[0, {text}]]").error(400)
    pattern = rf"Invalid value for '{name}' at \[0\]\[1\]: .+ is out of range for {name}"
    assert re.fullmatch(pattern, detail)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("text", ["1.5", "0.1", "1e-1", "-0.5", "127.00001"])
def test_not_an_integer(server: Serve, name: str, text: str) -> None:
    detail = post_number(server, name, f"[[0, {text}]]").error(400)
    assert detail.startswith(f"Invalid value for '{name}' at [0][1]: ")


@pytest.mark.parametrize("name", NUMBER_TYPES)
@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 400, "9" * 5000])
def test_far_too_large(server: Serve, name: str, text: str) -> None:
    assert post_number(server, name, f"[[0, {text}]]").status == 400


@pytest.mark.parametrize("name", NUMBER_TYPES)
@pytest.mark.parametrize(
    ("text", "got"), [('"1"', "string"), ("null", "null"), ("{}", "object"), ("true", "boolean")]
)
def test_no_number(server: Serve, name: str, text: str, got: str) -> None:
    response = post_number(server, name, f"[[0, {text}]]")
    if (name, got) == ("bool", "boolean"):
        assert response.json["bool_out"] == [[False, True]]
        return
    expected = "boolean" if name == "bool" else "number"
    message = f"Invalid value for '{name}' at [0][1]: expected {expected}, got {got}"
    assert response.error(400) == message


@pytest.mark.parametrize("text", ["2", "-1", "0.5", "255", "256", "1e30"])
def test_numbers_that_are_no_boolean(server: Serve, text: str) -> None:
    detail = post_number(server, "bool", f"[[0, {text}]]").error(400)
    assert detail.startswith("Invalid value for 'bool' at [0][1]: ")


# The text of the response.


def elements(response: Response, name: str) -> list[str]:
    """The elements of an output as JSON text."""
    found = re.search(rf'"{name}":\s*\[\[([^\]]*)\]\]', response.body.decode())
    assert found, response.body
    return [text.strip() for text in found[1].split(",")]


def significant(text: str) -> str:
    """The significant digits of a number."""
    return re.sub(r"[eE].*|[-.]", "", text).strip("0")


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_the_shortest_text_in_their_own_type(server: Serve, name: str) -> None:
    texts = ["1", "-0.0", "0.1", "0.3", "3", "100", "1000", "1e4", "1e-3", "1e-5", "0.007", "-25"]
    received = elements(post_number(server, name, f"[[{', '.join(texts)}]]"), f"{name}_out")
    assert [significant(text) for text in received] == [significant(text) for text in texts]
    for text, sent in zip(received, texts, strict=True):
        assert re.search(r"[.eE]", text), text
        same = numpy.array([float(text), float(sent)]).astype(dtype_of(name))
        assert same[:1].tobytes() == same[1:].tobytes()
    assert received[0] == "1.0"
    assert received[1] == "-0.0"


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_floats_are_as_short_as_numpys(server: Serve, name: str) -> None:
    numbers = numpy.random.default_rng(7).normal(0, 100, 500).astype(name)
    response = post_number(server, name, json.dumps([numbers.astype("float64").tolist()]))
    shortest = [numpy.format_float_scientific(number, unique=True) for number in numbers]
    received = elements(response, f"{name}_out")
    assert [significant(text) for text in received] == [significant(text) for text in shortest]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_integers(server: Serve, name: str) -> None:
    texts = [str(bound) for bound in INTEGERS[name]]
    response = post_number(server, name, f"[[{', '.join(texts)}, 1.0]]")
    assert elements(response, f"{name}_out") == [*texts, "1"]


def test_booleans(server: Serve) -> None:
    response = post_number(server, "bool", "[[true, 0, 1, false]]")
    assert elements(response, "bool_out") == ["true", "false", "true", "false"]


def test_what_is_not_finite_is_null(server: Serve) -> None:
    assert server("nonfinite").predict({"x": [[0, 1, -0.0, -4]]}) == {
        "reciprocal": [[None, 1.0, None, -0.25]],
        "quotient": [[None, 1.0, None, 1.0]],
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "I love this product!",
        '"\\/',
        "\b\f\n\r\t",
        "".join(map(chr, range(0x20))),
        "\0",
        "a\0b",
        "\0\0",
        "\x7f\x80",
        "é ß 你好",
        "😀",
        "👩‍👩‍👧",
        "\u2028\u2029\ufeff\ufffe\uffff",
        "\U0010ffff",
        "</script>",
        "x" * 100_000,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_strings(server: Serve, text: str) -> None:
    escaped = json.dumps({"texts": ["first", text, text]})
    plain = json.dumps({"texts": ["first", text, text]}, ensure_ascii=False)
    for body in (escaped, plain):
        response = server("strings").post(body)
        assert response.status == 200, response
        assert response.json == {"same": ["first", text, text]}
        response.body.decode("utf-8")
        assert server("string").predict(body.replace('"texts"', '"word"')) == response.json


def test_strings_equal_those_of_the_runtime(server: Serve, model_file: Find) -> None:
    texts = [["a\0b", "é"], ["", "😀"]]
    expected = run(model_file("strings"), {"texts": numpy.array(texts, object)})["same"]
    assert same_bits(server("strings").predict({"texts": texts})["same"], expected)


def test_outputs_come_in_the_models_order(server: Serve) -> None:
    names = [f"{name}_out" for name in NUMBER_TYPES]
    assert list(post_number(server, "int8", "[[1]]").json) == names
    # The order of the body's keys does not matter.
    backwards = {name: [[0]] for name in reversed(NUMBER_TYPES)}
    assert list(server("numbers").predict(backwards)) == names


def test_a_long_answer(server: Serve) -> None:
    assert server("repeat").predict({"count": [1_000_000]}) == {"ones": [1.0] * 1_000_000}
    assert server("repeat").predict({"count": [0]}) == {"ones": []}


# Concurrent requests.


@pytest.mark.parametrize("model", ["alias", "matrix", "strings", "sequences"])
def test_requests_at_once_get_their_own_answers(server: Serve, model: str) -> None:
    shared = server(model)

    def check(number: int) -> bool:
        row = [float(number + i) for i in range(1 + number % 40)]
        if model == "strings":
            texts = [str(value) for value in row]
            return shared.predict({"texts": texts}) == {"same": texts}
        expected: dict[str, object] = {
            "alias": {"doubled": [2 * value for value in row], "x": row},
            "matrix": {"y": row},
            "sequences": {"rows": row, "twice": [[[int(x) for x in row]]] * 2, "same": row},
        }
        return shared.predict({"x": row}) == expected[model]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(300)))
