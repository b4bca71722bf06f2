"""The page's JavaScript programs in Node: its own fetch, and axios; how each reads an error."""

import json
from collections.abc import Callable

import pytest

from tests.support.client_programs import AXIOS, FETCH, aim, find_node_folder, find_tool, run_to_end
from tests.support.servers import ServerProcess

Serve = Callable[[str], ServerProcess]

# An answer that is an error is a value to fetch, and thrown by axios.
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
    code = aim(program, server)
    if package is None:
        return run_to_end(command, code)
    # What a program on the standard input imports is looked for where it runs.
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
