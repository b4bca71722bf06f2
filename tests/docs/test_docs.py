"""Follows the pages as a reader would: runs their commands and compares the output they show.

Each page in order, in a folder of its own with the files that a reader has (`prepare`):
- `sh`: run line by line; a server runs until the next one is started, or the end of the page.
  Installations, and commands that need more than this project, are not run: UNRUN.
- `python`, `js`, `go`: run as programs.
- `yaml`, `ini`, `dockerfile`, `nginx`: written to the file that the comment in the first line
  names. If the file starts GPUX, it is started here as well.
- `json request`, and tables headed "You send | Answer": sent to the server.
- `json log`, `text log`: the last line of the server's output, now or soon.
- `json`, `text`: what the last of these printed or returned. `…` matches anything, white space is
  ignored, and the last digits of long floats may differ between processors.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.support import bert_models, client_programs, onnx_models
from tests.support.servers import (
    PATIENCE_SECONDS,
    ServerProcess,
    environment,
    free_port,
    wait_until,
)

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(GUIDE.glob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
BIN = Path(sys.executable).parent

SERVER = re.compile(r"(\w+=\S+ )*(gpux serve|waitress-serve) ")
UNRUN = re.compile(
    r"(apt-get|pip|make|npm|docker|systemctl|python3 -m venv|\. \S+/activate"
    r"|python examples/\w+/train\.py)\b"
)
MAKE_SERVE = "gpux serve examples/sentiment"  # what `make serve` runs
PROGRAMS = {
    "python": [sys.executable, "program.py"],
    "js": ["node", "program.mjs"],
    "go": ["go", "run", "program.go"],
}
FILES = ("yaml", "ini", "dockerfile", "nginx")


@dataclass(frozen=True)
class Block:
    """A fenced block, or a cell of a table of requests and responses."""

    location: str
    language: str
    text: str
    note: str = ""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read_blocks(page: Path) -> Iterator[Block]:
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    header: list[str] = []
    for number, line in lines:
        location = f"{name_of(page)}:{number}"
        if fence := re.fullmatch(r"( *)```(\w+)(?: (request|log))?", line):
            inside = iter(lambda: next(lines)[1].removeprefix(fence[1]), "```")
            yield Block(location, fence[2], "".join(f"{text}\n" for text in inside), fence[3] or "")
            continue
        cells = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif header[:2] == ["You send", "Answer"] and not line.startswith("|--"):
            response = cells[1]
            if not response.startswith("{"):
                response = json.dumps({"detail": response}, ensure_ascii=False)
            yield Block(location, "json", cells[0], "request")
            yield Block(location, "json", response)


def prepare(text: str, folder: Path) -> None:
    """Creates the files that a reader of the text has."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    onnx_models.write("matrix", folder).rename(folder / "model.onnx")
    onnx_models.write("photo", folder)
    Image.new("RGB", (640, 480), "orange").save(folder / "cat.jpg")
    if "bert" in text:
        bert_models.write_folder(folder / "bert", described=False)
    if "minilm" in text:
        bert_models.write_minilm(folder / "minilm")
    if "from 'axios'" in text:
        modules = client_programs.find_node_folder("axios") / "node_modules"
        (folder / "node_modules").symlink_to(modules)


