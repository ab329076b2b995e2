"""`--csv-escape`: files in which a quote is `\\"`, from the refusal that names it to the output."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Bei, read_output
from corpora import TINY, parts

BACKSLASH = "\\"
TEXTS = ['she said "one"', 'a "quoted", comma', "C:\\new\\", "two\nlines", "plain"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.csv"
    escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in TEXTS]
    path.write_text("id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(escaped)))
    return path


def test_the_refusal_names_the_option_with_which_the_file_is_read(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    words = (corpus, "--keep", "text", "--rows-per-shard", 2, "--json")
    refused = submit(*words)
    assert refused.code == 1
    assert "row 0" in refused.screen[0]
    assert "--csv-escape '\\'" in refused.err
    done = submit(*words, "--csv-escape", BACKSLASH)
    assert done.code == 0, done.err
    output = tmp_path / "corpus.embed"
    assert read_output(bei, output)["text"].to_pylist() == TEXTS
    assert bei("verify", output).code == 0
    # The next night finds it as it was, and the night after it lost a part computes that alone.
    again = submit(*words, "--csv-escape", BACKSLASH)
    assert (again.json["run"], again.json["rows"]["computed"]) == (1, 0)
    (output / parts(output)[1]).unlink()
    lost = submit(*words, "--csv-escape", BACKSLASH)
    assert lost.json["rows"]["computed"] == 2
    assert read_output(bei, output)["text"].to_pylist() == TEXTS


def test_plan_a_job_file_and_the_environment_have_it_too(
    bei: Bei, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (corpus, "--model", TINY, "--device", "cpu", "--json")
    planned = bei("plan", *words, "--csv-escape", BACKSLASH)
    assert (planned.code, planned.json["rows"]["computed"]) == (0, len(TEXTS)), planned.err
    (tmp_path / "job.toml").write_text(f'inputs = ["{corpus}"]\ncsv-escape = "\\\\"\n')
    filed = bei("submit", "--job-file", tmp_path / "job.toml", *words[1:])
    assert filed.code == 0, filed.err
    monkeypatch.setenv("BEI_JOBS_CSV_ESCAPE", BACKSLASH)
    assert bei("submit", *words).json["rows"]["computed"] == 0


def test_a_limit_keeps_no_rows_that_were_read_in_another_way(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("text\nC:\\new\nb\nc\n")
    words = (corpus, "--keep", "text", "--limit", 2, "--json")
    assert submit(*words).code == 0
    assert read_output(bei, tmp_path / "corpus.embed")["text"].to_pylist() == ["C:\\new", "b"]
    assert submit(*words, "--csv-escape", BACKSLASH).code == 0
    assert read_output(bei, tmp_path / "corpus.embed")["text"].to_pylist() == ["C:new", "b"]


@pytest.mark.parametrize("value", ["", '"', ",", "\\\\", "é", "\n"])
def test_what_is_no_escape_character_is_refused(submit: Bei, corpus: Path, value: str) -> None:
    refused = submit(corpus, "--csv-escape", value)
    assert refused.code == 2
    assert "--csv-escape" in refused.screen[0]


def test_where_no_input_is_csv_it_says_that_it_has_no_effect(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    words = ("--csv-escape", BACKSLASH, "--model", TINY, "--json")
    told = bei("plan", rows, *words).json["choices"]["csv-escape"]
    assert told == {"value": BACKSLASH, "reason": "no effect: no input is CSV"}
    assert submit(rows, *words).json["choices"]["csv-escape"] == told
    assert "csv-escape" not in bei("plan", corpus, *words).json["choices"]
