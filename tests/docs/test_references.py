"""Links, options, variables and gpux.yml keys on the pages exist, and none is left out."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from gpux.config.schema import InputConfig, ModelConfig, OutputConfig, read_config
from tests.support.servers import run_gpux

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs"
PAGES = [ROOT / "README.md", *GUIDE.glob("*.md"), *ROOT.glob("examples/*/README.md")]
# Those of contributors, whose links are checked too.
OTHER_PAGES = [
    *ROOT.glob("[A-Z]*.md"),
    *(ROOT / folder / "README.md" for folder in ("bench", "tests")),
]

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Those of apt-get, curl, docker, optimum-cli, systemctl, waitress-serve, gunicorn, granian.
OTHER_OPTIONS = {
    *("--yes", "--no-install-recommends"),
    *("--silent", "--include", "--request"),
    *("--from", "--tag", "--publish", "--stop-timeout"),
    *("--model", "--now", "--listen"),
    *("--bind", "--preload", "--interface", "--blocking-threads"),
}
# Accepted without effect: named where an upgrade is described, and in no table of options.
FORMER_OPTIONS = {"--server"}
FORMER_VARIABLES = {"GPUX_SERVER"}
FORMER_KEYS = {"serving.server"}


def options_of(command: str) -> set[str]:
    return set(OPTION.findall(run_gpux(command, "--help").stdout)) - {"--help"}


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", sorted({*PAGES, *OTHER_PAGES}), ids=lambda page: str(page.relative_to(ROOT))
)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((.*?\.md)\)", (GUIDE / "README.md").read_text()))
    assert linked == {page.name for page in GUIDE.glob("*.md")} - {"README.md"}


def test_options() -> None:
    named = {option for page in PAGES for option in OPTION.findall(page.read_text())}
    existing = options_of("serve") | options_of("run") | options_of("inspect")
    assert named - OTHER_OPTIONS - FORMER_OPTIONS <= existing
    assert existing <= set(OPTION.findall((GUIDE / "serve.md").read_text()))


def test_variables() -> None:
    named = {name for page in PAGES for name in re.findall(r"GPUX_[A-Z_]+", page.read_text())}
    settings = options_of("serve") - {"--verbose"}  # which has no variable
    options = {option[2:].replace("-", "_").upper() for option in settings}
    assert named - FORMER_VARIABLES == {f"GPUX_{name}" for name in options | {"MODEL"}}


def test_extras_and_targets() -> None:
    text = "".join(page.read_text() for page in PAGES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:\.|src|gpux)\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    assert not re.search(r"pip install ['\"]?gpux(?![_-]server)", text), "another project"


def keys_of(section: Any, prefix: str = "") -> Iterator[str]:
    """The key paths below a section of gpux.yml."""
    entries = {"inputs": InputConfig, "outputs": OutputConfig}
    for field in msgspec.structs.fields(section):
        path = prefix + field.encode_name
        if path in entries:
            yield from keys_of(entries[path], f"{path}.NAME.")
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from keys_of(field.type, f"{path}.")
        else:
            yield path


def test_keys_of_the_file() -> None:
    page = (GUIDE / "gpux-yml.md").read_text()
    named = re.findall(r"^\| `([A-Za-z_.]+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(keys_of(type(ModelConfig().content)))
    options = re.findall(r"\| `((?:runtime|serving)\.\w+)` \|", (GUIDE / "serve.md").read_text())
    assert set(options) <= set(named)
    settings = {key for key in named if key.startswith("serving.")}
    assert settings - FORMER_KEYS <= set(options)


def test_values_of_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "gpux.yml"
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.*?) \| `(.*?)` \|", (GUIDE / "gpux-yml.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 30
    for key, default, example in rows:
        for value in [example, *re.findall(r"^`(.*)`$", default)]:
            document: object = yaml.safe_load(value)
            for part in reversed(key.split(".")):
                document = {part: document}
            file.write_text(json.dumps(document))
            read_config(file, {})
