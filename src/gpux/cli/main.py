"""The command line: `gpux serve`, `gpux run`, `gpux inspect`.

Exit codes: 0; 1 if the request of `gpux run` was rejected or failed; 2 if nothing was started.
"""

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gpux.cli.examples import find_examples
from gpux.cli.summary import describe_engine, describe_model
from gpux.config.settings import ACCESS_LOG, BATCHING, PROVIDERS, Settings, read_settings
from gpux.errors import (
    DISTRIBUTION,
    ClientError,
    ServiceError,
    StartError,
)
from gpux.http.serve import serve
from gpux.model import Model, load_model
from gpux.observability.logs import log_to_stderr
from gpux.serving.engine import Engine
from gpux.tensors.memory import use_one_arena

_MAX_TRY_SECONDS = 5.0
_MAX_SHOWN = 400
_NO_EXAMPLE = (
    "the model tells too little of its dynamic axes; gpux.yml can give their sizes "
    "(inputs.NAME.shape)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names in files, and the ellipsis, may contain characters that the terminal cannot encode.
        # Python itself does the same for stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    # Ctrl-C ends the process without a traceback, until a server installs its own handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    commands = {"serve": _serve, "run": _run, "inspect": _inspect}
    try:
        code = commands[options.command](options)
        sys.stdout.flush()
    except StartError as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `gpux inspect PATH | head`: discard what Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


class _ShowVersion(argparse.Action):
    """Prints the version, which takes the installed metadata, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # slow to import

        print(f"gpux {version(DISTRIBUTION)}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpux", description="Serves an ONNX model: JSON in, JSON out."
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description="Serves a model at POST /predict. Each option can also be set by an "
        "environment variable (GPUX_PORT for --port) or in gpux.yml, in this order.",
    )
    _add_model(serve)
    serve.add_argument("--server", help=argparse.SUPPRESS)  # without effect since 0.2.0
    serve.add_argument(
        "--workers", metavar="N", help="processes that serve, each with the model (default: 1)"
    )
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1 and ::1)")
    serve.add_argument("--port", help="port to listen on (default: 8080)")
    serve.add_argument(
        "--threads", help="threads that run the model (default: one per core of a process)"
    )
    serve.add_argument(
        "--max-body", metavar="SIZE", help="largest body, as 64MiB or in bytes (default: 64MiB)"
    )
    serve.add_argument(
        "--timeout", metavar="SECONDS", help="an answer that takes longer is 504 (default: 60)"
    )
    serve.add_argument(
        "--drain-delay",
        metavar="SECONDS",
        help="how long requests are still taken at the end (default: 0)",
    )
    serve.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        help="what requests in flight have at the end (default: 30)",
    )
    serve.add_argument(
        "--max-queue", metavar="N", help="requests that may wait; more are 503 (default: 256)"
    )
    serve.add_argument(
        "--max-queue-bytes", metavar="SIZE", help="of the bodies that are here (default: 1GiB)"
    )
    serve.add_argument(
        "--batching",
        metavar="|".join(BATCHING),
        help="whether waiting requests run together (default: auto)",
    )
    serve.add_argument(
        "--max-batch-size", metavar="ROWS", help="rows that run together (default: 32)"
    )
    serve.add_argument(
        "--batch-delay", metavar="US", help="microseconds to wait for company (default: 0)"
    )
    serve.add_argument(
        "--cors-origins",
        metavar="ORIGINS",
        help="pages that may call, as https://app.example, with commas between; * for all",
    )
    serve.add_argument(
        "--warmup",
        metavar="FILE",
        help="a request body that is run before any other (default: generated rows)",
    )
    serve.add_argument(
        "--access-log",
        metavar="|".join(ACCESS_LOG),
        help="a line for each request, on standard output (default: off)",
    )

    run = commands.add_parser(
        "run",
        help="run a model once",
        description="Prints what POST /predict would answer.",
    )
    _add_model(run)
    body = run.add_mutually_exclusive_group(required=True)
    body.add_argument("--input", metavar="JSON", help="the request body")
    body.add_argument(
        "--file", metavar="FILE", help="a file with the request body; - for standard input"
    )

    inspect = commands.add_parser(
        "inspect",
        help="show a model's inputs and outputs",
        description="Prints a model's signature as a table, and requests that were tried.",
    )
    _add_model(inspect)
    inspect.add_argument(
        "--example", action="store_true", help="print only a whole request body that works"
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="PATH",
        nargs="?",
        help="an .onnx file, a folder with gpux.yml or model.onnx, or a gpux.yml",
    )
    parser.add_argument("--config", metavar="FILE", help="a gpux.yml that is not beside the model")
    parser.add_argument(
        "--provider", metavar="|".join(PROVIDERS), help="where the model runs (default: auto)"
    )
    parser.add_argument("--device", metavar="N", help="the number of the GPU (default: 0)")
    parser.add_argument(
        "--verbose", action="store_true", help="name the nodes that a GPU leaves to the CPU"
    )


def _settings(options: argparse.Namespace) -> Settings:
    log_to_stderr()
    return read_settings(os.environ, vars(options))


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    use_one_arena()
    describe = partial(describe_engine, verbose=options.verbose)
    return serve(settings, os.environ, describe)


def _run(options: argparse.Namespace) -> int:
    if options.input is not None:
        body = options.input.encode("utf-8", "surrogateescape")
    elif options.file == "-":
        body = sys.stdin.buffer.read()
    else:
        try:
            body = Path(options.file).read_bytes()
        except OSError as error:
            raise StartError(f"--file {options.file}: {error.strerror}") from error
    settings = _settings(options)
    model = _load(settings)
    _silence()  # the error is printed below
    try:
        response = model.respond(body, settings.timeout_seconds)
    except (ClientError, ServiceError) as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 1
    _print_json(response)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    settings = _settings(options)
    model = _load(settings)
    _silence()  # not every body that is tried succeeds
    examples = find_examples(model, _MAX_TRY_SECONDS)
    if options.example:
        if not examples:
            raise StartError(f"an example was not found: {_NO_EXAMPLE}")
        _print_json(next(iter(examples.values())).body)
        return 0
    print(describe_model(model, verbose=options.verbose))
    for title, example in examples.items():
        print(f"{title:<9} {_shorten(example.body)}")
        print(f"{'':<9} {_shorten(example.answer)}")
    if not examples:
        print(f"Example   not found: {_NO_EXAMPLE}")
    return 0


def _load(settings: Settings) -> Model:
    """Loads a model, and checks what gpux.yml says of serving it."""
    model = load_model(settings)
    Engine(model, replace(settings, batching="off"))
    return model


def _print_json(text: bytes) -> None:
    """Prints JSON for other programs: in UTF-8 whatever the terminal uses (RFC 8259, 8.1)."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def _silence() -> None:
    """Turns off logging: what matters is printed."""
    logging.getLogger("gpux").setLevel(logging.CRITICAL + 1)


class _Number(str):
    """A number of a JSON text, as written."""


def _shorten(text: bytes) -> str:
    """Bounds the length of a JSON text: truncates its lists, then, if need be, cuts its middle."""
    shown = text.decode()
    if len(shown) <= _MAX_SHOWN:
        return shown
    value = json.loads(text, parse_int=_Number, parse_float=_Number)
    for limit in (8, 4, 2):
        shown = _write(value, limit)
        if len(shown) <= _MAX_SHOWN:
            return shown
    return f"{shown[: _MAX_SHOWN // 2]} … {shown[-_MAX_SHOWN // 4 :]}"


def _write(value: Any, limit: int) -> str:
    """Writes JSON with at most `limit` elements of each list, and numbers as they were written."""
    if isinstance(value, dict):
        members = (f"{_write(name, limit)}:{_write(item, limit)}" for name, item in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        elements = [_write(item, limit) for item in value[:limit]]
        return f"[{','.join([*elements, '…'] if len(value) > limit else elements)}]"
    return value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)
