"""Where the time of a live server's threads goes under load, stage by stage, and a flame graph.

py-spy samples all threads, including C++ frames. A sample counts whether the thread works or waits,
except for a request: so waiting for the GIL is visible too.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import environments
import flame_graph
from contenders import Client, Contender, Server, serve_command, serving
from load import put_under_load, wrk
from profile_stages import ABOUT, read_stacks, shares
from report import CannotMeasureError, Report, table
from timing import count

_PY_SPY = Path(sys.executable).parent / "py-spy"
_PATIENCE_SECONDS = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("model", type=Path, help="what `gpux serve` takes")
    parser.add_argument("--body", type=Path, required=True, metavar="FILE", help="a request")
    parser.add_argument("--connections", type=count, default=8, help="requests at once (default 8)")
    parser.add_argument(
        "--seconds",
        type=count,
        default=10,
        help="of samples; looking takes about as long again (default 10)",
    )
    parser.add_argument("--rate", type=count, default=50, help="samples a second (default 50)")
    parser.add_argument(
        "--flame-graph",
        type=Path,
        default=Path("profile.svg"),
        metavar="FILE",
        help="default: profile.svg",
    )


def measure(options: argparse.Namespace) -> Report:
    """Serves the model, puts it under load, and samples it."""
    wrk()
    if not _PY_SPY.is_file():
        raise CannotMeasureError("py-spy is missing: pip install py-spy")
    body = options.body.read_bytes()

    def command(python: Path, model: Path, port: int) -> list[str]:
        # Unused threads would only lengthen each sample.
        return [*serve_command(python, model, port, "--threads", str(options.connections))]

    ours = environments.OURS
    contender = Contender("gpux", "gpux serve", "ours", command, lambda: ours)
    with serving(contender, ours, options.model, body) as server:
        raw: list[str] = []

        def sample() -> float:
            raw.append(_sample(server, options))
            return 1.0

        before = _answer(server, body)
        load = put_under_load(server.url, options.body, options.connections, sample)
        if load.errors - load.timeouts:
            raise CannotMeasureError(f"{load.errors - load.timeouts} requests were not answered")
        if _answer(server, body) != before:
            raise CannotMeasureError("the answer under load is not the one before")
    samples = read_stacks(raw[0])
    found = shares(samples)
    title = f"{options.model.stem}, {len(body):,} bytes, {options.connections} connections"
    options.flame_graph.write_text(flame_graph.draw(title, samples, found))
    rows = [
        [
            name,
            f"{share.of_all:.1%}",
            f"{share.of_work:.1%}" if share.of_work else "",
            ABOUT[name],
        ]
        for name, share in found.items()
    ]
    return Report(
        benchmark="profile",
        settings={
            "model": options.model.name,
            "body_bytes": len(body),
            "connections": options.connections,
            "seconds": options.seconds,
            "rate": options.rate,
        },
        figures=[
            {"stage": name, "of_all": share.of_all, "of_work": share.of_work}
            for name, share in found.items()
        ],
        table=table(["stage", "of all", "of work", ""], rows),
        notes=[
            f"{title}; {load.per_second:,.0f} requests/s when nobody looked.",
            f"{sum(samples.values()):,} samples of threads, those that waited for a request too.",
            "of all: without these. of work: also without waiting for the GIL, a lock or a thread.",
            f"Flame graph: {options.flame_graph}",
        ],
    )


def _sample(server: Server, options: argparse.Namespace) -> str:
    """Runs py-spy; returns its output.

    Raises:
        CannotMeasureError: py-spy lacks permission, or failed.
    """
    pid = server.processes.pids()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "raw"
        done = subprocess.run(
            [
                *(str(_PY_SPY), "record", "--pid", str(pid), "--format", "raw"),
                *("--output", str(file), "--native", "--threads", "--idle"),
                *("--duration", str(options.seconds), "--rate", str(options.rate)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
        if done.returncode != 0:
            raise CannotMeasureError(f"py-spy failed:\n{done.stderr.strip()}")
        return file.read_text()


def _answer(server: Server, body: bytes) -> bytes:
    with closing(Client("gpux", server.port)) as client:
        return client.post(body)[1]
