"""Parked tasks: what an agent has asked a person, and how the next attempt goes on with the answer.

An attempt that asked left its folder as it was. The next one works in the same folder and, where the client
can, in the same session. Otherwise a new agent gets the task, the questions, the answers and the work so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.model import Task
from ..queue.summary import answer_step
from ..runners.base import Agent, AgentEnd
from ..store.events import RunEvent
from ..store.questions import Question
from ..store.records import Claim
from ..store.store import Store
from ..tasks.service import TaskService
from .run_context import RunContext
from .verdict import Reported
from .workspace_pool import Workspace

#: The name of the client's session in `Question.place`.
_SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What an attempt goes on from: the questions of its task that were answered. Empty for most."""

    answered: tuple[Question, ...] = ()

    @property
    def number(self) -> int | None:
        """The number of the attempt whose folder holds the work so far; None where there is none."""
        return self.answered[-1].number if self.answered else None

    def session(self, agent: Agent) -> str:
        """Return the client's session that *agent* can resume, "" for none."""
        last = self.answered[-1] if self.answered else None
        return str(last.place.get(_SESSION, "")) if last and last.asker == agent.name else ""

    def context(self) -> str:
        """Return the questions with their answers, to be put behind the text of the task; "" for none."""
        if not self.answered:
            return ""
        parts = [
            "## Answers to questions of earlier attempts",
            "An earlier attempt at this task asked, and a person answered. What it had done by then is in "
            "your folder, some of it committed: look at it, and go on from there.",
            answers_text(self.answered),
        ]
        return "\n\n".join(["", *parts])

    def resumed_prompt(self, task: str) -> str:
        """Return what a session is told that goes on with its task; "" where nothing was asked."""
        if not self.answered:
            return ""
        last = self.answered[-1]
        return (
            f"Your question about task {task} was answered by {last.answered_by}.\n\n"
            f"{answers_text(self.answered[-1:])}\n\n"
            "Go on with the task in the same folder, by the same rules. Commit your work, then report."
        )


def answers_text(questions: Sequence[Question]) -> str:
    """Return questions with their answers, as an agent reads them."""
    return "\n\n".join(f"Question: {one.text}\nAnswer: {one.answer}" for one in questions)


def continuation_of(store: Store, claim: Claim) -> Continuation:
    """Return what the attempt that *claim* opens goes on from."""
    if claim.number == 1:
        return Continuation()
    found = store.questions.of_work(claim.work)
    return Continuation(answered=tuple(one for one in found if one.answered_at is not None))


def park(  # noqa: PLR0913, PLR0917 - the attempt that asked
    run: RunContext,
    service: TaskService,
    task: Task,
    claim: Claim,
    asked: Reported,
    end: AgentEnd,
    workspace: Workspace | None,
) -> str:
    """Park the task of an attempt whose agent asked, with its folder as it is; return what that means.

    Raises:
        ClaimLost: The claim has ended.
    """
    number = service.ask(
        service.relative(task), asked.text, asked.choices, claim.number,
        place={_SESSION: end.session} if end.session else {}, tokens=end.tokens, cost_usd=end.cost_usd,
    )  # fmt: skip
    if workspace is not None:
        workspace.give_up()
    command = answer_step(number)
    run.notifier.send(
        "question", f"{task.id} asks: {asked.text}", task=task.id, question=number, type=command,
        choices=list(asked.choices),
    )  # fmt: skip
    run.tell(RunEvent.ASKED, task.id, question=number, text=asked.text, choices=list(asked.choices))
    return f"asks: {' '.join(asked.text.split())[:300]}; `{command}`"
