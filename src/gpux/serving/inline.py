"""Decides which requests run in the event loop's own thread.

There, nothing else happens while a model runs; but a request that goes to another thread and back
costs more than a small model's run. So requests of a size run inline while they have proved short,
first in another thread, then inline. What counts is what the model takes, and not what else the
machine did meanwhile: a thread that is interrupted has used next to no CPU time.
"""

import os
import time
from dataclasses import dataclass

from gpux.execution.cpu import CpuExecution
from gpux.model import Model

# Operators with a sub-graph: how long they run may depend on the values of a request.
_WITH_SUBGRAPH = frozenset(("If", "Loop", "Scan", "SequenceMap"))
# Whose operators ONNX Runtime implements itself. Others may do anything, for any time.
_KNOWN_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training"))
_INTERNAL_DOMAINS = ("com.microsoft", "com.ms.internal")


@dataclass(frozen=True, slots=True)
class InlineLimits:
    """What may run inline.

    Attributes:
        run_seconds: a run that takes longer costs more than its way to another thread and back.
        budget_seconds: by how much inline runs may exceed that in all; each that does not exceed
            it restores a tenth of it.
        threads: that may share the work of a run, so that the loop's own is a part of it.
        first_proof: runs in another thread that must be short before one is inline; doubled each
            time that the budget is exhausted.
    """

    run_seconds: float = 0.0002
    budget_seconds: float = 0.01
    first_proof: int = 4
    threads: int = len(os.sched_getaffinity(0))


DEFAULT_LIMITS = InlineLimits()
_MAX_PROOF = 2**30


def may_run_inline(model: Model) -> bool:
    """Whether runs of a model take a time that their size tells: on the CPU, by known operators.

    False if ONNX Runtime does not report the operators: before 1.24.
    """
    if not isinstance(model.execution, CpuExecution) or model.operators is None:
        return False
    return all(
        operator not in _WITH_SUBGRAPH
        and (domain in _KNOWN_DOMAINS or domain.startswith(_INTERNAL_DOMAINS))
        for operator, domain in model.operators
    )


class InlinePolicy:
    """What is known of the runs of one model, by size. Used by the loop's thread only.

    A size is a number of bytes or of elements; sizes of the same bit length are one class.
    """

    def __init__(self, limits: InlineLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._classes: dict[int, _Class] = {}

    def allows(self, size: int) -> bool:
        """Whether a request of this size runs inline."""
        known = self._classes.get(size.bit_length())
        return known is not None and known.missing_proof <= 0

    def note_inline(self, size: int, before: "Clocks") -> None:
        """Records that an inline request has just run.

        Args:
            size: of the request.
            before: what read_clocks() returned when it began.
        """
        known = self._classes[size.bit_length()]
        limits = self._limits
        seconds = time.perf_counter() - before[0]
        if seconds > limits.run_seconds:  # or was it interrupted?
            seconds = min(seconds, (time.thread_time() - before[1]) * limits.threads)
        if seconds <= limits.run_seconds:
            if known.budget_seconds < limits.budget_seconds:
                known.budget_seconds += limits.run_seconds / 10
            return
        known.budget_seconds -= seconds - limits.run_seconds
        if known.budget_seconds < 0:
            known.proof = min(2 * known.proof, _MAX_PROOF)
            known.missing_proof = known.proof
            known.budget_seconds = limits.budget_seconds

    def note_elsewhere(self, size: int, cpu_seconds: float) -> None:
        """Records the CPU time of a request in another thread."""
        limits = self._limits
        known = self._classes.get(size.bit_length())
        if known is None:
            known = _Class(limits.first_proof, limits.first_proof, limits.budget_seconds)
            self._classes[size.bit_length()] = known
        if cpu_seconds > limits.run_seconds:
            known.missing_proof = known.proof
        else:
            known.missing_proof -= 1


# The time, and the CPU time of this thread, in seconds.
Clocks = tuple[float, float]


def read_clocks() -> Clocks:
    """Reads the clocks that tell what a run in this thread takes."""
    return time.perf_counter(), time.thread_time()


@dataclass(slots=True)
class _Class:
    """What is known of a class.

    Attributes:
        proof: how many runs must be short in a row.
        missing_proof: how many of these are missing; inline if none is.
        budget_seconds: what is left of it.
    """

    proof: int
    missing_proof: int
    budget_seconds: float
