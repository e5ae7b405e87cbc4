"""Review before merge: a second agent looks at verified work, and can hold it back.

The reviewer gets the task, the diff and what `verify` said, in a clone that is thrown away. Its answer is the
last line of its output. It can only hold work back: what the evidence denies is not reviewed, and what is no
answer holds the work for a person.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..core.assignment import REPORT
from ..core.errors import ConfigError
from ..core.files import remove_tree
from ..core.model import Outcome, Task, TaskStatus
from ..git.private_folder import PrivateFolder
from ..git.repository import Repository
from ..git.work import Tree
from ..runners.base import Agent, AgentEnd, Assignment, How, Usage
from ..runners.registry import RUNNERS, RunnerOptions
from ..store.events import RunEvent
from .options import RunOptions
from .run_context import RunContext
from .verdict import Verdict, not_now

_PROMPT = Path(__file__).resolve().parents[3] / "prompts/review.md"
#: Characters of the diff that stand in the prompt; the reviewer's clone has the whole.
_DIFF = 60_000
_LINE = re.compile(r"\W*REVIEW:\W*(approve|changes|reject)\b\W*(.*)", re.IGNORECASE)

Word = Literal["approve", "changes", "reject", "no verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewAnswer:
    """What a reviewer answered."""

    word: Word
    #: What is to be changed, or why; one line.
    text: str

    def __str__(self) -> str:
        return f"{self.word}: {self.text}" if self.text else self.word


def read_review(end: AgentEnd) -> ReviewAnswer:
    """Return the answer of a reviewer that has ended. Pure."""
    found = _LINE.fullmatch(end.text.strip()) if end.how is How.ENDED and not end.exit else None
    if found is None:
        return ReviewAnswer(word="no verdict", text=f"the reviewer {end.how}: {end.text}"[:300])
    words: dict[str, Word] = {"approve": "approve", "changes": "changes", "reject": "reject"}
    return ReviewAnswer(word=words[found[1].lower()], text=found[2].strip())


def held_back(verdict: Verdict, review: ReviewAnswer, rounds: int) -> Verdict:
    """Return the verdict on verified work that its review does not let through. Pure."""
    after = f" after {rounds} round{'' if rounds == 1 else 's'}" if review.word == "changes" else ""
    return replace(
        verdict, outcome=Outcome.BLOCKED, status=TaskStatus.REVIEW, text=f"review{after}: {review}"[:400],
        merge=False, keep=True,
    )  # fmt: skip


def asks_for_review(task: Task, settings: Mapping[str, Any]) -> bool:
    """Return whether a task's work is reviewed: as the task says, else as the settings say."""
    said = task.front.get("review")
    return bool(settings["review"]["all"] if said is None else said)


def reviewer_of(task: Task, worker: Agent, options: RunOptions, settings: Mapping[str, Any]) -> Agent:
    """Return the agent that reviews a task's work: of the task's choice, the settings', or the worker's kind.

    Raises:
        ConfigError: There is no such agent, or it has no command.
    """
    told, said = settings["review"], task.front.get("review")
    name = said if isinstance(said, str) else told["agent"] or worker.name
    kind = RUNNERS.get(name)
    if kind is None or kind.agent is None:
        known = ", ".join(one for one, its in RUNNERS.items() if its.agent)
        raise ConfigError(f"review: {name} is no agent; name one of {known}")
    command = tuple(told["command"].split()) or options.command
    if name == "exec" and not command:
        raise ConfigError("review: the agent exec needs `review.command`")
    return kind.agent(RunnerOptions(command=command, model=told["model"] or None))


def review_prompt(task: Task, diff: str, verified: str, rounds_left: int) -> str:
    """Return what a reviewer is told."""
    cut = "" if len(diff) <= _DIFF else "\n(cut; `git show` and `git diff` in your folder have the whole)"
    holes = {
        "{id}": task.id, "{title}": task.title, "{files}": ", ".join(task.files) or "(not named)",
        "{verify}": verified or "The task names no verify command.",
        "{rounds}": f"The worker may be asked for changes {rounds_left} more time(s)." if rounds_left
        else "The worker will not be asked again: `changes` leaves the work to a person.",
        "{diff}": diff[:_DIFF] + cut, "{body}": task.body.strip(),
    }  # fmt: skip
    text = _PROMPT.read_text("utf-8")
    # In one pass: a hole in a diff or a body is text.
    return re.sub(r"\{[a-z]+\}", lambda hole: holes.get(hole[0], hole[0]), text)


def changes_prompt(task: Task, review: ReviewAnswer) -> str:
    """Return what the worker is told whose work is to be changed."""
    return (
        f"A reviewer has read your work on task {task.id} and asks for changes before it is merged:\n\n"
        f"{review.text or '(it did not say which; look at your work again)'}\n\n"
        "Make them in the same folder, by the same rules as before, commit, and report again."
    )


