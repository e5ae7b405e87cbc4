"""What a run of the Gemini CLI has used so far, from its records of what was said.

Its stream tells of tokens at the end alone. But it keeps each conversation, those of its subagents too, in a
file of its home: a JSON record a line, and a message once more whenever more is known of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from .foreign import event_of, map_of, number_of
from .gemini_events import Heard

#: Between two looks, in seconds.
_LOOK_SECONDS = 0.1
#: Answers that a conversation may be ahead of its record: the client asks again as soon as a tool has
#: answered, which may be before anybody has read what the last answer cost.
_AHEAD = 2


class Meter:
    """Adds up the answers that are in the records of one home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / ".gemini/tmp"
        #: By file: how far it was read. By file and message: its tokens.
        self._read: dict[Path, int] = {}
        self._tokens: dict[tuple[Path, str], int] = {}

    def look(self) -> int:
        """Return the tokens of all answers so far; what cannot be read counts for nothing."""
        for path in self._folder.glob("*/chats/**/*.jsonl"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
                whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
                self._read[path] = self._read.get(path, 0) + len(whole)
                for line in whole.splitlines():
                    self._take(path, line)
        return sum(self._tokens.values())

    def _take(self, path: Path, line: bytes) -> None:
        record = event_of(line)
        tokens = int(number_of(map_of(record.get("tokens")).get("total")))
        if tokens:
            self._tokens[path, str(record.get("id"))] = tokens


@contextlib.contextmanager
def metered(home: Path, heard: Heard, used: Callable[[int, int, bool], None]) -> Iterator[None]:
    """Tell *used* meanwhile the tokens so far, the answers that may be on their way, and if it asks again."""
    meter, over = Meter(home), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            if tokens := meter.look():
                used(tokens, _AHEAD * heard.talks, heard.asks)

    thread = threading.Thread(target=look, daemon=True, name="gemini tokens")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
