"""Schedules as other schedulers read them: crontab, systemd, Kubernetes and Airflow.

Only what every one of them understands alike is exported: numbers, names, lists, ranges and steps.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import yaml

from jobs.schedules.schedule import Schedule
from jobs.schedules.systemd_calendar import calendars
from pipeline.errors import UsageError
from pipeline.store.uris import is_local, redact

Target = Literal["crontab", "systemd", "kubernetes", "airflow"]

_PLAIN_CRON = re.compile(r"[0-9*,/ -]+")
_NO_LETTER_OF_A_NAME = re.compile(r"[^a-z0-9]+")
_MOUNT = "/schedules"
_MAX_CRONJOB_NAME = 52


def export(schedules: Sequence[Schedule], target: Target, now: datetime) -> str:
    """The text for another scheduler, which may be written to a file as it is.

    Args:
        schedules: valid ones.
        target: who reads it.
        now: missed slots are caught up from here on.

    Raises:
        UsageError: a schedule cannot be said in the other's words; it is named.
    """
    names: dict[str, str] = {}
    for schedule in schedules:
        _check_cron(schedule)
        other = names.setdefault(unit_name(schedule), schedule.name)
        if other != schedule.name:
            raise UsageError(
                f"{schedule.name} and {other} would both be named {unit_name(schedule)}",
                hint="rename one of the files",
            )
    return _EXPORTS[target](schedules, now)


def unit_name(schedule: Schedule) -> str:
    """The name of a schedule where lower case, digits and dashes are allowed only."""
    slug = _NO_LETTER_OF_A_NAME.sub("-", schedule.name.lower()).strip("-")
    return f"bei-jobs-{slug}"[:_MAX_CRONJOB_NAME].rstrip("-")


def _check_cron(schedule: Schedule) -> None:
    *numbers, months, weekdays = schedule.cron.expression.split()
    without_names = re.sub(r"[A-Za-z]{3}", "", f"{months} {weekdays}")
    if not _PLAIN_CRON.fullmatch(" ".join([*numbers, without_names])):
        raise UsageError(
            f"{schedule.where}: other schedulers do not know cron {schedule.cron.expression!r}",
            hint="`bei-jobs schedule run` does; they know numbers, names, lists, ranges and steps",
        )


def _words(schedule: Schedule, now: datetime, file: str | None = None) -> list[str]:
    """What runs the job of a schedule that another scheduler finds due."""
    file = file or schedule.where
    if schedule.catch_up == "all":
        day = now.astimezone(schedule.cron.zone).date().isoformat()
        return ["backfill", file, "--from", day, "--quiet"]
    if schedule.depends_on_slot or not is_local(file):
        return ["backfill", file, "--from", "last", "--quiet"]
    return ["submit", "--job-file", file, "--quiet"]


def _program() -> str:
    """The command of this installation."""
    script = Path(sys.executable).with_name("bei-jobs")
    return str(script) if script.exists() else "bei-jobs"


def _crontab(schedules: Sequence[Schedule], now: datetime) -> str:
    lines = ["# CRON_TZ is read by cronie (Fedora, RHEL, Arch, …), not by the cron of Debian."]
    for schedule in schedules:
        command = shlex.join([_program(), *_words(schedule, now)]).replace("%", r"\%")
        lines += [
            f"CRON_TZ={schedule.cron.timezone}",
            f"{schedule.cron.expression} {command}",
        ]
    return "\n".join(lines) + "\n"


def _systemd(schedules: Sequence[Schedule], now: datetime) -> str:
    return "\n".join(_units(schedule, now) for schedule in schedules)


def _units(schedule: Schedule, now: datetime) -> str:
    name = unit_name(schedule)
    words = " ".join(_systemd_word(word) for word in [_program(), *_words(schedule, now)])
    when = "\n".join(f"OnCalendar={each}" for each in calendars(schedule.cron))
    return f"""# /etc/systemd/system/{name}.service
