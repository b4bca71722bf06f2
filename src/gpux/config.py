"""Settings: the environment, and what the command line says over it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpux.errors import ConfigurationError

PROVIDERS = ("auto", "cpu", "cuda")

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE = re.compile(r"([0-9]+)\s*([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve a model.

    Attributes:
        model: an .onnx file, or a folder with model.onnx.
        provider: `auto`, `cpu` or `cuda`.
        host: the address to listen on; None for 127.0.0.1 and, where there is one, ::1.
        port: 0 takes a free one.
        threads: requests that are worked on at once.
        max_body_bytes: larger bodies are refused with 413.
    """

    model: Path
    provider: str = "auto"
    host: str | None = None
    port: int = 8080
    threads: int = 4
    max_body_bytes: int = 64 * 2**20


def read_settings(environment: Mapping[str, str], options: Mapping[str, str | None]) -> Settings:
    """The settings that options and environment make.

    Args:
        environment: GPUX_MODEL, GPUX_PROVIDER, GPUX_HOST, GPUX_PORT, GPUX_THREADS and GPUX_MAX_BODY
            are read.
        options: by setting (`model`, `provider`, `host`, `port`, `threads`, `max_body`), as text;
            what is there and not None goes over the environment.

    Raises:
        ConfigurationError: names the option or variable, and what was expected.
    """

    def text(name: str) -> tuple[str, str] | None:
        """The setting's text and where it stands."""
        option = options.get(name)
        if option is not None:
            return option, "PATH" if name == "model" else "--" + name.replace("_", "-")
        variable = "GPUX_" + name.upper()
        value = environment.get(variable)
        return (value, variable) if value else None

    model = text("model")
    if model is None:
        raise ConfigurationError(
            "GPUX_MODEL is not set: it names an .onnx file or a folder with model.onnx"
        )
    settings = Settings(Path(model[0]))
    provider = text("provider")
    host = text("host")
    port = text("port")
    threads = text("threads")
    max_body = text("max_body")
    return Settings(
        model=settings.model,
        provider=_read_provider(*provider) if provider else settings.provider,
        host=host[0] if host else settings.host,
        port=_read_integer(*port, least=0, most=65535) if port else settings.port,
        threads=_read_integer(*threads, least=1, most=1024) if threads else settings.threads,
        max_body_bytes=_read_size(*max_body) if max_body else settings.max_body_bytes,
    )


def _read_provider(text: str, source: str) -> str:
    if text not in PROVIDERS:
        raise ConfigurationError(f"{source}: expected {', '.join(PROVIDERS)}, got {text!r}")
    return text


def _read_integer(text: str, source: str, *, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ConfigurationError(
            f"{source}: expected an integer from {least} to {most}, got {text!r}"
        )
    return int(text)


def _read_size(text: str, source: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or len(match[1]) > 15 or int(match[1]) == 0:
        raise ConfigurationError(
            f"{source}: expected a size such as 1000000, 64MiB or 10MB, got {text!r}"
        )
    return int(match[1]) * unit


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
