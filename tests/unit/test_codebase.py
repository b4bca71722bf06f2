"""The rules that the repository has for itself: who imports whom, and what is written twice."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gpux
from gpux import _dlpack, _engine, _fastpath
from gpux.errors import DISTRIBUTION, install_command

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "gpux"
CORE = ROOT / "src" / "_fastpath"

# A package imports only what stands below it, and a module of it only modules below itself. (What
# is not a package stands beside them: `model` is one loaded model, the extensions are Cython.)
ORDER: dict[str, list[str]] = {
    "": ["__init__", "__main__", "asgi", "wsgi"],
    "cli": ["main", "summary", "examples"],
    "http": [
        *(
            "asgi_app",
            "serve",
            "supervisor",
            "server",
            "listen",
            "exchange",
            "connection",
            "bodies",
        ),
        *("outgoing", "head", "limits"),
        *("application", "middleware", "app", "inference", "error_responses", "responses"),
        *("cross_origin", "headers"),
    ],
    "serving": [
        *("service", "warmup", "admission", "background", "engine", "scheduler", "threads"),
        *("inline", "batching_check", "batch", "batch_plan", "padding"),
    ],
    "model": [],
    "execution": [
        *("gpu", "gpu_buffers", "cuda_graphs", "copy_plan", "cpu", "session", "runtime"),
        *("cuda_libraries", "deadline"),
    ],
    "inputs": ["reader", "pipeline", "tokenizer", "model_io"],
    "tensors": ["request", "outputs", "cuda", "memory", "signature"],
    "config": ["settings", "custom_ops", "schema", "diagnosis", "values", "yaml", "messages"],
    "observability": [
        *("access_log", "tracing", "sinks", "record", "logs", "exposition", "metrics", "timings"),
        "shared_counters",
    ],
    "_engine": [],
    "_fastpath": [],
    "_dlpack": [],
    "errors": [],
}
MODULES_IN_ORDER = [
    name
    for package, modules in ORDER.items()
    for name in (
        modules
        if package == ""
        else [f"{package}.__init__", *(f"{package}.{module}" for module in modules)]
        if modules
        else [package]
    )
]
# Libraries that these modules alone may import.
IMPORTERS = {
    "uvloop": {"serving.background"},
    "httptools": {"http.head"},
    "falcon": {"http.app"},
    "prometheus_client": {"observability.exposition"},
    "opentelemetry": {"observability.tracing"},
    "cupy": {"tensors.cuda"},
    "tokenizers": {"inputs.tokenizer"},
    "yaml": {"config.yaml"},
}
NOWHERE = {"onnxruntime", "pickle"}

FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = list(FILES)
EXTENSIONS = {"_dlpack": _dlpack, "_engine": _engine, "_fastpath": _fastpath}


def imports(module: str) -> Iterator[tuple[str, str | None]]:
    """What a module imports anywhere in it: (library or module, name taken from it)."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of the package that a module imports; `__init__` for the package's own names."""
    found = set()
    for library, name in imports(module):
        if library != "gpux" and not library.startswith("gpux."):
            continue
        parent = library.removeprefix("gpux").removeprefix(".")
        child = f"{parent}.{name}".lstrip(".")
        found.add(child if child in MODULES_IN_ORDER else parent or "__init__")
    return found


def test_the_order_names_every_module() -> None:
    assert sorted({*MODULES, *EXTENSIONS}) == sorted(MODULES_IN_ORDER)


