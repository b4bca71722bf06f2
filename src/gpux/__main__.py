"""The command line: `gpux serve`, `gpux run`, `gpux inspect`.

Exit codes: 0; 1 where `gpux run` was refused or failed; 2 where nothing could be started.
"""

import argparse
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpux import __version__
from gpux.app import create_app
from gpux.config import ACCESS_LOG, BATCHING, PROVIDERS, Settings, read_settings
from gpux.engine import Engine
from gpux.errors import ClientError, ServiceError, StartError
from gpux.example import find_examples
from gpux.exchange import RequestIdFilter
from gpux.interface import TEXT, Accepted, Answered
from gpux.model import Model, load_model
from gpux.observe import create_observers
from gpux.server import Server
from gpux.service import Service
from gpux.tensor import OtherSpec

_LONGEST_TRY_SECONDS = 5.0
_LONGEST_SHOWN = 400
_NO_EXAMPLE = (
    "the model tells too little of its dynamic axes; gpux.yml can give their sizes "
    "(inputs.NAME.shape)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; by default the process'.

    Returns:
        The exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names come from files and the cut is marked with a character that not every terminal has.
        # Python itself does the same for stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    # Ctrl-C ends the process at once and without a traceback, until a server takes it over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    commands = {"serve": _serve, "run": _run, "inspect": _inspect}
    try:
        code = commands[options.command](options)
        sys.stdout.flush()
    except StartError as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `gpux inspect PATH | head`: nobody reads on, nor what Python flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpux", description="Serves an ONNX model: JSON in, JSON out."
    )
    parser.add_argument("--version", action="version", version=f"gpux {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description="Serves a model at POST /predict. Each option can also be set by an "
        "environment variable (GPUX_PORT for --port) or in gpux.yml, in this order.",
    )
    _add_model(serve)
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1 and ::1)")
    serve.add_argument("--port", help="port to listen on (default: 8080)")
    serve.add_argument("--threads", help="requests worked on at once (default: 32)")
    serve.add_argument(
        "--max-body", metavar="SIZE", help="largest body, as 64MiB or in bytes (default: 64MiB)"
    )
    serve.add_argument(
        "--timeout", metavar="SECONDS", help="an answer that takes longer is 504 (default: 60)"
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
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s%(request)s",
        handlers=[handler],
    )
    return read_settings(os.environ, vars(options))


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    # waitress warns at each request that has to wait.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    service = Service(settings)
    observers = create_observers(settings, os.environ, service.metrics)
    app = create_app(service, settings.max_body_bytes, settings.cors_origins)
    server = Server(app, settings, service, observers)
    server.stop_on_signals()
    failures: list[BaseException] = []

    def load() -> None:
        try:
            engine = service.load()
            print(_summary(engine.model))
            if options.verbose:
                print(_left_to_the_cpu(engine.model))
            print(_batching_text(engine))
            print(f"Serving   {server.url}/predict (Ctrl-C to stop)", flush=True)
        except BaseException as error:
            failures.append(error)
            server.stop()

    # Beside the loop of sockets, which answers from now on, be it that the model is loading.
    loader = threading.Thread(target=load, name="loader", daemon=True)
    loader.start()
    server.run()
    is_all_told = observers.close()
    if failures:
        raise failures[0]
    if is_all_told:  # else nobody reads what is written there
        print("Stopped", flush=True)
    if loader.is_alive():
        # Nothing stops ONNX Runtime while it loads a model, and Python's own end would take its
        # libraries from under it.
        os._exit(0)
    return 0


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
    engine = Engine(load_model(settings), replace(settings, batching="off"))
    _silence()  # what failed is printed below
    try:
        answer = engine.predict(body)
    except (ClientError, ServiceError) as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 1
    _print_json(answer)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    settings = _settings(options)
    model = load_model(settings)
    _silence()  # not every body that is tried works
    tried = replace(settings, batching="off", timeout_seconds=_LONGEST_TRY_SECONDS)
    examples = find_examples(Engine(model, tried))
    if options.example:
        if not examples:
            raise StartError(f"an example was not found: {_NO_EXAMPLE}")
        _print_json(next(iter(examples.values())).body)
        return 0
    print(_summary(model))
    if options.verbose:
        print(_left_to_the_cpu(model))
    for title, example in examples.items():
        print(f"{title:<9} {_shorten(example.body)}")
        print(f"{'':<9} {_shorten(example.answer)}")
    if not examples:
        print(f"Example   not found: {_NO_EXAMPLE}")
    return 0


