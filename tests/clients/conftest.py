"""Servers for the programs of the API page, each started from a folder or a file alone."""

from pathlib import Path

import pytest

from tests.support import bert_models
from tests.support.servers import Serve, ServerFor, ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def transformer(server_for: ServerFor, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server that accepts what the page's programs send: text, or ids with their mask."""
    folder = tmp_path_factory.mktemp("transformer")
    inputs = "input_ids", "attention_mask"
    return server_for(bert_models.write_folder(folder, inputs=inputs))


@pytest.fixture(scope="session")
def example(server_for: ServerFor) -> Serve:
    """Finds the server of an example by its name."""
    return lambda name: server_for(EXAMPLES / name)


@pytest.fixture(params=["strings", "sentiment", "transformer"])
def text_server(request: pytest.FixtureRequest, server: Serve, example: Serve) -> ServerProcess:
    """A server that returns `sentiment` for a text, as on the API page.

    One of each kind: a string model with fixed results for the page's sentences, the trained
    example, and a transformer with a tokenizer.
    """
    if request.param == "strings":
        return server("text")
    if request.param == "sentiment":
        return example("sentiment")
    found: ServerProcess = request.getfixturevalue("transformer")
    return found
