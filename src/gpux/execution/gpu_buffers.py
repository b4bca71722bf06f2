"""Device memory for the tensors of one run, bound to a session.

Tensors that share a copy lie in one part (copy_plan.py). Buffers serve one run or, if a CUDA graph
was captured with their addresses, every run of that graph.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from gpux._fastpath import Block, Pool
from gpux.execution.copy_plan import CopyPlan, plan_copies
from gpux.execution.session import Session
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import PINNED, Tensor
from gpux.tensors.outputs import tensor_of
from gpux.tensors.signature import Signature, TensorSpec


class BoundBuffers:
    """Device blocks and their IOBinding. Not thread-safe.

    Owns the blocks: nothing on the stream may still use them when it is dropped.

    Args:
        session: the session to bind to.
        stream: orders the copies.
        device_pool: source of the blocks.
        signature: the model's inputs and the requested outputs.
        tensors: a request's tensors, by input name. Those already on the device, borrowed from
            another library, and those that the model reads on the host are bound where they are.
        shapes: output shapes; None where only the run can tell: ONNX Runtime allocates those.

    Raises:
        MemoryError: the device is full.
    """

    def __init__(
        self,
        session: Session,
        stream: Stream,
        device_pool: Pool,
        signature: Signature,
        tensors: Mapping[str, Tensor],
        shapes: Sequence[tuple[int, ...] | None],
    ) -> None:
        self._stream = stream
        self._device_pool = device_pool
        self._specs = [spec for spec in signature.outputs if isinstance(spec, TensorSpec)]
        self._shapes = list(shapes)
        self.binding = session.create_binding()
        self._copied = [
            name
            for name, tensor in tensors.items()
            if tensor.device != stream.device and name not in session.host_inputs
        ]
        self._inputs = plan_copies([tensors[name].nbytes for name in self._copied])
        self._input_parts = self._acquire(self._inputs)
        addresses = self._addresses(self._inputs, self._input_parts)
        copied_to = dict(zip(self._copied, addresses, strict=True))
        for name, tensor in tensors.items():
            if name in session.host_inputs:
                self.binding.bind_input(
                    name, "cpu", 0, tensor.type.code, tensor.shape, tensor.address
                )
                continue
            self._bind(self.binding.bind_input, name, tensor, copied_to.get(name, tensor.address))
        self._bind_outputs()

    def _bind_outputs(self) -> None:
        self._predicted = [index for index, shape in enumerate(self._shapes) if shape is not None]
        predicted = {
            index: Tensor(self._specs[index].type, shape, 0, None)
            for index, shape in enumerate(self._shapes)
            if shape is not None
        }
        self._outputs = plan_copies([tensor.nbytes for tensor in predicted.values()])
        self._output_parts = self._acquire(self._outputs)
        addresses = dict(
            zip(predicted, self._addresses(self._outputs, self._output_parts), strict=True)
        )
        # In the order of the signature: get_outputs() returns the outputs in the order of binding.
        for index, spec in enumerate(self._specs):
            if index in predicted:
                self._bind(self.binding.bind_output, spec.name, predicted[index], addresses[index])
            else:
                self.binding.bind_output(
                    spec.name, self._stream.name, self._stream.device.device_id
                )

    def _bind(self, bind: Any, name: str, tensor: Tensor, address: int) -> None:
        stream = self._stream
        bind(name, stream.name, stream.device.device_id, tensor.type.code, tensor.shape, address)

    def _acquire(self, plan: CopyPlan) -> list[Block]:
        return [self._device_pool.take(size) for size in plan.parts]

    def _addresses(self, plan: CopyPlan, parts: Sequence[Block]) -> list[int]:
        return [parts[part].address + offset for part, offset in plan.slots]

    def unbind_outputs(self) -> None:
        """Leaves the allocation of all outputs to ONNX Runtime, after a mispredicted shape."""
        self._shapes = [None] * len(self._shapes)
        self.binding.clear_binding_outputs()
        self._bind_outputs()

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs in the last run."""
        return [tuple(value.shape()) for value in self.binding.get_outputs()]

    def copy_in(self, tensors: Mapping[str, Tensor], pinned: Pool) -> list[Block]:
        """Enqueues the copies of a request's tensors to the device.

        Args:
            tensors: in pinned memory, with the shapes that these buffers were made for.
            pinned: source of the staging blocks, in which small tensors are packed.

        Returns:
            The staging blocks, which the caller must keep until the stream is past the copies.
        """
        staged: list[Block] = []
        for part, block in enumerate(self._input_parts):
            nbytes = self._inputs.parts[part]
            sharers = self._inputs.tensors_in(part)
            source = tensors[self._copied[sharers[0]]].address
            if len(sharers) > 1:
                staging = pinned.take(nbytes)
                staged.append(staging)
                for sharer in sharers:
                    tensor = tensors[self._copied[sharer]]
                    _, offset = self._inputs.slots[sharer]
                    ctypes.memmove(staging.address + offset, tensor.address, tensor.nbytes)
                source = staging.address
            if nbytes:
                self._stream.copy_in(block.address, source, nbytes)
        return staged

    def copy_out(self, pinned: Pool) -> tuple[list[Tensor], list[Any]]:
        """Enqueues the copies of the outputs to the host.

        Args:
            pinned: source of the blocks that they are copied to.

        Returns:
            The outputs, in pinned memory that is valid once the stream is past the copies; and
            objects to keep alive until then.
        """

        def copy(source: int, nbytes: int) -> Block:
            block = pinned.take(nbytes)
            if nbytes:
                self._stream.copy_out(block.address, source, nbytes)
            return block

        def output(index: int, shape: tuple[int, ...], block: Block, offset: int = 0) -> Tensor:
            element = self._specs[index].type
            return Tensor(element, shape, block.address + offset, block, PINNED)

        parts = [
            copy(block.address, nbytes)
            for block, nbytes in zip(self._output_parts, self._outputs.parts, strict=True)
        ]
        outputs: dict[int, Tensor] = {}
        for index, (part, offset) in zip(self._predicted, self._outputs.slots, strict=True):
            shape = self._shapes[index]
            assert shape is not None
            outputs[index] = output(index, shape, parts[part], offset)
        values: list[Any] = []
        if len(outputs) < len(self._specs):
            values = self.binding.get_outputs()
            for index, value in enumerate(values):
                if index not in outputs:
                    tensor = tensor_of(value, self._stream.device)
                    block = copy(tensor.address, tensor.nbytes)
                    outputs[index] = output(index, tensor.shape, block)
        return [outputs[index] for index in range(len(outputs))], values
