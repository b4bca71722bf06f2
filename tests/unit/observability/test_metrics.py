"""metrics: the values of several processes add up to those of one."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gpux.observability.exposition import text_of
from gpux.observability.metrics import ROW_SIZE, Gauge, Metrics, single
from gpux.observability.shared_counters import CounterMemory
from gpux.observability.timings import Stages


def gpux_samples(metrics: Metrics) -> dict[str, float]:
    """All `gpux_*` samples, by name and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text_of(metrics).decode())
        for sample in family.samples
        if sample.name.startswith("gpux")
    }


def gauges(waiting: Iterable[float]) -> dict[str, Gauge]:
    values = iter(waiting)
    return {
        "gpux_queue_requests": Gauge("WaitingRequest.", single(lambda: next(values))),
        "gpux_pool_bytes": Gauge("Memory.", lambda: [(("host",), 10.0)], ("pool",)),
    }


def use(metrics: Metrics, statuses: Iterable[int]) -> None:
    for status in statuses:
        stages = Stages(read=0.001, decode=0.002, queue=0.25, run=3.0, encode=70.0, rows=4)
        metrics.request(status, 0.5, stages)


def test_rows_add_up_whoever_is_asked() -> None:
    alone = Metrics(gauges([5.0] * 9))
    use(alone, [200, 200, 400, 504])
    alone.rejected("queue_full")
    alone.rejected("draining")
    alone.loaded({"load": 3.0, "warmup": 1.0})
    alone.loaded({"load": 2.0, "warmup": 0.5})

    memory = CounterMemory(ROW_SIZE, 2)
    first = Metrics(gauges([2.0] * 9), memory.counters(0))
    second = Metrics(gauges([3.0] * 9), memory.counters(1))
    use(first, [200, 400])
    use(second, [504, 200])
    first.rejected("queue_full")
    second.rejected("draining")
    first.loaded({"load": 2.0, "warmup": 1.0})
    second.loaded({"load": 3.0, "warmup": 0.5})
    first.publish()
    second.publish()

    expected = gpux_samples(alone)
    assert expected["gpux_requests_total[('status', '200')]"] == 2
    assert expected["gpux_stage_duration_seconds_bucket[('le', '+Inf'), ('stage', 'encode')]"] == 4
    assert expected["gpux_stage_duration_seconds_bucket[('le', '60.0'), ('stage', 'encode')]"] == 0
    expected["gpux_pool_bytes[('pool', 'host')]"] = 20
    expected["gpux_model_load_seconds[('stage', 'load')]"] = 3.0
    expected["gpux_model_load_seconds[('stage', 'warmup')]"] = 1.0
    assert gpux_samples(first) == expected
    assert gpux_samples(second) == expected


def test_the_worst_of_several_processes() -> None:
    memory = CounterMemory(ROW_SIZE, 2)
    for number, seconds in ((0, 0.5), (1, 0.25)):
        lag = Gauge("Lag.", single(partial(float, seconds)), total=max)
        metrics = Metrics({"gpux_lag_seconds": lag}, memory.counters(number))
        metrics.publish()
    (family,) = (family for family in metrics.families() if family.name == "gpux_lag_seconds")
    assert family.samples == [((), 0.5)]


def test_a_replacement_counts_on_and_has_its_own_gauges() -> None:
    memory = CounterMemory(ROW_SIZE, 2)
    other = Metrics(gauges([0.0] * 9), memory.counters(1))
    dead = Metrics(gauges([7.0] * 9), memory.counters(0))
    use(dead, [200, 200])
    dead.loaded({"load": 9.0, "warmup": 9.0})
    dead.publish()
    assert gpux_samples(other)["gpux_queue_requests[]"] == 7
    replacement = Metrics(gauges([1.0] * 9), memory.counters(0))
    found = gpux_samples(other)
    assert found["gpux_queue_requests[]"] == 0
    assert found["gpux_requests_total[('status', '200')]"] == 2
    assert found["gpux_model_load_seconds[('stage', 'load')]"] == 0
    use(replacement, [200])
    replacement.publish()
    found = gpux_samples(other)
    assert found["gpux_queue_requests[]"] == 1
    assert found["gpux_requests_total[('status', '200')]"] == 3
    assert found["gpux_batch_rows_sum[]"] == 12


def test_the_figures_of_processes_are_summed() -> None:
    memory = CounterMemory(ROW_SIZE, 3)
    metrics = Metrics({}, memory.counters(0))
    text = text_of(metrics).decode()
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    # This process is master and worker; the other rows are unused.
    assert samples["process_max_fds"] > 0
    files = len(list(Path("/proc/self/fd").iterdir()))
    assert files / 2 < samples["process_open_fds"] < files * 2
    assert samples["process_cpu_seconds_total"] > 0
    assert samples["process_resident_memory_bytes"] > 0
