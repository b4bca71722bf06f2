"""service: readiness, and the metrics of a model on a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpux.config.settings import Settings
from gpux.observability.exposition import text_of
from gpux.observability.metrics import ROW_SIZE
from gpux.observability.shared_counters import CounterMemory
from gpux.serving.engine import Engine
from gpux.serving.service import LoadedModel, Service
from tests.support.fake_gpu import load_on_fake_gpu

Find = Callable[[str], Path]
SECONDS = {"load": 0.1, "warmup": 0.2}


def gpu_memory(service: Service) -> dict[str, float]:
    return {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(text_of(service.metrics).decode())
        for sample in family.samples
        if sample.name == "gpux_gpu_memory_bytes"
    }


def test_the_memory_of_the_gpu(model_file: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream, _ = load_on_fake_gpu(model_file("matrix"))
    service = Service(Settings(model=model.file))
    assert gpu_memory(service) == {}, "there is no model yet"
    service.open(LoadedModel(Engine(model), SECONDS))
    assert gpu_memory(service) == {"used": 2**30, "free": 3 * 2**30}

    def fail() -> tuple[int, int]:
        raise RuntimeError("cudaErrorIllegalAddress")

    # CUDA reports a failure to later calls, too: the other metrics are still exported.
    monkeypatch.setattr(stream, "memory_bytes", fail)
    assert gpu_memory(service) == {}
    assert b"gpux_pool_bytes{" in text_of(service.metrics)


def test_of_several_processes_none_is_healthy_before_all_have_loaded(model_file: Find) -> None:
    memory = CounterMemory(ROW_SIZE, 2)
    settings = Settings(model=model_file("matrix"))
    one, other = (Service(settings, memory.counters(index)) for index in range(2))
    one.open(one.load())
    assert one.admit(1), "it takes requests all the same"
    assert (one.status, other.status) == ("loading", "loading")
    other.open(other.load())
    assert (one.status, other.status) == ("healthy", "healthy")
    replacement = Service(settings, memory.counters(1))
    assert (one.status, replacement.status) == ("healthy", "loading")
