"""The input tensors of one run, and who owns their memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpux.tensors.memory import Block, Pool, StringTensor, Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """The inputs of one run. Owns its blocks until release().

    Attributes:
        tensors: by input name; each input of the model that the request gives.
        unbatched: the request is one item, and so is its answer.
    """

    tensors: Mapping[str, Tensor | StringTensor]
    unbatched: bool
    _blocks: list[Block]
    _pool: Pool

    def hand_over(self) -> list[Block]:
        """The request's blocks: the caller's from now on, and no longer released with it."""
        blocks = self._blocks.copy()
        self._blocks.clear()
        return blocks

    def keep(self, block: Block) -> None:
        """Takes a block of the same pool, and gives it back with its own."""
        self._blocks.append(block)

    def release(self) -> None:
        """Gives the blocks back.

        Call it when nothing reads the tensors any more. The answer does: ONNX Runtime hands out the
        input's own memory where an output of the graph is one of its inputs.
        """
        while self._blocks:
            self._pool.give(self._blocks.pop())
