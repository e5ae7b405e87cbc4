"""What a script checks before anything else: the Python, and that its dependencies are there.

Imports nothing but the standard library and nothing slow. Its syntax stays old, so that a Python
which is too old for the rest still gets as far as saying so.
"""

import importlib.util
import os
import sys

#: Import names of the dependencies in the scripts' headers, and what they are called there.
MODULES = {"yaml": "pyyaml", "filelock": "filelock", "psutil": "psutil", "rich": "rich"}
EXIT_USAGE = 2
_PYTHON = (3, 11)


def require(script):
    # type: (str) -> None
    """Return if *script* can run here; else say in one line what to type, and exit 2."""
    fault = _fault()
    if fault:
        short = os.path.relpath(script)
        path = script if short.startswith(os.pardir) else short
        name = os.path.basename(script)
        sys.stderr.write("%s: %s; start it with: uv run %s ...\n" % (name, fault, path))  # noqa: UP031
        raise SystemExit(EXIT_USAGE)


def _fault():
    # type: () -> str
    if sys.version_info < _PYTHON:
        return "needs Python %d.%d or later, this is %d.%d" % (_PYTHON + sys.version_info[:2])  # noqa: UP031
    missing = [MODULES[name] for name in MODULES if importlib.util.find_spec(name) is None]
    return "needs " + ", ".join(sorted(missing)) if missing else ""
