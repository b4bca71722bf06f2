"""The peers' Python environments, one for each, in bench/.envs."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.processes import run_command

_HERE = Path(__file__).resolve().parent
_FOLDER = _HERE.parent / ".envs"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment that a server runs in.

    Attributes:
        python: its interpreter.
        packages: the installed packages, from `pip freeze`; empty for this project's own.
    """

    python: Path
    packages: Sequence[str] = ()


def install(name: str, interpreter: str = sys.executable) -> Environment:
    """Creates the environment of peers/NAME.txt unless it exists.

    Args:
        name: the peer.
        interpreter: the Python to create the environment with.

    Raises:
        CannotMeasureError: it could not be created; with the reason.
    """
    requirements = _HERE / "peers" / f"{name}.txt"
    version = run_command([interpreter, "-c", "import sys; print(sys.version)"])
    wanted = hashlib.sha256(f"{version}\n{requirements.read_text()}".encode()).hexdigest()
    folder = _FOLDER / name
    python = folder / "bin" / "python"
    stamp = folder / "installed"  # holds the list it was made from, once it is complete
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Installing the environment of {name} ...", file=sys.stderr)
        run_command([interpreter, "-m", "venv", "--clear", str(folder)])
        run_command([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        stamp.write_text(wanted)
    return Environment(python, run_command([str(python), "-m", "pip", "freeze"]).split())
