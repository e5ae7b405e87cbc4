"""Dependencies: what a task still waits for, what does not exist, and what goes in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.model import Priority, TaskHead, TaskStatus
from hypervisor.tasks.dependencies import Graph, graph_of

#: As many tasks as the largest backlog that anybody keeps in one folder, and more than Python recurses.
MANY = 20_000


def task(name: str, *waits_for: str, status: TaskStatus = TaskStatus.ACTIVE) -> TaskHead:
    return TaskHead(
        path=f"/p/tasks/{name}.md", id=name, title=name, status=status, status_word=status.value,
        assignee=(), priority=Priority.MEDIUM, project="", type="", complexity=None, parent="",
        depends_on=waits_for, files=(), needs=(), tags=(), receipts=(), receipts_to="", verify="",
    )  # fmt: skip


def of(edges: Mapping[str, Iterable[str]], done: str = "") -> Graph:
    """Return the graph of tasks that wait for others; those of *done* are done."""
    return graph_of(
        task(name, *others, status=TaskStatus.DONE if name in done.split() else TaskStatus.ACTIVE)
        for name, others in edges.items()
    )


def turned(cycle: Sequence[str]) -> tuple[str, ...]:
    """Return a circle as it reads from its first name on."""
    start = cycle.index(min(cycle))
    return (*cycle[start:], *cycle[:start])


def circles(graph: Graph) -> set[tuple[str, ...]]:
    found = [turned(list(cycle)) for cycle in graph.cycles]
    assert len(found) == len(set(found)), f"a circle is told twice: {found}"
    return set(found)


# --------------------------------------------------------------------- circles


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({}, set()),
        ({"a": ""}, set()),
        ({"a": "b", "b": "c", "c": ""}, set()),
        ({"a": "bc", "b": "d", "c": "d", "d": ""}, set()),
        ({"a": "a"}, {("a",)}),
        ({"a": "b", "b": "a"}, {("a", "b")}),
        ({"c": "a", "a": "b", "b": "c"}, {("a", "b", "c")}),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, {("a", "b"), ("c", "d")}),
        # What is merely behind a circle, or before it, is not in it.
        ({"a": "b", "b": "a", "behind": "a", "x": ["behind"]}, {("a", "b")}),
        ({"a": "bz", "b": "a", "z": ""}, {("a", "b")}),
        # Nor does a circle hide the one that waits for it.
        ({"a": "cb", "b": "a", "c": "d", "d": "c"}, {("a", "b"), ("c", "d")}),
    ],
)
def test_a_circle_is_what_goes_round_and_nothing_else(
    edges: dict[str, Iterable[str]], expected: set[tuple[str, ...]]
) -> None:
    assert circles(of(edges)) == expected


def test_of_two_circles_that_share_a_task_one_at_least_is_told() -> None:
    found = circles(of({"a": "bc", "b": "a", "c": "a"}))
    assert found
    assert found <= {("a", "b"), ("a", "c")}


@pytest.mark.parametrize("done", ["a", "b", "a b"])
def test_a_task_that_is_done_breaks_the_circle(done: str) -> None:
    graph = of({"a": "b", "b": "c", "c": "a"}, done=done)
    assert list(graph.cycles) == []
    assert graph.unmet(task("x", "a", "b")) == [name for name in "ab" if name not in done.split()]


def test_ids_are_one_in_whatever_case() -> None:
    graph = graph_of([task("Alpha", "BETA"), task("beta", "ALPHA"), task("Gamma", "alpha", "NoBody")])
    assert circles(graph) == {("Alpha", "beta")}
    assert dict(graph.unknown) == {"nobody": ["Gamma"]}
    graph = graph_of([task("T-1", status=TaskStatus.DONE), task("t-2", "t-1")])
    assert graph.unmet(task("t-2", "T-1")) == []


# ----------------------------------------------------------------------- unmet


def test_what_a_task_waits_for_is_told_with_what_is_wrong_with_it() -> None:
    tasks = [
        task("a", "b"), task("b", "a"), task("behind", "a"), task("open"),
        task("done", status=TaskStatus.DONE), task("self", "SELF"),
    ]  # fmt: skip
    graph = graph_of([*tasks, task("all", "done", "Open", "a", "Nowhere")])
    assert graph.unmet(task("all", "done", "Open", "a", "Nowhere")) == ["Open", "a", "Nowhere (no such task)"]
    assert graph.unmet(tasks[2]) == ["a"]
    assert graph.unmet(tasks[3]) == []
    assert graph.unmet(tasks[0]) in (["b (in a circle: a -> b -> a)"], ["b (in a circle: b -> a -> b)"])
    assert graph.unmet(tasks[5]) == ["SELF (in a circle: self -> self)"]


def test_an_id_that_nobody_bears_names_all_who_wait_for_it() -> None:
    graph = of({"a": ["Gone"], "b": ["gone", "a"], "c": []})
    assert dict(graph.unknown) == {"gone": ["a", "b"]}


@pytest.mark.parametrize("status", [status for status in TaskStatus if status is not TaskStatus.DONE])
def test_only_what_is_done_is_not_waited_for(status: TaskStatus) -> None:
    waiting = task("a", "b")
    assert graph_of([waiting, task("b", status=status)]).unmet(waiting) == ["b"]


# ----------------------------------------------------------------------- large
# Each takes a fraction of a second; what looks at every circle for every task takes minutes.


@pytest.mark.timeout(15)
def test_a_chain_of_very_many_tasks_is_no_circle() -> None:
    tasks = [task(f"t-{number}", f"t-{number + 1}") for number in range(MANY)]
    graph = graph_of([*tasks, task(f"t-{MANY}")])
    assert list(graph.cycles) == []
    assert all(graph.unmet(one) for one in tasks)


@pytest.mark.timeout(15)
def test_one_circle_of_very_many_tasks_is_told_whole() -> None:
    graph = graph_of(task(f"t-{number}", f"t-{(number + 1) % MANY}") for number in range(MANY))
    assert [len(cycle) for cycle in graph.cycles] == [MANY]


@pytest.mark.timeout(15)
def test_very_many_circles_are_all_told_and_each_task_hears_of_its_own() -> None:
    tasks = [task(f"t-{number}", f"t-{number ^ 1}") for number in range(MANY)]
    graph = graph_of(tasks)
    assert circles(graph) == {
        turned((f"t-{number}", f"t-{number + 1}")) for number in range(0, MANY, 2)
    }  # fmt: skip
    for one in tasks:
        assert "(in a circle: " in graph.unmet(one)[0]


# ---------------------------------------------------------------------- random


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, list[str]], set[str]]:
    """Return tasks with what they wait for (some of it unknown), and which of them are done."""
    names = [f"t-{number}" for number in range(draw(st.integers(1, 12)))]
    others = st.lists(st.sampled_from([*names, "nobody"]), max_size=4)
    edges = {name: draw(others) for name in names}
    return edges, draw(st.sets(st.sampled_from(names), max_size=3))


def goes_round(edges: Mapping[str, Sequence[str]], done: set[str]) -> bool:
    """Tell whether there is a circle of open tasks, by looking for the way back from each task."""

    def way(start: str, end: str, seen: set[str]) -> bool:
        for other in edges.get(start, ()):
            if other in done or other not in edges:
                continue
            if other == end:
                return True
            if other not in seen:
                seen.add(other)
                if way(other, end, seen):
                    return True
        return False

    return any(way(name, name, {name}) for name in edges if name not in done)


@given(graphs())
def test_circles_are_told_if_and_only_if_there_are_some_and_each_is_one(
    drawn: tuple[dict[str, list[str]], set[str]],
) -> None:
    edges, done = drawn
    graph = of(edges, done=" ".join(done))
    assert bool(graph.cycles) == goes_round(edges, done)
    told: set[str] = set()
    for cycle in graph.cycles:
        for here, following in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert following in edges[here], f"{cycle}: {here} does not wait for {following}"
        assert len(set(cycle)) == len(cycle)
        assert not done & set(cycle)
        assert not told & set(cycle), "a task is told to be in two circles"
        told |= set(cycle)
    for name, others in edges.items():
        waited = [text.split(" ")[0] for text in graph.unmet(task(name, *others))]
        assert waited == [other for other in others if other not in done]
