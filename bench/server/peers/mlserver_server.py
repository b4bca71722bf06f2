"""A model behind MLServer, as a custom runtime as in its docs: `mlserver_server.py MODEL PORT`.

In one process, without the worker processes of parallel inference. MLServer's own NumPy codec makes
the arrays, and orjson, one of its dependencies, parses and writes the JSON.
"""

import asyncio
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import OnnxModel


class OnnxRuntime(MLModel):  # type: ignore[misc]  # not installed here
    async def load(self) -> bool:
        self.model = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        answers = self.model.run(feeds)
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, array) for name, array in answers.items()],
        )


async def main(file: str, port: int) -> None:
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_endpoint=None,
        parallel_workers=0,
    )
    model = ModelSettings(
        name="model", implementation=OnnxRuntime, parameters=ModelParameters(uri=file)
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
