"""The API page's Python programs: requests, connection pooling, error handling."""

import sys
from collections.abc import Callable

import pytest

from tests.support.client_programs import (
    CONNECTION_POOLING,
    ERROR_HANDLING,
    PYTHON,
    retarget,
    run_to_end,
)
from tests.support.servers import Serve, ServerProcess

FindServer = Callable[[str | None], ServerProcess]

IDS = {"input_ids": [101, 2054, 2003, 102], "attention_mask": [1, 1, 1, 1]}


def run_python(program: str) -> list[str]:
    return run_to_end([sys.executable, "-"], program)


def test_client_of_one_server(text_server: ServerProcess) -> None:
    sentiment = text_server.predict({"text": "I love GPUX!"})["sentiment"]
    printed = run_python(retarget(PYTHON, text_server))
    # The second half sends ids and prints the response: only the transformer accepts them.
    response = text_server.post(IDS)
    assert printed == [f"Sentiment: {sentiment}", str(response.json)]
    takes_ids = "input_ids" in text_server.request("GET", "/info").body.decode()
    if takes_ids:
        assert list(response.json) == ["sentiment"]
    else:
        unknown = "Unknown input: 'input_ids'; the model's inputs are 'text'"
        assert (response.status, response.detail) == (400, unknown)


def test_client_of_a_server_for_each_model(server: Serve) -> None:
    text, sentiment = server("text"), server("sentiment")
    printed = run_python(retarget(PYTHON, text, sentiment))
    assert printed == ["Sentiment: [0.125, 0.875]", str(sentiment.predict(IDS))]


IMAGE = {"image": [[row, column, 0, 16, 8, 4, 2, 1] for row in range(4) for column in (0, 9)]}
TEXT = {"text": "I love GPUX!"}
# Bodies, which the page leaves open, for the examples and for the transformer.
BODIES = [("sentiment", TEXT), ("digits", IMAGE), (None, TEXT), (None, IDS)]


@pytest.fixture
def find(transformer: ServerProcess, example: Serve) -> FindServer:
    """Finds a server by its example's name; None is the transformer."""
    return lambda name: transformer if name is None else example(name)


@pytest.mark.parametrize(("name", "body"), BODIES)
def test_connection_pooling(find: FindServer, name: str | None, body: object) -> None:
    server = find(name)
    program = retarget(CONNECTION_POOLING, server).replace("{...}", repr(body))
    program += """\
again = session.post(response.url, json={})
pools = session.get_adapter(response.url).poolmanager.pools
[pool] = [pools[key] for key in pools.keys()]
print(response.json())
print(response.status_code, again.status_code, pool.num_connections, pool.num_requests)
session.close()
"""
    # Two requests, the second rejected, over one connection.
    assert run_python(program) == [str(server.predict(body)), "200 400 1 2"]


def handle_errors(server: ServerProcess, body: object) -> list[str]:
    """What the page's program prints: its error message, or else the result."""
    before = f"import requests\nurl, data = {server.url!r}, {body!r}\n"
    return run_python(before + ERROR_HANDLING + "else:\n    print(result)\n")


@pytest.mark.parametrize(("name", "body"), BODIES)
def test_error_handling_where_there_is_none(
    find: FindServer, name: str | None, body: object
) -> None:
    assert handle_errors(find(name), body) == [str(find(name).predict(body))]


@pytest.mark.parametrize(
    ("name", "body", "detail"),
    [
        ("sentiment", {"txt": "a"}, "Unknown input: 'txt'; did you mean 'text'?"),
        ("sentiment", {"text": 5}, "Invalid input type for 'text': expected string"),
        ("digits", {}, "Missing required input: 'image'"),
        (
            "digits",
            {"image": [[0, "1"]]},
            "Invalid value for 'image' at [0][1]: expected number, got string",
        ),
        (None, {"input_ids": [101]}, "Missing required input: 'attention_mask'"),
        (None, {"text": []}, "Invalid shape for 'text': the batch is empty"),
    ],
)
def test_error_handling_of_a_refusal(
    find: FindServer, name: str | None, body: object, detail: str
) -> None:
    assert handle_errors(find(name), body) == [f"HTTP error: {detail}"]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("sentiment", IDS),
        ("sentiment", {"attention_mask": [1]}),
        ("sentiment", {"input_ids": "not an array"}),
        ("table", {"ids": [4]}),
    ],
    ids=["success", "missing", "type", "inference"],
)
def test_error_handling(server: Serve, model: str, body: object) -> None:
    response = server(model).post(body)
    expected = response.json if response.status == 200 else f"HTTP error: {response.detail}"
    assert handle_errors(server(model), body) == [str(expected)]
