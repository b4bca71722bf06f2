"""curl, also where it offers HTTP/2."""

import json

import pytest

from tests.support.client_programs import find_tool, run_to_end
from tests.support.servers import Serve


@pytest.mark.parametrize(
    ("option", "connections"),
    [("--http1.1", ["1", "0"]), ("--http2", ["1", "0"]), ("--http1.0", ["1", "1"])],
)
def test_two_requests(server: Serve, option: str, connections: list[str]) -> None:
    running = server("matrix")
    request = [
        *("--silent", option, "--header", "Content-Type: application/json"),
        *("--data", '{"x":[[1,2]]}', "--write-out", "\n%{http_version} %{num_connects}\n"),
        running.url,
    ]
    printed = run_to_end([find_tool("curl"), *request, "--next", *request])
    assert [json.loads(line) for line in printed[::2]] == [{"y": [[1.0, 2.0]]}] * 2
    assert printed[1::2] == [f"1.1 {number}" for number in connections]
