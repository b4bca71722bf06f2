"""inline: which requests run in the loop's own thread."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpux._engine import InlinePolicy
from gpux.model import load
from gpux.serving.inline import InlineLimits, may_run_inline, new_policy
from tests.support.fake_gpu import load_on_fake_gpu
from tests.support.ort import needs_placement

LIMITS = InlineLimits(run_seconds=0.001, budget_seconds=0.01, first_proof=3, threads=4)


def run(policy: InlinePolicy, seconds: float, cpu_seconds: float | None = None) -> None:
    """Notes an inline run of that duration."""
    policy.note_inline(100, seconds, seconds if cpu_seconds is None else cpu_seconds)


def proven(size: int = 100) -> InlinePolicy:
    policy = new_policy(LIMITS)
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


@pytest.mark.parametrize("size", [0, 1, 2**63, 2**64 - 1])
def test_sizes_at_the_ends(size: int) -> None:
    assert proven(size).allows(size)


def test_one_long_run_starts_the_proof_anew() -> None:
    policy = new_policy(LIMITS)
    for seconds in (0.0005, 0.0005, 0.002, 0.0005, 0.0005):
        policy.note_elsewhere(1, seconds)
    assert not policy.allows(1)
    policy.note_elsewhere(1, 0.0005)
    assert policy.allows(1)


def test_short_batches_prove_that_their_requests_are_short() -> None:
    policy = new_policy(LIMITS)
    for _ in range(LIMITS.first_proof):
        assert not policy.allows(1)
        policy.note_elsewhere(1, 0.001, 32)
    assert policy.allows(1)


def test_longer_batches_prove_nothing_unless_the_share_of_one_is_long() -> None:
    policy = new_policy(LIMITS)
    for _ in range(LIMITS.first_proof - 1):
        policy.note_elsewhere(1, 0.001)
    policy.note_elsewhere(1, 0.032, 32)
    assert not policy.allows(1)
    policy.note_elsewhere(1, 0.001)
    assert policy.allows(1)
    policy.note_elsewhere(1, 0.033, 32)
    assert not policy.allows(1)


def test_interruptions_are_not_the_models_fault() -> None:
    policy = proven()
    for _ in range(1000):
        run(policy, 0.008, 0.0002)
    assert policy.allows(100)


def test_a_few_long_runs_are_forgiven() -> None:
    policy = proven()
    for _ in range(50):
        run(policy, 0.008)
        for _ in range(100):
            run(policy, 0.0005)
    assert policy.allows(100)


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("seconds", [4.0, 0.005])
def test_a_model_that_is_slow_after_all_is_not(seconds: float, share: float) -> None:
    policy = proven()
    for proof in (6, 12, 24):
        while policy.allows(100):
            run(policy, seconds, share * seconds)
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
