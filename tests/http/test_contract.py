"""The HTTP contract: its error messages one by one, its headers and its other routes."""

import base64
import json
import re
from collections.abc import Iterator, Mapping

import numpy
import pytest

from tests.support.servers import (
    JSON_HEADERS,
    Client,
    Find,
    Serve,
    ServerFor,
    ServerProcess,
    head,
    serve_asgi,
    serve_wsgi,
)

GOOD = '{"input_ids": [1, 2], "attention_mask": [1, 1]}'


@pytest.fixture(scope="module")
def on_waitress(model_file: Find) -> Iterator[ServerProcess]:
    """The WSGI app under stock waitress-serve."""
    with serve_wsgi({"GPUX_MODEL": str(model_file("sentiment"))}) as server:
        yield server
        server.kill()


@pytest.fixture(scope="module")
def on_uvicorn(model_file: Find) -> Iterator[ServerProcess]:
    """The ASGI app under uvicorn."""
    with serve_asgi({"GPUX_MODEL": str(model_file("sentiment"))}) as server:
        yield server
        server.kill()


@pytest.fixture(params=["gpux serve", "on_waitress", "on_uvicorn"])
def sentiment(
    request: pytest.FixtureRequest, model_file: Find, server_for: ServerFor
) -> ServerProcess:
    """Each host of the service: what clients see of the service is the same."""
    if request.param == "gpux serve":
        return server_for(model_file("sentiment"))
    server: ServerProcess = request.getfixturevalue(request.param)
    return server


def rejection(server: ServerProcess, body: object) -> str:
    """Posts a body that is rejected; returns the error message."""
    return server.post(body).error(400)


def nested(*shape: int) -> object:
    """Nested lists of zeros of the given shape."""
    return [nested(*shape[1:]) for _ in range(shape[0])] if shape else 0


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"{'input_ids': [1]}",
        b'{"input_ids": [1],}',
        b'{"input_ids": [1,]}',
        b'{"input_ids": [1]} {}',
        b'{"input_ids": [1]}]',
        b'{"input_ids": [1 2]}',
        b'{"input_ids"; [1]}',
        b"{input_ids: [1]}",
        b'{"input_ids": [01]}',
        b'{"input_ids": [1.]}',
        b'{"input_ids": [.5]}',
        b'{"input_ids": [+1]}',
        b'{"input_ids": [0x1]}',
        b'{"input_ids": [NaN]}',
        b'{"input_ids": [Infinity]}',
        b'{"input_ids": [-Infinity]}',
        b'{"input_ids": [True]}',
        b'{"input_ids": [1] /* comment */}',
        b'{"input_ids\n": [1]}',
        b'{"input_ids\\x": [1]}',
        b'{"\xff": [1]}',
        b'{"\xed\xa0\x80": [1]}',
        b'\xef\xbb\xbf{"input_ids": [1]}',
        '{"input_ids": [1]}'.encode("utf-16"),
        b"\0",
    ],
    ids=repr,
)
def test_not_json(sentiment: ServerProcess, body: bytes) -> None:
    assert re.match(r"Invalid JSON at byte \d+: .", rejection(sentiment, body))


@pytest.mark.parametrize(
    ("body", "byte", "name"),
    [
        (b'\xef\xbb\xbf{"input_ids": [1]}', 0, "a byte order mark"),
        ('{"input_ids": [1]}'.encode("utf-16"), 0, "a byte order mark"),
        (b'{"input_ids": [NaN]}', 15, "NaN"),
        (b'{"input_ids": NaN}', 14, "NaN"),
        (b'{"input_ids": [[1, Infinity]]}', 19, "Infinity"),
        (b'{"input_ids": [-Infinity]}', 16, "Infinity"),
        (b"{'input_ids': [1]}", 1, "a single quote"),
        (b"{\"input_ids\": ['a']}", 15, "a single quote"),
        (b"'{\"input_ids\": [1]}'", 0, "a single quote"),
        (b'{"input_ids": [1, 2, ]}', 21, "a trailing comma"),
        (b'{"input_ids": [1],\n}', 19, "a trailing comma"),
    ],
)
def test_what_is_often_taken_for_json_is_named(
    sentiment: ServerProcess, body: bytes, byte: int, name: str
) -> None:
    detail = rejection(sentiment, body)
    assert detail.startswith(f"Invalid JSON at byte {byte}: {name} is not JSON; ")


