"""Runs requests on a GPU, all through one stream, by one thread.

A request goes: page-locked memory → the device; the model; the device → page-locked memory; an
event. The executor's thread puts all this on the stream and takes the next request at once, so that
its copies and launches overlap the present one's run. The request's own thread waits for the event.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpux.errors import DeadlineError, GpuxError, InferenceError
from gpux.execution.cpu import run_arrays, watched
from gpux.execution.cuda_graphs import Capture, GraphCache, Replay
from gpux.execution.deadline import Deadline
from gpux.execution.gpu_buffers import BoundBuffers
from gpux.execution.session import Session, reason_of
from gpux.tensors.cuda import Event, Stream
from gpux.tensors.memory import Block, Pool, Tensor
from gpux.tensors.outputs import Output
from gpux.tensors.request import Request
from gpux.tensors.signature import Signature, names

logger = logging.getLogger(__name__)

# Requests on the stream: one runs, the next is copied in and launched.
_MAX_ON_STREAM = 2
_MAX_IDLE_DEVICE_BYTES = 2**30


class GpuExecution:
    """Any number of threads may use it at once.

    Args:
        session: the model's.
        signature: its inputs, and the outputs that are wanted.
        stream: the session's.
        pinned: page-locked blocks, from which those of requests come.
        graphs: which sets of shapes run as CUDA graphs; the executor's own from now on.

    Attributes:
        device_pool: the pool of blocks on the device.
    """

    def __init__(
        self,
        session: Session,
        signature: Signature,
        stream: Stream,
        pinned: Pool,
        graphs: GraphCache,
    ) -> None:
        self._session = session
        self._signature = signature
        self._stream = stream
        self._pinned = pinned
        self.device_pool = Pool(stream.allocate, _MAX_IDLE_DEVICE_BYTES)
        self._graphs = graphs
        self._room = threading.Semaphore(_MAX_ON_STREAM)  # guards how many are on the stream
        self._is_trial = False
        # The executor's thread's own:
        self._options = self._create_options()
        self._captured: dict[int, tuple[BoundBuffers, Any]] = {}  # and the options, by graph
        # Outputs that ONNX Runtime must device: those that are inputs, where it answers with the
        # input's own memory, and those whose shape was once not the one predicted.
        inputs = set(names(signature.inputs))
        self._unpredicted = {
            index for index, name in enumerate(names(signature.outputs)) if name in inputs
        }
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="gpux-executor", initializer=stream.adopt
        )

    def run(self, request: Request, deadline: Deadline | None = None) -> list[Output]:
        """The outputs of a request, in the order of the signature, in page-locked memory.

        Args:
            request: its blocks are the stream's until the model has read them, and go back to the
                pool from there. Those of the outputs are the request's from now on.
            deadline: at which it is stopped, as far as ONNX Runtime works on the CPU. What the GPU
                has been given runs to its end.

        Raises:
            DeadlineError: it was stopped.
            InferenceError: ONNX Runtime failed; its own words are the cause.

        The caller waits without the GIL.
        """
        in_flight = _InFlightRun(request)
        launched = self._executor.submit(self._launch, in_flight, deadline)
        try:
            launched.result()
            in_flight.wait()
        except BaseException as error:
            # Whether it failed, or the caller leaves before it is done: all its blocks go back, but
            # not before the stream has got past them.
            launched.add_done_callback(lambda _: self._complete(in_flight, has_caller=False))
            if isinstance(error, Exception) and not isinstance(error, GpuxError):
                # What the device says of a kernel, it says later, of whatever is asked of it next.
                raise InferenceError(reason_of(error)) from error
            raise
        self._complete(in_flight, has_caller=True)
        return in_flight.outputs

    @contextlib.contextmanager
    def uncaptured(self) -> Iterator[None]:
        """While it is entered runs are for trial: none of their shapes is captured, or counted."""
        was_trial, self._is_trial = self._is_trial, True
        try:
            yield
        finally:
            self._is_trial = was_trial

    @property
    def runs_until_warm(self) -> int:
        """Of one set of shapes: the last one is captured as a CUDA graph, where that is done."""
        return self._graphs.runs_until_captured

    def close(self) -> None:
        """Ends the thread when what it was given is done."""
        self._executor.shutdown()

    def describe(self) -> dict[str, Any]:
        """What /info says of it."""
        pools = {"device": self.device_pool, "pinned": self._pinned}
        return {
            "cuda_graph": self._graphs.describe(),
            "memory": {name: pool.usage._asdict() for name, pool in pools.items()},
        }

    def _complete(self, in_flight: "_InFlightRun", *, has_caller: bool) -> None:
        """Takes a request off the stream: every block goes where it belongs."""
        try:
            in_flight.wait()
        finally:
            if in_flight.buffers is not None:
                in_flight.buffers.release()
            for block in in_flight.blocks:
                self._pinned.give(block)
            for block in in_flight.output_blocks:
                if has_caller:
                    in_flight.request.keep(block)
                else:
                    self._pinned.give(block)
            in_flight.values.clear()
            if in_flight.is_on_stream:
                self._room.release()

    # All that follows is the executor's thread.

    def _launch(self, in_flight: "_InFlightRun", deadline: Deadline | None) -> None:
        """Puts a request on the stream."""
        self._room.acquire()
        in_flight.is_on_stream = True
        try:
            work = self._launch_bound if self._signature.is_numeric else self._launch_arrays
            _, was_stopped = watched(lambda: work(in_flight), self._options, deadline)
            if was_stopped:
                self._options = self._create_options()
        except DeadlineError:
            self._options = self._create_options()
            raise
        finally:
            in_flight.event = self._stream.record()

    def _create_options(self) -> Any:
        return self._session.create_options(synchronize=not self._signature.is_numeric)

    def _launch_arrays(self, in_flight: "_InFlightRun") -> None:
        """A model with strings, sequences or maps: ONNX Runtime does the copies."""
        in_flight.outputs = run_arrays(
            self._session, self._signature, in_flight.request, self._options
        )

    def _launch_bound(self, in_flight: "_InFlightRun") -> None:
        tensors: Mapping[str, Any] = in_flight.request.tensors
        # What another library lent lies elsewhere each time, and a graph reads its own addresses.
        is_lent = any(tensor.device == self._stream.device for tensor in tensors.values())
        if not is_lent and not self._is_trial:
            shapes = tuple((name, tensor.shape) for name, tensor in tensors.items())
            use = self._graphs.lookup(shapes)
            if isinstance(use, Capture):
                if self._capture(in_flight, tensors, shapes, use.graph):
                    return
            elif isinstance(use, Replay):
                self._replay(in_flight, tensors, *self._captured[use.graph])
                return
        try:
            self._run_plainly(in_flight, tensors)
        except Exception as error:
            if not _is_full(error):
                raise
            # What is idle here may be what ONNX Runtime's arena lacks, or the other way round.
            in_flight.wait_for(self._stream)
            self.device_pool.free_idle()
            self._run_plainly(in_flight, tensors)

    def _run_plainly(self, in_flight: "_InFlightRun", tensors: Mapping[str, Tensor]) -> None:
        shapes = self._predict_shapes(tensors)
        in_flight.hold(self._bind(tensors, shapes))
        assert in_flight.buffers is not None
        buffers = in_flight.buffers
        in_flight.blocks += buffers.copy_in(tensors, self._pinned)
        try:
            self._session.run(buffers.binding, self._options)
        except Exception as error:
            # A model's names may promise what its nodes do not keep.
            if "shape" not in str(error) or all(shape is None for shape in shapes):
                raise
            buffers.unbind_outputs()
            self._session.run(buffers.binding, self._options)
            self._unpredicted |= {
                index
                for index, (predicted, found) in enumerate(
                    zip(shapes, buffers.output_shapes(), strict=True)
                )
                if predicted != found
            }
        self._copy_out(in_flight, buffers)

    def _capture(
        self,
        in_flight: "_InFlightRun",
        tensors: Mapping[str, Tensor],
        shapes: object,
        graph: int | None,
    ) -> bool:
        """Runs a request while its kernels are captured; answers whether that worked."""
        assert graph is not None
        predicted = self._predict_shapes(tensors)
        if None in predicted:
            self._graphs.give_up("not all its outputs can be placed before a run")
            return False
        options = self._session.create_options(graph)
        buffers = None
        # No other request's thread may ask for its event meanwhile.
        self._room.acquire()
        try:
            buffers = self._bind(tensors, predicted)
            in_flight.blocks += buffers.copy_in(tensors, self._pinned)
            with self._stream.capturing():
                self._session.run(buffers.binding, options)
        except Exception as error:
            self._stream.end_capture()
            self._graphs.give_up(f"capturing failed: {reason_of(error)}")
            logger.warning("No more CUDA graphs: capturing one failed: %s", error)
            in_flight.wait_for(self._stream)
            if buffers is not None:
                buffers.release()
            return False
        finally:
            self._room.release()
        self._captured[graph] = buffers, options
        self._graphs.captured(shapes, graph)
        self._copy_out(in_flight, buffers)
        return True

    def _replay(
        self,
        in_flight: "_InFlightRun",
        tensors: Mapping[str, Tensor],
        buffers: BoundBuffers,
        options: Any,
    ) -> None:
        in_flight.blocks += buffers.copy_in(tensors, self._pinned)
        self._session.run(buffers.binding, options)
        self._copy_out(in_flight, buffers)

    def _predict_shapes(self, tensors: Mapping[str, Tensor]) -> list[tuple[int, ...] | None]:
        """The shapes of the outputs, where they follow from those of the inputs."""
        shapes = self._signature.output_shapes(
            {name: tensor.shape for name, tensor in tensors.items()}
        )
        return [None if index in self._unpredicted else shape for index, shape in enumerate(shapes)]

    def _bind(
        self, tensors: Mapping[str, Tensor], shapes: list[tuple[int, ...] | None]
    ) -> BoundBuffers:
        return BoundBuffers(
            self._session, self._stream, self.device_pool, self._signature, tensors, shapes
        )

    def _copy_out(self, in_flight: "_InFlightRun", buffers: BoundBuffers) -> None:
        outputs, blocks, values = buffers.copy_out(self._pinned)
        in_flight.outputs = list(outputs)
        in_flight.output_blocks += blocks
        in_flight.values += values


class _InFlightRun:
    """A request on its way through the stream, and the owner of all that the stream uses for it.

    Attributes:
        request: kept, and with it what other libraries lent.
        blocks: page-locked: the request's own, and those in which small tensors travel.
        buffers: device memory; None for a captured graph's, which stays.
        outputs: valid once the event has come.
        output_blocks: page-locked, where the outputs lie.
        values: ONNX Runtime's own outputs.
        event: behind everything that was put on the stream.
        is_on_stream: it takes part of the room there.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.blocks = request.hand_over()
        self.buffers: BoundBuffers | None = None
        self.outputs: list[Output] = []
        self.output_blocks: list[Block] = []
        self.values: list[Any] = []
        self.event: Event | None = None
        self.is_on_stream = False

    def hold(self, buffers: BoundBuffers) -> None:
        """Takes a buffers, in the place of one that did not work."""
        if self.buffers is not None:
            self.buffers.release()
        self.buffers = buffers

    def wait(self) -> None:
        """Returns when the stream has got past it, without the GIL."""
        if self.event is not None:
            self.event.wait()
            self.event = None

    def wait_for(self, stream: Stream) -> None:
        """Returns when the stream has got past what was put on it so far."""
        stream.record().wait()


def _is_full(error: Exception) -> bool:
    """Whether the device had no memory left, in our words, ONNX Runtime's or CUDA's."""
    said = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "failed to allocate memory" in said
        or "out of memory" in said
    )
