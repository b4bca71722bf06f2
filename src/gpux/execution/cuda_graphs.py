"""Decides which sets of input shapes run as captured CUDA graphs.

A graph replays the kernels of one run, with that run's shapes and addresses, in one call. This
saves the kernel launches, which are most of a small model's time. A graph keeps device memory and
is slow to capture, so only recurring shapes are worth it. Pure bookkeeping; a model's GpuExecution
is its only caller.

Source: ONNX Runtime's documentation, "Using CUDA Graphs"; NVIDIA's CUDA programming guide, "CUDA
Graphs".
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from gpux.config.schema import CudaGraph

# Maximum number of sets of shapes with a request count; the least recently seen is evicted.
_MAX_COUNTED = 1024


@dataclass(frozen=True, slots=True)
class Capture:
    """Run a request and capture it as the graph of this number (from 0)."""

    graph: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Replay the captured graph of this number."""

    graph: int


class GraphCache:
    """Counts the requests of each set of shapes, and records which sets have a graph.

    Args:
        mode: `off` for no graphs; `on` captures a set of shapes on its first request.
        reason: why there are no graphs in spite of the mode; None if there can be.
        max_graphs: maximum number of graphs; the first ones stay.
        after: in `auto`, requests of a set of shapes that run without a graph before a capture.
    """

    def __init__(
        self,
        mode: CudaGraph = "auto",
        reason: str | None = None,
        max_graphs: int = 8,
        after: int = 3,
    ) -> None:
        self._mode = mode
        self._reason = "runtime.cuda_graph is off" if mode == "off" else reason
        self._max_graphs = max_graphs
        self._after = 0 if mode == "on" else after
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._graphs: dict[Hashable, int] = {}
        self._next = 0
        self._replays = 0

    @property
    def runs_until_captured(self) -> int:
        """Requests of a set of shapes, up to and including the captured one; 1 without graphs."""
        return 1 if self._reason is not None else self._after + 1

    def lookup(self, shapes: Hashable) -> Capture | Replay | None:
        """How to run a request whose inputs have these shapes; None: without a graph."""
        graph = self._graphs.get(shapes)
        if graph is not None:
            self._replays += 1
            return Replay(graph)
        if self._reason is not None or len(self._graphs) >= self._max_graphs:
            return None
        seen = self._seen.pop(shapes, 0) + 1
        if seen > self._after:
            # Never reuse a number: ONNX Runtime remembers each.
            self._next += 1
            return Capture(self._next - 1)
        self._seen[shapes] = seen
        if len(self._seen) > _MAX_COUNTED:
            self._seen.popitem(last=False)
        return None

    def captured(self, shapes: Hashable, graph: int) -> None:
        """Records a captured graph."""
        self._graphs[shapes] = graph

    def give_up(self, reason: str) -> None:
        """Ends all capturing after a failure."""
        self._reason = reason
        self._seen.clear()

    def describe(self) -> dict[str, Any]:
        """The `cuda_graph` section of /info."""
        return {
            "mode": self._mode,
            "captured": len(self._graphs),
            "most": self._max_graphs,
            "replays": self._replays,
            "reason": self._reason,
        }