class Reader:
    """Follows one page, in a folder, with one server at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.server: ServerProcess | None = None
        self.printed: str | None = None  # None: nothing to compare with
        self.failure = ""  # output of a failed command, until the page shows it
        self.variables = {"GPUX_PORT": self.port, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def follow(self, block: Block) -> None:
        text = block.text.replace("8080", self.port)
        if block.language in ("json", "text") and not block.note:
            self.compare(text)
            return
        assert not self.failure, self.failure
        if block.note == "log":
            self.compare_log(text)
        elif block.note == "request":
            assert self.server
            self.printed = self.server.post(text).body.decode()
        elif block.language == "sh":
            self.type(text.replace("make serve", MAKE_SERVE))
        elif block.language in PROGRAMS:
            command = PROGRAMS[block.language]
            (self.folder / command[-1]).write_text(text)
            self.run(command)
        elif block.language in FILES:
            self.write(block.language, text)
        else:
            raise AssertionError(f"no way to follow a block of {block.language!r}")

    def type(self, text: str) -> None:
        """Runs shell commands, and starts servers in the background."""
        script = ""
        for line in text.splitlines(keepends=True):
            if SERVER.match(line):
                self.run_script(script)
                script = ""
                self.start(line.strip())
            elif not UNRUN.match(line):
                script += line
        self.run_script(script)

    def run_script(self, script: str) -> None:
        if script.strip():
            self.run(["bash", "-euo", "pipefail", "-c", script])

    def run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(**self.variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_SECONDS,  # a compiler with an empty cache is slow
            check=False,
        )
        self.failure = done.stdout + done.stderr if done.returncode else ""
        self.printed = done.stdout or done.stderr

    def start(self, line: str) -> None:
        self.close()
        self.server = ServerProcess(
            ["bash", "-c", f"cd {self.folder} && exec env {line}"],
            r"(?:Serving  |[Ss]erving on) http://\S+:(\d+)",
            self.variables,
            "stderr" if "waitress-serve" in line else "stdout",
        )
        self.printed = self.server.stdout.text

    def close(self) -> None:
        if self.server is None:
            return
        server, self.server = self.server, None
        if server.stdout.text:
            assert server.end() == 0
        else:
            server.kill()  # the shutdown of waitress-serve is not under test
        assert "Traceback" not in server.stderr.text

    def write(self, language: str, text: str) -> None:
        named = re.match(r"# (\S+)\n", text)
        assert named, "the first line names the file"
        file = self.folder / named[1].removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("/opt/gpux/bin", str(BIN)))
        # From `ExecStart=…/gpux serve /srv/model` or `CMD ["…/gpux", "serve", "/model"]`.
        if command := re.search(r"/opt/gpux/bin/(gpux\W.*)", text):
            line = re.sub(r"[\[\],\"]", "", command[1])
            self.start(re.sub(r"/\S*model", "examples/sentiment", line))
        if language == "ini" and shutil.which("systemd-analyze"):
            self.run(["systemd-analyze", "verify", str(file)])
            assert not self.printed, self.printed

    def compare_log(self, expected: str) -> None:
        assert self.server
        output, words = self.server.stdout, split(expected)
        wait_until(
            lambda: matches(words, split(output.text.splitlines()[-1])),
            f"the server writes {expected}",
        )

    def compare(self, expected: str) -> None:
        printed, self.printed, self.failure = self.printed, None, ""
        assert printed is not None, "nothing was run or sent that could print this"
        if not matches(split(expected), split(printed)):
            raise AssertionError(f"{expected}\nis shown, but this was printed:\n{printed}")


def split(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?…?|\w+|\S", text)


def matches(expected: list[str], actual: list[str]) -> bool:
    """Whether the words are the same; `…` matches any number of them."""
    at = seen = gap_ends = 0
    after_gap = None
    while seen < len(actual):
        if expected[at : at + 1] == ["…"]:
            at += 1
            after_gap, gap_ends = at, seen
        elif at < len(expected) and same(expected[at], actual[seen]):
            at, seen = at + 1, seen + 1
        elif after_gap is not None:
            gap_ends += 1
            at, seen = after_gap, gap_ends
        else:
            return False
    return expected[at:] in ([], ["…"])


def same(expected: str, actual: str) -> bool:
    if len(expected) > 1 and expected.endswith("…"):
        return actual.startswith(expected[:-1])
    if re.fullmatch(r"-?\d+(\.\d{6,}|\S*e-\d+)", expected) and re.fullmatch(r"-?\d\S*", actual):
        return float(actual) == pytest.approx(float(expected), rel=1e-4)
    return expected == actual


# `make full` runs the page with programs in Go and JavaScript.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=name_of(page),
            marks=[pytest.mark.full] if re.search("^```(js|go)$", page.read_text(), re.M) else [],
        )
        for page in PAGES
    ],
)
def test_examples(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    # Outside CI, skips the page if a tool is missing.
    for tool, mark in (("curl", "curl "), ("node", "```js"), ("go", "```go")):
        if mark in text:
            client_programs.find_tool(tool)
    prepare(text, tmp_path)
    reader = Reader(tmp_path)
    with contextlib.closing(reader):
        for block in read_blocks(page):
            try:
                reader.follow(block)
            except Exception as error:
                raise AssertionError(f"{block.location}: {error}") from error
        assert not reader.failure, reader.failure