def test_the_top_is_small() -> None:
    top = {path.name for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert len(top - {"__pycache__"}) <= 14


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    below = set(MODULES_IN_ORDER[MODULES_IN_ORDER.index(module) + 1 :])
    assert imported_modules(module) <= below


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_extensions_import_down(extension: str) -> None:
    source = (CORE / f"{extension[1:]}.pyx").read_text()
    found = set(re.findall(r"^\s*(?:from|import)\s+gpux\.([\w.]+)", source, re.MULTILINE))
    assert found or extension != "_fastpath"
    assert found <= set(MODULES_IN_ORDER[MODULES_IN_ORDER.index(extension) + 1 :])


def test_packages_hold_no_code_of_their_own() -> None:
    for module in MODULES:
        if module.endswith(".__init__"):
            (only,) = ast.parse(FILES[module].read_text()).body
            assert isinstance(only, ast.Expr), f"{module} has more than its docstring"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_have_no_other_importers(module: str) -> None:
    libraries = {library.split(".")[0] for library, _ in imports(module)}
    assert {name for name in libraries if module not in IMPORTERS.get(name, {module})} == set()
    assert libraries & NOWHERE == set()


def test_the_named_importers_import() -> None:
    found = {
        (library.split(".")[0], module) for module in MODULES for library, _ in imports(module)
    }
    named = {(library, module) for library, modules in IMPORTERS.items() for module in modules}
    assert named <= found


def test_importing_the_package_does_no_work() -> None:
    code = """
import json, sys, threading
import gpux, gpux.wsgi
print(json.dumps([sorted(sys.modules), threading.active_count()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code.replace(", gpux.wsgi", "")],
        capture_output=True,
        text=True,
        check=True,
    )
    modules, threads = json.loads(done.stdout)
    assert {"onnxruntime", "falcon", "waitress", "cupy"} & set(modules) == set()
    assert threads == 1
    # The app is made when it is asked for, so this needs no model.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, threads = json.loads(done.stdout)
    assert {"onnxruntime", "waitress", "cupy"} & set(modules) == set()
    assert threads == 1
    assert done.stderr == ""


def test_public_names_exist_once() -> None:
    assert sorted(set(gpux.__all__)) == gpux.__all__
    for name in gpux.__all__:
        assert hasattr(gpux, name)


# The core.


def test_the_core_does_not_know_python() -> None:
    sources = [*CORE.glob("*.hpp"), *CORE.glob("*.cpp")]
    assert len(sources) > 2
    for source in sources:
        included = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', source.read_text(), re.MULTILINE)
        assert [name for name in included if "python" in name.lower()] == [], source.name
        assert re.findall(r"\bPy[A-Z_]\w+", source.read_text()) == [], source.name


def stub(extension: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{extension}.pyi").read_text())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_stubs_have_the_extensions_names(extension: str) -> None:
    public = {
        node.name
        for node in stub(extension).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    listed = next(
        ast.literal_eval(node.value)
        for node in stub(extension).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert listed == EXTENSIONS[extension].__all__
    assert public == set(listed)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_stubs_have_the_extensions_parameters(extension: str) -> None:
    for node in stub(extension).body:
        if isinstance(node, ast.FunctionDef):
            declared = [argument.arg for argument in node.args.args]
            function = getattr(EXTENSIONS[extension], node.name)
            assert list(inspect.signature(function).parameters) == declared


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_stubs_have_the_classes_members(extension: str) -> None:
    for node in stub(extension).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            declared = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            found = vars(getattr(EXTENSIONS[extension], node.name))
            members = {name for name in found if name[0] != "_"}
            assert {name for name in declared if name[0] != "_"} == members


# What is written in two places.


def test_the_build_lists_every_source() -> None:
    build = (ROOT / "meson.build").read_text()
    listed = re.findall(r"'(src/[^']+\.\w+)'", build)
    assert len(listed) == len(set(listed))
    sources = [
        *(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyi", ".typed")),
        *CORE.glob("*.cpp"),
        *CORE.glob("*.pyx"),
    ]
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in sources)


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built = re.search(r"\bversion: '([^']+)'", (ROOT / "meson.build").read_text())
    assert built
    assert project["dynamic"] == ["version"]
    assert built[1] == gpux.__version__


def test_the_distribution_is_named_in_one_place() -> None:
    """`gpux` on the package index is another project's: no message may install it."""
    for words in ("gpux-server", "pip install"):
        assert [name for name, path in FILES.items() if words in path.read_text()] == ["errors"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    for extra in ("cpu", "cuda", "text", "otel"):
        needed = project["optional-dependencies"][extra]
        pip, install, *named = shlex.split(install_command(extra))
        assert (pip, install) == ("pip", "install")
        assert list(map(Requirement, named)) == list(map(Requirement, needed))


def test_the_architecture_names_the_rooms_in_their_order() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert listed == [name for name in ORDER if name]


def test_every_lock_says_what_it_guards() -> None:
    locks = [
        (path.name, line.strip())
        for path in FILES.values()
        for line in path.read_text().splitlines()
        if re.search(r"= threading\.\w*(Lock|Condition|Semaphore)\(", line)
    ]
    assert locks
    assert [lock for lock in locks if "# guards " not in lock[1]] == []
