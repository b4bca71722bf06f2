"""JSONTestSuite over a socket: one server responds to every document."""

import json

import numpy

from tests.support.json_test_suite import NAMES, document, needed
from tests.support.servers import Client, Serve, post

pytestmark = needed


def test_every_document_is_answered(server: Serve) -> None:
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
    with Client(server("mixed")) as client:
        for name, body in bodies:
            response = client.exchange(post(body))
            # The model has more inputs, so valid documents are rejected too, by a later check.
            assert response.status == 400, (name, response)
            is_syntax = response.error(400).startswith("Invalid JSON at byte ")
            assert not (name.startswith("y_") and is_syntax), (name, response)


def test_what_is_right_and_fits_is_run(server: Serve) -> None:
    ran = 0
    with Client(server("opened")) as client:
        for name in NAMES:
            if name.startswith("n_"):
                continue
            response = client.exchange(post(b'{"scalar":1,"free":' + document(name) + b"}"))
            if response.status == 200:
                expected = numpy.asarray(json.loads(document(name)), numpy.float32)
                assert numpy.array_equal(numpy.float32(response.json["free_out"]), expected), name
                ran += 1
            else:
                assert response.status == 400, (name, response)
    assert ran > 10
