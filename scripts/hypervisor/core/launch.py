"""What a script checks before anything else: the Python, and that its dependencies are there.

`scripts/with-uv` and `hooks/guard` start a script by uv once; the Python that uv has chosen is kept, and from
then on they start it by themselves: uv took nearly half of what a hook costs.

Imports nothing but the standard library and nothing slow. Its syntax stays old, so that a Python
which is too old for the rest still gets as far as saying so.
"""

import os
import re
import sys

#: Dependencies that are imported under another name than their own.
IMPORTED_AS = {"pyyaml": "yaml"}
EXIT_USAGE = 2
_PYTHON = (3, 11)
#: Names the file in which the Python of a script is kept.
_KEPT = "HYPERVISOR_KEEP_PYTHON"
_ONCE_MORE = "HYPERVISOR_ONCE_MORE"


def require(script, was_read=b""):
    # type: (str, bytes) -> None
    """Return if *script* can run here; else say in one line what to type, and exit 2.

    A Python that was kept and is no good any more is forgotten, and uv starts the script once more; what
    *was_read* of standard input stands there again.
    """
    kept, again, by_uv = os.environ.pop(_KEPT, ""), os.environ.pop(_ONCE_MORE, ""), _leave_uv()
    fault = _fault(script)
    if kept and by_uv and not fault:
        _keep(kept)
    elif kept and fault and not by_uv and not again:
        _once_more(script, kept, was_read)
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
    missing = [name for name in wanted if not _is_there(IMPORTED_AS.get(name, name))]
    return "needs " + ", ".join(sorted(missing)) if missing else ""


def _is_there(package):
    # type: (str) -> bool
    # Not by importing it: that is slow. A package's __init__ may be compiled, as that of apsw is.
    places = [os.path.join(folder, package) for folder in sys.path]
    return any(
        os.path.exists(os.path.join(place, "__init__.py"))
        or (os.path.isdir(place) and any(name.startswith("__init__.") for name in os.listdir(place)))
        for place in places
    )


def _leave_uv():
    # type: () -> bool
    """Tell whether `uv run --script` has started this; if so, take the script's environment away.

    It is ours alone: the agents and commands that we start find the user's own python, as at a shell.
    """
    of_a_script = os.path.basename(os.path.dirname(sys.prefix)).startswith("environments-v")  # in uv's cache
    if os.environ.get("VIRTUAL_ENV") != sys.prefix or not of_a_script:
        return False
    first, _, rest = os.environ.get("PATH", "").partition(os.pathsep)
    if first == os.path.dirname(sys.executable):
        os.environ["PATH"] = rest
    for name in ("VIRTUAL_ENV", "UV", "UV_RUN_RECURSION_DEPTH"):
        os.environ.pop(name, None)
    return True


def _keep(kept):
    # type: (str) -> None
    draft = "%s.%d.tmp" % (kept, os.getpid())  # noqa: UP031
    try:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        with open(draft, "w") as file:
            file.write(sys.executable + "\n")
        os.replace(draft, kept)
    except OSError:  # it is started by uv the next time too
        if os.path.exists(draft):  # as on a full disk
            os.unlink(draft)


def _once_more(script, kept, was_read):
    # type: (str, str, bytes) -> None
    import contextlib  # noqa: PLC0415 - slow, and seldom needed; so is the next
    import tempfile  # noqa: PLC0415

    with contextlib.suppress(OSError):  # another one was quicker
        os.unlink(kept)
    if was_read:
        rest = tempfile.TemporaryFile()  # noqa: SIM115 - for the program that takes our place
        rest.write(was_read)
        rest.seek(0)
        os.dup2(rest.fileno(), 0)
    os.environ[_ONCE_MORE] = "1"
    starter = os.path.join(os.path.dirname(os.path.abspath(script)), "with-uv")
    os.execv("/bin/sh", ["sh", starter, os.path.basename(script), *sys.argv[1:]])  # noqa: S606
