"""inline: which requests run in the loop's own thread."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpux.model import load
from gpux.serving import inline
from gpux.serving.inline import InlineLimits, InlinePolicy, may_run_inline
from tests.support.fake_gpu import load_on_fake_gpu
from tests.support.ort import needs_placement

LIMITS = InlineLimits(run_seconds=0.001, budget_seconds=0.01, first_proof=3, threads=4)


class FakeTime:
    """Moves the clocks that the policy reads."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def thread_time(self) -> float:
        return self.cpu_seconds

    def run(self, policy: InlinePolicy, seconds: float, cpu_seconds: float | None = None) -> None:
        """Notes a run of that duration."""
        before = inline.read_clocks()
        self.seconds += seconds
        self.cpu_seconds += seconds if cpu_seconds is None else cpu_seconds
        policy.note_inline(100, before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(inline, "time", fake)
    return fake


def proven(size: int = 100) -> InlinePolicy:
    policy = InlinePolicy(LIMITS)
    for _ in range(LIMITS.first_proof):
        assert not policy.allows(size)
        policy.note_elsewhere(size, 0.0005)
    assert policy.allows(size)
    return policy


def test_a_size_is_inline_once_it_is_proven_short() -> None:
    policy = proven(100)
    assert policy.allows(64)
    assert policy.allows(127)
    assert not policy.allows(63)
    assert not policy.allows(128)


def test_one_long_run_starts_the_proof_anew() -> None:
    policy = InlinePolicy(LIMITS)
    for seconds in (0.0005, 0.0005, 0.002, 0.0005, 0.0005):
        policy.note_elsewhere(1, seconds)
    assert not policy.allows(1)
    policy.note_elsewhere(1, 0.0005)
    assert policy.allows(1)


def test_interruptions_are_not_the_models_fault(clock: FakeTime) -> None:
    policy = proven()
    for _ in range(1000):
        clock.run(policy, 0.008, 0.0002)
    assert policy.allows(100)


def test_a_few_long_runs_are_forgiven(clock: FakeTime) -> None:
    policy = proven()
    for _ in range(50):
        clock.run(policy, 0.008)
        for _ in range(100):
            clock.run(policy, 0.0005)
    assert policy.allows(100)


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("seconds", [4.0, 0.005])
def test_a_model_that_is_slow_after_all_is_not(
    clock: FakeTime, seconds: float, share: float
) -> None:
    policy = proven()
    for proof in (6, 12, 24):
        while policy.allows(100):
            clock.run(policy, seconds, share * seconds)
        for _ in range(proof):
            assert not policy.allows(100)
            policy.note_elsewhere(100, 0.0005)
        assert policy.allows(100)


@needs_placement
@pytest.mark.parametrize(
    ("name", "expected"), [("matrix", True), ("strings", True), ("slow", False)]
)
def test_models_without_a_loop_may_run_inline(
    name: str, expected: bool, model_file: Callable[[str], Path]
) -> None:
    assert may_run_inline(load(model_file(name), "cpu")) is expected


def test_a_model_on_a_gpu_may_not(model_file: Callable[[str], Path]) -> None:
    model, _, _ = load_on_fake_gpu(model_file("matrix"))
    assert not may_run_inline(model)
