"""What decides whether two jobs may share an output, and how two that may not differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import OutputConflict
from pipeline.output.run import FORMAT_VERSION, KEYED_FORMAT
from pipeline.spec import NOT_IDENTITY, NUMERICS_VERSION, JobSpec, schema_hash
from pipeline.store.uris import redact

_DIFFERENCES_SHOWN = 6
_HASH_CHARS = 12
# Fields of a spec whose option has another name.
_OPTIONS = {
    "chunking": "long-texts", "more_dimensions": "dimensions", "more_output_dtypes": "output-dtype",
}  # fmt: skip


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
    """Describe in words how an output's identity differs from that of the job.

    A difference of the model comes alone: others may follow from it.
    """
    if stored["space"] == wanted["space"]:
        return _compared("the kept columns are", stored["kept"], wanted["kept"])
    stored_spec, wanted_spec = (json.loads(json.dumps(side["spec"])) for side in (stored, wanted))
    if words := _other_model(stored_spec["model"], wanted_spec["model"]):
        return words
    differences = [
        _compared(_option(name), before, now)
        for name, before, now in _options(_flat(stored_spec), _flat(wanted_spec))
    ]
    if stored["numerics"] != wanted["numerics"]:
        differences.append(_compared("numerics version", stored["numerics"], wanted["numerics"]))
    shown = differences[:_DIFFERENCES_SHOWN]
    return "; ".join(shown) or _compared("space", stored["space"], wanted["space"])


def _options(
    stored: dict[str, Any], wanted: dict[str, Any]
) -> Iterator[tuple[str, object, object]]:
    """Name and both values of what differs."""
    for name in sorted(stored.keys() | wanted.keys()):
        before, now = stored.get(name), wanted.get(name)
        if before != now and name.split(".")[0] not in {*NOT_IDENTITY, "model"}:
            yield name, before, now


def _other_model(stored: dict[str, str], wanted: dict[str, str]) -> str:
    """How one model differs from another, in words; "" where it is the same."""
    for key, what in (
        ("sha256", "weights have"),
        ("fingerprint", "tokenizer or configuration has"),
    ):
        if stored[key] != wanted[key]:
            was, asked = _model(stored), _model(wanted)
            if was != asked:
                return f"it was made with {was}; you ask for {asked}"
            hashes = f"{stored[key][:_HASH_CHARS]} then, {wanted[key][:_HASH_CHARS]} now"
            return f"it was made with {was}, whose {what} changed since ({hashes})"
    return ""


def _model(model: dict[str, str]) -> str:
    revision = f" at revision {model['revision'][:_HASH_CHARS]}" if model["revision"] else ""
    return f"{redact(model['name'])}{revision}"


def _option(name: str) -> str:
    """A field of the spec as the option that sets it."""
    if name.startswith("encoder"):
        return f"how the model is read ({name.partition('.')[2] or name})"
    return f"--{_OPTIONS.get(name, name).replace('_', '-')}"


def _compared(subject: str, stored: object, wanted: object) -> str:
    return f"{subject} {_value(stored)} there, {_value(wanted)} here"


def _value(value: object) -> str:
    """A value as a user gives it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, str):
        return value if re.fullmatch(r"\S+", value) else repr(value)
    return "not given" if value is None else str(value)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else key))
    return flat
