#!/usr/bin/env bash
# hypercorn 0.18.0: an ASGI app that a module makes on first access (PEP 562) is not found.
#
# `module:app` names an attribute of a module. uvicorn takes it by getattr(), so that a module may make the app in its
# __getattr__, as gunicorn and waitress take WSGI apps. hypercorn evaluates the name in vars(module), which asks no
# __getattr__, and says that there is no such application. A module that is to work under all of them needs `app` as a
# plain attribute, which does its work when it is called.
#
# Output seen, hypercorn 0.18.0, uvicorn 0.54.0, CPython 3.11:
#   getattr: <function made_app>
#   uvicorn: loaded
#   hypercorn: NoAppError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet "hypercorn==0.18.0" "uvicorn==0.54.0"

cat >lazy.py <<'PYTHON'
async def made_app(scope, receive, send):
    raise NotImplementedError


def __getattr__(name):
    if name == "app":
        return made_app
    raise AttributeError(name)
PYTHON

seen=$(env/bin/python - <<'PYTHON'
import sys

sys.path.insert(0, "")
import lazy
from hypercorn.utils import NoAppError, load_application
from uvicorn.importer import import_from_string

print(f"getattr: <function {lazy.app.__name__}>")
print("uvicorn:", "loaded" if import_from_string("lazy:app") is lazy.made_app else "another")
try:
    load_application("lazy:app", 2**16)
    print("hypercorn: loaded")
except NoAppError as error:
    print("hypercorn:", type(error).__name__)
PYTHON
)
echo "$seen"
[[ "$seen" == "getattr: <function made_app>
uvicorn: loaded
hypercorn: NoAppError" ]]