[Unit]
Description=bei-jobs schedule {schedule.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={words}

# /etc/systemd/system/{name}.timer
[Unit]
Description=bei-jobs schedule {schedule.name}

[Timer]
{when}
AccuracySec=1s
# A run that was missed while the machine was off starts at boot.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _systemd_word(word: str) -> str:
    """A word of ExecStart; systemd expands % and $."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"""[\s"'\\;]""", escaped) else escaped


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as it is."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _kubernetes(schedules: Sequence[Schedule], now: datetime) -> str:
    for schedule in schedules:
        if schedule.relative_paths:
            raise UsageError(
                f"{schedule.where} has paths that are relative to it, which a pod does not have",
                hint="give URIs, or whole paths of volumes that the pod mounts",
            )
        for name in _secrets(schedule):
            raise UsageError(
                f"{schedule.where}: its {name}, which the manifest would show",
                hint=f"put BEI_JOBS_{name.split()[0].upper()} into the Secret bei-jobs, and not "
                "into the file",
            )
    files = {Path(schedule.where).name: schedule.text for schedule in schedules}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "bei-jobs-schedules"},
        "data": files,
    }
    jobs = [_cron_job(schedule, now) for schedule in schedules]
    return (
        "# The Secret bei-jobs holds the environment: AWS_*, BEI_JOBS_BROKER, …\n"
        f"{yaml.dump_all([config, *jobs], Dumper=_Dumper, sort_keys=False, width=100)}"
    )


def _secrets(schedule: Schedule) -> Iterator[str]:
    """What the file itself sets that is a secret: the whole of it is in the manifest."""
    broker = str(schedule.options.get("broker", ""))
    if "@" in broker or redact(broker) != broker:
        yield "broker has a password"
    if schedule.options.get("notify"):
        yield "notify has a URL, which is a secret"


def _cron_job(schedule: Schedule, now: datetime) -> Mapping[str, object]:
    file = f"{_MOUNT}/{Path(schedule.where).name}"
    container = {
        "name": "bei-jobs",
        "image": "bei-jobs",
        "args": _words(schedule, now, file),
        "envFrom": [{"secretRef": {"name": "bei-jobs", "optional": True}}],
        "volumeMounts": [{"name": "schedules", "mountPath": _MOUNT, "readOnly": True}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "schedules", "configMap": {"name": "bei-jobs-schedules"}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": unit_name(schedule)},
        "spec": {
            "schedule": schedule.cron.expression,
            "timeZone": schedule.cron.timezone,
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": {"backoffLimit": 1, "template": {"spec": pod}}},
        },
    }


def _airflow(schedules: Sequence[Schedule], now: datetime) -> str:
    head = '''"""Made by `bei-jobs schedule export`: one DAG per schedule."""

import pendulum
from airflow.sdk import DAG, task  # Airflow 2: from airflow import DAG; airflow.decorators
from airflow.timetables.trigger import CronTriggerTimetable
'''
    return "\n".join([head, *(_dag(schedule, now) for schedule in schedules)])


def _dag(schedule: Schedule, now: datetime) -> str:
    zone = schedule.cron.timezone
    day = now.astimezone(schedule.cron.zone)
    words = _words(schedule, now)
    if words[0] == "backfill":  # Airflow itself knows which slot it runs, and catches up
        slot = "{{ data_interval_end | ts }}"
        words = ["backfill", schedule.where, "--from", slot, "--to", slot, "--quiet"]
    command = shlex.join([_program(), *words])
    return f"""
with DAG(
    dag_id={unit_name(schedule)!r},
    schedule=CronTriggerTimetable({schedule.cron.expression!r}, timezone={zone!r}),
    start_date=pendulum.datetime({day.year}, {day.month}, {day.day}, tz={zone!r}),
    catchup={schedule.catch_up == "all"},
    max_active_runs=1,
):

    @task.bash(retries=2)
    def run():
        return {command!r}

    run()
"""


_EXPORTS: Mapping[Target, Callable[[Sequence[Schedule], datetime], str]] = {
    "crontab": _crontab,
    "systemd": _systemd,
    "kubernetes": _kubernetes,
    "airflow": _airflow,
}
