"""The last run of an output: unchanged files keep their cuts, and --limit never removes rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from pipeline.input.cutting import read_alike
from pipeline.output.manifest import newest_finished
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.planning.damaged import Damaged, damaged_files
from pipeline.shards import Cut, InputFile

# A planned file and some of its cuts.
FileCuts = tuple[InputFile, list[Cut]]


@dataclass(frozen=True, slots=True)
class Previous:
    """The last run's plan, its files by (URI, version) with their cuts, and damaged ones."""

    plan: Plan | None
    cuts: dict[tuple[str, str], FileCuts]
    damaged: Damaged = field(default_factory=dict)

    @classmethod
    def of(cls, output: Output, last: Run | None) -> Previous:
        """That of the highest run of an output; of none, nothing."""
        if last is None:
            return cls(None, {})
        plan = output.plan(last)
        cuts = plan.cuts()
        # A limit may have ended within the selected rows of a cut.
        files = [file for file in plan.files if not (last.limit and file.selects)]
        return cls(
            plan,
            {(file.uri, file.version): (file, cuts[file.uri]) for file in files},
            damaged_files(output, last, plan),
        )

    def done(self, output: Output, where: str, escape: str) -> dict[str, FileCuts]:
        """File URI → the file as planned, and its committed cuts, where it would be read alike."""
        return {} if self.plan is None else _committed(output, self.plan, where, escape)

    def kept(
        self, output: Output, bad: Collection[str], where: str, escape: str
    ) -> dict[str, FileCuts]:
        """URI → the version of a bad file that the output holds most rows of, and their cuts.

        That is the one of the last run or, where this was not finished, of the last finished one.
        Rows that another expression than `where` selected, or that another escape character than
        `escape` gave, are not kept.
        """
        kept: dict[str, FileCuts] = {}
        for plan in (self.plan, finished_plan(output)) if bad else ():
            held_rows = {} if plan is None else _committed(output, plan, where, escape)
            for uri, held in held_rows.items():
                if uri in bad and (uri not in kept or _rows(held[1]) > _rows(kept[uri][1])):
                    kept[uri] = held
        return kept


def finished_plan(output: Output) -> Plan | None:
    """The plan of the newest finished run."""
    finished = newest_finished(output)
    return None if finished is None else output.plan(finished[0])


def _committed(output: Output, plan: Plan, where: str, escape: str) -> dict[str, FileCuts]:
    """File URI → the file as planned, and its committed cuts, where it would be read alike."""
    committed: dict[str, FileCuts] = {}
    missing = set(plan.missing(output.committed()))
    for shard in plan.shards(i for i in range(len(plan)) if i not in missing):
        if read_alike(shard.file, where, escape):
            committed.setdefault(shard.file.uri, (shard.file, []))[1].append(shard.cut)
    return committed


def limited(
    files: list[FileCuts],
    limit: int,
    done: dict[str, FileCuts],
) -> list[FileCuts]:
    """The first `limit` rows, and as many of each file as are committed: a limit removes no row.

    A file that is as it was, and has at least as many committed rows as the limit selects, keeps
    its committed cuts; one that has changed gives its first rows.
    """
    chosen: dict[str, FileCuts] = {}
    for file, cuts in files:
        committed_file, committed = done.get(file.uri, (file, []))
        selected = min(limit, _rows(cuts))
        limit -= selected
        if committed and file.version == committed_file.version and _rows(committed) >= selected:
            chosen[file.uri] = (committed_file, committed)
        elif kept := list(_first(cuts, max(selected, _rows(committed)))):
            chosen[file.uri] = (file, kept)
    for uri, held in done.items():
        chosen.setdefault(uri, held)
    return list(chosen.values())


def _first(cuts: list[Cut], rows: int) -> Iterator[Cut]:
    for cut in cuts:
        if rows <= 0:
            return
        yield replace(cut, rows=min(cut.rows, rows))
        rows -= cut.rows


def _rows(cuts: list[Cut]) -> int:
    return sum(cut.rows for cut in cuts)
