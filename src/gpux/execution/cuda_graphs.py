"""Which sets of input shapes run as captured CUDA graphs.

A graph replays the kernels of one run, with the shapes and the addresses of that run, in one call:
it saves the launches, which are most of a small model's time. Each one keeps device memory and was
slow to capture, so only what comes again and again is worth it. Pure bookkeeping; a model's
executor is its only caller.

Source: ONNX Runtime's documentation, "Using CUDA Graphs"; NVIDIA's CUDA programming guide, "CUDA
Graphs".
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from gpux.config.schema import CudaGraph

# Sets of shapes whose requests are counted; the one that was not seen longest is forgotten.
_MAX_COUNTED = 1024


@dataclass(frozen=True, slots=True)
class Capture:
    """Run a request and capture it as the graph of this number, from 0."""

    graph: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Replay the captured graph of this number."""

    graph: int


class GraphCache:
    """Counts sets of shapes, and says which have a graph.

    Args:
        mode: `off` for none at all; `on` captures a set of shapes when it comes for the first time.
        reason: why there are none in spite of the mode.
        max_graphs: graphs at the same time; the first ones stay.
        after: in `auto`, requests of a set of shapes that run plainly before it is captured.
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
        """Requests of a set of shapes with the one that is captured; 1 where none is."""
        return 1 if self._reason is not None else self._after + 1

    def lookup(self, shapes: Hashable) -> Capture | Replay | None:
        """What to do with a request whose inputs have these shapes; None to run without a graph."""
        graph = self._graphs.get(shapes)
        if graph is not None:
            self._replays += 1
            return Replay(graph)
        if self._reason is not None or len(self._graphs) >= self._max_graphs:
            return None
        seen = self._seen.pop(shapes, 0) + 1
        if seen > self._after:
            # Numbers are not used again: ONNX Runtime remembers each.
            self._next += 1
            return Capture(self._next - 1)
        self._seen[shapes] = seen
        if len(self._seen) > _MAX_COUNTED:
            self._seen.popitem(last=False)
        return None

    def captured(self, shapes: Hashable, graph: int) -> None:
        """A new graph has been captured."""
        self._graphs[shapes] = graph

    def give_up(self, reason: str) -> None:
        """Capturing failed: nothing is captured any more."""
        self._reason = reason
        self._seen.clear()

    def describe(self) -> dict[str, Any]:
        """What /info says."""
        return {
            "mode": self._mode,
            "captured": len(self._graphs),
            "most": self._max_graphs,
            "replays": self._replays,
            "reason": self._reason,
        }
