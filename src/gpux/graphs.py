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

from gpux.declaration import CudaGraph

# Sets of shapes whose requests are counted; the one that was not seen longest is forgotten.
_MOST_COUNTED = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a request.

    Attributes:
        graph: the number of its graph, from 0; None to run plainly.
        is_new: the graph has to be captured first.
    """

    graph: int | None
    is_new: bool = False


PLAIN = Verdict(None)


class GraphBook:
    """Counts sets of shapes, and says which have a graph.

    Args:
        mode: `off` for none at all; `on` captures a set of shapes when it comes for the first time.
        reason: why there are none in spite of the mode.
        most: graphs at the same time; the first ones stay.
        after: in `auto`, requests of a set of shapes that run plainly before it is captured.
    """

    def __init__(
        self, mode: CudaGraph = "auto", reason: str | None = None, most: int = 8, after: int = 3
    ) -> None:
        self._mode = mode
        self._reason = "runtime.cuda_graph is off" if mode == "off" else reason
        self._most = most
        self._after = 0 if mode == "on" else after
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._graphs: dict[Hashable, int] = {}
        self._next = 0
        self._replays = 0

    @property
    def runs_until_captured(self) -> int:
        """Requests of a set of shapes with the one that is captured; 1 where none is."""
        return 1 if self._reason is not None else self._after + 1

    def judge(self, shapes: Hashable) -> Verdict:
        """What to do with a request whose inputs have these shapes."""
        graph = self._graphs.get(shapes)
        if graph is not None:
            self._replays += 1
            return Verdict(graph)
        if self._reason is not None or len(self._graphs) >= self._most:
            return PLAIN
        seen = self._seen.pop(shapes, 0) + 1
        if seen > self._after:
            # Numbers are not used again: ONNX Runtime remembers each.
            self._next += 1
            return Verdict(self._next - 1, is_new=True)
        self._seen[shapes] = seen
        if len(self._seen) > _MOST_COUNTED:
            self._seen.popitem(last=False)
        return PLAIN

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
            "most": self._most,
            "replays": self._replays,
            "reason": self._reason,
        }
