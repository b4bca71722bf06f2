"""A model behind FastAPI, as a user would write it: `fastapi_server.py MODEL PORT`.

The endpoint is a plain function, which FastAPI calls in a pool of threads. uvicorn has its fast
parts (uvloop, httptools) and no line of log for each request, as `gpux serve` has none.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from onnx_model import OnnxModel

model = OnnxModel(sys.argv[1])
app = FastAPI()


@app.post("/predict")  # type: ignore[untyped-decorator]  # the library is not here
def predict(body: dict[str, Any]) -> dict[str, Any]:
    return model.predict(body)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False)
