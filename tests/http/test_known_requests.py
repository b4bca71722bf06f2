"""The same requests again and again, which the server responds to in one native call."""

import json

import pytest

from tests.support.ort import needs_placement
from tests.support.servers import Client, Find, Response, ServerProcess, head, metric, post, serve

# More than a class of sizes needs to run inline, whatever else the machine does.
_MANY = 40


def line(response: Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """A response without its times."""
    headers = [
        (name, "" if name in ("Date", "Server-Timing") else value)
        for name, value in response.headers.items()
    ]
    return response.status, headers, response.body


def body_of(number: int) -> bytes:
    return json.dumps({"x": [[number * 1.5] * (1 + number % 5)]}).encode()


def counted(server: ServerProcess) -> float:
    return metric(server, "gpux_requests_total", status="200")


@needs_placement
def test_the_last_response_has_the_headers_of_the_first(model_file: Find) -> None:
    with serve(model_file("matrix")) as server, Client(server) as client:
        first = line(client.exchange(post(b'{"x":[[1]]}')))
        for _ in range(_MANY):
            assert line(client.exchange(post(b'{"x":[[1]]}'))) == first
        assert counted(server) == 1 + _MANY
        assert metric(server, "gpux_stage_duration_seconds_count", stage="run") == 1 + _MANY


def test_bodies_of_many_lengths(model_file: Find) -> None:
    with serve(model_file("matrix")) as server, Client(server) as client:
        for number in range(5 * _MANY):
            response = client.exchange(post(body_of(number)))
            assert json.loads(response.body) == {"y": json.loads(body_of(number))["x"]}
        assert counted(server) == 5 * _MANY


def test_faults_among_them(model_file: Find) -> None:
    with serve(model_file("matrix")) as server, Client(server) as client:
        for number in range(_MANY):
            assert client.exchange(post(body_of(number))).status == 200
            wrong = client.exchange(post(b'{"x":[["a"]]}'))
            assert wrong.status == 400
            assert b"at [0][0]" in wrong.body
            assert client.exchange(head(9, "Expect: 100-continue")).status == 100
            assert client.exchange(b'{"x":[[]]').status == 400
            assert client.exchange(head(11, path="/else"), b'{"x":[[1]]}').status == 404
        assert counted(server) == _MANY
        assert metric(server, "gpux_requests_total", status="400") == 2 * _MANY


@pytest.mark.parametrize("times", [1, 2])
def test_pipelined_ones(model_file: Find, times: int) -> None:
    with serve(model_file("matrix")) as server, Client(server) as client:
        for number in range(_MANY):
            client.send(*[post(body_of(number))] * times, post(b"[]"))
            for _ in range(times):
                assert json.loads(client.read().body) == {"y": json.loads(body_of(number))["x"]}
            assert client.read().status == 400


def test_all_are_logged(model_file: Find) -> None:
    with (
        serve(model_file("matrix"), "--access-log", "json") as server,
        Client(server) as client,
    ):
        for number in range(_MANY):
            response = client.exchange(head(11, f"X-Request-Id: {number}"), b'{"x":[[1]]}')
            assert response.headers["X-Request-Id"] == str(number)
    lines = [text for text in server.stdout.text.splitlines() if text.startswith("{")]
    ids = [json.loads(text)["request_id"] for text in lines]
    assert ids == [str(number) for number in range(_MANY)]


def test_pages_of_other_origins(model_file: Find) -> None:
    with (
        serve(model_file("matrix"), GPUX_CORS_ORIGINS="https://a.example") as server,
        Client(server) as client,
    ):
        for _ in range(_MANY):
            response = client.exchange(head(11, "Origin: https://a.example"), b'{"x":[[1]]}')
            assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"


def test_a_client_may_set_its_own_limit(model_file: Find) -> None:
    with serve(model_file("matrix")) as server, Client(server) as client:
        for _ in range(_MANY):
            assert client.exchange(head(11, "X-Request-Timeout: 30"), b'{"x":[[1]]}').status == 200
            late = client.exchange(head(11, "X-Request-Timeout: 0.000000001"), b'{"x":[[1]]}')
            assert late.status == 504


def test_the_limit_of_bodies_holds(model_file: Find) -> None:
    with serve(model_file("matrix"), "--max-body", "300") as server, Client(server) as client:
        for _ in range(_MANY):
            for nbytes in (11, 290, 300):
                body = b'{"x":[[1]]}'.ljust(nbytes)
                assert client.exchange(post(body)).status == 200
        large = b'{"x":[[1]]}'.ljust(301)
        with Client(server) as other:
            assert other.exchange(post(large)).status == 413
