"""The command line starts from its own installation, wherever it is typed.

The project of the user has packages named as ours, and PYTHONPATH=. makes Python prefer them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet import until

import bei_jobs

ROOT = Path(bei_jobs.__file__).parents[1]
SCRIPT = [str(Path(sys.executable).parent / "bei-jobs")]
MODULE = [sys.executable, "-m", "bei_jobs"]
OURS = ("jobs", "workers", "pipeline")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with packages of our names, as the working directory and on PYTHONPATH."""
    folder = tmp_path / "project"
    for name in OURS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"WHOSE = 'the project, {name}'\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", ".")
    return folder


def run(*words: object) -> str:
    done = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_projects_packages_do_come_first_where_nobody_sees_to_it(project: Path) -> None:
    assert run(sys.executable, "-c", "import jobs; print(jobs.WHOSE)") == "the project, jobs\n"


@pytest.mark.parametrize("start", [SCRIPT, MODULE], ids=["script", "module"])
def test_commands_run_inside_a_project_with_packages_of_our_names(
    start: list[str], project: Path, corpus: Path, tiny: dict[str, Any]
) -> None:
    # Two devices: processes of their own, which Python starts anew.
    run(*start, "submit", corpus, "--model", tiny["model"], "--device", "cpu,cpu",
        "--rows-per-shard", 10, "--output", project / "out", "--quiet")  # fmt: skip
    assert "20 rows in 2 parts" in run(*start, "verify", project / "out")


@pytest.mark.integration
def test_a_worker_serves_inside_a_project_with_packages_of_our_names(
    project: Path, corpus: Path, tiny: dict[str, Any], redis_url: str
) -> None:
    with (project / "log").open("wb") as log:
        worker = subprocess.Popen(
            [*SCRIPT, "worker", "--broker", redis_url, "--device", "cpu"], stdout=log, stderr=log
        )
    try:
        job = bei_jobs.submit(corpus, model=tiny["model"], broker=redis_url, output=project / "out")
        until((project / "out/_bei/runs/1/manifest.json").exists, "a manifest")
        assert job.wait().rows.computed == 20
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, (project / "log").read_text()


def test_a_program_keeps_its_own_packages_and_submits_from_among_them(
    project: Path, corpus: Path, tiny: dict[str, Any]
) -> None:
    (project / "nightly.py").write_text(
        "import sys, bei_jobs\n"
        "import jobs, workers, pipeline\n"
        "options = {'model': sys.argv[2], 'device': ['cpu', 'cpu'], 'rows_per_shard': 10}\n"
        "job = bei_jobs.submit(sys.argv[1], **options)\n"
        "print(job.wait().rows.computed, bei_jobs.read(job.output).count_rows())\n"
        "print(jobs.WHOSE, workers.WHOSE, pipeline.WHOSE, sep='\\n')\n"
    )
    said = run(sys.executable, "nightly.py", corpus, tiny["model"]).splitlines()
    assert said == ["20 20", *(f"the project, {name}" for name in OURS)]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Our packages in a folder that is no site directory, as by `pip install --target`."""
    folder = tmp_path / "target"
    folder.mkdir()
    for name in (*OURS, "bei_jobs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_what_is_found_beside_our_packages_hides_no_standard_library(installed: Path) -> None:
    # Such as a uuid for Python 2, which `pip install uuid` puts into site-packages to this day.
    (installed / "uuid.py").write_text("raise SyntaxError('Missing parentheses')\n")
    start = [sys.executable, "-P", installed / "bei_jobs" / "__main__.py"]
    assert run(*start, "list", "--json") == '{"jobs": []}\n'


def test_a_program_that_found_us_in_a_folder_of_its_own_runs_the_command_line_of_that_folder(
    installed: Path, project: Path
) -> None:
    (installed / "jobs").unlink()
    (installed / "jobs").mkdir()
    (installed / "jobs/__init__.py").touch()
    (installed / "jobs/cli.py").write_text('def main():\n    print(\'{"error": "ours"}\')\n')
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import bei_jobs\n"
        "try: bei_jobs.job('x')\n"
        "except bei_jobs.BeiJobsError as error: print(error)\n"
    )
    assert run(sys.executable, "-c", program) == "ours\n"
