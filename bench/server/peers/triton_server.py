"""A model behind Triton's HTTP front end, through PyTriton: `triton_server.py MODEL PORT`.

Triton, in C++, parses the JSON, forms batches and writes the responses; arrays go through shared
memory to this process, which runs the model. As in PyTriton's quick start.
"""

import sys
from typing import Any

from onnx_model import TYPES, OnnxModel
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

model = OnnxModel(sys.argv[1])


@batch  # type: ignore[untyped-decorator]  # not installed here
def predict(**feeds: Any) -> dict[str, Any]:
    return model.run(feeds)


def tensors(nodes: list[Any]) -> list[Tensor]:
    """Types and shapes without the batch axis; -1 is a dynamic dimension."""
    return [
        Tensor(
            name=node.name,
            dtype=TYPES[node.type],
            shape=tuple(size if isinstance(size, int) else -1 for size in node.shape[1:]),
        )
        for node in nodes
    ]


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(sys.argv[2]),
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=predict,
            inputs=tensors(model.session.get_inputs()),
            outputs=tensors(model.session.get_outputs()),
            config=ModelConfig(max_batch_size=128),
        )
        triton.serve()