@pytest.mark.parametrize("body", ["[]", "[1]", '"text"', "1", "-0.5", "null", "true"])
def test_not_an_object(sentiment: ServerProcess, body: str) -> None:
    expected = "Request body must be a JSON object of input names to values"
    assert rejection(sentiment, body) == expected


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\udc00\\ud800", "a\\ud83dz"])
def test_lone_surrogates(server: Serve, escape: str) -> None:
    assert rejection(server("strings"), f'{{"texts": ["{escape}"]}}')


# Names.


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"attention_mask": [1, 1, 1]}', "Missing required input: 'input_ids'"),
        ('{"input_ids": [1, 1, 1]}', "Missing required input: 'attention_mask'"),
        (
            '{"inputids": [1], "attention_mask": [1]}',
            "Unknown input: 'inputids'; did you mean 'input_ids'?",
        ),
    ],
)
def test_names(sentiment: ServerProcess, body: str, detail: str) -> None:
    assert rejection(sentiment, body) == detail


@pytest.mark.parametrize("name", ["zzz", "", "é\\u0000😀", "z" * 100_000])
def test_a_name_like_no_other_is_answered_with_the_list(
    sentiment: ServerProcess, name: str
) -> None:
    detail = rejection(sentiment, f'{{"{name}": 1}}')
    assert detail.startswith("Unknown input: '")
    assert "'input_ids'" in detail
    assert "'attention_mask'" in detail


# Types.


@pytest.mark.parametrize(
    ("model", "name", "value", "expected"),
    [
        ("sentiment", "input_ids", '"not an array"', "array"),
        ("sentiment", "input_ids", "5", "array"),
        ("sentiment", "input_ids", "true", "array"),
        ("sentiment", "input_ids", "null", "array"),
        ("sentiment", "input_ids", "{}", "array"),
        ("photo", "image", "0.5", "array"),
        ("fixed", "x", "0.5", "array"),
        ("strings", "texts", '"bare"', "array"),
        ("items", "a", '"1"', "number"),
        ("items", "a", "null", "number"),
        ("items", "b", "true", "number"),
        ("items", "b", "{}", "number"),
        ("items", "c", '"true"', "boolean"),
        ("items", "c", "null", "boolean"),
        ("text", "text", "5", "string"),
        ("text", "text", "false", "string"),
        ("text", "text", "null", "string"),
        ("text", "text", '{"a": "b"}', "string"),
        ("opened", "scalar", '"16000"', "number"),
        ("opened", "free", "null", "number"),
        ("string", "word", "1", "string"),
    ],
)
def test_wrong_type_at_the_top(
    server: Serve, model: str, name: str, value: str, expected: str
) -> None:
    detail = rejection(server(model), f'{{"{name}": {value}}}')
    got = ", got null" if value == "null" else ""
    assert detail == f"Invalid input type for '{name}': expected {expected}{got}"


@pytest.mark.parametrize(
    ("model", "name", "value", "place", "problem"),
    [
        ("sentiment", "input_ids", '["a"]', "[0]", "expected number, got string"),
        ("sentiment", "input_ids", "[1, true]", "[1]", "expected number, got boolean"),
        ("sentiment", "input_ids", "[1, 2, null]", "[2]", "expected number, got null"),
        ("sentiment", "input_ids", "[1, {}]", "[1]", "expected number, got object"),
        ("sentiment", "input_ids", "[1, [2]]", "[1]", "expected number, got array"),
        (
            "sentiment",
            "input_ids",
            '[[1, 1], [1, 1], [1, 1], [1, "x"]]',
            "[3][1]",
            "expected number, got string",
        ),
        ("sentiment", "input_ids", "[[1, 2], 3]", "[1]", "expected array, got number"),
        ("sentiment", "input_ids", '[[1], "x"]', "[1]", "expected array, got string"),
        ("sentiment", "input_ids", "[[1], null]", "[1]", "expected array, got null"),
        ("sentiment", "input_ids", "[[1], {}]", "[1]", "expected array, got object"),
        ("sentiment", "input_ids", "[[1], [[2]]]", "[1][0]", "expected number, got array"),
        ("text", "text", '["a", 1]', "[1]", "expected string, got number"),
        ("text", "text", '["a", null]', "[1]", "expected string, got null"),
        ("text", "text", '["a", true]', "[1]", "expected string, got boolean"),
        ("items", "a", '[1, "1"]', "[1]", "expected number, got string"),
        ("items", "c", '[true, "1"]', "[1]", "expected boolean, got string"),
        ("items", "c", "[true, null]", "[1]", "expected boolean, got null"),
        ("opened", "free", '[[[1, "1"]]]', "[0][0][1]", "expected number, got string"),
    ],
)
def test_wrong_type_inside(
    server: Serve, model: str, name: str, value: str, place: str, problem: str
) -> None:
    detail = rejection(server(model), f'{{"{name}": {value}}}')
    assert detail == f"Invalid value for '{name}' at {place}: {problem}"


