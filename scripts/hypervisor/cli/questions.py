"""`hypervisor questions`, `answer`: what agents have asked people, and the answers."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import UsageError
from ..core.project import find_project
from ..core.settings import settings_of
from ..queue.summary import answer_step, question_row
from ..store.questions import Question
from ..store.store import Store
from .caller import add_caller
from .console import EXIT_DONE, EXIT_NOTHING, EXIT_REFUSED, print_json, shown

#: Longer numbers are none of a question.
_DIGITS = 18


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``questions`` and ``answer`` what they take."""
    questions = commands["questions"]
    questions.add_argument("--json", action="store_true", help="print one JSON document")
    questions.set_defaults(action=_questions)
    answer = commands["answer"]
    answer.add_argument(
        "question", metavar="QUESTION", help="its number or its task, as `questions` lists it"
    )
    answer.add_argument("text", metavar="TEXT", help="the answer; - reads standard input")
    add_caller(answer, _answer)


def _questions(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    settings, found = settings_of(project.state), list[Question]()
    with contextlib.suppress(FileNotFoundError), Store.open(project.state, settings, create=False) as store:
        found = store.questions.open()
    if options.json:
        print_json([question_row(one) for one in found])
    for one in found if not options.json else ():
        print(f"{one.id}  {shown(one.task)}: {shown(one.text, 2000)}")
        for choice in one.choices:
            print(f"   - {shown(choice)}")
        print(f"   answer: {answer_step(one.id)}")
    if not found and not options.json:
        print("no open questions", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NOTHING


def _answer(options: Namespace) -> int:
    import getpass  # noqa: PLC0415 - of this verb alone

    if os.environ.get("HYPERVISOR_REPORT"):
        print("hypervisor: an agent of a run cannot answer; questions are for people", file=sys.stderr)
        return EXIT_REFUSED
    project = find_project(Path.cwd(), os.environ)
    text = sys.stdin.read() if options.text == "-" else options.text
    by = options.caller or os.environ.get("HYPERVISOR_CALLER") or getpass.getuser()
    try:
        with Store.open(project.state, settings_of(project.state), create=False) as store:
            answered = store.questions.answer(_number_of(store, options.question), text, by)
    except FileNotFoundError:
        raise UsageError(f"{options.question}: no such question; see `hypervisor questions`") from None
    if options.json:
        print_json(question_row(answered))
        return EXIT_DONE
    then = f"a run that is alive takes it up; else `hypervisor run --resume {answered.batch}`"
    print(f"answered: {shown(answered.task)} may go on" + (f"; {then}" if answered.batch else ""))
    return EXIT_DONE


def _number_of(store: Store, name: str) -> int:
    """Return the number of a question that is named by it, or by the task that waits for its answer."""
    if name.isascii() and name.isdigit() and len(name) < _DIGITS:
        return int(name)
    numbers = [one.id for one in store.questions.open() if one.task == name]
    if not numbers:
        raise UsageError(f"{name}: no such question; see `hypervisor questions`")
    return numbers[0]
