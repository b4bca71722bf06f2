"""settings: options over environment over defaults, and errors that name the source."""

from pathlib import Path

import pytest

from gpux.config import settings
from gpux.config.settings import Settings, read_settings
from gpux.errors import ConfigurationError

Environment = dict[str, str]


@pytest.fixture
def model(tmp_path: Path) -> Environment:
    """An environment that names a model file, which is empty."""
    (tmp_path / "m.onnx").touch()
    return {"GPUX_MODEL": str(tmp_path / "m.onnx")}


def test_the_model_alone_is_enough(model: Environment) -> None:
    assert read_settings(model, {}) == Settings(model=Path(model["GPUX_MODEL"]))


def test_the_environment_is_read(model: Environment) -> None:
    environment = {
        **model,
        "GPUX_PROVIDER": "cpu",
        "GPUX_DEVICE": "1",
        "GPUX_HOST": "0.0.0.0",
        "GPUX_PORT": "0",
        "GPUX_THREADS": "7",
        "GPUX_MAX_BODY": "10MB",
        "GPUX_TIMEOUT": "0.5",
        "GPUX_CORS_ORIGINS": "https://a.example, http://b.example:3000",
    }
    assert read_settings(environment, {}) == Settings(
        model=Path(model["GPUX_MODEL"]),
        provider="cpu",
        device=1,
        host="0.0.0.0",
        port=0,
        threads=7,
        max_body_bytes=10_000_000,
        timeout_seconds=0.5,
        cors_origins=("https://a.example", "http://b.example:3000"),
    )


def test_options_go_over_the_environment(model: Environment, tmp_path: Path) -> None:
    environment = {**model, "GPUX_PORT": "1", "GPUX_THREADS": "2", "GPUX_MAX_BODY": "3"}
    other = tmp_path / "n.onnx"
    other.touch()
    options = {"model": str(other), "port": "4", "threads": None, "max_body": "5"}
    expected = Settings(model=other, port=4, threads=2, max_body_bytes=5)
    assert read_settings(environment, options) == expected


def test_an_empty_variable_is_not_set(model: Environment) -> None:
    assert read_settings({**model, "GPUX_PORT": ""}, {}).port == 8080


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("1b", 1),
        ("1kB", 1000),
        ("2 KiB", 2048),
        ("1GiB", 2**30),
        ("64MiB", 2**26),
        ("64 mib", 2**26),
        ("10MB", 10**7),
        ("1GB", 10**9),
        ("2kib", 2048),
    ],
)
def test_sizes_have_units(model: Environment, text: str, size_bytes: int) -> None:
    assert read_settings({**model, "GPUX_MAX_BODY": text}, {}).max_body_bytes == size_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": "x"}, "--port: expected an integer from 0 to 65535, got 'x'"),
        ({"port": "-1"}, "--port: expected an integer from 0 to 65535, got '-1'"),
        ({"port": "65536"}, "--port: expected an integer from 0 to 65535, got '65536'"),
        ({"port": "1" * 5000}, f"--port: expected an integer from 0 to 65535, got '{'1' * 59}…"),
        ({"port": "٣"}, "--port: expected an integer from 0 to 65535, got '٣'"),
        ({"threads": "0"}, "--threads: expected an integer from 1 to 1024, got '0'"),
        ({"provider": "gpu"}, "--provider: expected auto, cpu or cuda, got 'gpu'"),
        ({"timeout": "nan"}, "--timeout: expected seconds above 0, at most 86400, got 'nan'"),
        (
            {"cors_origins": "https://a.example/"},
            "--cors-origins: expected '*' or an origin such as https://app.example: lower case, "
            "ASCII, without a path or a default port, got 'https://a.example/'",
        ),
        ({"max_body": "0"}, "--max-body: expected a size such as 1000000, 64MiB or 10MB, got '0'"),
        (
            {"max_body": "5 apples"},
            "--max-body: expected a size such as 1000000, 64MiB or 10MB, got '5 apples'",
        ),
    ],
)
def test_a_wrong_option_is_named(
    model: Environment, options: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(model, options)
    assert str(caught.value) == message


def test_a_wrong_variable_is_named(model: Environment) -> None:
    with pytest.raises(ConfigurationError, match=r"^GPUX_PORT: expected an integer"):
        read_settings({**model, "GPUX_PORT": "x"}, {})


def test_the_model_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match=r"^no model is named: PATH or GPUX_MODEL"):
        read_settings({}, {})


# The CPU cores that a process may use.


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_the_container(
    tmp_path: Path, files: dict[str, str], cpus: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert settings._cpu_quota(tmp_path) == cpus


@pytest.mark.parametrize(
    ("quota", "bound", "number"), [(None, 8, 8), (1.5, 8, 2), (0.2, 8, 1), (16.0, 4, 4)]
)
def test_the_cores_are_those_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, bound: int, number: int
) -> None:
    monkeypatch.setattr(settings, "_cpu_quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(bound)))
    assert settings.cores() == number
