"""The API page's Go program, built with a `main` that calls it."""

import json
from pathlib import Path

import pytest

from tests.support.client_programs import GO, find_tool, retarget, run_to_end
from tests.support.servers import Serve, ServerProcess

pytestmark = pytest.mark.full

MAIN = """\
package main

import (
	"encoding/json"
	"log"
	"os"
)

func main() {
	for _, text := range os.Args[1:] {
		result, err := predict(text)
		if err != nil {
			log.Fatal(err)
		}
		json.NewEncoder(os.Stdout).Encode(result)
	}
}
"""
MODULE = """\
module client

go 1.19
"""


def run_go(server: ServerProcess, folder: Path, *texts: str) -> list[str]:
    files = {"predict.go": retarget(GO, server), "main.go": MAIN, "go.mod": MODULE}
    for name, content in files.items():
        (folder / name).write_text(content)
    run_to_end([find_tool("go"), "build", "-o", "client"], folder=folder)
    return run_to_end([folder / "client", *texts])


def test_answers(text_server: ServerProcess, tmp_path: Path) -> None:
    texts = ["I love GPUX!", "This is terrible"]
    printed = run_go(text_server, tmp_path, *texts)
    assert [json.loads(line) for line in printed] == [
        text_server.predict({"text": text}) for text in texts
    ]


def test_error_is_no_answer(server: Serve, tmp_path: Path) -> None:
    # The page's program ignores the status and finds no `sentiment`.
    assert run_go(server("sentiment"), tmp_path, "I love GPUX!") == ['{"sentiment":null}']
