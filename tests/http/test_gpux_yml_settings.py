"""How gpux.yml and the model are found, the precedence of settings, and time limits."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gpux
from gpux.config.settings import cores
from tests.support import onnx_models
from tests.support.servers import (
    Command,
    Described,
    Failure,
    FolderFor,
    ServerProcess,
    failed_start,
    free_port,
    head,
    run_gpux,
    serve,
    serve_wsgi,
)

# A run of this many steps ends only because it is stopped.
ENDLESS = 10**12

# Precedence: the command line over the environment over the file.


@pytest.fixture(scope="module")
def levels(folder_for: FolderFor) -> Iterator[Sequence[ServerProcess]]:
    """Servers of one file: alone, with environment variables, with options as well."""
    ports = [free_port() for _ in range(3)]
    file = f"""
serving:
  host: 127.0.0.2
  port: {ports[0]}
  threads: 2
  max_body: 1KiB
  timeout: 0.75
  cors_origins: [https://file.example]
runtime: {{provider: cpu, device: 0, threads: 1, graph_optimization: basic}}
"""
    variables = {
        "GPUX_HOST": "127.0.0.3",
        "GPUX_PORT": str(ports[1]),
        "GPUX_THREADS": "4",
        "GPUX_MAX_BODY": "2KiB",
        "GPUX_TIMEOUT": "1",
        "GPUX_CORS_ORIGINS": "https://env.example, http://localhost:3000",
        "GPUX_PROVIDER": "cpu",
        "GPUX_DEVICE": "0",
    }
    options = ["--host", "127.0.0.4", "--port", str(ports[2]), "--threads", "7"]
    options += ["--max-body", "3KiB", "--timeout", "1.5", "--cors-origins", "https://opt.example"]
    command = [sys.executable, "-m", "gpux", "serve", str(folder_for("slow", file))]
    started = [
        ServerProcess([*command, *arguments], r"Serving   http://\S+:(\d+)/predict", environment)
        for environment, arguments in (({}, []), (variables, []), (variables, options))
    ]
    for server, port in zip(started, ports, strict=True):
        assert server.port == port
    yield started
    assert [server.end() for server in started] == [0, 0, 0]


HOSTS = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


def test_host_and_port(levels: Sequence[ServerProcess]) -> None:
    for level, server in enumerate(levels):
        assert f"http://{HOSTS[level]}:{server.port}/predict" in server.stdout.text
        assert server.request("GET", "/health", host=HOSTS[level]).status == 200
        with pytest.raises(ConnectionError):
            server.request("GET", "/health", host="127.0.0.1")


def test_threads(levels: Sequence[ServerProcess]) -> None:
    """As many as are asked for, but no more than there are cores."""
    wanted = [2, 4, 7]
    expected = [min(threads, cores()) for threads in wanted]
    assert [server.threads("gpux-run-") for server in levels] == expected
    for server, threads in zip(levels, wanted, strict=True):
        assert (f"is {threads}, but a worker has" in server.stderr.text) == (threads > cores())


def test_max_body(levels: Sequence[ServerProcess]) -> None:
    for level, server in enumerate(levels):
        limit = 1024 * (level + 1)
        for size, status in ((limit, 200), (limit + 1, 413)):
            response = server.post('{"steps": 1}'.ljust(size), host=HOSTS[level])
            assert response.status == status
        assert str(limit) in response.detail


def test_timeout(levels: Sequence[ServerProcess]) -> None:
    for level, text in enumerate(["0.75 seconds", "1 second", "1.5 seconds"]):
        response = levels[level].post({"steps": ENDLESS}, host=HOSTS[level])
        assert response.error(504) == f"The request took longer than the limit of {text}"


ORIGINS = ["https://file.example", "https://env.example", "https://opt.example"]


def test_cors_origins(levels: Sequence[ServerProcess]) -> None:
    for level, server in enumerate(levels):
        for origin in (*ORIGINS, "http://localhost:3000", "https://other.example", "null"):
            response = server.request("GET", "/health", None, {"Origin": origin}, HOSTS[level])
            is_allowed = origin == ORIGINS[level] or (level == 1 and "localhost" in origin)
            allowed = response.headers["Access-Control-Allow-Origin"]
            assert allowed == (origin if is_allowed else None)
            assert response.headers["Vary"] == "Origin"


def test_defaults_without_any_of_it(described: Described) -> None:
    server = described("matrix", "name: plain")
    assert f"http://localhost:{server.port}/predict" in server.stdout.text
    response = server.request("GET", "/health", None, {"Origin": ORIGINS[0]})
    assert response.headers["Access-Control-Allow-Origin"] is None
    assert response.headers["Vary"] is None
    assert "67108864" in server.exchange(head(64 * 2**20 + 1)).detail


def test_every_origin(described: Described) -> None:
    for text in ('serving: {cors_origins: "*"}', 'serving: {cors_origins: ["*"]}'):
        server = described("matrix", text)
        for path in ("/health", "/nowhere"):
            response = server.request("GET", path, None, {"Origin": "https://any.example"})
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Vary"] is None


def test_other_files_have_other_keys(described: Described) -> None:
    """Keys without an environment variable or an option."""
    text = """
runtime:
  threads: 1
  gpu_memory_limit: 1GiB
  graph_optimization: disabled
  provider_options: {cudnn_conv_algo_search: HEURISTIC, do_copy_in_default_stream: true}
  session_options: {session.disable_prepacking: true}
  free_dimensions: {batch: 1}
"""
    assert described("matrix", text).predict({"x": [1, 2]}) == {"y": [1.0, 2.0]}


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_each_level_of_optimization_answers_alike(folder_for: FolderFor, level: str) -> None:
    folder = folder_for("sentiment", f"runtime: {{graph_optimization: {level}}}")
    result = gpux.load(folder).predict({"input_ids": [101, 2054], "attention_mask": [1, 1]})
    assert [round(float(logit), 3) for logit in result["logits"]] == [0.423, 0.146]


@pytest.mark.parametrize(
    ("options", "variables", "place"),
    [
        (["--timeout=0"], {}, "--timeout"),
        (["--timeout=nan"], {}, "--timeout"),
        (["--timeout=1e9"], {}, "--timeout"),
        (["--timeout=soon"], {"GPUX_TIMEOUT": "1"}, "--timeout"),
        (["--device=-1"], {}, "--device"),
        (["--device=gpu"], {}, "--device"),
        (["--cors-origins=app.example"], {}, "--cors-origins"),
        (["--cors-origins=https://a.example,"], {}, "--cors-origins"),
        (["--access-log=xml"], {}, "--access-log"),
        ([], {"GPUX_TIMEOUT": "-1"}, "GPUX_TIMEOUT"),
        ([], {"GPUX_DEVICE": "x"}, "GPUX_DEVICE"),
        ([], {"GPUX_ACCESS_LOG": "yes"}, "GPUX_ACCESS_LOG"),
        ([], {"GPUX_CORS_ORIGINS": "https://app.example/path"}, "GPUX_CORS_ORIGINS"),
    ],
)
def test_settings_refused(
    failure: Failure,
    folder_for: FolderFor,
    options: Sequence[str],
    variables: Mapping[str, str],
    place: str,
) -> None:
    folder = folder_for("matrix", "serving: {timeout: 5}")
    assert failure("serve", folder, *options, **variables).startswith(f"gpux: {place}: expected ")


# Finding the model and its gpux.yml.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with two models and several gpux.yml files about them."""
    folder = tmp_path_factory.mktemp("place")
    here = onnx_models.write_folder(folder / "here", "matrix", "name: here")
    onnx_models.write("cube", here)
    onnx_models.write_folder(folder / "yaml", "cube")
    for name, text in {
        "there/about.yml": "name: about\nmodel: {source: ../here/cube.onnx}",
        "there/plain.yaml": "name: plain",
        "yaml/gpux.yaml": "name: spelt",
        "far/gpux.yml": "name: far\nmodel: {source: ../here/model.onnx}",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "link").symlink_to(here)
    return folder


# The type tells the models apart: `matrix` has float32, `cube` int64.
@pytest.mark.parametrize(
    ("arguments", "variables", "name", "type_name"),
    [
        # A folder, and the files in it.
        (["here"], {}, "here", "float32"),
        (["here/gpux.yml"], {}, "here", "float32"),
        (["here/model.onnx"], {}, "here", "float32"),
        (["link/model.onnx"], {}, "here", "float32"),
        (["far"], {}, "far", "float32"),
        (["yaml"], {}, "spelt", "int64"),
        # The gpux.yml beside it is about another model.
        (["here/cube.onnx"], {}, "cube", "int64"),
        # A gpux.yml elsewhere.
        (["there/about.yml"], {}, "about", "int64"),
        (["--config", "there/about.yml"], {}, "about", "int64"),
        (["here", "--config", "there/plain.yaml"], {}, "plain", "float32"),
        (["here/cube.onnx", "--config", "there/plain.yaml"], {}, "plain", "int64"),
        # PATH overrides the model that the file names.
        (["here/model.onnx", "--config", "there/about.yml"], {}, "about", "float32"),
        (["here", "--config", "far/gpux.yml"], {}, "far", "float32"),
        # Environment variables.
        ([], {"GPUX_MODEL": "here"}, "here", "float32"),
        ([], {"GPUX_CONFIG": "there/about.yml"}, "about", "int64"),
        ([], {"GPUX_MODEL": "there/about.yml"}, "about", "int64"),
        ([], {"GPUX_MODEL": "here", "GPUX_CONFIG": "there/plain.yaml"}, "plain", "float32"),
        (["here/cube.onnx"], {"GPUX_CONFIG": "there/plain.yaml"}, "plain", "int64"),
        (["yaml"], {"GPUX_MODEL": "here"}, "spelt", "int64"),
        (["--config", "there/about.yml"], {"GPUX_CONFIG": "no/such"}, "about", "int64"),
        (["there/about.yml"], {"GPUX_CONFIG": "no/such"}, "about", "int64"),
        (["--config", "far/gpux.yml"], {"GPUX_MODEL": "there/about.yml"}, "far", "float32"),
        (["--config", "there/about.yml"], {"GPUX_MODEL": "here"}, "about", "float32"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list | dict) else str(part),
)
def test_the_model_and_its_file_are_found(
    command: Command,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    name: str,
    type_name: str,
) -> None:
    monkeypatch.chdir(models)
    code, stdout, stderr = command("inspect", *arguments, variables=variables)
    assert (code, stderr) == (0, "")
    lines = [line.split() for line in stdout.splitlines()]
    assert lines[0][:2] == ["Model", name]
    assert lines[2][:3] == ["Input", "x", type_name]


@pytest.mark.parametrize(
    ("arguments", "variables", "missing"),
    [
        ([], {}, "GPUX_MODEL"),
        (["--config", "no/such.yml"], {}, "no/such.yml"),
        (["no/such.yml"], {}, "no/such.yml"),
        (["there/no.yaml"], {}, "there/no.yaml"),
        (["here", "--config", "no/such.yml"], {}, "no/such.yml"),
        (["here", "--config", "there"], {}, "there"),
        (["here"], {"GPUX_CONFIG": "no/such.yml"}, "no/such.yml"),
        # The default is the model in the file's own folder, which has none.
        (["there/plain.yaml"], {}, "there: the folder has no model.onnx"),
        (["--config", "there/plain.yaml"], {}, "there: the folder has no model.onnx"),
        (["here/no.onnx"], {}, "here/no.onnx"),
        (["here/gpux.yml", "--config", "there/plain.yaml"], {}, "there/plain.yaml"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list | dict) else str(part),
)
def test_what_is_not_there_is_named(
    failure: Failure,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    missing: str,
) -> None:
    monkeypatch.chdir(models)
    assert missing in failure("inspect", *arguments, **variables)


def test_the_python_interface_finds_them_alike(models: Path) -> None:
    about = models / "there" / "about.yml"
    plain = models / "there" / "plain.yaml"
    assert gpux.load(models / "here").name == "here"
    assert gpux.load(str(about)).name == "about"
    assert gpux.load(config=about).name == "about"
    model = gpux.load(models / "here", config=str(plain), provider="cpu", threads=1)
    assert (model.name, model.file.name) == ("plain", "model.onnx")
    assert gpux.load(models / "here" / "cube.onnx").name == "cube"


def test_it_does_not_read_the_environment(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUX_* variables are ignored; only `${VAR}` in gpux.yml is expanded."""
    monkeypatch.setenv("GPUX_MODEL", str(models / "here"))
    monkeypatch.setenv("GPUX_CONFIG", str(models / "no.yml"))
    monkeypatch.setenv("GPUX_PROVIDER", "none")
    assert gpux.load(models / "here").name == "here"
    with pytest.raises(gpux.StartError):
        gpux.load()


@pytest.mark.parametrize(
    "variables",
    [
        {"GPUX_MODEL": "far"},
        {"GPUX_CONFIG": "far/gpux.yml"},
        {"GPUX_MODEL": "far/gpux.yml", "GPUX_MAX_BODY": "50"},
    ],
    ids=" ".join,
)
def test_wsgi(models: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    monkeypatch.chdir(models)
    serving = "serving: {max_body: 40, timeout: 5, cors_origins: [https://file.example]}"
    text = f"name: far\nmodel: {{source: ../here/model.onnx}}\n{serving}\n"
    (models / "far" / "gpux.yml").write_text(text)
    with serve_wsgi(variables) as server:
        response = server.request("GET", "/health", None, {"Origin": ORIGINS[0]})
        assert response.json == {"status": "healthy", "model": "far"}
        assert response.headers["Access-Control-Allow-Origin"] == ORIGINS[0]
        limit = int(variables.get("GPUX_MAX_BODY", "40"))
        assert server.post('{"x": [1]}'.ljust(limit)).json == {"y": [1.0]}
        assert server.post('{"x": [1]}'.ljust(limit + 1)).status == 413
        server.kill()  # the shutdown of waitress-serve is not under test


# Providers.


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize(
    ("in_file", "variable", "option", "code"),
    [
        ("cuda", None, None, 2),
        ("cuda", "cpu", None, 0),
        ("cuda", "cuda", "cpu", 0),
        ("cpu", None, None, 0),
        ("cpu", "cuda", None, 2),
        ("cpu", "cpu", "cuda", 2),
    ],
)
def test_provider(
    command: Command,
    folder_for: FolderFor,
    in_file: str,
    variable: str | None,
    option: str | None,
    code: int,
) -> None:
    folder = folder_for("matrix", f"runtime: {{provider: {in_file}}}")
    options = ["--provider", option] if option else []
    variables = {"GPUX_PROVIDER": variable} if variable else {}
    exit_code, _, stderr = command("inspect", folder, *options, variables=variables)
    assert exit_code == code
    assert ("cuda" in stderr) == (code == 2)


# Runs that take too long.


@pytest.mark.parametrize("model", ["slow", "slow_words"])
def test_a_run_past_the_limit_is_stopped_and_the_server_goes_on(
    described: Described, model: str
) -> None:
    server = described(model, "serving: {timeout: 1, threads: 2}")
    word = {"word": "a"} if model == "slow_words" else {}
    message = "The request took longer than the limit of 1 second"
    with ThreadPoolExecutor(2) as callers:
        for _ in range(2):  # once per worker
            first = callers.submit(server.post, {"steps": ENDLESS, **word})
            assert server.predict({"steps": 1, **word})["sum"] == 128.0
            second = callers.submit(server.post, {"steps": ENDLESS, **word})
            assert [task.result().error(504) for task in (first, second)] == [message] * 2
            # Stopped runs do not affect later ones.
            assert server.predict({"steps": 3, **word})["sum"] == 128.0
    assert server.request("GET", "/health").status == 200


def test_a_run_past_the_limit_is_no_failure_of_the_model(described: Described) -> None:
    server = described("slow", "serving: {timeout: 0.5}")
    assert server.post({"steps": ENDLESS}).status == 504
    assert server.stderr.text == ""
    assert server.post({"steps": [1, 2]}).status == 500


def test_the_command_runs_with_the_limit(folder_for: FolderFor) -> None:
    body = json.dumps({"steps": ENDLESS})
    done = run_gpux("run", str(folder_for("slow", "serving: {timeout: 0.5}")), "--input", body)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gpux: The request took longer than the limit of 0.5 seconds\n"


def test_a_port_that_is_taken_is_named(folder_for: FolderFor) -> None:
    with serve(folder_for("matrix", "name: first")) as first:
        folder = folder_for("matrix", f"serving: {{port: {first.port}}}")
        assert str(first.port) in failed_start("serve", str(folder))