def test_out_of_range(server: Serve) -> None:
    detail = rejection(server("numbers"), '{"uint8": [[0, 1], [2, 3], [4, 5], [255, 300]]}')
    assert detail == "Invalid value for 'uint8' at [3][1]: 300 is out of range for uint8"


def test_the_place_is_left_out_at_the_top(server: Serve) -> None:
    detail = rejection(server("opened"), '{"scalar": 0.5}')
    assert detail.startswith("Invalid value for 'scalar': ")


# Shapes.


@pytest.mark.parametrize(
    ("value", "place", "problem"),
    [
        ([[1, 2, 3], [4, 5]], "[1]", "expected 3 values, got 2"),
        ([[1, 2], [3, 4], [5, 6, 7]], "[2]", "expected 2 values, got 3"),
        ([[1, 2], []], "[1]", "expected 2 values, got 0"),
        ([[], [1]], "[1]", "expected 0 values, got 1"),
    ],
)
def test_ragged(server: Serve, value: object, place: str, problem: str) -> None:
    detail = rejection(server("matrix"), {"x": value})
    assert detail == f"Invalid shape for 'x' at {place}: {problem}"


def test_ragged_between_lists_of_lists(server: Serve) -> None:
    for second, place, got in (([[5, 6]], "[1]", 1), ([[5, 6], [7, 8, 9]], "[1][1]", 3)):
        detail = rejection(server("cube"), {"x": [[[1, 2], [3, 4]], second]})
        assert detail == f"Invalid shape for 'x' at {place}: expected 2 values, got {got}"


@pytest.mark.parametrize(
    ("sizes", "got"),
    [
        ((1, 3, 224), "[1, 3, 224]"),
        ((2,), "[2]"),
        ((1, 1), "[1, 1]"),
        ((3, 224, 223), "[3, 224, 223]"),
        ((2, 3, 1, 224), "[2, 3, 1, 224]"),
        ((3, 224, 225), "[3, 224, 225]"),
        ((1, 3, 1, 225), "[1, 3, 1, 225]"),
        ((4, 224, 224), "[4, 224, 224]"),
        ((1, 1, 1, 1, 1), "more than 4 axes"),
        ((1,) * 200, "more than 4 axes"),
    ],
    ids=str,
)
def test_shape(server: Serve, sizes: tuple[int, ...], got: str) -> None:
    detail = rejection(server("photos"), {"image": nested(*sizes)})
    assert detail == f"Invalid shape for 'image': expected [batch, 3, 224, 224], got {got}"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("[[1, 2, 3]]", "[1, 3]"),
        ("[1, 2, 3]", "[3]"),
        ("[]", "[0, 3]"),
        ("[[], []]", "[2, 0]"),
        ("[[1, 2], [3, 4]]", "[2, 2]"),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", "[2, 4]"),
        ("[[1, 2, 3], [4, 5, 6], [7, 8, 9]]", "[3, 3]"),
        ("[[1, 2], [3, 4], [5, 6]]", "[3, 2]: the same sizes in another order"),
        ("[[1, 2, 3], [4, 5, 6], [7, null]]", "more"),
        ("[[1, 2, 3], [4, 5, 6], [7, nonsense", "more"),
        ("[[[1, 2, 3], [4, 5, 6]]]", "more than 2 axes"),
    ],
)
def test_a_fixed_input_takes_exactly_its_rank(server: Serve, value: str, got: str) -> None:
    detail = rejection(server("fixed"), f'{{"x": {value}}}')
    assert detail == f"Invalid shape for 'x': expected [2, 3], got {got}"


