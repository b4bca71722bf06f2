"""Checks of models of onnx_models.py that hold on a real GPU and on the fake one."""

from concurrent.futures import ThreadPoolExecutor

from gpux.model import Model
from tests.support.onnx_models import BUILDERS

LOADED = [name for name in BUILDERS if not name.startswith("takes_") and "slow" not in name]


def check_alias(model: Model) -> None:
    for number in range(8):
        outputs = model.predict({"x": [[number, 1.5]]})
        assert outputs["x"].tolist() == [[number, 1.5]]
        assert outputs["doubled"].tolist() == [[2 * number, 3.0]]


def check_boxes(model: Model) -> None:
    """Three runs, each with an output of a different size."""
    corners = [[[0, 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 1.1]]]
    for scores, chosen in (
        ([0.9, 0.8, 0.7], [[0, 0, 0], [0, 0, 1]]),
        ([0.9, 0.0, 0.0], [[0, 0, 0]]),
        ([0.0, 0.0, 0.0], []),
    ):
        selected = model.predict({"boxes": corners, "scores": [[scores]]})["selected"]
        assert selected.tolist() == chosen
        assert selected.shape == (len(chosen), 3)


def check_doubled(model: Model) -> None:
    for number in range(8):
        outputs = model.predict({"x": [[number], [7.0]]})
        assert outputs["twice"].tolist() == [[number], [7.0], [number], [7.0]]
        assert outputs["negative"].tolist() == [[-number], [-7.0]]


def check_sixteen_threads(alias: Model, turns: int) -> None:
    """Each thread gets its own responses, in `turns` requests."""
    wrong: list[object] = []

    def predict(thread: int) -> None:
        for turn in range(turns):
            rows = [[float(thread), float(turn)]] * (1 + (thread + turn) % 5)
            text = str(rows).replace(" ", "")
            doubled = str([[2 * value for value in row] for row in rows]).replace(" ", "")
            response = alias.respond(f'{{"x":{text}}}'.encode())
            if response != f'{{"doubled":{doubled},"x":{text}}}'.encode():
                wrong.append((rows, response))

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(predict, range(16)))
    assert wrong == []