def with_remarks(prompt: str, review: ReviewAnswer) -> str:
    """Return the prompt of a new agent that changes work after a review."""
    return (
        f"{prompt}\n\n## Review of the work so far\n\nAn earlier agent has done this task on your branch. "
        f"A reviewer asks for changes:\n\n{review.text}\n\nMake them; keep what is good."
    )


@contextlib.contextmanager
def review_folder(repository: Repository, path: Path, base: str, tip: str) -> Iterator[Path]:
    """Make a clone at *tip* for a reviewer, with the branch ``base``; throw it away at the end."""
    remove_tree(path)
    private = PrivateFolder(repository=repository, path=path)
    try:
        private.make(tip, {"refs/heads/base": base})
        private.check_out(tip)
        yield path / repository.prefix
    finally:
        remove_tree(path)


@dataclass(slots=True)
class WorkReview:
    """The review of the work of one attempt."""

    run: RunContext
    task: Task
    #: The agent that did the work, its folder, and what it was started with.
    worker: Agent
    tree: Tree
    assignment: Assignment
    rank: int
    #: What the reviewers have used.
    spent: AgentEnd | None = None

    def carry_out(
        self,
        verdict: Verdict,
        change: Callable[[Assignment, str], Verdict],
        require_held: Callable[[], None],
    ) -> Verdict:
        """Ask the reviewer, have the worker make changes, and ask again; return the verdict after that.

        Args:
            verdict: On the work so far, which may be merged.
            change: Lets the worker go on: with an assignment for a new agent, and a prompt for its session.
                Returns the new verdict.
            require_held: Raises if the claim was lost.
        """
        rounds, told = int(self.run.service.settings["review"]["rounds"]), list[str]()
        for number in range(1, rounds + 2):
            require_held()
            end = self._ask(verdict, number, rounds + 1 - number)
            if end.how is How.STOPPED:
                return not_now(f"stopped during its review: {end.text}")
            review = read_review(end)
            told.append(str(review))
            self.run.tell(RunEvent.REVIEWED, self.task.id, word=review.word, text=review.text, round=number)
            if review.word != "changes" or number > rounds:
                if review.word != "approve":
                    verdict = held_back(verdict, review, rounds)
                break
            asked = replace(
                self.assignment, prompt=with_remarks(self.assignment.prompt, review),
                log=f"{self.assignment.log}.changes-{number}",
            )  # fmt: skip
            verdict = change(asked, changes_prompt(self.task, review))
            if not verdict.merge:
                break
        return replace(verdict, evidence={**verdict.evidence, "review": told})

    def _ask(self, verdict: Verdict, number: int, left: int) -> AgentEnd:
        """Run the reviewer in a clone that is thrown away."""
        run, task, given = self.run, self.task, self.assignment
        agent = reviewer_of(task, self.worker, run.options, run.service.settings)
        repository = Repository.read(run.project.root)
        base, tip, name = self.tree.base, str(verdict.evidence["commit"]), f"review-{number}"
        diff = repository.git().run("diff", "--no-ext-diff", "--no-color", base, tip)
        prompt = review_prompt(task, diff, str(verdict.evidence.get("verify", "")), left)
        place = self.tree.path.with_name(f"{self.tree.path.name}-review")
        with review_folder(repository, place, base, tip) as folder:
            asked = replace(
                given, prompt=prompt, cwd=str(folder), log=f"{given.log}.{name}", verify="", resume="",
                mark=(given.mark[0], f"{given.mark[1]}.{name}"), usage=Usage(),
                environment={**given.environment, REPORT: f"{given.environment[REPORT]}.{name}"},
            )  # fmt: skip
            with contextlib.ExitStack() as held:
                if run.containment is not None:
                    box = run.containment.contain(asked, f"{place.name}-{number}", agent.starts)
                    asked = held.enter_context(box)
                end = run.supervisor.run(agent, asked, self.rank)
        run.router.used(agent.name, end.tokens, end.cost_usd)
        self.spent = add_cost(self.spent, end)
        return end


def add_cost(end: AgentEnd | None, more: AgentEnd | None) -> AgentEnd | None:
    """Return *end* with what another agent of the same attempt has used as well."""
    if end is None or more is None:
        return end or more

    def total(one: float | None, other: float | None) -> Any:
        return other if one is None else one if other is None else one + other

    return replace(
        end, input_tokens=total(end.input_tokens, more.input_tokens),
        output_tokens=total(end.output_tokens, more.output_tokens),
        cost_usd=total(end.cost_usd, more.cost_usd), turns=total(end.turns, more.turns),
    )  # fmt: skip
