"""The page's Python programs: requests, its connection pool, its errors."""

import sys
from collections.abc import Callable

import pytest
from programs import CONNECTION_POOLING, ERROR_HANDLING, PYTHON, aim, run_to_end
from servers import ServerProcess

Serve = Callable[[str], ServerProcess]

IDS = {"input_ids": [101, 2054, 2003, 102], "attention_mask": [1, 1, 1, 1]}


def run_python(program: str) -> list[str]:
    return run_to_end([sys.executable, "-"], program)


def test_client_of_one_server(transformer: ServerProcess) -> None:
    sentiment = transformer.predict({"text": "I love GPUX!"})["sentiment"]
    printed = run_python(aim(PYTHON, transformer))
    assert printed == [f"Sentiment: {sentiment}", str(transformer.predict(IDS))]


def test_client_of_a_server_for_each_model(server: Serve) -> None:
    text, sentiment = server("text"), server("sentiment")
    printed = run_python(aim(PYTHON, text, sentiment))
    assert printed == ["Sentiment: [0.125, 0.875]", str(sentiment.predict(IDS))]


def test_connection_pooling(server: Serve) -> None:
    program = aim(CONNECTION_POOLING, server("sentiment")).replace("{...}", repr(IDS))
    program += """\
again = session.post(response.url, json={})
pools = session.get_adapter(response.url).poolmanager.pools
[pool] = [pools[key] for key in pools.keys()]
print(response.status_code, again.status_code, pool.num_connections, pool.num_requests)
session.close()
"""
    # Two requests, the second refused, over one connection.
    assert run_python(program) == ["200 400 1 2"]


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
    answer = server(model).post(body)
    expected = answer.json if answer.status == 200 else f"HTTP error: {answer.detail}"
    before = f"import requests\nurl, data = {server(model).url!r}, {body!r}\n"
    after = "else:\n    print(result)\n"
    assert run_python(before + ERROR_HANDLING + after) == [str(expected)]
