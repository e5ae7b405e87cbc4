"""The tools at work: each call finds the project, acts as its caller, and answers with plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..core.commission import Commission
from ..core.config import settings_of
from ..core.errors import UsageError
from ..core.machine import Identity
from ..core.model import Complexity, Outcome, TaskStatus
from ..core.paths import Project, session_project
from ..orchestrator.handover import handed
from ..queue.batches import create_of_tasks, open_named
from ..queue.summary import entries, write_summary
from ..report.answers import batch_status, check_values, claim_answer, reported, task_story
from ..report.listing import asked_of, index_stats, task_row
from ..report.workload import branch_of_task
from ..tasks.desk import Desk
from ..tasks.endings import Ending
from ..tasks.live import LiveIndex
from ..tasks.looking import look_at
from ..tasks.selection import Wanted
from ..tasks.tasklist import Caller
from . import tools_agents
from .arguments import Arguments, caller_in, status_in
from .toolargs import read_arguments
from .toolspec import BY_NAME

#: The name of whoever asks a question and gives none.
_AGENT = "claude"
_LIMIT = 50
_MOST = 500
#: Characters of an answer that clients put before the model as they are; longer ones they put aside
#: into a file.
_LONGEST = 40_000

#: What `update_task` sets.
_KEYS = frozenset({"assignee", "priority", "complexity", "project"})


@dataclass(slots=True)
class Toolbox:
    """The tools of one server.

    Args:
        environ: The server's environment.
        client: The client's process, if it is known.
        live: The index of a server that stays.
    """

    environ: Mapping[str, str]
    client: Identity | None = None
    live: LiveIndex | None = None
    #: The generations that this server handed out to callers of whom nothing else is known, by the
    #: path of their task.
    _handed_out: dict[str, int] = field(default_factory=dict)

    @property
    def session(self) -> str:
        """The client's session that this server belongs to, "" if it does not say."""
        return self.environ.get("CLAUDE_CODE_SESSION_ID", "")

    @property
    def project(self) -> Project:
        """The project, as it is now."""
        return session_project(self.environ)

    def call(self, name: str, given: Arguments) -> str:
        """Carry out one call; return its answer as compact JSON.

        Raises:
            HypervisorError: It was refused; the text says what to do next.
        """
        tool = BY_NAME.get(name)
        if tool is None:
            raise UsageError(f"{name}: no such tool; there are {', '.join(BY_NAME)}")
        arguments = read_arguments(tool, given)
        act: Callable[[Arguments], Any] = (
            partial(tools_agents.TOOLS[name], self)
            if name in tools_agents.TOOLS
            else getattr(self, f"_{name}")
        )
        answer = json.dumps(act(arguments), ensure_ascii=False, separators=(",", ":"))
        return answer.encode("utf-8", "replace").decode()

    def desk(self, arguments: Arguments, name: str = "") -> Desk:
        """Return the project's tasks, to act on in the name of whoever calls."""
        project = self.project
        caller = Caller(
            name=name,
            session=arguments.get("caller_session", self.session),
            agent=arguments.get("caller_agent", ""),
            client=self.client,
        )
        return Desk(project, settings_of(project.state), caller, live=self.live)

    # ------------------------------------------------------------------- look

    def _list_tasks(self, arguments: Arguments) -> Any:
        desk = self.desk(arguments, _AGENT)
        for key, known in (("status", TaskStatus), ("complexity", Complexity)):
            if key in arguments and arguments[key] not in list(known):
                raise UsageError(f"list_tasks: {key} must be one of {', '.join(known)}")
        start, limit = arguments.get("offset", 0), min(arguments.get("limit", _LIMIT), _MOST)
        with look_at(desk) as look:
            found, total = look.listed(asked_of(arguments), limit, start, ready=arguments.get("ready", False))
        return {"tasks": [task_row(desk, task) for task in found], "total": total}

    def _get_task(self, arguments: Arguments) -> Any:
        desk = self.desk(arguments, _AGENT)
        story = task_story(desk, desk.find(arguments["id"]))
        _cut(story)
        return story

    def _preflight(self, arguments: Arguments) -> Any:
        desk = self.desk(arguments, _AGENT)
        if "ids" in arguments and not arguments["ids"]:
            raise UsageError("preflight: ids is an empty list; leave it away for all tasks")
        with look_at(desk) as look:
            made, _ = look.plan(arguments.get("ids", ()), arguments.get("parent", ""))
        answer = {
            "run": [task.id for task in made.run],
            "skipped": made.by_reason(),
            "unreadable": desk.unreadable,
        }
        if arguments.get("create_batch") and made.run:
            skipped = [(desk.relative(task), why) for task, why in made.skipped]
            answer["batch"] = create_of_tasks(
                desk.project, [desk.relative(task) for task in made.run], skipped
            ).id
        return answer

    def _get_index_stats(self, arguments: Arguments) -> Any:
        return index_stats(self.desk(arguments, _AGENT), projects=arguments.get("include_projects", False))

    def _batch_status(self, arguments: Arguments) -> Any:
        return batch_status(open_named(self.project, arguments.get("id", "")), self.live)

    def _batch_summary(self, arguments: Arguments) -> Any:
        batch = open_named(self.project, arguments.get("id", ""))
        summary, _ = write_summary(batch)
        for part in ("workers", "findings", "needs_you"):
            if part in summary and len(json.dumps(summary)) > _LONGEST:
                summary |= {part: f"too many to show; read {batch.folder}/summary.json"}
        return summary

    # ------------------------------------------------------------------ claim

    @property
    def commission(self) -> Commission | None:
        """The task for which a coordinator has started this server's client, if one has."""
        return Commission.of(self.environ)

    def _commissioned(self, arguments: Arguments, commission: Commission) -> Any:
        """Answer with the coordinator's claim; note it, so that the agent's receipts are kept."""
        desk = self.desk(arguments, _AGENT)
        return self._answered(desk, *desk.commissioned(commission))

    def _claim_task(self, arguments: Arguments) -> Any:
        if commission := self.commission:
            commission.must_be(arguments["id"])
            return self._commissioned(arguments, commission)
        desk = self.desk(arguments, caller_in(arguments["caller"]))
        return self._claimed(desk, *desk.claim(arguments["id"]))

    def _claim_next_task(self, arguments: Arguments) -> Any:
        if commission := self.commission:
            return self._commissioned(arguments, commission)
        desk = self.desk(arguments, caller_in(arguments["caller"]))
        complexity = arguments.get("complexity")
        if complexity and complexity not in list(Complexity):
            raise UsageError(f"claim_next_task: complexity must be one of {', '.join(Complexity)}")
        among = None
        if arguments.get("batch"):
            batch = open_named(desk.project, arguments["batch"])
            among = frozenset(entry.place.path for entry in entries(batch) if entry is not None)
        wanted = Wanted(
            project=arguments.get("project", ""),
            complexity=Complexity(complexity) if complexity else None,
            among=among,
            has=frozenset(arguments.get("needs", ())),
        )
        taken = desk.claim_next(wanted)
        return {"task": None, "reason": taken} if isinstance(taken, str) else self._claimed(desk, *taken)

    def _claimed(self, desk: Desk, task: Any, hold: Any) -> Any:
        if not desk.caller.agent:
            self._handed_out[task.path] = hold.generation
        return self._answered(desk, task, hold)

    def _answered(self, desk: Desk, task: Any, hold: Any) -> Any:
        answer = claim_answer(desk, task, hold)
        _cut(answer["task"])
        # A commissioned agent has that in its prompt.
        left = "" if self.commission else handed(desk, task, branch_of_task(task, desk.project, self.environ))
        return answer | {"from_others": left.strip()} if left else answer

    def _generation(self, desk: Desk, arguments: Arguments) -> int | None:
        """Return which claim is meant: the one that is named, else what this server gave out."""
        if "generation" in arguments or desk.caller.agent:
            number: int | None = arguments.get("generation")
            return number
        return self._handed_out.get(desk.find(arguments["id"]).path)

    # -------------------------------------------------------------------- end

    def _complete_task(self, arguments: Arguments) -> Any:
        ending = Ending(
            outcome=Outcome.SUCCESS,
            status=TaskStatus.DONE,
            text=arguments["outcome"],
            commit=arguments.get("commit", ""),
            evidence=arguments.get("evidence", ""),
        )
        return self._finish(arguments, ending)

    def _finish(self, arguments: Arguments, ending: Ending) -> Any:
        desk = self.desk(arguments)
        if commission := self.commission:
            commission.must_be(arguments["id"])
            return reported(desk, commission, ending)
        result = desk.finish(arguments["id"], ending, self._generation(desk, arguments), unclaimed=False)
        return {"task": task_row(desk, desk.find(arguments["id"])), "result": result["status"]}

    def _release_task(self, arguments: Arguments) -> Any:
        desk = self.desk(arguments)
        if commission := self.commission:
            commission.must_be(arguments["id"])
            return reported(desk, commission, arguments["reason"])
        task = desk.release(arguments["id"], arguments["reason"], self._generation(desk, arguments))
        return {"task": task_row(desk, task)}

    def _update_task(self, arguments: Arguments) -> Any:
        desk = self.desk(arguments)
        status, body = status_in(arguments), arguments.get("body", "")
        # With a claim the assignee changes by itself.
        keys = _KEYS - {"assignee"} if status is TaskStatus.IN_PROGRESS else _KEYS
        values = {key: arguments[key] for key in sorted(keys) if key in arguments}
        check_values(values)
        if not (values or body or status):
            raise UsageError("update_task: say what to change: status, body or a key")
        # Before anything is written: a refused call changes nothing.
        if status is TaskStatus.DONE:
            raise UsageError("update_task: call complete_task(id, outcome), which says what was done")
        if status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
            if not (arguments.get("reason") or body).strip():
                raise UsageError(f"update_task: status {status} needs a reason")
            if not self.commission:
                desk.must_hold(arguments["id"], self._generation(desk, arguments))
        notes = []
        if values or body:
            notes = desk.update(arguments["id"], values, body, arguments.get("generation"))
        answer = self._move(arguments, status) if status else None
        answer = answer or {"task": task_row(desk, desk.find(arguments["id"]))}
        return answer | {"not_changed": notes} if notes else answer

    def _move(self, arguments: Arguments, status: TaskStatus) -> Any:
        reason = arguments.get("reason") or arguments.get("body", "")
        if status is TaskStatus.IN_PROGRESS:
            return self._claim_task({**arguments, "caller": arguments.get("assignee", _AGENT)})
        if status in (TaskStatus.BLOCKED, TaskStatus.REVIEW):
            return self._finish(arguments, Ending(
                outcome=Outcome.BLOCKED, status=status, text=reason.strip(),
                evidence=arguments.get("evidence", ""), next_step=arguments.get("next_step", ""),
            ))  # fmt: skip
        desk = self.desk(arguments, _AGENT)
        if status is TaskStatus.CANCELLED:
            desk.cancel(arguments["id"], reason)
            return None
        held = desk.held(desk.find(arguments["id"]))
        if held is not None and (
            self._generation(desk, arguments) is not None or desk.caller.holds(held.holder)
        ):
            return self._release_task({**arguments, "reason": reason or f"set to {status}"})
        desk.move(arguments["id"], status)
        return None


def _cut(row: dict[str, Any]) -> None:
    if len(row["body"]) > _LONGEST:
        row["body"] = row["body"][:_LONGEST]
        row["cut"] = f"the body is longer; read {row['path']}"