def test_got_more_comes_before_what_follows(server: Serve) -> None:
    row = "[" + "0," * 224 + '0, "x"]'
    detail = rejection(server("photos"), f'{{"image": [[{row}, 5]], "unknown": 1}}')
    assert detail == "Invalid shape for 'image': expected [batch, 3, 224, 224], got more"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"b64": "AAAAAA=="}, '{"b64"} needs "shape"'),
        ({"b64": "AAAAAA==", "shape": [2, 3]}, "expected 24 bytes, got 4"),
        ({"b64": "AAAA", "shape": [2, 3]}, "expected 24 bytes, got 3"),
        ({"b64": "A" * 31 + "_", "shape": [2, 3]}, '"b64" is not base64 with padding'),
        ({"b64": "", "shape": [2, 3], "order": "C"}, 'its keys are "b64", "shape" and "dtype"'),
    ],
)
def test_a_tensor_in_base64_is_exact(server: Serve, value: dict[str, object], problem: str) -> None:
    assert rejection(server("fixed"), {"x": value}) == f"Invalid value for 'x': {problem}"


def test_base64(server: Serve) -> None:
    fixed, rows = server("fixed"), numpy.arange(6, dtype="f4").reshape(2, 3)
    value = {"b64": base64.b64encode(rows.tobytes()).decode(), "shape": [2, 3]}
    assert fixed.predict({"x": value}) == fixed.predict({"x": rows.tolist()})
    small = {"b64": base64.b64encode(rows.astype("i1").tobytes()).decode(), "shape": [2, 3]}
    assert fixed.predict({"x": small | {"dtype": "int8"}}) == fixed.predict({"x": rows.tolist()})
    assert rejection(fixed, {"x": value | {"shape": [3, 2]}}).endswith(
        "expected [2, 3], got [3, 2]: the same sizes in another order"
    )
    assert server("words").predict({"word": ["b", {"b64": "w6k="}]}) == {"same": ["b", "é"]}


def test_channels_last_is_named(server: Serve) -> None:
    row = [[0.5] * 3] * 224
    detail = rejection(server("photos"), {"image": [row] * 224})
    assert detail == (
        "Invalid shape for 'image': expected [batch, 3, 224, 224], got [224, 224, 3]"
        ": the same sizes in another order"
    )


@pytest.mark.parametrize(("axes", "status"), [(32, 200), (33, 400), (1000, 400)])
def test_an_open_input_takes_32_axes(server: Serve, axes: int, status: int) -> None:
    value = "[" * axes + "1" + "]" * axes
    response = server("opened").post(f'{{"scalar": 1, "free": {value}}}')
    if status == 400:
        detail = response.error(400)
        assert detail.startswith("Invalid shape for 'free': ")
        assert detail.endswith("got more than 32 axes")
    else:
        assert (response.status, response.json["free_out"]) == (200, json.loads(value))


@pytest.mark.parametrize(("model", "name"), [("text", "text"), ("items", "a"), ("items", "c")])
def test_no_rows(server: Serve, model: str, name: str) -> None:
    expected = f"Invalid shape for '{name}': the batch is empty"
    assert rejection(server(model), f'{{"{name}": []}}') == expected


@pytest.mark.parametrize(
    ("ids", "mask", "axis", "sizes"),
    [
        ([[1], [2]], [[1], [1], [1]], "batch", (2, 3)),
        ([[1, 2]], [[1, 1, 1]], "seq", (2, 3)),
        ([1, 2], [1, 1, 1], "seq", (2, 3)),
        ([1], [[1], [1]], "batch", (1, 2)),
    ],
)
def test_named_sizes_disagree(
    sentiment: ServerProcess, ids: object, mask: object, axis: str, sizes: tuple[int, int]
) -> None:
    body = {"input_ids": ids, "attention_mask": mask}
    expected = "Inputs disagree on '{}': 'input_ids' has {}, 'attention_mask' has {}"
    expected += "; if these axes differ, name them in gpux.yml"
    assert rejection(sentiment, body) == expected.format(axis, *sizes)


def test_unnamed_leading_axes_disagree(server: Serve) -> None:
    # `a` is one item, `b` three.
    detail = rejection(server("unnamed"), '{"a": [1, 2], "b": [1, 2, 3]}')
    assert re.fullmatch(r"Inputs disagree on '.+': 'a' has 1, 'b' has 3; .+", detail)


