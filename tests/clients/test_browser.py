"""CORS in a real browser: what pages of other origins may do, and what not."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.support import onnx_models
from tests.support.client_programs import FETCH, find_tool, retarget
from tests.support.servers import JSON_HEADERS, PATIENCE_SECONDS, Find, Serve, ServerProcess, serve

pytestmark = pytest.mark.full

EXAMPLES = Path(__file__).parents[2] / "examples"

Site = Callable[[str], str]  # finds its URL by a host name

# The API page's program, as the body of a function.
CALL = f"async () => {{\n{FETCH}return [response.status, result];\n}}"
RESPONSE = [200, {"sentiment": [0.125, 0.875]}]

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
def site() -> Iterator[Site]:
    """A web site with two origins, by host name: localhost and 127.0.0.1."""
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
    """A page with a profile of its own, so that no preflight is cached."""
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose gpux.yml allows the site on localhost."""
    folder = tmp_path_factory.mktemp("model")
    onnx_models.write("text", folder).rename(folder / "model.onnx")
    settings = {"serving": {"cors_origins": ["https://app.example", site("localhost")]}}
    (folder / "gpux.yml").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=["file", "environment", "option"])
def listing(
    request: pytest.FixtureRequest, site: Site, folder: Path, model_file: Find
) -> Iterator[ServerProcess]:
    """A server that allows the site on localhost, but not the one on 127.0.0.1."""
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
def small_server(site: Site, model_file: Find) -> Iterator[ServerProcess]:
    """A server that allows the site on localhost and rejects bodies over 1 KiB."""
    options = "--cors-origins", site("localhost"), "--max-body", "1KiB"
    with serve(model_file("text"), *options) as server:
        yield server


def run_in(page: Page, function: str, argument: object = None) -> Any:
    """The result of an asynchronous function, with a timeout: Playwright has none."""
    timeout = f"new Promise((_, fail) => setTimeout(fail, {1000 * PATIENCE_SECONDS}, 'too late'))"
    return page.evaluate(f"(given) => Promise.race([({function})(given), {timeout}])", argument)


def check_blocked(page: Page, server: ServerProcess, result: object = RESPONSE[1]) -> None:
    """Checks that the browser hides from the page what the server sends to any other client."""
    assert server.predict({"text": "I love GPUX!"}) == result
    with (
        page.expect_console_message(lambda message: "blocked by CORS policy" in message.text),
        pytest.raises(Error, match="Failed to fetch"),
    ):
        run_in(page, retarget(CALL, server))


def test_listed_origin_is_let_in(page: Page, site: Site, listing: ServerProcess) -> None:
    page.goto(site("localhost"))
    assert run_in(page, retarget(CALL, listing)) == RESPONSE


def test_the_example_lets_it_in(page: Page, site: Site) -> None:
    with serve(EXAMPLES / "sentiment", "--cors-origins", site("localhost")) as server:
        page.goto(site("localhost"))
        result = server.predict({"text": "I love GPUX!"})
        assert run_in(page, retarget(CALL, server)) == [200, result]
        page.goto(site("127.0.0.1"))
        check_blocked(page, server, result)


def test_other_origin_is_refused(page: Page, site: Site, listing: ServerProcess) -> None:
    page.goto(site("127.0.0.1"))
    check_blocked(page, listing)


def test_any_origin(page: Page, site: Site, model_file: Find) -> None:
    with serve(model_file("text"), "--cors-origins", "*") as server:
        for name in ("localhost", "127.0.0.1"):
            page.goto(site(name))
            assert run_in(page, retarget(CALL, server)) == RESPONSE


def test_no_origin(page: Page, site: Site, server: Serve) -> None:
    page.goto(site("localhost"))
    check_blocked(page, server("text"))


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
    site: Site,
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
