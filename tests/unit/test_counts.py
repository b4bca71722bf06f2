"""tests/core/counts.py: reading callgrind dumps, and failing on regressions."""

import json
from pathlib import Path

import pytest

from tests.core.counts import (
    BASELINE,
    Count,
    compare,
    main,
    read_baselines,
    read_dump,
    write_baselines,
)

DUMP = """\
# callgrind format
version: 1
desc: Timerange: Basic block 0 - 1663252
desc: Trigger: Client Request: decode floats, shortest
positions: line
events: Ir
summary: 1207

ob=/lib/ld-linux.so.2
fl=???
fn=start
5 7
cob=/build/counts
cfi=???
cfn=main
calls=1 0
0 1200

ob=/build/counts
fl=???
fn=read()
0 100
+3 20
cfn=own()
calls=2 0
0 60
cob=/lib/libc.so.6
cfi=???
cfn=memcpy
calls=3 0
0 1000
* 30

fn=own()
-1 50

ob=/lib/libc.so.6
fl=???
fn=memcpy
0 1000
"""


def test_what_is_counted_is_the_drivers_own() -> None:
    assert read_dump(DUMP.splitlines(keepends=True), "/build/counts") == (
        "decode floats, shortest",
        Count(instructions=100 + 20 + 30 + 50, calls=3),
    )


@pytest.mark.parametrize(
    ("instructions", "calls", "verdict", "holds"),
    [
        (1000, 100, "", True),
        (1030, 103, "", True),
        (1031, 100, "MORE", False),
        (1000, 104, "MORE", False),
        (971, 100, "", True),
        (970, 100, "fewer: make counts-baseline", True),
    ],
)
def test_three_percent_more_fails(instructions: int, calls: int, verdict: str, holds: bool) -> None:
    lines, passed = compare({"a": Count(instructions, calls)}, {"a": Count(1000, 100)})
    assert passed == holds
    assert lines[1].endswith(verdict or "%")


def test_a_case_without_a_call_may_not_begin_to_call() -> None:
    _, holds = compare({"a": Count(1000, 1)}, {"a": Count(1000, 0)})
    assert not holds


def test_a_case_that_was_never_kept_fails() -> None:
    lines, holds = compare({"a": Count(9, 0), "b": Count(9, 0)}, {"a": Count(9, 0)})
    assert not holds
    assert lines[2].endswith("NEW: make counts-baseline")


def test_a_case_that_cannot_be_counted_here_is_told() -> None:
    lines, holds = compare({"a": Count(9, 0)}, {"a": Count(9, 0), "avx2": Count(9, 0)})
    assert holds
    assert lines[2].endswith("not counted here")


def test_an_unknown_compiler_is_not_judged() -> None:
    lines, holds = compare({"a": Count(9, 0)}, None)
    assert holds
    assert lines[1].split() == ["a", "9", "0"]


def test_the_baseline_is_kept_a_case_a_line(tmp_path: Path) -> None:
    baselines = {"g++ 13": {"b": Count(3, 4)}, "g++ 12": {"a": Count(1, 2), "c": Count(5, 6)}}
    file = tmp_path / "counts.json"
    write_baselines(file, baselines)
    assert read_baselines(file) == baselines
    assert file.read_text().splitlines() == [
        "{",
        ' "g++ 12": {',
        '  "a": [1, 2],',
        '  "c": [5, 6]',
        " },",
        ' "g++ 13": {',
        '  "b": [3, 4]',
        " }",
        "}",
    ]


def test_the_kept_file_is_as_it_would_be_written(tmp_path: Path) -> None:
    file = tmp_path / "counts.json"
    write_baselines(file, read_baselines(BASELINE))
    assert file.read_text() == BASELINE.read_text()
    assert all(json.loads(BASELINE.read_text()).values())


def test_a_driver_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/bin/false"]) == 2
    assert capsys.readouterr().err.startswith("counts: ")
