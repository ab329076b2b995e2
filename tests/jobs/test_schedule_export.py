"""`schedule export`: what it prints is valid where it goes, and means the same times."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Bei, Outcome

from jobs.schedules.cron import Cron
from jobs.schedules.systemd_calendar import calendars

PLAIN = 'cron = "0 2 * * *"\ntimezone = "Europe/Berlin"\ninputs = ["/in/"]\noutput = "/out"\n'
SLOTS = 'cron = "30 4 1,15 */2 MON-FRI"\ninputs = ["/in/{slot:%F}"]\noutput = "/out/{slot:%F}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my 100% $chedules"
    folder.mkdir()
    (folder / "nightly.toml").write_text(PLAIN)
    (folder / "Fort.night_ly.toml").write_text(SLOTS)
    return folder


@pytest.fixture
def export(bei: Bei, folder: Path) -> Any:
    def exported(target: str) -> Outcome:
        done = bei("schedule", "export", folder, "--to", target)
        assert done.code == 0, done.err
        return done

    return exported


def submit_words(folder: Path) -> list[str]:
    return ["submit", "--job-file", str(folder / "nightly.toml"), "--quiet"]


def backfill_words(folder: Path) -> list[str]:
    return ["backfill", str(folder / "Fort.night_ly.toml"), "--from", "last", "--quiet"]


def test_the_crontab_has_time_zones_and_commands_that_the_command_line_takes(
    export: Any, folder: Path
) -> None:
    lines = [line for line in export("crontab").out.splitlines() if not line.startswith("#")]
    assert lines[0::2] == ["CRON_TZ=UTC", "CRON_TZ=Europe/Berlin"]
    found = [re.fullmatch(r"((?:\S+ ){5})(.*)", line) for line in lines[1::2]]
    assert [match and match[1].strip() for match in found] == [
        "30 4 1,15 */2 MON-FRI", "0 2 * * *",
    ]  # fmt: skip
    # cron ends a command at a % that is not escaped, and hands on the rest without the backslash.
    commands = [match[2] for match in found if match]
    assert not any(re.search(r"(?<!\\)%", command) for command in commands)
    words = [shlex.split(command.replace(r"\%", "%")) for command in commands]
    assert [each[1:] for each in words] == [backfill_words(folder), submit_words(folder)]


def test_the_units_of_systemd_are_valid(export: Any, folder: Path, tmp_path: Path) -> None:
    text = export("systemd").out
    pieces = re.split(r"^# /etc/systemd/system/(\S+)\n", text, flags=re.MULTILINE)[1:]
    units = dict(zip(pieces[::2], pieces[1::2], strict=True))
    assert sorted(units) == [
        f"bei-jobs-{name}.{kind}"
        for name in ("fort-night-ly", "nightly")
        for kind in ("service", "timer")
    ]
    assert "OnCalendar=*-*-* 02:00:00 Europe/Berlin\n" in units["bei-jobs-nightly.timer"]
    assert "100%% $$chedules" in units["bei-jobs-nightly.service"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    for name, unit in units.items():
        (tmp_path / name).write_text(unit)
    verify = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)]
    verified = subprocess.run(verify, capture_output=True, text=True)
    ours = [line for line in verified.stderr.splitlines() if "bei-jobs" in line]
    # In a test environment the console script may not be installed.
    assert [line for line in ours if "is not executable" not in line] == []


@pytest.mark.parametrize(
    ("expression", "events"),
    [
        ("0 2 * * *", ["*-*-* 02:00:00"]),
        ("*/15 8-10 * * *", ["*-*-* 08,09,10:00,15,30,45:00"]),
        ("0 0 1 1,7 *", ["*-01,07-01 00:00:00"]),
        ("0 0 * * MON-FRI", ["Mon,Tue,Wed,Thu,Fri *-*-* 00:00:00"]),
        ("0 0 * * 7", ["Sun *-*-* 00:00:00"]),
        ("0 0 13 * FRI", ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]),
    ],
)
def test_a_calendar_event_of_systemd_is_due_when_cron_is(
    expression: str, events: list[str]
) -> None:
    cron = Cron(expression, "Europe/Berlin")
    assert calendars(cron) == [f"{event} Europe/Berlin" for event in events]
    if shutil.which("systemd-analyze") is None:
        return
    start = datetime(2026, 3, 1, tzinfo=UTC)
    analyzed = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=12", f"--base-time={start:%F %T} UTC",
         *calendars(cron)],
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.findall(r"\(in UTC\): \w+ (\S+ \S+) UTC|elapse: \w+ (\S+ \S+) UTC", analyzed.stdout)
    found += re.findall(r"Iter\. #\d+: \w+ (\S+ \S+) UTC()", analyzed.stdout)
    moments = {datetime.fromisoformat(a or b).replace(tzinfo=UTC) for a, b in found}
    due = cron.after(start)
    assert {next(due) for _ in range(12)} <= moments


def test_the_manifest_of_kubernetes_has_the_files_and_a_job_for_each(
    export: Any, folder: Path
) -> None:
    config, *jobs = yaml.safe_load_all(export("kubernetes").out)
    assert config["kind"] == "ConfigMap"
    assert config["data"] == {"nightly.toml": PLAIN, "Fort.night_ly.toml": SLOTS}
    specs = {job["metadata"]["name"]: job["spec"] for job in jobs}
    assert {(job["apiVersion"], job["kind"]) for job in jobs} == {("batch/v1", "CronJob")}
    assert specs.keys() == {"bei-jobs-fort-night-ly", "bei-jobs-nightly"}
    spec = specs["bei-jobs-nightly"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 2 * * *", "Europe/Berlin")
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["submit", "--job-file", "/schedules/nightly.toml", "--quiet"]


def test_a_path_that_a_pod_cannot_have_is_refused(bei: Bei, folder: Path) -> None:
    (folder / "nightly.toml").write_text(PLAIN.replace("/in/", "in/"))
    refused = bei("schedule", "export", folder, "--to", "kubernetes")
    assert refused.code == 2
    assert "nightly.toml" in refused.screen[0]
    assert bei("schedule", "export", folder, "--to", "crontab").code == 0


def test_a_password_is_not_exported(bei: Bei, folder: Path) -> None:
    with (folder / "nightly.toml").open("a") as file:
        file.write('broker = "redis://:hunter2@redis:6379/0"\n')
    refused = bei("schedule", "export", folder, "--to", "kubernetes")
    assert refused.code == 2
    assert "nightly.toml" in refused.screen[0]
    assert "hunter2" not in refused.out + refused.err
    for target in ("crontab", "systemd", "airflow"):
        assert "hunter2" not in bei("schedule", "export", folder, "--to", target).out


@pytest.mark.parametrize(
    ("line", "variable"),
    [
        ('broker = "redis://:hunter2@redis/0"', "BEI_JOBS_BROKER"),
        ('broker = "redis://:hun/hunter2@redis/0"', "BEI_JOBS_BROKER"),
        ('broker = "redis://redis/0?password=hunter2"', "BEI_JOBS_BROKER"),
        ('notify = "https://hc-ping.com/hunter2"', "BEI_JOBS_NOTIFY"),
    ],
)
def test_what_the_file_says_is_checked_and_not_what_the_environment_does(
    bei: Bei, folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, variable: str
) -> None:
    monkeypatch.setenv("BEI_JOBS_BROKER", "redis://localhost:6379/0")
    monkeypatch.setenv("BEI_JOBS_NOTIFY", "https://hc-ping.com/1")
    with (folder / "nightly.toml").open("a") as file:
        file.write(f"{line}\n")
    refused = bei("schedule", "export", folder, "--to", "kubernetes")
    assert refused.code == 2
    assert "nightly.toml" in refused.screen[0]
    assert variable in refused.screen[1]
    assert "hunter2" not in refused.out + refused.err


def test_a_password_of_the_environment_stops_no_export(
    bei: Bei, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_BROKER", "redis://:hunter2@localhost:6379/0")
    monkeypatch.setenv("BEI_JOBS_NOTIFY", "https://hc-ping.com/hunter2")
    exported = bei("schedule", "export", folder, "--to", "kubernetes")
    assert exported.code == 0, exported.err
    assert "hunter2" not in exported.out


def test_the_file_for_airflow_has_a_dag_for_each_with_the_slot_from_airflow(
    export: Any, folder: Path
) -> None:
    made: list[dict[str, Any]] = []

    class Dag:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def __enter__(self) -> Dag:
            return self

        def __exit__(self, *_: object) -> None: ...

    class Task:
        @staticmethod
        def bash(**_: Any) -> Any:
            def decorated(function: Any) -> Any:
                made[-1]["command"] = function()
                return function

            return decorated

    tree = ast.parse(export("airflow").out)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    tree.body = [node for node in tree.body if node not in imports]

    class pendulum:  # noqa: N801
        @staticmethod
        def datetime(year: int, month: int, day: int, tz: str) -> tuple[int, int, int, str]:
            return year, month, day, tz

    def timetable(cron: str, timezone: str) -> tuple[str, str]:
        return cron, timezone

    names = {"DAG": Dag, "task": Task, "pendulum": pendulum, "CronTriggerTimetable": timetable}
    exec(compile(tree, "dags.py", "exec"), names)
    assert [dag["dag_id"] for dag in made] == ["bei-jobs-fort-night-ly", "bei-jobs-nightly"]
    assert made[1]["schedule"] == ("0 2 * * *", "Europe/Berlin")
    assert made[1]["start_date"][3] == "Europe/Berlin"
    assert shlex.split(made[1]["command"])[1:] == submit_words(folder)
    slot = "{{ data_interval_end | ts }}"
    words = shlex.split(made[0]["command"])[1:]
    assert words[2:] == ["--from", slot, "--to", slot, "--quiet"]


def test_every_missed_slot_is_caught_up_elsewhere_too(export: Any, folder: Path) -> None:
    (folder / "Fort.night_ly.toml").unlink()
    with (folder / "nightly.toml").open("a") as file:
        file.write('catch-up = "all"\n')
    line = export("crontab").out.splitlines()[-1]
    assert re.search(r" backfill .*nightly.toml' --from \d{4}-\d\d-\d\d --quiet$", line)


@pytest.mark.parametrize("cron", ["0 0 L * *", "0 0 * * 5L", "0 0 * * MON#1"])
def test_a_cron_that_others_do_not_know_is_refused_by_name(
    bei: Bei, folder: Path, cron: str
) -> None:
    (folder / "nightly.toml").write_text(PLAIN.replace("0 2 * * *", cron))
    refused = bei("schedule", "export", folder, "--to", "systemd")
    assert refused.code == 2
    assert "nightly.toml" in refused.screen[0]
    assert "schedule run" in refused.screen[1]


def test_a_bad_file_does_not_hold_the_others_back(bei: Bei, folder: Path) -> None:
    (folder / "bad.toml").write_text("no TOML")
    done = bei("schedule", "export", folder, "--to", "crontab")
    assert done.code == 1
    assert "nightly.toml" in done.out
    assert "bad.toml" in done.screen[0]
