"""Device memory for the tensors of one run, bound to a session.

What travels in one copy lies in one part (copy_plan.py). A frame serves one run, or, where a CUDA
graph was captured with its addresses, every run of that graph.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from gpux.execution.copy_plan import CopyPlan, plan_copies
from gpux.execution.session import Session
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import PINNED, Block, Pool, Tensor
from gpux.tensors.outputs import tensor_of
from gpux.tensors.signature import Signature, TensorSpec


class BoundBuffers:
    """Owns its device blocks until release(); belongs to the executor's thread.

    Args:
        session: runs what is bound.
        stream: orders the copies.
        device_pool: the pool that its blocks come from.
        signature: the model's.
        tensors: of a request, by input name. Those that lie on the device already, lent by another
            library, are bound where they lie, and so are those that the model reads on the host.
        shapes: of the outputs, None where only the run can tell: ONNX Runtime allocates those.

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
        self._blocks: list[Block] = []
        self._specs = [spec for spec in signature.outputs if isinstance(spec, TensorSpec)]
        self._shapes = list(shapes)
        self.binding = session.create_binding()
        self._moved = [
            name
            for name, tensor in tensors.items()
            if tensor.device != stream.device and name not in session.host_inputs
        ]
        try:
            self._inputs = plan_copies([tensors[name].nbytes for name in self._moved])
            self._input_parts = self._take(self._inputs)
            addresses = self._addresses(self._inputs, self._input_parts)
            moved_to = dict(zip(self._moved, addresses, strict=True))
            for name, tensor in tensors.items():
                if name in session.host_inputs:
                    self.binding.bind_input(
                        name, "cpu", 0, tensor.type.code, tensor.shape, tensor.address
                    )
                    continue
                self._bind(
                    self.binding.bind_input, name, tensor, moved_to.get(name, tensor.address)
                )
            self._bind_outputs()
        except BaseException:
            self.release()
            raise

    def _bind_outputs(self) -> None:
        self._known = [index for index, shape in enumerate(self._shapes) if shape is not None]
        blanks = {
            index: Tensor(self._specs[index].type, shape, 0, None)
            for index, shape in enumerate(self._shapes)
            if shape is not None
        }
        self._outputs = plan_copies([blank.nbytes for blank in blanks.values()])
        self._output_parts = self._take(self._outputs)
        addresses = dict(
            zip(blanks, self._addresses(self._outputs, self._output_parts), strict=True)
        )
        # In the order of the signature: get_outputs() has that of the binding.
        for index, spec in enumerate(self._specs):
            if index in blanks:
                self._bind(self.binding.bind_output, spec.name, blanks[index], addresses[index])
            else:
                self.binding.bind_output(
                    spec.name, self._stream.name, self._stream.device.device_id
                )

    def _bind(self, bind: Any, name: str, tensor: Tensor, address: int) -> None:
        stream = self._stream
        bind(name, stream.name, stream.device.device_id, tensor.type.code, tensor.shape, address)

    def _take(self, plan: CopyPlan) -> list[Block]:
        blocks = []
        for size in plan.parts:
            blocks.append(self._device_pool.take(size))
            self._blocks.append(blocks[-1])
        return blocks

    def _addresses(self, plan: CopyPlan, parts: Sequence[Block]) -> list[int]:
        return [parts[part].address + offset for part, offset in plan.slots]

    def unbind_outputs(self) -> None:
        """Leaves all outputs to ONNX Runtime: a shape was not the one that was foreseen."""
        self._shapes = [None] * len(self._shapes)
        self.binding.clear_binding_outputs()
        self._bind_outputs()

    def output_shapes(self) -> list[tuple[int, ...]]:
        """The outputs' shapes in the last run."""
        return [tuple(value.shape()) for value in self.binding.get_outputs()]

    def copy_in(self, tensors: Mapping[str, Tensor], pinned: Pool) -> list[Block]:
        """Puts the copies of a request's tensors on the stream.

        Args:
            tensors: of the shapes that the frame was made for, in page-locked memory.
            pinned: where the blocks come from in which small ones are laid side by side.

        Returns:
            Those blocks: the caller's, who gives them back when the stream has got past the copies.
        """
        staged: list[Block] = []
        for part, block in enumerate(self._input_parts):
            nbytes = self._inputs.parts[part]
            sharers = self._inputs.tensors_in(part)
            source = tensors[self._moved[sharers[0]]].address
            if len(sharers) > 1:
                staging = pinned.take(nbytes)
                staged.append(staging)
                for sharer in sharers:
                    tensor = tensors[self._moved[sharer]]
                    _, offset = self._inputs.slots[sharer]
                    ctypes.memmove(staging.address + offset, tensor.address, tensor.nbytes)
                source = staging.address
            if nbytes:
                self._stream.copy_in(block.address, source, nbytes)
        return staged

    def copy_out(self, pinned: Pool) -> tuple[list[Tensor], list[Block], list[Any]]:
        """Puts the copies of the outputs on the stream.

        Args:
            pinned: where the blocks come from that they go to.

        Returns:
            The outputs, in page-locked memory that is written when the stream has got past the
            copies; the blocks that they lie in, which are the caller's; and what must be kept alive
            until then.
        """
        blocks: list[Block] = []

        def land(source: int, nbytes: int) -> Block:
            block = pinned.take(nbytes)
            blocks.append(block)
            if nbytes:
                self._stream.copy_out(block.address, source, nbytes)
            return block

        def landed(index: int, shape: tuple[int, ...], block: Block, offset: int = 0) -> Tensor:
            element = self._specs[index].type
            return Tensor(element, shape, block.address + offset, block, PINNED)

        parts = [
            land(block.address, nbytes)
            for block, nbytes in zip(self._output_parts, self._outputs.parts, strict=True)
        ]
        outputs: dict[int, Tensor] = {}
        for index, (part, offset) in zip(self._known, self._outputs.slots, strict=True):
            shape = self._shapes[index]
            assert shape is not None
            outputs[index] = landed(index, shape, parts[part], offset)
        values: list[Any] = []
        if len(outputs) < len(self._specs):
            values = self.binding.get_outputs()
            for index, value in enumerate(values):
                if index not in outputs:
                    tensor = tensor_of(value, self._stream.device)
                    block = land(tensor.address, tensor.nbytes)
                    outputs[index] = landed(index, tensor.shape, block)
        return [outputs[index] for index in range(len(outputs))], blocks, values

    def release(self) -> None:
        """Gives the device blocks back; nothing on the stream may use them any more."""
        while self._blocks:
            self._device_pool.give(self._blocks.pop())
