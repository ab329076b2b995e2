"""The rows of a sample, computed as a submit on this machine computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.display import Display
from jobs.rehearse.vectors import ROW
from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import Interrupted, JobFailed
from pipeline.output.manifest import read_parts, require_finished
from pipeline.output.read_part import read_part
from pipeline.output.run import Run
from pipeline.output.totals import Manifest
from pipeline.planning.prepare import prepare
from pipeline.request import Request
from workers.foreground import run_in_foreground
from workers.open_devices import LocalDevice
from workers.rates import Rate, Rates
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Computed:
    """A finished run on a sample."""

    texts: Sequence[str | None]
    run: Run
    manifest: Manifest
    card: ModelCard
    table: pa.Table  # its rows, in the order of the sample
    rate: Rate | None  # how fast it was; None: it was too short to tell
    choices: Choices


@dataclass(frozen=True, slots=True)
class Computer:
    """Runs jobs on texts in a folder of its own, which holds all that they write."""

    folder: Path
    settings: Settings
    devices: tuple[LocalDevice, ...]
    quiet: bool

    @property
    def device_names(self) -> tuple[str, ...]:
        """Such as ("cpu",)."""
        return tuple(device.device for device in self.devices)

    def compute(
        self,
        name: str,
        request: Request,
        texts: Sequence[str | None],
        shown: Choices | None = None,
    ) -> Computed:
        """Run a job on texts.

        Args:
            name: of the job, each time another.
            request: what decides its values; see `sample_request`.
            texts: one for each row.
            shown: choices that the user has seen.

        Raises:
            Interrupted: it was stopped.
            BeiJobsError: it failed.
        """
        settings = replace(self.settings, state_dir=self.folder / f"{name}.state")
        request = self.sample_request(name, request, texts)
        display = Display(quiet=self.quiet, choices=shown)
        prepared = prepare(request, settings.cache_dir, display.say)
        display.show_choices(prepared.choices)
        outcome = run_in_foreground(prepared, settings, self.devices, display)
        if isinstance(outcome.error, Interrupted):
            raise Interrupted("interrupted", hint="nothing is kept: run the same command again")
        if outcome.error is not None:
            raise JobFailed(outcome.error.message, hint="fix the cause, and rehearse again")
        run, manifest = require_finished(prepared.output)
        listed = read_parts(prepared.output, run).select(["part", "checksum"]).to_pylist()
        parts = [read_part(prepared.output, one["part"], one["checksum"]) for one in listed]
        return Computed(
            texts,
            run,
            manifest,
            prepared.card,
            pa.concat_tables(part.replace_schema_metadata(None) for part in parts),
            Rates(settings.state_dir).find(run.spec.space, self.device_names),
            display.choices or {},
        )

    def sample_request(self, name: str, request: Request, texts: Sequence[str | None]) -> Request:
        """The request with the texts as its input, and an output in the folder."""
        source = self.folder / f"{name}.parquet"
        if not source.exists():
            columns = {
                ROW: pa.array(range(len(texts)), pa.int64()),
                request.text_column: pa.array(texts, pa.large_string()),
            }
            pq.write_table(pa.table(columns), source)
        return replace(
            plain(request),
            inputs=(str(source),),
            output=str(self.folder / f"{name}.embed"),
            id_column=ROW,
            where=None,
            format=None,
            csv_escape=None,
            max_failed_rows="100%",
        )


def plain(request: Request) -> Request:
    """The request without what concerns its output only."""
    return replace(
        request,
        output=None,
        keep=(),
        limit=None,
        add=False,
        replace=False,
        prune=False,
        output_format=None,
        rows_per_shard=None,
    )
