"""JSONTestSuite over the socket: all of it to one server, which answers each document."""

import json
from collections.abc import Callable

import numpy

from tests.support.json_test_suite import NAMES, document, needed
from tests.support.servers import Client, ServerProcess, post

pytestmark = needed


def test_every_document_is_answered(server: Callable[[str], ServerProcess]) -> None:
    running = server("mixed")
    bodies = [
        (name, before + document(name) + after)
        for name in NAMES
        for before, after in (
            (b'{"float32":', b"}"),
            (b'{"int64":', b"}" + b" " * 100),
            (b'{"bool":', b"}"),
            (b'{"text":', b"}"),
            (b"", b""),
        )
    ]
    with Client(running) as client:
        for name, body in bodies:
            client.send(post(body))
            answer = client.read()
            # The model has more inputs, so that what is right is refused as well, but later.
            assert answer.status == 400, (name, answer)
            assert answer.headers["Content-Type"] == "application/json"
            is_syntax = answer.detail.startswith("Invalid JSON at byte ")
            assert not (name.startswith("y_") and is_syntax), (name, answer)


def test_what_is_right_and_fits_is_run(server: Callable[[str], ServerProcess]) -> None:
    running = server("opened")
    ran = 0
    with Client(running) as client:
        for name in NAMES:
            if name.startswith("n_"):
                continue
            client.send(post(b'{"scalar":1,"free":' + document(name) + b"}"))
            answer = client.read()
            if answer.status == 200:
                wanted = numpy.asarray(json.loads(document(name)), numpy.float32)
                assert numpy.array_equal(numpy.float32(answer.json["free_out"]), wanted), name
                ran += 1
            else:
                assert answer.status == 400, (name, answer)
    assert ran > 10
