"""The command line: `gpux serve`, `gpux run`, `gpux inspect`.

Exit codes: 0; 1 where `gpux run` was refused or failed; 2 where nothing could be started.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gpux import __version__
from gpux.app import create_app
from gpux.config import PROVIDERS, read_settings
from gpux.engine import Engine
from gpux.errors import ClientError, ServiceError, StartError
from gpux.model import Model, load
from gpux.server import Server
from gpux.tensor import OtherSpec, TensorSpec


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; by default the process'.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    # Ctrl-C ends the process at once and without a traceback, until a server takes it over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if options.command == "serve":
            return _serve(options)
        if options.command == "run":
            return _run(options)
        return _inspect(options)
    except StartError as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 2


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
        "environment variable: GPUX_HOST, GPUX_PORT, GPUX_THREADS, GPUX_PROVIDER, GPUX_MAX_BODY.",
    )
    _add_model(serve)
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1 and ::1)")
    serve.add_argument("--port", help="port to listen on (default: 8080)")
    serve.add_argument("--threads", help="requests worked on at once (default: 4)")
    serve.add_argument(
        "--max-body", metavar="SIZE", help="largest body, as 64MiB or in bytes (default: 64MiB)"
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
        description="Prints a model's signature as a table.",
    )
    _add_model(inspect)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="an .onnx file, or a folder with model.onnx")
    parser.add_argument(
        "--provider", metavar="|".join(PROVIDERS), help="where the model runs (default: auto)"
    )


def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # waitress warns at each request that has to wait.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    settings = read_settings(
        os.environ,
        {
            "model": options.path,
            "provider": options.provider,
            "host": options.host,
            "port": options.port,
            "threads": options.threads,
            "max_body": options.max_body,
        },
    )
    model = load(settings.model, settings.provider)
    engine = Engine(model)
    server = Server(create_app(engine, settings.max_body_bytes), settings)
    server.stop_on_signals()
    shown = "localhost" if settings.host is None else server.addresses[0]
    host = f"[{shown}]" if ":" in shown else shown
    print(_summary(model))
    print(f"Serving   http://{host}:{server.port}/predict (Ctrl-C to stop)", flush=True)
    server.run(on_drain=engine.drain)
    print("Stopped", flush=True)
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
    settings = read_settings(os.environ, {"model": options.path, "provider": options.provider})
    engine = Engine(load(settings.model, settings.provider))
    logging.getLogger("gpux").addHandler(logging.NullHandler())  # what failed is printed below
    try:
        answer = engine.predict(body)
    except (ClientError, ServiceError) as error:
        print(f"gpux: {error}", file=sys.stderr)
        return 1
    print(answer.decode())
    return 0


def _inspect(options: argparse.Namespace) -> int:
    settings = read_settings(os.environ, {"model": options.path, "provider": options.provider})
    print(_summary(load(settings.model, settings.provider)))
    return 0


def _summary(model: Model) -> str:
    """The model as people read it: where it is, where it runs, and its signature as a table."""
    rows = [
        *(("Input", *_columns(spec), spec.kind) for spec in model.signature.inputs),
        *(("Output", *_columns(spec), "") for spec in model.signature.outputs),
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
            f"Provider  {model.provider} (onnxruntime {model.runtime_version})",
            *(line.rstrip() for line in lines),
        ]
    )


def _columns(spec: TensorSpec | OtherSpec) -> tuple[str, str, str]:
    if isinstance(spec, OtherSpec):
        return spec.name, spec.onnx, ""
    return spec.name, spec.type.name, "any shape" if not spec.dims else spec.shape_text


def _size_text(size_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"


if __name__ == "__main__":
    sys.exit(main())
