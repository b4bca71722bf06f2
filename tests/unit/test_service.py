"""service: the figures of a model on a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from standin import load_on_stand_in

from gpux.config import Settings
from gpux.engine import Engine
from gpux.service import Service

Find = Callable[[str], Path]


def gpu_memory(service: Service) -> dict[str, float]:
    return {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(service.metrics.text().decode())
        for sample in family.samples
        if sample.name == "gpux_gpu_memory_bytes"
    }


def test_the_memory_of_the_gpu(model_file: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream, _ = load_on_stand_in(model_file("matrix"))
    service = Service(Settings(model=model.file))
    assert gpu_memory(service) == {}, "there is no model yet"
    service.open(Engine(model))
    assert gpu_memory(service) == {"used": 2**30, "free": 3 * 2**30}

    def fail() -> tuple[int, int]:
        raise RuntimeError("cudaErrorIllegalAddress")

    # What failed on a GPU, it says to whoever asks next: the other figures are there all the same.
    monkeypatch.setattr(stream, "memory_bytes", fail)
    assert gpu_memory(service) == {}
    assert b"gpux_pool_bytes{" in service.metrics.text()