# The order of checks.


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        # Invalid values come before missing inputs.
        ('{"input_ids": "x"}', "Invalid input type for 'input_ids': expected array"),
        ('{"attention_mask": 1}', "Invalid input type for 'attention_mask': expected array"),
        # Values are checked in the body's order, not the model's.
        (
            '{"attention_mask": "x", "input_ids": 1}',
            "Invalid input type for 'attention_mask': expected array",
        ),
        (
            '{"input_ids": ["x"], "attention_mask": 1}',
            "Invalid value for 'input_ids' at [0]: expected number, got string",
        ),
        # Unknown names are reported in the same order.
        (
            '{"inputids": "x", "input_ids": "x"}',
            "Unknown input: 'inputids'; did you mean 'input_ids'?",
        ),
        (
            '{"input_ids": "x", "inputids": "x"}',
            "Invalid input type for 'input_ids': expected array",
        ),
        # Within a value, the first invalid element is reported.
        (
            '{"input_ids": [[1, null], [1.5], "x"], "attention_mask": 1}',
            "Invalid value for 'input_ids' at [0][1]: expected number, got null",
        ),
        (
            '{"input_ids": [[1, 2], [1], "x"], "attention_mask": 1}',
            "Invalid shape for 'input_ids' at [1]: expected 2 values, got 1",
        ),
        # Missing inputs are reported in the model's order, before conflicting sizes.
        ("{}", "Missing required input: 'input_ids'"),
        # Conflicting sizes are reported last.
        (
            '{"input_ids": [[1], [2]], "attention_mask": [[1, "x"]]}',
            "Invalid value for 'attention_mask' at [0][1]: expected number, got string",
        ),
    ],
)
def test_the_first_error_is_answered(sentiment: ServerProcess, body: str, detail: str) -> None:
    assert rejection(sentiment, body) == detail


def test_missing_comes_before_disagreement(server: Serve) -> None:
    # All three inputs of the model share the axis `batch`.
    detail = rejection(server("items"), '{"a": [1, 2], "b": [1, 2, 3]}')
    assert detail == "Missing required input: 'c'"


# Headers.


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        "application/json; charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json ; Charset=Utf-8",
        "application/json; profile=x",
    ],
)
def test_content_type_accepted(sentiment: ServerProcess, kind: str) -> None:
    assert sentiment.post(GOOD, {"Content-Type": kind}).status == 200


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({}, ""),
        ({"Content-Type": ""}, ""),
        ({"Content-Type": "text/plain"}, "text/plain"),
        ({"Content-Type": "text/plain; charset=utf-8"}, "text/plain"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "urlencoded"),
        ({"Content-Type": "application/jsonp"}, "application/jsonp"),
        ({"Content-Type": "application"}, "application"),
        ({"Content-Type": "text/json"}, "text/json"),
        ({"Content-Type": "application/json, text/plain"}, "text/plain"),
        ({"Content-Type": "application/json; charset=latin-1"}, "latin-1"),
        ({"Content-Type": "application/json; charset=utf-16"}, "utf-16"),
        ({"Content-Type": "application/json; charset=ISO-8859-1; x=y"}, "ISO-8859-1"),
        ({**JSON_HEADERS, "Content-Encoding": "gzip"}, "gzip"),
        ({**JSON_HEADERS, "Content-Encoding": "br"}, "br"),
        ({**JSON_HEADERS, "Content-Encoding": "identity"}, "identity"),
    ],
    ids=str,
)
def test_content_type_refused(
    sentiment: ServerProcess, headers: Mapping[str, str], named: str
) -> None:
    assert named in sentiment.request("POST", "/predict", GOOD, headers).error(415)


def test_headers_come_before_the_body(sentiment: ServerProcess) -> None:
    assert sentiment.request("POST", "/predict", "nonsense", {}).status == 415


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "text/xml;q=1", "*/*", "x"])
def test_errors_are_json_whatever_the_client_accepts(sentiment: ServerProcess, accept: str) -> None:
    headers = {**JSON_HEADERS, "Accept": accept}
    for path in ("/predict", "/nowhere"):
        response = sentiment.request("POST", path, "[]", headers)
        assert response.headers["Content-Type"] == "application/json"
        assert response.detail


# Routes.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("POST", "/nowhere"),
        ("POST", "/predict/more"),
        ("GET", "/favicon.ico"),
        ("DELETE", "/Predict"),
        ("GET", "/%00%F0%9F%98%80"),
        ("GET", "/" + "x" * 10_000),
    ],
)
def test_no_such_route(sentiment: ServerProcess, method: str, path: str) -> None:
    detail = sentiment.request(method, path).error(404)
    assert path[:9] in detail or "%" in path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("DELETE", "/predict", "POST"),
        ("PATCH", "/predict", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/health/live", "GET"),
        ("PUT", "/health/ready", "GET"),
        ("POST", "/info", "GET"),
    ],
)
def test_wrong_method(sentiment: ServerProcess, method: str, path: str, allowed: str) -> None:
    response = sentiment.request(method, path, GOOD, JSON_HEADERS)
    assert allowed in [name.strip() for name in response.headers["Allow"].split(",")]
    detail = response.error(405)
    assert method in detail
    assert path in detail


