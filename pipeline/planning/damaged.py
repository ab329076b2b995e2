"""Files that turned out to be bad only when their rows were read, such as a damaged row group.

They fail their run, because a plan never changes. The run after it leaves them out, as it does
files that are seen to be bad when it is planned; the one after that tries them again.
"""

from __future__ import annotations

from pipeline.errors import InputError
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import failure_budget

# (URI, version) of a file → why its rows cannot be read.
Damaged = dict[tuple[str, str], str]


def damaged_files(output: Output, run: Run | None, plan: Plan | None) -> Damaged:
    """The files whose content failed a run; none of a run that did not fail.

    Args:
        output: of the run.
        run: the highest run of the output.
        plan: of the run.
    """
    if run is None or plan is None or not output.failed(run):
        return {}
    content = {
        shard: result.error
        for shard, result in output.failures(run).items()
        if result.kind == InputError.__name__
    }
    if not content:
        return {}
    numbers = [i for i, (shard,) in enumerate(plan.values("shard")) if shard in content]
    shards = plan.shards(reversed(numbers))  # so that the first reason of a file is kept
    return {(one.file.uri, one.file.version): content[one.id] for one in shards}


def can_go_on_without(damaged: Damaged, run: Run, max_bad_files: str) -> bool:
    """Whether the next run may leave the damaged files of a run out.

    Raises:
        UsageError: `max_bad_files` is no number or share.
    """
    allowed = failure_budget(max_bad_files, run.files, "--max-bad-files")
    return bool(damaged) and len(run.skipped) + len({uri for uri, _ in damaged}) <= allowed
