"""The command line: options, environment variables, exit codes, and one-line error messages.

Commands that start no server mostly run inside the test process, and a sample as subprocesses.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

import gpux
from gpux.config.settings import cores
from tests.support.servers import (
    WAITRESS_SERVE,
    Command,
    Failure,
    Find,
    Serve,
    ServerProcess,
    failed_start,
    head,
    run_gpux,
    run_program,
    serve,
    serve_wsgi,
)

ROW = '{"x": [1, 2.5]}'

# Files that are not models.

COMMANDS = [("serve", "--port", "0"), ("run", "--input", "{}"), ("inspect",)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_no_such_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    missing = tmp_path / "missing.onnx"
    assert str(missing) in failed_start(words[0], str(missing), *words[1:])


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_folder_without_a_model(failure: Failure, tmp_path: Path, words: tuple[str, ...]) -> None:
    line = failure(words[0], str(tmp_path), *words[1:])
    assert str(tmp_path) in line
    assert "model.onnx" in line


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\x08\x08\x12\x04test" + bytes(1000), b"\n" * 100], ids=repr
)
def test_a_file_that_is_no_model(
    failure: Failure, tmp_path: Path, words: tuple[str, ...], content: bytes
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    assert str(file) in failure(words[0], str(file), *words[1:])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("takes_sequence", "seq(tensor(float))"),
        ("takes_optional", "optional(tensor(float))"),
        ("takes_map", "map(int64,tensor(float))"),
        ("takes_float8", "float8e4m3fn"),
        ("takes_int4", "int4"),
        ("takes_complex", "complex64"),
    ],
)
def test_a_model_that_cannot_be_served(
    failure: Failure, model_file: Find, name: str, said: str
) -> None:
    line = failure("serve", str(model_file(name)), "--port", "0")
    assert str(model_file(name)) in line
    assert said in line


# Options.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "-1"),
        ("--port", "65536"),
        ("--port", "http"),
        ("--port", "80.0"),
        ("--port", ""),
        ("--port", "8" * 5000),
        ("--threads", "0"),
        ("--threads", "-1"),
        ("--threads", "many"),
        ("--max-body", "0"),
        ("--max-body", "0MiB"),
        ("--max-body", "-1"),
        ("--max-body", "garbage"),
        ("--max-body", "10 parsecs"),
        ("--max-body", "MB"),
        ("--max-body", "1.5MB"),
        ("--provider", "gpu"),
        ("--provider", "CPU "),
        ("--host", "no such host"),
        ("--host", "300.0.0.1"),
    ],
)
def test_options_refused(failure: Failure, model_file: Find, option: str, value: str) -> None:
    arguments = {"--port": "0"} | {option: value}
    # As `--option=value`, because a value may begin with a dash.
    options = [f"{name}={text}" for name, text in arguments.items()]
    assert option in failure("serve", str(model_file("matrix")), *options)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPUX_PORT", "http"),
        ("GPUX_THREADS", "0"),
        ("GPUX_MAX_BODY", "garbage"),
        ("GPUX_PROVIDER", "gpu"),
    ],
)
def test_variables_refused(failure: Failure, model_file: Find, variable: str, value: str) -> None:
    line = failure("serve", str(model_file("matrix")), **{variable: value})
    assert variable in line
    assert value in line


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("serve", "x", "--unknown"),
        ("run", "x"),
        ("run", "x", "--input", "{}", "--file", "y"),
    ],
    ids=" ".join,
)
def test_usage(command: Command, arguments: tuple[str, ...]) -> None:
    code, stdout, stderr = command(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("usage: gpux")


@pytest.mark.parametrize("arguments", [("serve",), ("run", "--input", "{}"), ("inspect",)])
def test_no_model_is_named(failure: Failure, arguments: tuple[str, ...]) -> None:
    assert failure(*arguments).startswith("gpux: no model is named: PATH or GPUX_MODEL names")


def test_version() -> None:
    done = run_gpux("--version")
    assert (done.returncode, done.stdout) == (0, f"gpux {gpux.__version__}\n")


def test_the_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("gpux")
    assert run_program(str(script), "--version").stdout == run_gpux("--version").stdout


@pytest.mark.parametrize("words", ["--help", "serve --help", "run --help", "inspect --help"])
def test_help(command: Command, words: str) -> None:
    code, stdout, stderr = command(*words.split())
    assert (code, stderr) == (0, "")
    assert stdout.startswith("usage: gpux")


# Providers.


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_cuda_is_refused_where_there_is_none(
    failure: Failure, model_file: Find, words: tuple[str, ...]
) -> None:
    model = str(model_file("matrix"))
    line = failure(words[0], model, *words[1:], "--provider", "cuda")
    assert "cuda" in line.lower()
    assert failure(words[0], model, *words[1:], GPUX_PROVIDER="cuda") == line


def test_a_provider_option_goes_over_the_variable(model_file: Find) -> None:
    model = str(model_file("matrix"))
    cuda = {"GPUX_PROVIDER": "cuda"}
    done = run_gpux("run", model, "--input", ROW, "--provider", "cpu", variables=cuda)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"y": [1.0, 2.5]})


# gpux run


def test_run(model_file: Find, tmp_path: Path) -> None:
    model, file = str(model_file("matrix")), tmp_path / "body.json"
    file.write_text(ROW)
    for done in (
        run_gpux("run", model, "--input", ROW),
        run_gpux("run", model, "--file", str(file)),
        run_gpux("run", model, "--file", "-", body=ROW.encode()),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"y": [1.0, 2.5]}


def test_run_prints_what_the_server_answers(model_file: Find, server: Serve) -> None:
    body = json.dumps({"texts": ["é 😀\n", "\0"]}, ensure_ascii=False)
    done = run_gpux("run", str(model_file("strings")), "--input", body)
    assert done.stdout.rstrip("\n").encode() == server("strings").post(body).body


@pytest.mark.parametrize(
    ("name", "body", "line"),
    [
        ("matrix", "{}", "gpux: Missing required input: 'x'"),
        ("matrix", '{"x": "y"}', "gpux: Invalid input type for 'x': expected array"),
        ("matrix", "nonsense", "gpux: Invalid JSON at byte 0: "),
        ("table", '{"ids": [9]}', "gpux: Inference failed: "),
    ],
)
def test_run_refused(command: Command, model_file: Find, name: str, body: str, line: str) -> None:
    code, stdout, stderr = command("run", model_file(name), "--input", body)
    assert (code, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith(line)


def test_run_with_a_file_that_cannot_be_read(
    failure: Failure, model_file: Find, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.json"
    assert str(missing) in failure("run", str(model_file("matrix")), "--file", str(missing))
    assert str(tmp_path) in failure("run", str(model_file("matrix")), "--file", str(tmp_path))


def test_run_with_bytes_that_are_no_text(model_file: Find) -> None:
    done = run_gpux("run", str(model_file("strings")), "--file", "-", body=b'{"texts": ["\xff"]}')
    assert done.returncode == 1
    assert done.stderr.startswith("gpux: Invalid JSON at byte ")


# gpux serve


def test_serve_says_what_it_serves(model_file: Find) -> None:
    with serve(model_file("sentiment"), "--provider", "cpu") as server:
        output = server.stdout.text
        inspected = run_gpux("inspect", str(model_file("sentiment")), "--provider", "cpu").stdout
        signature, _, served = output.partition("Batching  ")
        assert signature.splitlines()[-1].startswith("Output")
        assert served.startswith("on: up to 32 rows")
        assert inspected.startswith(signature)
        assert f"http://localhost:{server.port}/predict" in served


def test_serve_a_folder(model_file: Find, tmp_path: Path) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model_file("matrix").read_bytes())
    with serve(folder) as server:
        assert server.request("GET", "/health").json == {"status": "healthy", "model": "named"}
        assert server.predict(ROW) == {"y": [1.0, 2.5]}


def test_host(model_file: Find) -> None:
    with serve(model_file("matrix"), "--host", "127.0.0.1") as server:
        assert f"http://127.0.0.1:{server.port}/predict" in server.stdout.text
        assert server.post(ROW).status == 200
        with pytest.raises(ConnectionError):
            server.request("GET", "/health", host="127.0.0.2")
    with serve(model_file("matrix"), "--host", "0.0.0.0") as server:
        assert server.request("GET", "/health", host="127.0.0.2").status == 200


@pytest.mark.parametrize(("text", "limit"), [("100", 100), ("2 KiB", 2048)])
def test_max_body(model_file: Find, text: str, limit: int) -> None:
    with serve(model_file("matrix"), "--max-body", text) as server:
        assert str(limit) in server.exchange(head(limit + 1)).error(413)


def test_options_go_over_variables(model_file: Find) -> None:
    variables = {
        "GPUX_MODEL": "/nowhere",
        "GPUX_HOST": "300.0.0.1",
        "GPUX_PORT": "1",
        "GPUX_THREADS": "none",
        "GPUX_PROVIDER": "none",
        "GPUX_MAX_BODY": "none",
    }
    options = ("--host", "127.0.0.1", "--threads", "1", "--provider", "cpu", "--max-body", "50")
    with serve(model_file("matrix"), *options, **variables) as server:
        assert server.predict(ROW) == {"y": [1.0, 2.5]}
        assert server.post(ROW.ljust(51)).status == 413


def test_variables_stand_for_options(model_file: Find) -> None:
    with serve(model_file("matrix")) as previous:
        port = previous.port
    command = [sys.executable, "-m", "gpux", "serve", str(model_file("matrix"))]
    variables = {
        "GPUX_HOST": "127.0.0.1",
        "GPUX_PORT": str(port),
        "GPUX_THREADS": "7",
        "GPUX_PROVIDER": "cpu",
        "GPUX_MAX_BODY": "50",
    }
    with ServerProcess(command, r"Serving   http://127\.0\.0\.1:(\d+)/", variables) as server:
        assert server.port == port
        assert server.predict(ROW) == {"y": [1.0, 2.5]}
        assert server.post(ROW.ljust(51)).status == 413
        with serve(model_file("matrix"), "--threads", "1") as other:
            other.predict(ROW)
            assert server.threads("gpux-run-") == min(7, cores())
            assert other.threads("gpux-run-") == 1


def test_empty_variables_are_as_if_unset(model_file: Find) -> None:
    with serve(model_file("matrix"), GPUX_HOST="", GPUX_THREADS="", GPUX_MAX_BODY="") as server:
        assert server.predict(ROW) == {"y": [1.0, 2.5]}


# gpux.wsgi:app


def test_waitress_serves_the_app(model_file: Find) -> None:
    variables = {"GPUX_MODEL": str(model_file("matrix")), "GPUX_MAX_BODY": "50"}
    with serve_wsgi(variables) as server:
        assert server.predict(ROW) == {"y": [1.0, 2.5]}
        assert server.post("nonsense").detail.startswith("Invalid JSON at byte 0: ")
        assert server.request("GET", "/nowhere").status == 404
        assert server.post(ROW.ljust(51)).error(413)
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROW), ROW.encode())
        response = server.exchange(head(None, "Transfer-Encoding: chunked"), chunks)
        assert response.json == {"y": [1.0, 2.5]}
        server.kill()  # the shutdown of waitress-serve is not under test


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "GPUX_MODEL"),
        ({"GPUX_MODEL": "/nowhere/model.onnx"}, "/nowhere/model.onnx"),
        ({"GPUX_MODEL": os.devnull}, os.devnull),
        ({"GPUX_MODEL": "x", "GPUX_MAX_BODY": "garbage"}, "GPUX_MAX_BODY"),
    ],
    ids=["missing", "nowhere", "null", "limit"],
)
def test_waitress_ends_with_the_reason(variables: dict[str, str], said: str) -> None:
    done = run_program(*WAITRESS_SERVE, variables=variables)
    assert done.returncode != 0
    assert re.search(rf"^gpux: .*{re.escape(said)}", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
