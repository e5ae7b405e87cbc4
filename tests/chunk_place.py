"""Batches that are cut into chunks, and commands that work on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from commands import HYPERVISOR
from hypervisor.queue.counts import ItemEvent
from hypervisor.queue.stop import Stop
from hypervisor.review.plan import ChunkedBatch, ChunkPlan, make_chunked, open_chunked
from hypervisor.review.records import Record
from hypervisor.review.run import ChunkRunOptions, advance, run_wave
from hypervisor.review.split import Cut, SplitItem, cut
from hypervisor.review.waves import WaveState, state_of

#: Notes each item of its chunk: "keep", or what the criteria say of even ones; also in its own process.
CLASSIFY = f"""
import json, os, subprocess, sys
hypervisor = {list(HYPERVISOR)!r}
words = [*hypervisor, "chunk", "items", "--left"]
left = subprocess.run(words, capture_output=True, text=True).stdout.split()
with open(os.environ["HYPERVISOR_CHUNK_ID"] + ".seen", "a") as seen:
    seen.write(" ".join(left) + "\\n")
items = [json.loads(line)["id"] for line in open(sys.argv[1])]
assert set(left) <= set(items)
category = lambda item: os.environ["HYPERVISOR_CRITERIA"].strip() if int(item[2:]) % 2 == 0 else "keep"
lines = [json.dumps({{"item": item, "category": category(item), "rationale": "as told"}}) for item in left]
note = [*hypervisor, "chunk", "note", os.environ["HYPERVISOR_CHUNK_ID"], "-"]
sys.exit(subprocess.run(note, input="\\n".join(lines), text=True).returncode)
"""


def mails(path: Path, months: int = 4, each: int = 4) -> Path:
    """Write a few mails, whose dates take turns in months."""
    lines = [
        {"id": f"m-{number:02d}", "date": f"2025-{number % months + 1:02d}-03", "subject": f"about {number}"}
        for number in range(months * each)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@dataclass(slots=True)
class Chunks:
    """A batch that is cut into chunks, in this process."""

    folder: Path
    events: list[ItemEvent] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)
    _open: list[ChunkedBatch] = field(default_factory=list)

    @property
    def made(self) -> ChunkedBatch:
        """The batch."""
        if not self._open:
            self._open.append(open_chunked(self.folder))
        return self._open[0]

    def cut(self, months: int = 4, each: int = 4, *, bulk: tuple[str, ...] = ()) -> ChunkPlan:
        """Cut mails by month; return the plan."""
        records = [
            Record(
                id=f"m-{n:02d}",
                fields={"id": f"m-{n:02d}", "date": f"2025-{n % months + 1:02d}-03", "subject": f"about {n}"},
            )
            for n in range(months * each)
        ]
        chunks = cut(
            [SplitItem(id=one.id, value=one.fields["date"]) for one in records], Cut.of("month:date")
        )
        plan = ChunkPlan(
            by="month:date", zone="UTC", most=0, id_field="id", base=str(self.folder.parent), task="",
            chunks=tuple(chunks), bulk=bulk,
        )  # fmt: skip
        made = make_chunked(self.folder, bulk)
        self._open.append(made)
        return made.keep(plan, records)

    def advance(self, command: str = "true", **options: object) -> WaveState:
        """Begin the next wave if one may begin."""
        return advance(self.made, ChunkRunOptions(command=command, **options))  # type: ignore[arg-type]

    def run(self, command: str = "true", **options: object) -> WaveState:
        """Begin the next wave if one may begin, and run it; return what may happen then."""
        at = self.advance(command, **options)
        if at.what == "run" and at.wave is not None:
            wanted = ChunkRunOptions(command=command, **options)  # type: ignore[arg-type]
            attempts = {"attempts": wanted.retries + 1} if wanted.retries is not None else None
            made = open_chunked(self.folder, attempts)
            with made.batch:
                run_wave(made, at.wave, wanted, self.events.append, self.stop)
        return self.state

    @property
    def state(self) -> WaveState:
        """What may happen next."""
        return state_of(self.made, self.made.plan())

    def close(self) -> None:
        """Close the store."""
        for made in self._open:
            made.batch.close()
