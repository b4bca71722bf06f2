"""A model behind LitServe, as in its documentation: `litserve_server.py MODEL PORT`.

One API process, which parses the JSON, and one worker process, which runs the model.
"""

import sys
from typing import Any

import litserve
from onnx_model import OnnxModel


class Api(litserve.LitAPI):  # type: ignore[misc]  # not installed here
    def __init__(self, file: str) -> None:
        super().__init__(api_path="/predict")
        self.file = file

    def setup(self, device: str) -> None:
        del device
        self.model = OnnxModel(self.file)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, values: dict[str, Any]) -> dict[str, Any]:
        return self.model.predict(values)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
