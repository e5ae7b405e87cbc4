"""Text that comes from outside, in columns that hold Unicode: queue lines may be any bytes."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

#: Begins a column whose text is percent-encoded, as it could not be stored as it is.
_ENCODED = "\x01"
#: Details are for people; the whole text of a result is in its JSON.
_DETAIL_LENGTH = 500


def to_column(text: str) -> str:
    """Return *text* (decoded with ``surrogateescape``) as it can be stored, reversibly."""
    if text.isascii() and "\0" not in text and not text.startswith(_ENCODED):
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ENCODED + quote_from_bytes(text.encode("utf-8", "surrogateescape"))
    return _ENCODED + quote_from_bytes(text.encode()) if "\0" in text or text.startswith(_ENCODED) else text


def from_column(text: str) -> str:
    """Return what `to_column` was given."""
    return (
        unquote_to_bytes(text[1:]).decode("utf-8", "surrogateescape") if text.startswith(_ENCODED) else text
    )


def plain(text: object, length: int = _DETAIL_LENGTH) -> str:
    """Return *text* cut to *length* characters, with what cannot be stored replaced."""
    short = str(text)[:length]
    if short.isascii() and "\0" not in short:
        return short
    return short.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
