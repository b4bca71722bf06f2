"""config: options over environment over defaults, and errors that name where a value stands."""

from pathlib import Path

import pytest

from gpux.config import Settings, read_settings
from gpux.errors import ConfigurationError

MODEL = {"GPUX_MODEL": "m.onnx"}


def test_the_model_alone_is_enough() -> None:
    assert read_settings(MODEL, {}) == Settings(Path("m.onnx"))


def test_the_environment_is_read() -> None:
    environment = {
        "GPUX_MODEL": "m.onnx",
        "GPUX_PROVIDER": "cpu",
        "GPUX_HOST": "0.0.0.0",
        "GPUX_PORT": "0",
        "GPUX_THREADS": "7",
        "GPUX_MAX_BODY": "10MB",
    }
    expected = Settings(Path("m.onnx"), "cpu", "0.0.0.0", 0, 7, 10_000_000)
    assert read_settings(environment, {}) == expected


def test_options_go_over_the_environment() -> None:
    environment = {**MODEL, "GPUX_PORT": "1", "GPUX_THREADS": "2", "GPUX_MAX_BODY": "3"}
    options = {"model": "n.onnx", "port": "4", "threads": None, "max_body": "5"}
    expected = Settings(Path("n.onnx"), port=4, threads=2, max_body_bytes=5)
    assert read_settings(environment, options) == expected


def test_an_empty_variable_is_not_set() -> None:
    assert read_settings({**MODEL, "GPUX_PORT": ""}, {}).port == 8080


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("64MiB", 2**26),
        ("64 mib", 2**26),
        ("10MB", 10**7),
        ("1GB", 10**9),
        ("2kib", 2048),
    ],
)
def test_sizes_have_units(text: str, size_bytes: int) -> None:
    assert read_settings({**MODEL, "GPUX_MAX_BODY": text}, {}).max_body_bytes == size_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": "x"}, "--port: expected an integer from 0 to 65535, got 'x'"),
        ({"port": "-1"}, "--port: expected an integer from 0 to 65535, got '-1'"),
        ({"port": "65536"}, "--port: expected an integer from 0 to 65535, got '65536'"),
        ({"port": "1" * 5000}, f"--port: expected an integer from 0 to 65535, got '{'1' * 5000}'"),
        ({"port": "٣"}, "--port: expected an integer from 0 to 65535, got '٣'"),
        ({"threads": "0"}, "--threads: expected an integer from 1 to 1024, got '0'"),
        ({"provider": "gpu"}, "--provider: expected auto, cpu, cuda, got 'gpu'"),
        (
            {"max_body": "0"},
            "--max-body: expected a size such as 1000000, 64MiB or 10MB, got '0'",
        ),
        (
            {"max_body": "5 apples"},
            "--max-body: expected a size such as 1000000, 64MiB or 10MB, got '5 apples'",
        ),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, str | None], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(MODEL, options)
    assert str(caught.value) == message


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^GPUX_PORT: expected an integer"):
        read_settings({**MODEL, "GPUX_PORT": "x"}, {})


def test_the_model_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match=r"^GPUX_MODEL is not set"):
        read_settings({}, {})
