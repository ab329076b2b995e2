"""What was proved of a model with `bei-jobs check`, as a run records it.

    <cache_dir>/certificates/<key>.json    the last check of these weights in these versions

The key is a hash of weights, tokenizer, configuration, task, precision and software: a certificate
for anything else is never found. Who may write to the cache directory may forge one.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.output.versions import software_versions
from pipeline.spec import NUMERICS_VERSION, JobSpec, digest
from pipeline.store.small_file import read_small, replace_small

logger = logging.getLogger(__name__)

# Once `auto` was float32 on every CPU: what was proved then is not of what it chooses now.
_AUTO = "auto, by a trial on a CPU"
_FOLDER = "certificates"
_MAX_BYTES = 64 * 1024
_MAX_CHARS = 400
_MAX_ENTRIES = 20


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was proved on a sample, or was not."""

    name: str
    passed: bool | None  # None: it could not be tried, `note` says why
    rows: int
    measured: Mapping[str, float] = field(default_factory=dict, hash=False)
    note: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a proof from a file that others may write.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        passed, rows, measured = data["passed"], data["rows"], data["measured"]
        if type(passed) not in (bool, type(None)) or type(rows) is not int or rows < 0:
            raise ValueError("a proof without an outcome")
        if len(measured) > _MAX_ENTRIES:
            raise ValueError("too many values")
        values = {_text(name): _measure(measured[name]) for name in measured}
        return cls(_text(data["name"]), passed, rows, values, _text(data["note"]))


@dataclass(frozen=True, slots=True)
class Certificate:
    """The outcome of one check."""

    key: str  # what it is for
    at: str  # UTC, ISO 8601
    by: str  # user@host
    device: str
    precision: str  # as the device chose it
    sample: str  # digest of its texts
    max_length: int
    proofs: tuple[Proof, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing that was tried failed."""
        return all(proof.passed is not False for proof in self.proofs)

    @property
    def digest(self) -> str:
        """16 hex digits over all of it."""
        return digest(self.to_json())

    def __str__(self) -> str:
        held = ", ".join(proof.name for proof in self.proofs if proof.passed)
        failed = "; ".join(f"{p.name}: {p.note}" for p in self.proofs if p.passed is False)
        words = f"FAILED: {failed}" if failed else f"{held or 'nothing'} proved"
        return f"checked on {self.at} on {self.device} in {self.precision}: {words}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal certificate."""
        return {**asdict(self), "proofs": [asdict(proof) for proof in self.proofs]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a certificate from a file that others may write.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        names = ("key", "at", "by", "device", "precision", "sample")
        if type(data["max_length"]) is not int or len(data["proofs"]) > _MAX_ENTRIES:
            raise ValueError("no certificate")
        return cls(
            **{name: _text(data[name]) for name in names},
            max_length=data["max_length"],
            proofs=tuple(Proof.from_json(proof) for proof in data["proofs"]),
        )


def certificate_key(spec: JobSpec) -> str:
    """16 hex digits over what a certificate of a job's model depends on."""
    model, versions = spec.model, software_versions()
    precision = _AUTO if spec.precision == "auto" else spec.precision
    return digest(
        model.sha256, model.fingerprint, spec.encoder, spec.task, precision,
        NUMERICS_VERSION, versions,
    )  # fmt: skip


def write_certificate(cache_dir: Path, certificate: Certificate) -> None:
    """Keep a certificate; it replaces an earlier one. A directory that is read-only keeps none."""
    text = json.dumps(certificate.to_json(), indent=1)
    try:
        replace_small(_path(cache_dir, certificate.key), text)
    except OSError as error:
        logger.warning("the certificate is not kept: %s", error)


def find_certificate(cache_dir: Path, spec: JobSpec) -> Certificate | None:
    """The certificate of a job's model; None if there is none, or only a damaged one."""
    key = certificate_key(spec)
    text = read_small(_path(cache_dir, key), _MAX_BYTES)
    if text is None:
        return None
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        certificate = Certificate.from_json(json.loads(text))
        return certificate if certificate.key == key else None
    return None


def _path(cache_dir: Path, key: str) -> Path:
    return cache_dir / _FOLDER / f"{key}.json"


def _measure(value: object) -> float:
    # JSON has whole numbers that no float holds.
    if not isinstance(value, float | int) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{str(value)[:40]!r} is not a measure")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_CHARS or not value.isprintable():
        raise ValueError(f"{str(value)[:40]!r} is not a short text")
    return value
