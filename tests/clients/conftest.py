"""Servers that answer `sentiment` for a text, as the API page has it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from servers import ServerProcess


@pytest.fixture(scope="session")
def transformer(
    server_for: Callable[[Path], ServerProcess], tmp_path_factory: pytest.TempPathFactory
) -> ServerProcess:
    """A server that takes what the page's programs send, text as well as ids and their mask."""
    folder = tmp_path_factory.mktemp("transformer")
    inputs = "input_ids", "attention_mask"
    return server_for(transformers.write_folder(folder, inputs=inputs))


@pytest.fixture(params=["strings", "transformer"])
def text_server(
    request: pytest.FixtureRequest, server: Callable[[str], ServerProcess]
) -> ServerProcess:
    """A server of either kind of text model: one that takes strings, one beside a tokenizer."""
    if request.param == "strings":
        return server("text")
    found: ServerProcess = request.getfixturevalue("transformer")
    return found
