"""Runs requests on a GPU: one thread enqueues all their work on one stream.

A request consists of a copy from pinned memory to the device, the model's run, a copy back to
pinned memory, and an event. The executor's thread enqueues these and takes the next request, whose
copies and launches thus overlap the current run. The request's own thread waits for the event.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpux._engine import Outputs, Pipeline, Request
from gpux._fastpath import Block, Pool
from gpux.errors import GpuxError, InferenceError
from gpux.execution.cpu import CpuExecution
from gpux.execution.cuda_graphs import Capture, GraphCache, Replay
from gpux.execution.deadline import Deadline
from gpux.execution.gpu_buffers import BoundBuffers
from gpux.execution.session import Session, reason_of
from gpux.tensors.cuda import Event, Stream
from gpux.tensors.memory import Tensor
from gpux.tensors.request import tensors_of
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
        pipeline: the model's, whose pool supplies pinned blocks.
        graphs: decides which sets of shapes run as CUDA graphs; owned by this object from now on.

    Attributes:
        device_pool: the pool of device blocks.
    """

    def __init__(
        self,
        session: Session,
        signature: Signature,
        stream: Stream,
        pipeline: Pipeline,
        graphs: GraphCache,
    ) -> None:
        self._session = session
        self._signature = signature
        self._stream = stream
        self._pipeline = pipeline
        self._pinned = pipeline.pool
        self.device_pool = Pool(stream.allocate, _MAX_IDLE_DEVICE_BYTES)
        self._graphs = graphs
        self._slots = threading.Semaphore(_MAX_ON_STREAM)  # guards how many are on the stream
        self._is_trial = False
        # Used by the executor's thread only:
        self._options = session.create_options()
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

    def run(self, request: Request, deadline: Deadline | None = None) -> Outputs:
        """Runs a request; its outputs are in pinned memory.

        Args:
            request: used by the stream until the model has read it.
            deadline: when to terminate ONNX Runtime's work on the CPU; None for no limit. Work
                already on the GPU runs to its end.

        Raises:
            DeadlineError: the run was terminated.
            InferenceError: ONNX Runtime failed; its message is the reason.

        The caller waits without the GIL.
        """
        if not self._signature.is_numeric:
            return self._run_by_copies(request, deadline)
        start = time.monotonic()
        in_flight = _InFlightRun(request, self._signature)
        launched = self._executor.submit(self._launch, in_flight, deadline)
        try:
            launched.result()
            in_flight.wait()
        except BaseException as error:
            # The run failed, or the caller was interrupted: drop all blocks, but only when the
            # stream is past them.
            launched.add_done_callback(lambda _: self._complete(in_flight))
            if isinstance(error, Exception) and not isinstance(error, GpuxError):
                # The device reports a kernel's failure late, on whatever call comes next.
                raise InferenceError(reason_of(error)) from error
            raise
        finally:
            del launched  # its error refers to this frame: both would keep the device's blocks
        self._complete(in_flight)
        return self._pipeline.outputs(in_flight.outputs, time.monotonic() - start)

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
                    "lent_bytes": pool.used_bytes,
                    "idle_bytes": pool.idle_bytes,
                    "allocations": pool.allocations,
                }
                for name, pool in pools.items()
            },
        }

    def _run_by_copies(self, request: Request, deadline: Deadline | None) -> Outputs:
        """Runs a model with strings, sequences or maps, for which ONNX Runtime does the copies."""
        cpu = CpuExecution(self._pipeline)
        return self._executor.submit(cpu.run, request, deadline).result()

    def _complete(self, in_flight: "_InFlightRun") -> None:
        """Waits until the stream is past a request, and drops what it used."""
        try:
            in_flight.wait()
        finally:
            in_flight.buffers = None
            in_flight.blocks.clear()
            in_flight.values.clear()
            if in_flight.is_on_stream:
                self._slots.release()

    # The methods below run on the executor's thread.

    def _launch(self, in_flight: "_InFlightRun", deadline: Deadline | None) -> None:
        """Enqueues a request on the stream."""
        self._slots.acquire()
        in_flight.is_on_stream = True
        options = self._options
        options.watch(deadline.at_seconds if deadline else math.inf)
        try:
            self._launch_bound(in_flight)
        except Exception as error:
            if options.unwatch():
                assert deadline is not None
                raise deadline.error() from error
            raise InferenceError(reason_of(error)) from error
        finally:
            # Terminated, perhaps just too late: the outputs are valid, but not the options.
            if options.unwatch():
                self._options = self._session.create_options()
            in_flight.event = self._stream.record()

    def _launch_bound(self, in_flight: "_InFlightRun") -> None:
        tensors = in_flight.tensors
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
        buffers = in_flight.buffers = self._bind(tensors, shapes)
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
        # Takes the second slot: no other request's thread may wait for its event meanwhile.
        self._slots.acquire()
        try:
            buffers = self._bind(tensors, predicted)
            in_flight.blocks += buffers.copy_in(tensors, self._pinned)
            with self._stream.capturing():
                self._session.run(buffers.binding, options)
        except Exception as error:
            self._stream.end_capture()
            reason = reason_of(error)
            self._graphs.give_up(f"capturing failed: {reason}")
            # Not the error itself: a handler that keeps records would keep the blocks.
            logger.warning("No more CUDA graphs: capturing one failed: %s", reason)
            in_flight.wait_for(self._stream)
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
        in_flight.outputs, in_flight.values = buffers.copy_out(self._pinned)


class _InFlightRun:
    """A request in flight on the stream; keeps everything alive that the stream uses for it.

    Attributes:
        request: owns the tensors, or keeps those borrowed from other libraries alive.
        tensors: its inputs, by name.
        blocks: pinned blocks in which small tensors are packed.
        buffers: device memory; None for that of a captured graph, which outlives the run.
        outputs: in pinned memory, valid once the event has completed.
        values: outputs that ONNX Runtime allocated.
        event: recorded after all of the request's work on the stream.
        is_on_stream: whether it occupies a slot of the stream.
    """

    def __init__(self, request: Request, signature: Signature) -> None:
        self.request = request
        self.tensors = tensors_of(request, (*signature.inputs, *signature.optional))
        self.blocks: list[Block] = []
        self.buffers: BoundBuffers | None = None
        self.outputs: list[Tensor] = []
        self.values: list[Any] = []
        self.event: Event | None = None
        self.is_on_stream = False

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
