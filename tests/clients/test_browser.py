"""Pages of other origins in a real browser: what CORS lets them do, and what not."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.support import onnx_models
from tests.support.client_programs import FETCH, aim, find_tool
from tests.support.servers import JSON_HEADERS, PATIENCE_SECONDS, ServerProcess, serve

EXAMPLES = Path(__file__).parents[2] / "examples"

ModelFile = Callable[[str], Path]
Serve = Callable[[str], ServerProcess]

# The page's program, as the body of a function.
CALL = f"async () => {{\n{FETCH}return [response.status, result];\n}}"
ANSWER = [200, {"sentiment": [0.125, 0.875]}]

# Any other request.
REQUEST = """\
async ([url, method, body, headers]) => {
  const response = await fetch(url, { method, body, headers });
  return [response.status, await response.json()];
}
"""


class _Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response_only(200)  # unlike send_response, this does not log
        self.send_header("Content-Type", "text/html")
        self.end_headers()


@pytest.fixture(scope="module")
def site() -> Iterator[Callable[[str], str]]:
    """A web site as two origins, by name: localhost and 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield lambda name: f"http://{name}:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own profile: no preflight is remembered."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def folder(site: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose gpux.yml lets the site on localhost in."""
    folder = tmp_path_factory.mktemp("model")
    onnx_models.write("text", folder).rename(folder / "model.onnx")
    settings = {"serving": {"cors_origins": ["https://app.example", site("localhost")]}}
    (folder / "gpux.yml").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=["file", "environment", "option"])
def listing(
    request: pytest.FixtureRequest,
    site: Callable[[str], str],
    folder: Path,
    model_file: ModelFile,
) -> Iterator[ServerProcess]:
    """A server that lists the site on localhost, and not the one on 127.0.0.1."""
    origin = site("localhost")
    ways = {
        "file": lambda: serve(folder),
        "environment": lambda: serve(
            model_file("text"), GPUX_CORS_ORIGINS=f"https://app.example,{origin}"
        ),
        "option": lambda: serve(model_file("text"), "--cors-origins", origin),
    }
    with ways[request.param]() as server:
        yield server


@pytest.fixture(scope="module")
def small_server(site: Callable[[str], str], model_file: ModelFile) -> Iterator[ServerProcess]:
    """A server that lists the site on localhost, and refuses bodies over a KiB."""
    options = "--cors-origins", site("localhost"), "--max-body", "1KiB"
    with serve(model_file("text"), *options) as server:
        yield server


def run_in(page: Page, function: str, argument: object = None) -> Any:
    """What an asynchronous function answers, if it does so in time: Playwright waits for ever."""
    late = f"new Promise((_, fail) => setTimeout(fail, {1000 * PATIENCE_SECONDS}, 'too late'))"
    return page.evaluate(f"(given) => Promise.race([({function})(given), {late}])", argument)


def check_refused(page: Page, server: ServerProcess, answer: object = ANSWER[1]) -> None:
    """The browser keeps the page from what the server answers to anyone else."""
    assert server.predict({"text": "I love GPUX!"}) == answer
    with (
        page.expect_console_message(lambda message: "blocked by CORS policy" in message.text),
        pytest.raises(Error, match="Failed to fetch"),
    ):
        run_in(page, aim(CALL, server))


def test_listed_origin_is_let_in(
    page: Page, site: Callable[[str], str], listing: ServerProcess
) -> None:
    page.goto(site("localhost"))
    assert run_in(page, aim(CALL, listing)) == ANSWER


def test_the_example_lets_it_in(page: Page, site: Callable[[str], str]) -> None:
    with serve(EXAMPLES / "sentiment", "--cors-origins", site("localhost")) as server:
        page.goto(site("localhost"))
        answer = server.predict({"text": "I love GPUX!"})
        assert run_in(page, aim(CALL, server)) == [200, answer]
        page.goto(site("127.0.0.1"))
        check_refused(page, server, answer)


def test_other_origin_is_refused(
    page: Page, site: Callable[[str], str], listing: ServerProcess
) -> None:
    page.goto(site("127.0.0.1"))
    check_refused(page, listing)


def test_any_origin(page: Page, site: Callable[[str], str], model_file: ModelFile) -> None:
    with serve(model_file("text"), "--cors-origins", "*") as server:
        for name in ("localhost", "127.0.0.1"):
            page.goto(site(name))
            assert run_in(page, aim(CALL, server)) == ANSWER


def test_no_origin(page: Page, site: Callable[[str], str], server: Serve) -> None:
    page.goto(site("localhost"))
    check_refused(page, server("text"))


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "headers"),
    [
        (200, "POST", "/predict", '{"text": ["I love GPUX!"]}', JSON_HEADERS),
        (200, "GET", "/info", None, {}),
        (400, "POST", "/predict", '{"text": 1}', JSON_HEADERS),
        (404, "GET", "/predictions", None, {}),
        (405, "GET", "/predict", None, {}),
        (413, "POST", "/predict", " " * 2048, JSON_HEADERS),
        (415, "POST", "/predict", "{}", {"Content-Type": "text/plain"}),
    ],
    ids=["batch", "info", "value", "route", "method", "size", "type"],
)
def test_every_answer_is_readable(
    page: Page,
    site: Callable[[str], str],
    small_server: ServerProcess,
    status: int,
    method: str,
    path: str,
    body: str | None,
    headers: Mapping[str, str],
) -> None:
    expected = small_server.request(method, path, body, headers)
    assert expected.status == status
    url = small_server.url.removesuffix("/predict") + path
    page.goto(site("localhost"))
    assert run_in(page, REQUEST, [url, method, body, headers]) == [status, expected.json]
