"""What decides whether two jobs may share an output, and how two that may not differ."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.errors import OutputConflict
from pipeline.output.run import FORMAT_VERSION, KEYED_FORMAT
from pipeline.spec import NOT_IDENTITY, NUMERICS_VERSION, JobSpec, schema_hash
from pipeline.store.uris import redact

_DIFFERENCES_SHOWN = 6


def identity_of(spec: JobSpec, kept: pa.Schema) -> dict[str, Any]:
    """The content of `_bei/spec.json`."""
    return {
        "space": spec.space,
        "schema": schema_hash(kept),
        "numerics": NUMERICS_VERSION,
        "format": FORMAT_VERSION,
        "kept": {f.name: str(f.type) for f in kept},
        "spec": spec.to_json(),
    }


def format_in(identity: dict[str, Any]) -> str:
    """The format of an output's parts, given its identity."""
    return str(dict(identity["spec"]).get("output_format", "arrow"))


def refuse_other(uri: str, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a job whose results do not go with those of an output.

    Raises:
        OutputConflict: the message names what differs.
    """
    same = stored["schema"] == wanted["schema"] or int(stored.get("format", 1)) >= KEYED_FORMAT
    if not same or stored["space"] != wanted["space"]:
        raise OutputConflict(
            f"{redact(uri)} holds another job's results: {difference(stored, wanted)}",
            hint="give another --output, or the same options as before",
        )
    if (begun := format_in(stored)) != (other := format_in(wanted)):
        raise OutputConflict(
            f"{redact(uri)} was begun with --output-format {begun}, and keeps it",
            hint=f"give --output-format {begun}, or another --output for {other}",
        )


def difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Describe how an output's identity differs from that of the job, by the options' names."""
    if stored["space"] == wanted["space"]:
        return _compared("kept columns are", stored["kept"], wanted["kept"])
    specs = (_flat(json.loads(json.dumps(side["spec"]))) for side in (stored, wanted))
    stored_spec, wanted_spec = specs
    names = sorted(
        name
        for name in stored_spec.keys() | wanted_spec.keys()
        if stored_spec.get(name) != wanted_spec.get(name) and name.split(".")[0] not in NOT_IDENTITY
    )
    # How a checkpoint was read matters only if the checkpoint itself is the same.
    names = [name for name in names if not name.startswith("encoder.")] or names
    differences = [
        _compared(f"{name} is", stored_spec.get(name), wanted_spec.get(name))
        for name in names[:_DIFFERENCES_SHOWN]
    ]
    if stored["numerics"] != wanted["numerics"]:
        differences.append(_compared("numerics version is", stored["numerics"], wanted["numerics"]))
    return "; ".join(differences) or _compared("space is", stored["space"], wanted["space"])


def _compared(subject: str, stored: object, wanted: object) -> str:
    return f"{subject} {stored!r} there, {wanted!r} here"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else key))
    return flat
