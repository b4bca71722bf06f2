"""custom_ops: libraries by path, and within an installed module that is not imported."""

import sys
from pathlib import Path

import pytest

from gpux.config.custom_ops import find_custom_ops

LIBRARY = b"\x7fELF...\0RegisterCustomOps\0..."


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed module that must not be imported."""
    folder = tmp_path / "site" / "some_operators"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_a_path_is_relative_to_the_folder(tmp_path: Path) -> None:
    library = tmp_path / "lib" / "ops.so"
    library.parent.mkdir()
    library.write_bytes(LIBRARY)
    assert find_custom_ops("lib/ops.so", tmp_path) == library
    assert find_custom_ops(str(library), Path("/")) == library


def test_the_library_of_a_module_is_found_by_its_entry_point(tmp_path: Path, module: Path) -> None:
    (module / "_other.so").write_bytes(b"\x7fELF...\0PyInit__other\0")
    (module / "_empty.so").touch()
    with pytest.raises(ValueError, match="some_operators has no library with custom operators"):
        find_custom_ops("some_operators", tmp_path)
    (module / "lib").mkdir()
    (module / "lib" / "_ops.cpython-311.so").write_bytes(LIBRARY)
    assert find_custom_ops("some_operators", tmp_path) == module / "lib" / "_ops.cpython-311.so"
    (module / "_more.so").write_bytes(LIBRARY)
    with pytest.raises(ValueError, match="some_operators has several libraries"):
        find_custom_ops("some_operators", tmp_path)
    assert "some_operators" not in sys.modules


@pytest.mark.parametrize("name", ["nowhere", "lib/nowhere.so", "a.b", "sys", "\0"])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no such file|no library"):
        find_custom_ops(name, tmp_path)
