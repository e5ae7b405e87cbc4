"""What a script checks before anything else: the Python, and that its dependencies are there.

Imports nothing but the standard library and nothing slow. Its syntax stays old, so that a Python
which is too old for the rest still gets as far as saying so.
"""

import importlib.util
import os
import re
import sys

#: Dependencies that are imported under another name than their own.
IMPORTED_AS = {"pyyaml": "yaml"}
EXIT_USAGE = 2
_PYTHON = (3, 11)


def require(script):
    # type: (str) -> None
    """Return if *script* can run here; else say in one line what to type, and exit 2."""
    fault = _fault(script)
    if fault:
        short = os.path.relpath(script)
        path = script if short.startswith(os.pardir) else short
        name = os.path.basename(script)
        sys.stderr.write("%s: %s; start it with: uv run %s ...\n" % (name, fault, path))  # noqa: UP031
        raise SystemExit(EXIT_USAGE)


def dependencies(script):
    # type: (str) -> list[str]
    """Return the names of the packages that the header of *script* (PEP 723) asks for."""
    with open(script) as file:
        line = re.search(r"^# dependencies = \[(.*)\]$", file.read(), re.MULTILINE)
    return re.findall(r'"([\w-]+)', line.group(1)) if line else []


def _fault(script):
    # type: (str) -> str
    if sys.version_info < _PYTHON:
        return "needs Python %d.%d or later, this is %d.%d" % (_PYTHON + sys.version_info[:2])  # noqa: UP031
    wanted = dependencies(script)
    missing = [name for name in wanted if importlib.util.find_spec(IMPORTED_AS.get(name, name)) is None]
    return "needs " + ", ".join(sorted(missing)) if missing else ""
