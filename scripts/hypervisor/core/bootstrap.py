"""What a script does first: choose where compiled code goes, check that Python and the packages are there.

Python keeps what it has compiled of us in the user's cache folder, never beside the source: that may be a
plugin's, which is read-only, or is compared with what was installed. Without any place each hook and each
command would be compiled anew, which takes longer than what it does.

Imports nothing but the standard library and nothing slow. Its syntax stays old, so that a Python
which is too old for the rest still gets as far as saying so.
"""

import os
import sys

#: The packages that the project depends on, by the name under which each is imported.
PACKAGES = {
    "python-frontmatter": "frontmatter", "pyyaml": "yaml", "apsw": "apsw", "filelock": "filelock",
    "psutil": "psutil", "inotify-simple": "inotify_simple", "rich": "rich",
}  # fmt: skip
EXIT_USAGE = 2
_PYTHON = (3, 11)
#: Set for a script that was started again: no start leads to another one for ever.
STARTED_AGAIN = "HYPERVISOR_STARTED_AGAIN"
#: In the environment that `scripts/prepare` makes.
_MARK = "hypervisor-ready"
_SCRIPTS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
#: Set in a sandbox: the socket to its coordinator.
RELAY = "HYPERVISOR_RELAY"


def use_compiled_cache():
    # type: () -> None
    """Compile what is imported from here on into the cache folder; other programs are told nothing."""
    cache = _cache()
    if not cache:
        return
    # What the user has named counts (PYTHONPYCACHEPREFIX).
    sys.pycache_prefix = sys.pycache_prefix or os.path.join(cache, "compiled")
    # With PYTHONDONTWRITEBYTECODE, as in many containers, what `scripts/prepare` has compiled is still read.
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def _cache():
    # type: () -> str
    """Return our folder in the user's cache, "" for none or another user's. A relative one is not used."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(os.environ.get("HOME", ""), ".cache")
    if not os.path.isabs(cache):
        return ""
    cache = os.path.join(cache, "hypervisor")
    try:
        return cache if os.geteuid() in (0, os.stat(cache).st_uid) else ""
    except OSError:  # not there yet
        return cache


def has_environment():
    # type: () -> bool
    """Return whether `scripts/prepare` has made our environment; its mark has the time of the lock."""
    cache = _cache()
    root = os.path.dirname(_SCRIPTS)
    if not cache:
        return False
    try:
        mark = os.stat(cache + "/environments" + root + "/.venv/" + _MARK)
        return mark.st_mtime_ns == os.stat(os.path.join(root, "uv.lock")).st_mtime_ns
    except OSError:
        return False


def require(script):
    # type: (str) -> None
    """Return if *script* can run here; else start it again in our own environment (`scripts/launch`).

    Where that has not helped, say in one line what to type, and exit 2. In the sandbox of an agent the script
    is run by its coordinator, outside (`core/relayed`), and this exits.
    """
    if os.environ.get(RELAY) and sys.version_info >= _PYTHON:
        from .relayed import main  # noqa: PLC0415 - in a sandbox only

        raise SystemExit(main(os.environ[RELAY], script, sys.argv[1:]))
    again = os.environ.pop(STARTED_AGAIN, "")
    _leave_uv()
    fault = _fault()
    if not fault:
        return
    starter = os.path.join(_SCRIPTS, "launch")
    if not again and os.path.exists(starter):
        os.environ[STARTED_AGAIN] = "1"
        name = os.path.relpath(os.path.abspath(script), _SCRIPTS)
        os.execv("/bin/sh", ["sh", starter, name] + sys.argv[1:])  # noqa: RUF005, S606 - old Pythons read this
    short = os.path.relpath(script)
    path = script if short.startswith(os.pardir) else short
    name = os.path.basename(script)
    sys.stderr.write("%s: %s; start it with: uv run %s ...\n" % (name, fault, path))  # noqa: UP031
    raise SystemExit(EXIT_USAGE)


def _fault():
    # type: () -> str
    if sys.version_info < _PYTHON:
        return "needs Python %d.%d or later, this is %d.%d" % (_PYTHON + sys.version_info[:2])  # noqa: UP031
    if os.path.exists(os.path.join(sys.prefix, _MARK)):
        return ""
    missing = [name for name in PACKAGES if not _is_there(PACKAGES[name])]
    return "needs " + ", ".join(sorted(missing)) if missing else ""


def _is_there(package):
    # type: (str) -> bool
    # Not by importing it: that is slow. A package's __init__ may be compiled, as that of apsw is.
    places = [os.path.join(folder, package) for folder in sys.path]
    return any(
        os.path.exists(place + ".py")
        or os.path.exists(os.path.join(place, "__init__.py"))
        or (os.path.isdir(place) and any(name.startswith("__init__.") for name in os.listdir(place)))
        for place in places
    )


def _leave_uv():
    # type: () -> None
    """Take the script's environment away, if `uv run --script` has started this.

    It is ours alone: the agents and commands that we start find the user's own python, as at a shell.
    """
    of_a_script = os.path.basename(os.path.dirname(sys.prefix)).startswith("environments-v")  # in uv's cache
    if os.environ.get("VIRTUAL_ENV") != sys.prefix or not of_a_script:
        return
    first, _, rest = os.environ.get("PATH", "").partition(os.pathsep)
    if first == os.path.dirname(sys.executable):
        os.environ["PATH"] = rest
    for name in ("VIRTUAL_ENV", "UV", "UV_RUN_RECURSION_DEPTH"):
        os.environ.pop(name, None)
