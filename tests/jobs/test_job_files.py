"""TOML job files: paths from their own directory, keys that do not exist, `json`, `{slot}`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, write_parquet

from jobs.commands.submit import command
from jobs.schedules.run_slot import to_toml
from pipeline.output.output import Output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a corpus; the working directory is another one."""
    folder = tmp_path / "jobs"
    write_parquet(folder / "corpus.parquet", 4)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def job_file(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(f'model = "{TINY}"\ndevice = "cpu"\n{text}')
    return path


def test_paths_are_relative_to_the_file(bei: Bei, folder: Path) -> None:
    path = job_file(folder, 'inputs = ["corpus.parquet"]\noutput = "../out"\nquiet = true\n')
    done = bei("submit", "--job-file", path)
    assert done.code == 0, done.err
    assert done.err == ""
    run = Output(str(folder.parent / "out")).latest()
    assert run is not None
    assert run.inputs == (str(folder / "corpus.parquet"),)


def test_a_model_is_a_directory_beside_the_file_or_a_name(bei: Bei, folder: Path) -> None:
    (folder / "tiny").symlink_to(TINY)
    path = folder / "job.toml"
    path.write_text('inputs = "corpus.parquet"\nmodel = "tiny"\ndevice = "cpu"\nquiet = true\n')
    assert bei("submit", "--job-file", path).code == 0
    path.write_text('model = "./no-such"\n')
    with command.make_context("submit", ["--job-file", str(path)]) as context:
        assert context.params["model"] == str(folder / "no-such")
    path.write_text('model = "no/such"\n')
    with command.make_context("submit", ["--job-file", str(path)]) as context:
        assert context.params["model"] == "no/such"


def test_a_path_that_only_the_working_directory_has_is_refused(bei: Bei, folder: Path) -> None:
    here = write_parquet(Path("here.parquet"), 4)
    path = job_file(folder, 'inputs = ["here.parquet"]\n')
    refused = bei("submit", "--job-file", path)
    assert refused.code == 2
    assert str(here.absolute()) in refused.screen[0]
    assert "./here.parquet" in refused.screen[1]
    written = path.read_text().replace("here.parquet", str(here.absolute()))
    path.write_text(written)
    assert bei("submit", "--job-file", path).code == 0


@pytest.mark.parametrize(
    ("key", "meant"),
    [("text-colum", "text-column"), ("max_lenght", "max-length"), ("crom", "cron"),
     ("input", "inputs"), ("jsn", "json")],
)  # fmt: skip
def test_an_unknown_key_is_an_error_that_names_the_likeliest_one(
    bei: Bei, folder: Path, key: str, meant: str
) -> None:
    refused = bei("submit", "--job-file", job_file(folder, f'{key} = "x"\n'))
    assert refused.code == 2
    assert key in refused.screen[0]
    assert f"did you mean {meant}?" in refused.screen[1]


def test_json_in_the_file_is_as_on_the_line(bei: Bei, folder: Path) -> None:
    path = job_file(folder, 'inputs = ["corpus.parquet"]\nquiet = true\njson = true\n')
    assert bei("submit", "--job-file", path).json["rows"]["done"] == 4
    refused = bei("submit", "--job-file", path, "--device", "nonsense")
    assert (refused.code, refused.json["exit_code"]) == (2, 2)
    path.write_text("json = true\nlimit = 'many'\n")
    assert bei("submit", "--job-file", path).json["type"] == "UsageError"


def test_a_plain_submit_ignores_the_cron_but_has_no_slot(bei: Bei, folder: Path) -> None:
    cron = 'cron = "0 2 * * *"\ntimezone = "UTC"\ncatch-up = "all"\nquiet = true\n'
    path = job_file(folder, f'inputs = ["corpus.parquet"]\n{cron}')
    assert bei("submit", "--job-file", path).code == 0
    path = job_file(folder, f'inputs = ["day={{slot:%F}}/"]\n{cron}')
    refused = bei("submit", "--job-file", path)
    assert refused.code == 2
    assert "{slot}" in refused.screen[0]
    assert f"bei-jobs backfill {path}" in refused.screen[1]


@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "2026-01-01"])
def test_a_value_that_no_option_takes_is_refused(bei: Bei, folder: Path, value: str) -> None:
    refused = bei("submit", "--job-file", job_file(folder, f"limit = {value}\n"))
    assert refused.code == 2
    assert "limit" in refused.screen[0]


def test_what_a_slot_is_told_is_read_back_as_it_was() -> None:
    import tomllib

    told = {"prompt": 'a "b" \\ \t \x7f \x01 é 😀\n', "limit": 3, "add": True, "keep": ["a", "b'"]}
    assert tomllib.loads(to_toml(told)) == told
