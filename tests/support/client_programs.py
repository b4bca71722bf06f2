"""The client programs of the API page, verbatim, and functions to run them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.servers import PATIENCE_SECONDS, ServerProcess

PYTHON = """\
import requests
import numpy as np

# Text input
response = requests.post(
    "http://localhost:8080/predict",
    json={"text": "I love GPUX!"}
)
result = response.json()
print(f"Sentiment: {result['sentiment']}")

# Tensor input
response = requests.post(
    "http://localhost:8080/predict",
    json={
        "input_ids": [101, 2054, 2003, 102],
        "attention_mask": [1, 1, 1, 1]
    }
)
print(response.json())
"""

# The page elides the body: json={...}.
CONNECTION_POOLING = """\
import requests
from requests.adapters import HTTPAdapter

session = requests.Session()
session.mount('http://', HTTPAdapter(pool_connections=10, pool_maxsize=10))

response = session.post("http://localhost:8080/predict", json={...})
"""

ERROR_HANDLING = """\
try:
    response = requests.post(url, json=data, timeout=10)
    response.raise_for_status()
    result = response.json()
except requests.exceptions.Timeout:
    print("Request timed out")
except requests.exceptions.HTTPError as e:
    print(f"HTTP error: {e.response.json()['detail']}")
"""

FETCH = """\
// Fetch API
const response = await fetch('http://localhost:8080/predict', {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({
    text: 'I love GPUX!'
  })
});
const result = await response.json();
console.log(result.sentiment);
"""

AXIOS = """\
// Axios
const { data } = await axios.post('http://localhost:8080/predict', {
  text: 'I love GPUX!'
});
console.log(data.sentiment);
"""

GO = """\
package main

import (
    "bytes"
    "encoding/json"
    "net/http"
)

type PredictRequest struct {
    Text string `json:"text"`
}

type PredictResponse struct {
    Sentiment []float64 `json:"sentiment"`
}

func predict(text string) (*PredictResponse, error) {
    reqBody, _ := json.Marshal(PredictRequest{Text: text})

    resp, err := http.Post(
        "http://localhost:8080/predict",
        "application/json",
        bytes.NewBuffer(reqBody),
    )
    if err != nil {
        return nil, err
    }
    defer resp.Body.Close()

    var result PredictResponse
    json.NewDecoder(resp.Body).Decode(&result)
    return &result, nil
}
"""

# Where .ci/tools installs npm packages.
NODE_FOLDER = Path(__file__).parents[2] / ".venv" / "clients"


def retarget(program: str, *servers: ServerProcess) -> str:
    """The program with the page's port replaced by those of servers.

    Args:
        program: of the page.
        servers: one for each request in order, the last one for all further requests.
    """
    *each, rest = (f"localhost:{server.port}" for server in servers)
    for address in each:
        program = program.replace("localhost:8080", address, 1)
    return program.replace("localhost:8080", rest)


def run_to_end(
    command: Sequence[str | Path], program: str = "", folder: Path | None = None
) -> list[str]:
    """Runs a command with a program on its standard input. Returns the lines that it prints."""
    done = subprocess.run(
        command,
        input=program,
        cwd=folder,
        capture_output=True,
        text=True,
        # A compiler with an empty cache is slow.
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _miss(what: str) -> NoReturn:
    message = f"{what} is not installed; .ci/tools full installs it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def find_tool(name: str) -> str:
    """The path of a program; without it, skips the test, or fails on CI."""
    return shutil.which(name) or _miss(name)


def find_node_folder(package: str) -> Path:
    """The folder in which Node finds a package; without it, as `find_tool`."""
    if not (NODE_FOLDER / "node_modules" / package).is_dir():
        _miss(f"{package} (npm)")
    return NODE_FOLDER
