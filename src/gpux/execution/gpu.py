"""Runs requests on a GPU: one thread enqueues all their work on one stream.

A request consists of a copy from pinned memory to the device, the model's run, a copy back to
pinned memory, and an event. The executor's thread enqueues these and takes the next request, whose
copies and launches thus overlap the current run. The request's own thread waits for the event.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpux.errors import DeadlineError, GpuxError, InferenceError
from gpux.execution.cpu import run_arrays, run_watched
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

# One request runs while the next is copied in and launched.
_MAX_ON_STREAM = 2
_MAX_IDLE_DEVICE_BYTES = 2**30


class GpuExecution:
    """Runs requests on a GPU. Thread-safe.

    Args:
        session: the model's session.
        signature: the model's inputs and the requested outputs.
        stream: the session's stream.
        pinned: the pool of pinned blocks that requests use.
        graphs: decides which sets of shapes run as CUDA graphs; owned by this object from now on.

    Attributes:
        device_pool: the pool of device blocks.
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
        self._slots = threading.Semaphore(_MAX_ON_STREAM)  # guards how many are on the stream
        self._is_trial = False
        # Used by the executor's thread only:
        self._options = self._create_options()
        self._captured: dict[int, tuple[BoundBuffers, Any]] = {}  # graph -> buffers, RunOptions
        # Outputs that ONNX Runtime must allocate: those that are also inputs, as it returns the
        # input's own memory, and those whose shape was once mispredicted.
        inputs = set(names(signature.inputs))
        self._unpredicted = {
            index for index, name in enumerate(names(signature.outputs)) if name in inputs
        }
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="gpux-executor", initializer=stream.adopt
        )

    def run(self, request: Request, deadline: Deadline | None = None) -> list[Output]:
        """Returns the outputs of a request, in the order of the signature, in pinned memory.

        Args:
            request: its blocks are used by the stream until the model has read them, and then
                return to the pool. The blocks of the outputs belong to the request from then on.
            deadline: when to terminate ONNX Runtime's work on the CPU; None for no limit. Work
                already on the GPU runs to its end.

        Raises:
            DeadlineError: the run was terminated.
            InferenceError: ONNX Runtime failed; its message is the reason.

        The caller waits without the GIL.
        """
        in_flight = _InFlightRun(request)
        launched = self._executor.submit(self._launch, in_flight, deadline)
        try:
            launched.result()
            in_flight.wait()
        except BaseException as error:
            # The run failed, or the caller was interrupted: return all blocks, but only when the
            # stream is past them.
            launched.add_done_callback(lambda _: self._complete(in_flight, has_caller=False))
            if isinstance(error, Exception) and not isinstance(error, GpuxError):
                # The device reports a kernel's failure late, on whatever call comes next.
                raise InferenceError(reason_of(error)) from error
            raise
        self._complete(in_flight, has_caller=True)
        return in_flight.outputs

    @contextlib.contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Context for trial runs, whose shapes are neither captured nor counted."""
        was_trial, self._is_trial = self._is_trial, True
        try:
            yield
        finally:
            self._is_trial = was_trial

    @property
    def runs_until_warm(self) -> int:
        """Runs of one set of shapes until it is captured as a CUDA graph; 1 without graphs."""
        return self._graphs.runs_until_captured

    def close(self) -> None:
        """Ends the thread after its pending work."""
        self._executor.shutdown()

    def describe(self) -> dict[str, Any]:
        """The /info fields of the execution."""
        pools = {"device": self.device_pool, "pinned": self._pinned}
        return {
            "cuda_graph": self._graphs.describe(),
            "memory": {
                name: {
                    "lent_bytes": pool.usage.used_bytes,
                    "idle_bytes": pool.usage.idle_bytes,
                    "allocations": pool.usage.allocations,
                }
                for name, pool in pools.items()
            },
        }

    def _complete(self, in_flight: "_InFlightRun", *, has_caller: bool) -> None:
        """Waits until the stream is past a request, and returns each block to its owner."""
        try:
            in_flight.wait()
        finally:
            if in_flight.buffers is not None:
                in_flight.buffers.release()
            for block in in_flight.blocks:
                self._pinned.give(block)
            for block in in_flight.output_blocks:
                if has_caller:
                    in_flight.request.add_block(block)
                else:
                    self._pinned.give(block)
            in_flight.values.clear()
            if in_flight.is_on_stream:
                self._slots.release()

    # The methods below run on the executor's thread.

    def _launch(self, in_flight: "_InFlightRun", deadline: Deadline | None) -> None:
        """Enqueues a request on the stream."""
        self._slots.acquire()
        in_flight.is_on_stream = True
        try:
            work = self._launch_bound if self._signature.is_numeric else self._launch_arrays
            _, was_stopped = run_watched(lambda: work(in_flight), self._options, deadline)
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
        """Runs a model with strings, sequences or maps, for which ONNX Runtime does the copies."""
        in_flight.outputs = run_arrays(
            self._session, self._signature, in_flight.request, self._options
        )

    def _launch_bound(self, in_flight: "_InFlightRun") -> None:
        tensors: Mapping[str, Any] = in_flight.request.tensors
        # Borrowed tensors differ in address each time, but a graph reads those of its capture.
        is_borrowed = any(tensor.device == self._stream.device for tensor in tensors.values())
        if not is_borrowed and not self._is_trial:
            shapes = tuple((name, tensor.shape) for name, tensor in tensors.items())
            action = self._graphs.lookup(shapes)
            if isinstance(action, Capture):
                if self._capture(in_flight, tensors, shapes, action.graph):
                    return
            elif isinstance(action, Replay):
                self._replay(in_flight, tensors, *self._captured[action.graph])
                return
        try:
            self._run_uncaptured(in_flight, tensors)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            # The pool's idle blocks may be what ONNX Runtime's arena lacks, or vice versa.
            in_flight.wait_for(self._stream)
            self.device_pool.free_idle()
            self._run_uncaptured(in_flight, tensors)

    def _run_uncaptured(self, in_flight: "_InFlightRun", tensors: Mapping[str, Tensor]) -> None:
        shapes = self._predict_shapes(tensors)
        in_flight.own(self._bind(tensors, shapes))
        assert in_flight.buffers is not None
        buffers = in_flight.buffers
        in_flight.blocks += buffers.copy_in(tensors, self._pinned)
        try:
            self._session.run(buffers.binding, self._options)
        except Exception as error:
            # The nodes of a model may not keep what its axis names promise.
            if "shape" not in str(error) or all(shape is None for shape in shapes):
                raise
            buffers.unbind_outputs()
            self._session.run(buffers.binding, self._options)
            self._unpredicted |= {
                index
                for index, (predicted, actual) in enumerate(
                    zip(shapes, buffers.output_shapes(), strict=True)
                )
                if predicted != actual
            }
        self._copy_out(in_flight, buffers)

    def _capture(
        self,
        in_flight: "_InFlightRun",
        tensors: Mapping[str, Tensor],
        shapes: object,
        graph: int | None,
    ) -> bool:
        """Runs a request while capturing its kernels; returns whether the capture succeeded."""
        assert graph is not None
        predicted = self._predict_shapes(tensors)
        if None in predicted:
            self._graphs.give_up("not all its outputs can be placed before a run")
            return False
        options = self._session.create_options(graph)
        buffers = None
        # Takes the second slot: no other request's thread may wait for its event meanwhile.
        self._slots.acquire()
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
            self._slots.release()
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
        """Output shapes, where they follow from the input shapes; else None."""
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
    """A request in flight on the stream; owns everything that the stream uses for it.

    Attributes:
        request: kept alive, and with it the tensors borrowed from other libraries.
        blocks: pinned blocks: the request's own, and those in which small tensors are packed.
        buffers: device memory; None for that of a captured graph, which outlives the run.
        outputs: valid once the event has completed.
        output_blocks: the pinned blocks of the outputs.
        values: outputs that ONNX Runtime allocated.
        event: recorded after all of the request's work on the stream.
        is_on_stream: whether it occupies a slot of the stream.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.blocks = request.take_blocks()
        self.buffers: BoundBuffers | None = None
        self.outputs: list[Output] = []
        self.output_blocks: list[Block] = []
        self.values: list[Any] = []
        self.event: Event | None = None
        self.is_on_stream = False

    def own(self, buffers: BoundBuffers) -> None:
        """Takes ownership of buffers; releases those of a failed attempt."""
        if self.buffers is not None:
            self.buffers.release()
        self.buffers = buffers

    def wait(self) -> None:
        """Waits until the stream is past this request, without the GIL."""
        if self.event is not None:
            self.event.wait()
            self.event = None

    def wait_for(self, stream: Stream) -> None:
        """Waits until the stream is past everything enqueued so far."""
        stream.record().wait()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether device memory ran out, as reported by GPUX, ONNX Runtime or CUDA."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "failed to allocate memory" in message
        or "out of memory" in message
    )
