"""The input tensors of one run, and who owns their memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpux.tensors.memory import Block, Pool, StringTensor, Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """The inputs of one run. Owns its blocks until release().

    Attributes:
        tensors: by input name.
        unbatched: whether the request is one item, and so is its response.
    """

    tensors: Mapping[str, Tensor | StringTensor]
    unbatched: bool
    _blocks: list[Block]
    _pool: Pool

    def take_blocks(self) -> list[Block]:
        """Transfers ownership of the blocks to the caller: release() no longer returns them."""
        blocks = self._blocks.copy()
        self._blocks.clear()
        return blocks

    def add_block(self, block: Block) -> None:
        """Takes ownership of a block of the same pool: release() returns it, too."""
        self._blocks.append(block)

    def release(self) -> None:
        """Returns the blocks to the pool.

        Call it when nothing reads the tensors any more. Outputs may: ONNX Runtime returns the
        input's own memory for a graph output that is also a graph input.
        """
        while self._blocks:
            self._pool.give(self._blocks.pop())
