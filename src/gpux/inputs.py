"""Values by input name → the tensors of one request, which fit the model and each other.

Bodies (protocol.py) and Python callers (model.py) both come through here, so that they meet the
same rules and the same messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpux._fastpath import InputSpec, walk
from gpux.errors import MissingInputError, UnknownInputError
from gpux.memory import Block, HostPool, StringTensor, Tensor
from gpux.tensor import Given, Signature, TensorSpec, names


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
    _pool: HostPool

    def release(self) -> None:
        """Gives the blocks back.

        Call it when nothing reads the tensors any more. The answer does: ONNX Runtime hands out the
        input's own memory where an output of the graph is one of its inputs.
        """
        while self._blocks:
            self._pool.give(self._blocks.pop())


class InputReader:
    """Reads the inputs of one model. Immutable; used by all threads at once.

    Args:
        signature: of the model.
        pool: where the blocks of tensors come from.
    """

    def __init__(self, signature: Signature, pool: HostPool) -> None:
        self._signature = signature
        self._pool = pool
        self._inputs: dict[str, tuple[TensorSpec, InputSpec]] = {
            spec.name: (spec, InputSpec(spec)) for spec in signature.inputs
        }

    def collect(self, values: Mapping[str, object]) -> Request:
        """The tensors that these values make.

        Args:
            values: by input name, in the order in which errors are looked for. What a value may be:
                gpux._fastpath.walk.

        Raises:
            ClientError: the first thing that is wrong: the values in their order, then missing
                inputs in the model's order, then sizes that disagree.
            MemoryError: there is no room for the tensors.
        """
        tensors: dict[str, Tensor | StringTensor] = {}
        given: dict[str, Given] = {}
        request_blocks: list[Block] = []
        try:
            for name, value in values.items():
                known = self._inputs.get(name)
                if known is None:
                    raise UnknownInputError(str(name), names(self._signature.inputs))
                declared, spec = known
                content, shape, as_items, as_one_item = walk(spec, value, self._pool)
                if isinstance(content, list):
                    tensors[name] = StringTensor(shape, content)
                else:
                    request_blocks.append(content)
                    tensors[name] = Tensor(declared.type, shape, content.address, content)
                given[name] = Given(shape, as_items, as_one_item)
            for declared in self._signature.inputs:
                if declared.name not in tensors:
                    raise MissingInputError(declared.name)
            self._signature.check_agreement(given)
            unbatched = self._signature.is_unbatched(given)
        except BaseException:
            for block in request_blocks:
                self._pool.give(block)
            raise
        return Request(tensors, unbatched, request_blocks, self._pool)
