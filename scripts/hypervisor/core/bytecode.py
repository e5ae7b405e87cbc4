"""Where Python keeps what it has compiled of us: in the user's cache folder, never beside the source.

The source may be a plugin's, which is read-only, or is compared with what was installed. Without any
place each hook and each command would be compiled anew, which takes longer than what it does.

Syntax and imports are old and few: see `launch`.
"""

import os
import sys


def use_cache():
    # type: () -> None
    """Compile what is imported from here on into the cache folder; other programs are told nothing."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", ""), ".cache")
    if sys.flags.dont_write_bytecode or not os.path.isabs(cache):
        return
    # What the user has named counts (PYTHONPYCACHEPREFIX).
    sys.pycache_prefix = sys.pycache_prefix or os.path.join(cache, "hypervisor", "compiled")
    sys.dont_write_bytecode = False
