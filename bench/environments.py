"""The environments of the peers: each one's packages are its own, in bench/.envs."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from report import CannotMeasureError

_HERE = Path(__file__).resolve().parent
_FOLDER = _HERE / ".envs"


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a server runs.

    Attributes:
        python: its interpreter.
        packages: what is installed, as `pip freeze` says; empty for this project's own.
    """

    python: Path
    packages: Sequence[str] = ()


OURS = Environment(Path(sys.executable))


def install(name: str, interpreter: str = sys.executable) -> Environment:
    """Makes the environment of peers/NAME.txt where it is not there yet.

    Args:
        name: of the peer.
        interpreter: what the environment is made with.

    Raises:
        CannotMeasureError: it could not be made; says why.
    """
    requirements = _HERE / "peers" / f"{name}.txt"
    version = _run([interpreter, "-c", "import sys; print(sys.version)"])
    wanted = hashlib.sha256(f"{version}\n{requirements.read_text()}".encode()).hexdigest()
    folder = _FOLDER / name
    python = folder / "bin" / "python"
    stamp = folder / "installed"  # what the environment was made from, once it is complete
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Installing the environment of {name} ...", file=sys.stderr)
        _run([interpreter, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        stamp.write_text(wanted)
    return Environment(python, _run([str(python), "-m", "pip", "freeze"]).split())


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMeasureError(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotMeasureError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout
