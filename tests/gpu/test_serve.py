"""`gpux serve` on a real GPU."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpux.cli.examples import find_examples
from gpux.model import load
from tests.support.servers import metric, run_gpux, serve

Find = Callable[[str], Path]


def test_the_server_answers_as_the_cpu_does(
    model_file: Find, alike: Callable[[bytes, bytes], bool]
) -> None:
    file = model_file("sentiment")
    examples = find_examples(load(file, "cpu"))
    with serve(file, "--provider", "cuda", "--verbose") as server:
        for _ in range(6):
            for example in examples.values():
                response = server.post(example.body)
                assert response.status == 200
                assert alike(response.body, example.answer)
        info = server.request("GET", "/info").json
        assert info["provider"] == "cuda"
        assert info["device"] == "cuda:0"
        assert set(info["nodes"]) == {"cuda"}
        assert info["cuda_graph"]["captured"] >= 1
        assert "none on the CPU" in server.stdout.text
        memory = {
            state: metric(server, "gpux_gpu_memory_bytes", state=state)
            for state in ("used", "free")
        }
        assert memory["used"] > 2**20
        assert sum(memory.values()) > 2**30


def test_sixteen_clients(model_file: Find) -> None:
    with serve(model_file("matrix"), "--provider", "cuda") as server:

        def is_echoed(number: int) -> bool:
            rows = [[float(number), 0.5]] * (number % 5 + 1)
            return bool(server.predict({"x": rows}) == {"y": rows})

        with ThreadPoolExecutor(16) as clients:
            assert all(clients.map(is_echoed, range(500)))


def test_a_memory_limit_that_is_too_small(folder_for: Callable[[str, str], Path]) -> None:
    folder = folder_for("repeat", "runtime: {gpu_memory_limit: 32MiB}\n")
    with serve(folder, "--provider", "cuda") as server:
        for _ in range(3):
            response = server.post({"count": [2**26]})
            assert response.status == 500
            assert "memory" in response.detail.lower()
            assert server.predict({"count": [2]}) == {"ones": [1.0, 1.0]}


def test_a_gpu_that_is_not_there_is_refused(model_file: Find) -> None:
    done = run_gpux("serve", str(model_file("matrix")), "--provider", "cuda", "--device", "99")
    assert done.returncode == 2
    assert "there is no GPU 99" in done.stderr


def test_cuda_graph_on_is_refused_where_it_cannot_be(
    folder_for: Callable[[str, str], Path],
) -> None:
    folder = folder_for("slow", "runtime: {cuda_graph: 'on', provider: cuda}\n")
    done = run_gpux("serve", str(folder))
    assert done.returncode == 2
    assert "control flow" in done.stderr


def test_run_and_inspect(model_file: Find) -> None:
    done = run_gpux("run", str(model_file("matrix")), "--provider", "cuda", "--input", '{"x":[1]}')
    assert json.loads(done.stdout) == {"y": [1.0]}
    done = run_gpux("inspect", str(model_file("text")), "--provider", "cuda", "--verbose")
    assert done.returncode == 0
    assert "cuda:0" in done.stdout
    assert "LabelEncoder" in done.stdout
