"""background: the loop's thread of a host that has none."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpux.errors import DeadlineError
from gpux.serving.background import Background


def test_all_calls_are_in_one_thread_that_the_first_one_starts() -> None:
    opened: list[str] = []
    background = Background(lambda _: opened.append(threading.current_thread().name))
    assert opened == []

    def name(respond: Callable[[str], None]) -> None:
        respond(threading.current_thread().name)

    with ThreadPoolExecutor(16) as callers:
        names = list(callers.map(lambda _: background.call(name, 60.0), range(200)))
    assert set(names) == set(opened) == {"loop"}
    assert len(opened) == 1


def test_the_result_may_come_later() -> None:
    background = Background(lambda _: None)

    def later(respond: Callable[[int], None]) -> None:
        asyncio.get_event_loop().call_later(0.01, respond, 7)

    assert background.call(later, 60.0) == 7


def test_a_callers_function_may_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        Background(lambda _: None).call(lambda _: 1 / 0, 60.0)


def test_a_caller_waits_no_longer_than_it_said() -> None:
    with pytest.raises(DeadlineError):
        Background(lambda _: None).call(lambda _: None, 0.01)