def test_an_answer_to_head_has_no_body(sentiment: ServerProcess) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Client(sentiment) as client:
        client.send(get.replace(b"GET", b"HEAD"), get)
        assert client.stream.readline().startswith(b"HTTP/1.1 405 ")
        while client.stream.readline() != b"\r\n":
            pass
        assert client.read().status == 200


def test_health(sentiment: ServerProcess) -> None:
    for path in ("/health", "/health/ready", "/health/live"):
        response = sentiment.request("GET", path)
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json == {"status": "healthy", "model": "sentiment"}


def test_info(sentiment: ServerProcess, model_file: Find) -> None:
    response = sentiment.request("GET", "/info")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    info = response.json
    assert info["name"] == "sentiment"
    assert info["format"] == "onnx"
    assert info["size"] == model_file("sentiment").stat().st_size
    assert info["provider"] in ("cpu", "cuda")
    assert info["device"]
    assert "version" in info
    assert isinstance(info["metadata"], dict)
    signature = [
        [(tensor["name"], tensor["type"], tensor["shape"]) for tensor in info[side]]
        for side in ("inputs", "outputs")
    ]
    assert signature == [
        [("input_ids", "int64", ["batch", "seq"]), ("attention_mask", "int64", ["batch", "seq"])],
        [("logits", "float32", ["batch", 2])],
    ]
    assert [tensor["required"] for tensor in info["inputs"]] == [True, True]
    for tensor in (*info["inputs"], *info["outputs"]):
        assert {"description", "labels"} <= tensor.keys()


# Inference failures.


@pytest.mark.parametrize(
    ("model", "body", "told"),
    [("table", {"ids": [0, 99]}, "idx=99"), ("sevens", {"x": [1, 2, 3, 4, 5]}, "{1,5}")],
)
def test_what_the_model_refuses_is_a_500(
    server: Serve, model: str, body: object, told: str
) -> None:
    detail = server(model).post(body).error(500)
    assert detail.startswith("Inference failed: ")
    assert told in detail
    # No traceback and no file path; the node's name is part of the model.
    reason = detail.replace("/look/up", "")
    assert not re.search(r"Traceback|[/\\]\w|\w::\w|\n", reason), reason
    # The log has the full cause.
    assert server(model).stderr.wait_for(rf"Inference failed: .*{re.escape(told)}")


def test_after_a_failure_the_server_goes_on(server: Serve) -> None:
    for _ in range(20):
        assert server("table").post({"ids": [-9]}).status == 500
        assert server("table").predict({"ids": [3]}) == {"embedding": [[6.0, 7.0]]}


def test_disagreement_that_the_model_finds_is_a_500(server: Serve) -> None:
    # With all axes given, unnamed ones are left to the model, which accepts these.
    result = server("unnamed").predict({"a": [[1, 2], [3, 4]], "b": [1, 2, 3]})
    assert result == {"a_out": [[1.0, 2.0], [3.0, 4.0]], "b_out": [1.0, 2.0, 3.0]}


# Bodies without Content-Length.


def test_a_body_in_chunks(sentiment: ServerProcess) -> None:
    body = GOOD.encode()
    pieces = [body[i : i + 7] for i in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    response = sentiment.exchange(head(None, "Transfer-Encoding: chunked"), chunks, b"0\r\n\r\n")
    assert response.json == sentiment.predict(GOOD)


def test_no_body_at_all(sentiment: ServerProcess) -> None:
    with Client(sentiment) as client:
        for length in (None, 0):
            detail = client.exchange(head(length)).detail
            assert detail.startswith("Invalid JSON at byte 0: ")


def test_http_1_0(sentiment: ServerProcess) -> None:
    with Client(sentiment) as client:
        request = head(len(GOOD)).replace(b"HTTP/1.1", b"HTTP/1.0") + GOOD.encode()
        assert client.exchange(request).json == sentiment.predict(GOOD)
        assert client.at_end()
