"""Java's HttpClient at its defaults, which offers to upgrade each first request to HTTP/2."""

import json
from pathlib import Path

import pytest

from tests.support.client_programs import find_tool, run_to_end
from tests.support.servers import Serve

pytestmark = pytest.mark.full

PROGRAM = """\
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Predict {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 1; i < arguments.length; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[i]))
                .build();
            HttpResponse<String> response =
                client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(
                response.statusCode() + " " + response.version() + " " + response.body());
        }
    }
}
"""


def test_predictions_and_errors(server: Serve, tmp_path: Path) -> None:
    running = server("matrix")
    file = tmp_path / "Predict.java"
    file.write_text(PROGRAM)
    long = json.dumps({"x": [[0.5] * 10_000]})
    bodies = ['{"x":[[1,2]]}'] * 10 + [long, '{"x":"no"}', '{"x":[[3]]}']
    printed = run_to_end([find_tool("java"), str(file), running.url, *bodies])
    expected = [json.dumps({"y": json.loads(body)["x"]}) for body in (*bodies[:11], bodies[12])]
    found = [line.split(" ", 2) for line in printed]
    assert [status for status, _, _ in found] == ["200"] * 11 + ["400", "200"]
    assert {version for _, version, _ in found} == {"HTTP_1_1"}
    responses = [json.loads(body) for status, _, body in found if status == "200"]
    assert responses == [json.loads(text) for text in expected]
