"""What an output already holds: unchanged files keep their cuts, and a limit never removes."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import Cut, InputFile

#: A file as it was planned, and some of its cuts.
FileCuts = tuple[InputFile, list[Cut]]


@dataclass(frozen=True, slots=True)
class Previous:
    """The last run's plan: unchanged files keep their cut, and nothing is dropped unnoticed."""

    plan: Plan | None
    cuts: dict[tuple[str, str], FileCuts]

    @classmethod
    def of(cls, output: Output, last: Run | None) -> Previous:
        if last is None:
            return cls(None, {})
        plan = output.plan(last)
        cuts = plan.cuts()
        return cls(plan, {(file.uri, file.version): (file, cuts[file.uri]) for file in plan.files})

    def done(self, output: Output) -> dict[str, FileCuts]:
        """File URI → the file as it was, and those of its cuts that are committed."""
        found: dict[str, FileCuts] = {}
        if self.plan is not None:
            missing = set(self.plan.missing(output.committed()))
            for shard in self.plan.shards(i for i in range(len(self.plan)) if i not in missing):
                found.setdefault(shard.file.uri, (shard.file, []))[1].append(shard.cut)
        return found


def limited(
    files: list[FileCuts],
    limit: int,
    done: dict[str, FileCuts],
) -> list[FileCuts]:
    """The first `limit` rows, and what is committed already: a limit never removes.

    A file of which more rows are committed than the limit asks for stays as it is, even where
    it changed since.
    """
    chosen: dict[str, FileCuts] = {}
    for file, cuts in files:
        kept: list[Cut] = []
        for cut in cuts:
            rows = min(cut.rows, limit)
            limit -= rows
            if rows:
                kept.append(Cut(cut.first_row, rows, cut.byte_offset))
        had = done.get(file.uri)
        if had is not None and sum(c.rows for c in had[1]) >= sum(c.rows for c in kept):
            chosen[file.uri] = had
        elif kept:
            chosen[file.uri] = (file, kept)
    for uri, had in done.items():
        chosen.setdefault(uri, had)
    return list(chosen.values())
