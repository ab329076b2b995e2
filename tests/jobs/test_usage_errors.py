"""What was typed wrongly is said in one voice, with a next step, whoever found it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commandline import Bei

WRONG = [
    ("sumbit x", "there is no command 'sumbit'", "did you mean `bei-jobs submit`?"),
    ("frobnicate", "there is no command 'frobnicate'", "submit, plan, rehearse"),
    ("schedule lst", "there is no command 'lst'", "did you mean `bei-jobs schedule list`?"),
    ("submit x --modle y", "`bei-jobs submit` has no option --modle", "did you mean --model?"),
    ("list --zzz", "`bei-jobs list` has no option --zzz", "see `bei-jobs list --help`"),
    ("submit x --dimensions 64,x", "--dimensions 'x' is not a whole number of at least 1",
     "several are separated by commas"),
    ("submit x --limit some", "--limit 'some' is not a whole number of at least 1", "give a whole"),
    ("submit x --chunk-overlap -1", "--chunk-overlap -1 is not a whole number of at least 0", ""),
    ("submit x --metrics-port 99999", "--metrics-port 99999 is not a whole number from 1 to", ""),
    ("plan x --price-per-hour lots", "--price-per-hour 'lots' is not a number of at least 0", ""),
    ("submit x --task embd", "--task 'embd' is not one of embed, rerank", "did you mean embed?"),
    ("submit x --vectors dense,spars", "--vectors 'spars' is not one of", "did you mean sparse?"),
    ("submit x --precision BFLOAT16", "'BFLOAT16' is not one of", "did you mean bfloat16?"),
    ("submit x --precision zzz", "is not one of auto, float32", "see `bei-jobs submit --help`"),
    ("submit x --device", "--device needs a value", "see `bei-jobs"),
    ("submit x --quiet=3", "--quiet takes no value", "see `bei-jobs"),
    ("watch", "`bei-jobs watch` needs JOB...", "bei-jobs watch [OPTIONS] JOB..."),
    ("schedule export d", "`bei-jobs schedule export` needs --to", "give one of crontab, systemd"),
    ("models a b c", "unexpected extra arguments (b c)", "bei-jobs models [OPTIONS] [MODEL]"),
    ("export a b --file-size x", "--file-size: 'x' is not a size", "see `bei-jobs export --help`"),
    ("status x --max-age 2y", "--max-age '2y' is not an age", "such as 26h"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "message", "hint"), WRONG)
def test_each_wrong_word_is_named_with_what_to_do_next(
    bei: Bei, typed: str, message: str, hint: str
) -> None:
    outcome = bei(*typed.split())
    assert outcome.code == 2
    said, advice = outcome.err.splitlines()
    assert said.startswith("bei-jobs: ")
    assert message in said
    assert advice.startswith("  → ")
    assert hint in advice
    assert not re.search(r"Error:|Usage:|Invalid", outcome.err)


def test_json_has_the_same_words(bei: Bei) -> None:
    told = bei("submit", "x", "--limit", "some", "--json").json
    assert told == {
        "error": "--limit 'some' is not a whole number of at least 1",
        "hint": "give a whole number of at least 1",
        "exit_code": 2,
        "type": "UsageError",
    }


def test_a_value_of_the_environment_or_of_a_file_says_so(
    bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job.toml"
    job.write_text('limit = "some"\n')
    assert "--limit in a file 'some' is not" in bei("submit", "x", "--job-file", job).err
    (tmp_path / "job.toml").write_text('limit = "some"\ncron = "0 2 * * *"\ninputs = ["a"]\n')
    monkeypatch.setenv("BEI_JOBS_LIMIT", "few")
    assert "BEI_JOBS_LIMIT (--limit) 'few' is not a whole number" in bei("submit", "x").err


def test_no_command_at_all_shows_the_help(bei: Bei) -> None:
    outcome = bei()
    assert outcome.code == 2
    assert "Commands:" in outcome.err
