"""Every snippet of every page is run, or checked where it cannot be; none is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import jsonschema
import pytest
from commandline import forget_the_user
from corpora import GOLDENS, ROOT, TINY
from cronsim import CronSimError
from fixtures_s3 import S3Server
from snippet_checks import CHECKS
from snippets import Snippet, Stage, pages, snippets

pytestmark = pytest.mark.integration

PAGES = [page for page in pages() if snippets(page)]
#: Whose snippets have a test of their own, which looks at what they find.
ELSEWHERE = {
    ("README.md", "python"): "tests/test_readme.py",
    ("README.md", "py"): "tests/test_docs.py",
    ("docs/commands.md", ""): "tests/test_docs.py",
    ("docs/design.md", "mermaid"): "tests/test_house.py",
    ("docs/how-to/airflow.md", "python"): "tests/test_docs.py",
    ("docs/how-to/dagster.md", "python"): "tests/test_docs.py",
    ("docs/python.md", "python"): "tests/test_docs.py",
    ("docs/recipes.md", "python"): "tests/test_recipes.py",
    ("docs/recipes.md", "sh"): "tests/test_recipes.py",
    ("docs/tasks.md", "python"): "tests/test_tasks_page.py",
}
RUN = {"sh", "python", "sql"}
#: What is printed or drawn: nothing to type.
NO_CODE = {"text"}
#: The reader's own names → what they stand for, and what was typed before the page begins.
GIVEN = {
    "README.md": {
        "old-model": TINY,
        "new-model": str(GOLDENS / "roberta_mean"),
    },
    "docs/operations.md": {
        "OUTPUT": "corpus.embed",
        "JOB": "corpus.embed",
        '"corpus.embed/part-….arrow"': '__import__("glob").glob("corpus.embed/part-*")[0]',
    },
    "docs/rehearse.md": {
        "sentence-transformers/all-MiniLM-L6-v2": TINY,
        "dimensions=128": "dimensions=16",
    },
}
BEFORE = {
    "docs/operations.md": "bei-jobs submit corpus.parquet --quiet\nln -s $PWD/corpus.embed ../data",
    "docs/report.md": "bei-jobs submit corpus.parquet --quiet\n"
    "bei-jobs submit corpus.parquet --quiet --output s3://bucket/articles.embed",
    "docs/tasks.md": "bei-jobs submit corpus.parquet --output-format parquet --quiet",
}

SetStage = Callable[[str], Stage]


@pytest.fixture
def set_stage(
    tmp_path: Path, redis_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SetStage]:
    """Sets the stage for a page."""
    forget_the_user(monkeypatch, tmp_path / "state", tmp_path / "cache")
    monkeypatch.setenv("BEI_JOBS_RECONCILE_SECONDS", "0.3")
    monkeypatch.setenv("BEI_JOBS_LEASE_SECONDS", "1")
    stages: list[Stage] = []

    def for_page(page: str) -> Stage:
        if page != "docs/start.md":  # which prints what the default model finds
            monkeypatch.setenv("BEI_JOBS_MODEL", TINY)
        stand_ins = {"https://minio.internal:9000": s3.endpoint, **GIVEN.get(page, {})}
        stages.append(Stage(tmp_path, redis_url, s3.endpoint, stand_ins))
        stages[-1].make_buckets(page)
        if page in BEFORE:
            stages[-1].typed(Snippet(page, 0, "sh", BEFORE[page], "", "", ""))
        return stages[-1]

    yield for_page
    for stage in stages:
        stage.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_of_a_page_works(page: str, set_stage: SetStage, tmp_path: Path) -> None:
    ours = [each for each in snippets(page) if (page, each.language) not in ELSEWHERE]
    is_typed = any(each.is_run and each.language in RUN for each in ours)
    stage = set_stage(page) if is_typed else None
    printed = ""
    for snippet in ours:
        if snippet.language in NO_CODE:
            if snippet.before.strip() == "It prints:":
                assert printed == snippet.text, snippet.where
        elif stage and snippet.is_run and snippet.language in RUN:
            printed = stage.typed(snippet)
        else:
            CHECKS[snippet.language](snippet, tmp_path)
            if stage and snippet.file:
                (stage.work / snippet.file).write_text(stage.said(snippet.text))


@pytest.mark.parametrize("page", PAGES)
def test_a_mark_is_one_that_is_known(page: str) -> None:
    for snippet in snippets(page):
        known = re.fullmatch(r"|exits with \d+(: .+)?|checked, not run: .{5,}", snippet.mark)
        assert known, f"{snippet.where}: {snippet.mark}"


def test_what_is_tested_elsewhere_is_there() -> None:
    there = {(page, each.language) for page in PAGES for each in snippets(page)}

    assert ELSEWHERE.keys() <= there
    for (page, _), file in ELSEWHERE.items():
        assert page.split("/")[-1] in (ROOT / file).read_text()


def test_every_python_of_the_page_of_tasks_has_its_test() -> None:
    test = (ROOT / "tests/test_tasks_page.py").read_text()
    section = ""
    for line in (ROOT / "docs/tasks.md").read_text().splitlines():
        section = line.lstrip("# ") if line.startswith("##") else section
        assert not line.startswith("```python") or f'block("{section}")' in test, section


BROKEN = Snippet("a page", 1, "sh", "", "", "", "")


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        ("sh", "bei-jobs submit corpus.parquet --modle x", click.NoSuchOption),
        ("sh", "bei-jobs sumbit corpus.parquet", AssertionError),
        ("sh", "if true; then", AssertionError),
        ("sh", "scripts/bensh encode", AssertionError),
        ("toml", 'text-colum = "body"', jsonschema.ValidationError),
        ("yaml", "triggers: [{name: other}]", AssertionError),
        ("yaml", "scrape_config: []", AssertionError),
        ("cron", "0 25 * * * bei-jobs submit x", CronSimError),
        ("cron", "0 2 * * * bei-jobs submit x --quite", click.NoSuchOption),
        ("python", "import nowhere_to_be_found", AssertionError),
        ("python", "print(1", SyntaxError),
        ("ruby", "puts 1", KeyError),
    ],
)
def test_a_broken_snippet_is_seen_without_running_it(
    language: str, text: str, error: type[Exception], tmp_path: Path
) -> None:
    snippet = replace(BROKEN, language=language, text=text)

    with pytest.raises(error):
        CHECKS[language](snippet, tmp_path)


def test_a_broken_snippet_is_seen_by_running_it(set_stage: SetStage) -> None:
    stage = set_stage("docs/start.md")

    for language, text in (("sh", "bei-jobs status nowhere.embed"), ("python", "1 / 0")):
        with pytest.raises(AssertionError, match="a page:1 exits with"):
            stage.typed(replace(BROKEN, language=language, text=text))
