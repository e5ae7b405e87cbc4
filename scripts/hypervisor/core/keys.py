"""Which queue lines are the same item, and what an item is called on disk. Pure but for links.

**Canonical form.** Two lines are one item when they name one place. An item that looks like a
text (it holds ``://``, or starts with ``{`` or ``[``) stands for itself, to the byte. Every other
item is read as a path: relative ones below the queue's base folder, with ``.``, ``..``, doubled
slashes and the links of its *folders* resolved. The last name is never resolved and need not
exist: a command may move or delete the file that it was given, and its key must not change under
it.

**Key.** A readable slug and 128 bits of a hash of the canonical form: never the file's stem, of
which a tree may hold hundreds (``README.md``). A new life of a finished item is ``key.rN``; the
generations of a claim are ``key``, ``key~2``, ``key~3`` ... No path serves twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from functools import lru_cache

#: Longest slug: slug + hash + life + generation + the trash's random tail stay well below the
#: 255 bytes that file systems allow for a name.
SLUG_LENGTH = 80
_HASH_BYTES = 16
_UNSLUG = re.compile(r"[^a-z0-9]+")


def canonical(item: str, base: str) -> str:
    """Return the form of *item* that is equal for all its spellings.

    Args:
        item: A queue line, verbatim.
        base: Absolute, real path of the folder that relative items are relative to.
    """
    if "://" in item or item[:1] in ("{", "["):
        return f"text:{item}"
    if "/" not in item and item not in ("", ".", ".."):
        return f"path:{item}"  # what `resolve` would say of it, in a tenth of the time
    path = resolve(item, base)
    below = base.rstrip("/") + "/"
    # Relative to the base where possible, so that a project may be moved between batches.
    return f"path:{path[len(below) :]}" if path.startswith(below) else f"path:{path}"


def resolve(item: str, base: str) -> str:
    """Return the absolute path that *item* names, the links of its folders resolved."""
    head, _, tail = item.rpartition("/")
    folder = (head or "/") if item.startswith("/") else f"{base}/{head}"
    if tail in ("", ".", ".."):
        return _real(os.path.join(folder, tail))
    return f"{_real(folder).rstrip('/')}/{tail}"


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    # Cached: a queue has few folders and many files, and each call costs an lstat a part.
    try:
        return os.path.realpath(folder)
    except (OSError, ValueError):  # a NUL, or a name longer than the system takes
        return os.path.normpath(folder)


def item_key(canonical_form: str, salt: str = "") -> str:
    """Return the name that an item bears in a store, from its canonical form.

    Args:
        canonical_form: See `canonical`.
        salt: Where a store is shared, the name of the batch that the item belongs to alone.
    """
    data = os.fsencode(f"{salt}\0{canonical_form}" if salt else canonical_form)
    digest = hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()
    return f"{_slug(canonical_form)}-{digest}"


def task_key(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """Return the key of a task in its project's store, from the project's root and the file's path."""
    return item_key(canonical(os.path.realpath(path), os.path.realpath(root)))


def _slug(canonical_form: str) -> str:
    words = canonical_form.partition(":")[2].rstrip("/").split("/")[-2:]
    text = "-".join(words).removesuffix(".md")[-4 * SLUG_LENGTH :]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNSLUG.sub("-", text.lower()).strip("-")[-SLUG_LENGTH:].strip("-") or "item"


def life_key(key: str, life: int) -> str:
    """Return the key of an item's *life*: 1 is the item's own key, 2 is ``key.r2``."""
    return key if life == 1 else f"{key}.r{life}"


def split_life(name: str) -> tuple[str, int]:
    """Return item key and number of life of what `life_key` made."""
    key, mark, life = name.rpartition(".r")
    return (key, int(life)) if mark and life.isdecimal() else (name, 1)


def attempt_name(key: str, number: int) -> str:
    """Return the name of an attempt's outputs: ``key``, ``key~2``, ``key~3`` ..."""
    return key if number == 1 else f"{key}~{number}"


def generation_name(key: str, generation: int) -> str:
    """Return the name of a claim's directory: ``key``, ``key~2``, ``key~3`` ..."""
    return key if generation == 1 else f"{key}~{generation}"


def split_generation(name: str) -> tuple[str, int]:
    """Return key and generation of what `generation_name` made."""
    key, mark, generation = name.rpartition("~")
    return (key, int(generation)) if mark and generation.isdecimal() else (name, 1)
