"""A model behind FastAPI, as a user would write it: `fastapi_server.py MODEL PORT`.

The endpoint is a plain function, which FastAPI calls in its thread pool. uvicorn has its fast parts
(uvloop, httptools) and no access log, like `gpux serve`.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from onnx_model import OnnxModel

model = OnnxModel(sys.argv[1])
app = FastAPI()


@app.post("/predict")  # type: ignore[untyped-decorator]  # not installed here
def predict(body: dict[str, Any]) -> dict[str, Any]:
    return model.predict(body)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False)
