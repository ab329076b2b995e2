"""What a plan changes against an earlier one: files by URI and version, rows by file."""

from __future__ import annotations

import pytest

from pipeline.output.plan import Plan, make_plan
from pipeline.planning.changes import changes_between
from pipeline.shards import Cut, InputFile


def plan(**files: tuple[int, str]) -> Plan:
    """One file a name, with its rows and its version."""
    cuts = [
        (InputFile(f"/in/{name}", name, version, rows * 9, rows, "parquet"), [Cut(0, rows)])
        for name, (rows, version) in files.items()
    ]
    return make_plan(cuts, space="s", schema="k")


def test_the_first_plan_adds_all_its_files() -> None:
    found = changes_between(None, plan(a=(10, "1"), b=(5, "1")))
    assert (found.since, found.new, found.added) == (0, 2, 15)
    assert found.first == {"new": ("/in/a", "/in/b")}


def test_files_that_grow_and_shrink_count_by_their_rows() -> None:
    before = plan(a=(10, "1"), b=(10, "1"), c=(10, "1"))
    found = changes_between(before, plan(a=(14, "2"), b=(7, "2"), c=(10, "1")), since=3)
    assert (found.since, found.changed, found.new, found.gone) == (3, 2, 0, 0)
    assert (found.added, found.dropped, found.growth) == (4, 3, 4)


@pytest.mark.parametrize(
    ("old", "new", "renamed"),
    [
        ("90-1700-5", "90-1700-8", 1),  # of a local file: ctime alone changed
        ("90-1700-5", "90-1800-5", 0),
        ("0a1b-2", "0a1b-2", 1),  # an ETag
        ("0a1b-2", "0a1b-3", 0),
        ("1700123", "1700456", 0),  # a generation says nothing of the content
    ],
)
def test_a_renamed_file_has_the_content_of_one_that_is_gone(
    old: str, new: str, renamed: int
) -> None:
    found = changes_between(plan(a=(10, old), b=(3, "x")), plan(c=(10, new), b=(3, "x")))
    assert (found.renamed, found.new, found.gone) == (renamed, 1 - renamed, 1 - renamed)
    assert (found.added, found.dropped) == (10 * (1 - renamed), 10 * (1 - renamed))


def test_a_copy_of_a_file_that_stays_is_new_and_each_gone_file_is_renamed_once() -> None:
    found = changes_between(
        plan(a=(10, "x"), b=(10, "x"), c=(10, "x")),
        plan(a=(10, "x"), d=(10, "x"), e=(10, "x"), f=(10, "x")),
    )
    assert (found.renamed, found.new, found.gone) == (2, 1, 0)
    assert found.added == 10
    assert found.first["renamed"] == ("/in/b → /in/d", "/in/c → /in/e")


def test_the_first_few_names_are_kept() -> None:
    found = changes_between(None, plan(**{f"f{n}": (1, "1") for n in range(50)}))
    assert (found.new, len(found.first["new"])) == (50, 5)
