"""The API page's JavaScript programs in Node: fetch and axios, and how each reports errors."""

import json

import pytest

from tests.support.client_programs import (
    AXIOS,
    FETCH,
    find_node_folder,
    find_tool,
    retarget,
    run_to_end,
)
from tests.support.servers import Serve, ServerProcess

pytestmark = pytest.mark.full

# fetch returns an error response as a value; axios throws it.
FETCH_ERROR = f"""\
{FETCH}\
if (!response.ok) {{
  console.log(`HTTP ${{response.status}}: ${{result.detail}}`);
}}
"""
AXIOS_ERROR = f"""\
try {{
  {AXIOS}\
}} catch (error) {{
  console.log(`HTTP ${{error.response.status}}: ${{error.response.data.detail}}`);
}}
"""


def run_node(server: ServerProcess, program: str, package: str | None) -> list[str]:
    command = [find_tool("node"), "--input-type=module", "-"]
    code = retarget(program, server)
    if package is None:
        return run_to_end(command, code)
    # Imports of a program on stdin are resolved from its working directory.
    folder = find_node_folder(package)
    return run_to_end(command, f"import {package} from '{package}';\n{code}", folder)


@pytest.mark.parametrize(
    ("program", "package"), [(FETCH, None), (AXIOS, "axios")], ids=["fetch", "axios"]
)
def test_answer(text_server: ServerProcess, program: str, package: str | None) -> None:
    expected = text_server.predict({"text": "I love GPUX!"})["sentiment"]
    [printed] = run_node(text_server, program, package)
    assert json.loads(printed) == expected


@pytest.mark.parametrize(
    ("program", "package"), [(FETCH_ERROR, None), (AXIOS_ERROR, "axios")], ids=["fetch", "axios"]
)
def test_error(server: Serve, program: str, package: str | None) -> None:
    detail = server("sentiment").post({"text": "I love GPUX!"}).detail
    assert run_node(server("sentiment"), program, package)[-1] == f"HTTP 400: {detail}"
