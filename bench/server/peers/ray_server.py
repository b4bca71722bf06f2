"""A model behind Ray Serve, as in its documentation: `ray_server.py MODEL PORT`.

One replica process, and the HTTP proxy process.
"""

import signal
import sys
from typing import Any

import ray
from onnx_model import OnnxModel
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, logging_config={"enable_access_log": False})
class Predictor:
    def __init__(self, file: str) -> None:
        self.model = OnnxModel(file)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return self.model.predict(await request.json())


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[2])},
        logging_config={"enable_access_log": False},
    )
    application = Predictor.bind(sys.argv[1])  # type: ignore[attr-defined]  # by the decorator
    serve.run(application, route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