def _print_json(text: bytes) -> None:
    """What other programs read: in UTF-8, whatever the terminal has (RFC 8259, 8.1)."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def _silence() -> None:
    """From now on nothing is logged, as what matters is printed."""
    logging.getLogger("gpux").setLevel(logging.CRITICAL + 1)


class _Number(str):
    """A number's text."""


def _shorten(text: bytes) -> str:
    """JSON of bounded length: lists lose what follows their first elements, then it its middle."""
    shown = text.decode()
    if len(shown) <= _LONGEST_SHOWN:
        return shown
    value = json.loads(text, parse_int=_Number, parse_float=_Number)
    for most in (8, 4, 2):
        shown = _write(value, most)
        if len(shown) <= _LONGEST_SHOWN:
            return shown
    return f"{shown[: _LONGEST_SHOWN // 2]} … {shown[-_LONGEST_SHOWN // 4 :]}"


def _write(value: Any, most: int) -> str:
    """JSON text with at most so many elements of each list, and numbers as they stood."""
    if isinstance(value, dict):
        members = (f"{_write(name, most)}:{_write(item, most)}" for name, item in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        elements = [_write(item, most) for item in value[:most]]
        return f"[{','.join([*elements, '…'] if len(value) > most else elements)}]"
    return value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _summary(model: Model) -> str:
    """The model as people read it: where it is, where it runs, and its signature as a table."""
    rows = [
        *(("Input", *_columns(entry), _takes(entry)) for entry in model.interface.inputs),
        *(("Output", *_columns(entry), "") for entry in model.interface.outputs),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(1, 4)]
    lines = [
        f"{row[0]:<9} "
        + "  ".join(f"{row[column]:<{widths[column - 1]}}" for column in range(1, 4))
        + f"  {row[4]}"
        for row in rows
    ]
    size = model.file.stat().st_size
    return "\n".join(
        [
            f"Model     {model.name} ({model.file}, {_size_text(size)})",
            f"Provider  {model.device} (onnxruntime {model.runtime_version}){_nodes_text(model)}",
            *(line.rstrip() for line in lines),
        ]
    )


def _nodes_text(model: Model) -> str:
    """How many nodes run where, if they do not all run on the CPU."""
    if model.provider == "cpu" or model.placement is None:
        return ""
    counts = ", ".join(f"{len(nodes)} on {name}" for name, nodes in model.placement.items())
    return f", nodes: {counts}"


def _batching_text(engine: Engine) -> str:
    """Whether waiting requests run together, and why not."""
    batching = engine.batching
    if batching.limits is None:
        return f"Batching  off: {batching.reason}"
    rows = batching.limits.most_rows
    text = f"Batching  on: up to {rows} rows of requests that wait run together"
    if not engine.model.signature.has_lengths:
        return text
    if batching.padding is None:
        return f"{text}\nPadding   off: {batching.padding_reason}"
    axes = " and ".join(batching.padding.axes)
    buckets = batching.padding.buckets
    return f"{text}\nPadding   on: {axes} to the next of {len(buckets)} sizes up to {buckets[-1]}"


def _left_to_the_cpu(model: Model) -> str:
    """The nodes that a model on a GPU runs on the CPU all the same."""
    if model.placement is None:
        return "Nodes     ONNX Runtime does not tell where they run: 1.24 or newer does"
    if model.provider == "cpu":
        return "Nodes     all on the CPU"
    nodes = model.placement.get("cpu", [])
    return "\n".join(f"On CPU    {node}" for node in nodes) or "Nodes     none on the CPU"


def _columns(entry: Accepted | Answered) -> tuple[str, str, str]:
    spec = entry.spec
    if isinstance(spec, OtherSpec):
        return entry.name, spec.onnx, ""
    return entry.name, spec.type.name, spec.shape_text if spec.dims else "any shape"


def _takes(entry: Accepted) -> str:
    """What a client may send for an input, in words."""
    spec = entry.spec
    item = f"[{', '.join(map(str, spec.dims[1:]))}]" if spec.least_axes else spec.type.word
    takes = {
        "batched": f"one item ({item}), or a list of them",
        "single": f"one item ({item}), with or without its leading axis",
        "fixed": "with all its axes",
        "open": "whatever the model takes",
    }[spec.kind]
    if entry.from_text:
        takes = f"made from {TEXT}, or {takes}"
    elif not entry.required:
        takes += "; optional"
    return f"{spec.kind}: {takes}"


def _size_text(size_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


if __name__ == "__main__":
    sys.exit(main())
