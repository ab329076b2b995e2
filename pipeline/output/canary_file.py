"""The canary of a run: what its first device computed of fixed texts, as all others must.

    _bei/runs/<n>/canary-<precision>.json    create-only: the first device of a precision writes it

Whole vectors are kept, not a part of them: a damaged row of the last layer changes one dimension.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from pipeline.agreement import TOLERANCE, Float32Array, distance
from pipeline.errors import CanaryDiffers, NotFound, StorageError
from pipeline.output.output import Output
from pipeline.output.run import RUNS, Run
from pipeline.store.uris import redact

_PREFIX = "canary-"
_TEXT_CHARS = 200
_MAX_VERSIONS = 20
_TEXTS = ("at", "by", "device", "device_name", "precision", "texts", "tokens", "change")


@dataclass(frozen=True, slots=True)
class Canary:
    """What one device computed of the fixed texts."""

    at: str  # UTC, ISO 8601
    by: str  # user@host
    pid: int
    device: str  # such as "cuda:1"
    device_name: str  # "cpu", or a GPU's product name
    precision: str  # as chosen for the device
    versions: Mapping[str, str] = field(hash=False)
    texts: str  # digest of the fixed texts: others cannot be compared
    tokens: str  # digest of their token ids and types
    values: Float32Array = field(hash=False, compare=False)  # [N, width], by batch
    since: int = 0  # the earlier run whose canary it was compared with; 0: none
    change: str = ""  # how it differs from that; "" if it does not

    def __str__(self) -> str:
        name = "" if self.device_name == self.device else f" {self.device_name},"
        torch = self.versions.get("torch", "unknown")
        return f"{self.by} (process {self.pid}, {self.device},{name} torch {torch})"

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal canary."""
        values = np.ascontiguousarray(self.values, dtype="<f4")
        return {
            **asdict(self),
            "shape": list(values.shape),
            "values": base64.b64encode(values.tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a canary from a store, to which others may write.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if len(data["versions"]) > _MAX_VERSIONS:
            raise ValueError(f"{len(data['versions'])} versions")
        rows, width = (_count(value) for value in data["shape"])
        values = np.frombuffer(base64.b64decode(data["values"], validate=True), dtype="<f4")
        given: dict[str, Any] = {
            **{name: _text(data[name]) for name in _TEXTS},
            **{name: _count(data[name]) for name in ("pid", "since")},
            "versions": {_text(name): _text(data["versions"][name]) for name in data["versions"]},
            "values": values.reshape(rows, width).astype(np.float32),
        }
        return cls(**given)


def agree(output: Output, run: Run, own: Canary, *, logits: bool) -> None:
    """Hold the canary of a device beside that of the first one of the run and of its precision.

    Args:
        output: of the run.
        run: whose rows the device is to compute.
        own: of the device.
        logits: whether its values are logits; else they are vectors.

    Raises:
        CanaryDiffers: it is another one.
        StorageError: the first one can be neither read nor written.
    """
    name = run.path(f"{_PREFIX}{own.precision}.json")
    first = _read(output, name)
    if first is None:
        own = _beside_earlier(output, run, own, logits)
        data = json.dumps(own.to_json(), indent=1, sort_keys=True).encode()
        if output.directory.create(name, data):
            return
        first = _read(output, name)
    if first is not None and (change := _difference(first, own, logits)):
        raise CanaryDiffers(
            f"this device computes other values than the first one of run {run.n}: {change}. "
            f"First {first}, here {own}",
            hint="one of the two has a damaged weight, memory or driver, or other versions: see "
            "`canary` in docs/operations.md",
        )


def read_canaries(output: Output, run: Run) -> list[Canary]:
    """The canaries of a run, one for each precision that its devices have.

    Raises:
        StorageError: one is damaged.
    """
    names = [item.name for item in output.directory.list(run.path(_PREFIX))]
    return [canary for name in names if (canary := _read(output, name)) is not None]


def _read(output: Output, name: str) -> Canary | None:
    try:
        return Canary.from_json(json.loads(output.directory.read(name)))
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"{redact(output.uri)}/{name} is damaged: {' '.join(str(error).split())}",
            hint="delete it: the next device that loads the model writes it again",
        ) from error


def _beside_earlier(output: Output, run: Run, own: Canary, logits: bool) -> Canary:
    """The canary with what became of it since the run that was finished before."""
    since = run.record.changes.since if run.record else 0
    earlier = None
    if since:
        with suppress(StorageError):  # which only says less of this run
            earlier = _read(output, f"{RUNS}{since}/{_PREFIX}{own.precision}.json")
    if earlier is None or earlier.texts != own.texts:
        return own
    return replace(own, since=since, change=_difference(earlier, own, logits))


def _difference(first: Canary, own: Canary, logits: bool) -> str:
    """How a canary differs from an earlier one in words; "" if both are sound."""
    if first.texts != own.texts:  # of a version with other texts
        return ""
    if first.tokens != own.tokens:
        return "the fixed texts have other tokens"
    apart = distance(own.values, first.values, logits=logits)
    allowed = TOLERANCE[own.precision]
    if apart <= allowed:
        return ""
    return f"values differ by {apart:.1e}, where {own.precision} allows {allowed:.0e}"


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_CHARS or not value.isprintable():
        raise ValueError(f"{str(value)[:40]!r} is not a short text")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is not a count")
    return value
