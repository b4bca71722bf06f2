"""Decides which requests run in the event loop's own thread.

There, nothing else happens while a model runs; but a request that goes to another thread and back
costs more than a small model's run. So requests of a size run inline while they have proved short,
first in another thread, then inline. What counts is what the model takes, and not what else the
machine did meanwhile: a thread that is interrupted has used next to no CPU time.
"""

import os
from dataclasses import dataclass

from gpux._engine import InlinePolicy
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


def new_policy(limits: InlineLimits) -> InlinePolicy:
    """A policy that knows of no runs yet."""
    return InlinePolicy(
        run_seconds=limits.run_seconds,
        budget_seconds=limits.budget_seconds,
        threads=limits.threads,
        first_proof=limits.first_proof,
    )
