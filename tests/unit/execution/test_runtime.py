"""runtime and cuda_libraries: what is found, loaded and refused, without importing onnxruntime."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gpux import _engine
from gpux.errors import RuntimeMissingError
from gpux.execution.cuda_libraries import open_cuda_libraries
from gpux.execution.runtime import find_library, load_runtime

Find = Callable[[str], Path]


def in_a_process(code: str, *arguments: object) -> str:
    """What a program prints in a process of its own, without its environment."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a module `onnxruntime` that is found instead of the installed one."""
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    origin = tmp_path / "onnxruntime" / "__init__.py"
    spec = ModuleSpec("onnxruntime", None, origin=str(origin), is_package=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    return folder


def test_the_library_is_the_installed_one() -> None:
    load_runtime()
    assert find_library().name == f"libonnxruntime.so.{_engine.runtime_version()}"
    assert _engine.runtime_version() == importlib.metadata.version("onnxruntime")


def test_two_runtimes_are_refused(wheel: Path) -> None:
    for name in ("onnxruntime-1.30.0", "onnxruntime_gpu-1.31.1"):
        (wheel.parent.parent / f"{name}.dist-info").mkdir()
    with pytest.raises(RuntimeMissingError, match="onnxruntime and onnxruntime-gpu are both"):
        find_library()


@pytest.mark.parametrize("spec", [None, ModuleSpec("onnxruntime", None, is_package=True)])
def test_no_runtime_is_said_clearly(
    monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(
        RuntimeMissingError, match=r"not installed: pip install 'onnxruntime>=1\.22'"
    ):
        find_library()


def test_a_wheel_without_the_library_is_refused(wheel: Path) -> None:
    with pytest.raises(RuntimeMissingError, match=r"capi has no libonnxruntime\.so, as version 1"):
        find_library()
    (wheel / "libonnxruntime.so.1.22.0").touch()
    assert find_library() == wheel / "libonnxruntime.so.1.22.0"


LOAD = """
import sys
from gpux import _engine
for library in sys.argv[1:]:
    try:
        _engine.load_library(library)
    except RuntimeError as error:
        print(error)
print(_engine.runtime_version())
"""

OTHER_VERSION = """
const void* api(unsigned version) { return 0; }
const char* text(void) { return "%s"; }
static const struct { const void* (*api)(unsigned); const char* (*text)(void); } base = {api, text};
const void* OrtGetApiBase(void) { return &base; }
"""


@pytest.fixture
def fake_library(tmp_path: Path) -> Callable[[str], Path]:
    """Compiles a library with OrtGetApiBase() and no API."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def build(version: str) -> Path:
        source = tmp_path / f"{version}.c"
        source.write_text(OTHER_VERSION % version)
        library = source.with_suffix(".so")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        return library

    return build


def test_what_cannot_be_loaded_leaves_nothing(
    fake_library: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "text.so").write_text("no library")
    other = next(Path(_engine.__file__).parent.glob("_dlpack*.so"))
    libraries = [
        tmp_path / "text.so",
        other,
        fake_library("1.21.9"),
        fake_library("2.0.0"),
        fake_library("1.30.0"),
        find_library(),
    ]
    *problems, version = in_a_process(LOAD, *libraries).splitlines()
    expected = [
        "invalid ELF header|file too short",
        "is not ONNX Runtime: it has no OrtGetApiBase",
        r"^ONNX Runtime 1\.21\.9 is installed, and GPUX needs 1\.22 or later, below 2\.0$",
        r"^ONNX Runtime 2\.0\.0 is installed, and GPUX needs",
        r"^ONNX Runtime 1\.30\.0 does not offer its own API version$",
    ]
    assert len(problems) == len(expected)
    for problem, pattern in zip(problems, expected, strict=True):
        assert re.search(pattern, problem)
    assert version == importlib.metadata.version("onnxruntime")


def test_nothing_is_called_before_it_is_loaded() -> None:
    code = """
from gpux import _engine
for call in (
    _engine.available_providers,
    lambda: _engine.SessionOptions(1, 99),
    lambda: _engine.RunOptions({}),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    assert in_a_process(code) == "ONNX Runtime is not loaded\n" * 3


def test_an_old_one_is_said_clearly(fake_library: Callable[[str], Path], wheel: Path) -> None:
    fake_library("1.21.9").rename(wheel / "libonnxruntime.so.1.21.9")
    code = """
import importlib.metadata, importlib.util, sys
from types import SimpleNamespace
from gpux.execution import runtime
runtime.importlib.util.find_spec = lambda _: SimpleNamespace(origin=sys.argv[1])
try:
    runtime.load_runtime()
except runtime.RuntimeMissingError as error:
    print(error)
"""
    said = in_a_process(code, wheel.parent / "__init__.py")
    assert said.startswith("ONNX Runtime cannot be used: ONNX Runtime 1.21.9 is installed, and ")


def test_telemetry_is_off_before_the_runtime_is_loaded() -> None:
    code = """
import os, gpux.execution.runtime as runtime
assert 'ORT_DISABLE_TELEMETRY' not in os.environ
def load(library):
    print(os.environ['ORT_DISABLE_TELEMETRY'])
runtime._engine.load_library = load
runtime.load_runtime()
"""
    assert in_a_process(code) == "1\n"


def test_a_process_that_ran_a_model_has_not_imported_onnxruntime(model_file: Find) -> None:
    code = """
import json, sys, gpux
model = gpux.load(sys.argv[1], "cpu")
answer = model.predict({"x": [[1.5, 2.0]]})["y"].tolist()
print(json.dumps([answer, model.describe()["runtime"], "onnxruntime" in sys.modules]))
"""
    answer, runtime, is_imported = json.loads(in_a_process(code, model_file("matrix")))
    assert answer == [[1.5, 2.0]]
    assert runtime == f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    assert not is_imported


# CUDA's libraries.


def opened(
    monkeypatch: pytest.MonkeyPatch, provider: Path, wheels: Path | None, absent: str = "no name"
) -> list[str]:
    """The libraries that are opened for a provider, in their order."""
    names: list[str] = []

    def open_library(name: str, mode: int) -> None:
        if absent in name:
            raise OSError(f"{name}: cannot open shared object file")
        assert mode & 0x100, "RTLD_GLOBAL"
        names.append(name if wheels is None else name.replace(f"{wheels}/", ""))

    spec = None
    if wheels is not None:
        spec = ModuleSpec("nvidia", None, is_package=True)
        spec.submodule_search_locations = [str(wheels)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr("gpux.execution.cuda_libraries.ctypes.CDLL", open_library)
    open_cuda_libraries(provider)
    return names


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    path = tmp_path / "libonnxruntime_providers_cuda.so"
    path.write_bytes(
        b"\x7fELF\0libcublas.so.12\0libcublasLt.so.12\0libcudart.so.12\0libm.so.6\0libcufft.so.11\0"
    )
    return path


def test_the_provider_decides_the_versions(
    monkeypatch: pytest.MonkeyPatch, provider: Path, tmp_path: Path
) -> None:
    for file in (
        *("cublas/lib/libcublas.so.12", "cublas/lib/libcublasLt.so.12", "cu13/lib/libcublas.so.13"),
        *("cu13/lib/libcudart.so.13", "cudnn/lib/libcudnn.so.9", "cudnn/lib/libcudnn_ops.so.9"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    # In the order of their dependencies. cudart and cufft are left to the loader's own search, and
    # cudnn, which is not among those it names, comes from the wheels.
    expected = [
        *("libcudart.so.12", "cublas/lib/libcublasLt.so.12", "cublas/lib/libcublas.so.12"),
        *("libcufft.so.11", "cudnn/lib/libcudnn.so.9"),
    ]
    assert opened(monkeypatch, provider, tmp_path) == expected
    expected.remove("libcufft.so.11")
    assert opened(monkeypatch, provider, tmp_path, absent="cufft") == expected


def test_without_wheels_the_loader_searches(
    monkeypatch: pytest.MonkeyPatch, provider: Path, tmp_path: Path
) -> None:
    assert opened(monkeypatch, provider, None) == [
        *("libcudart.so.12", "libcublasLt.so.12", "libcublas.so.12", "libcufft.so.11")
    ]
    assert opened(monkeypatch, tmp_path / "none.so", None) == []
