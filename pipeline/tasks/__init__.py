"""The tasks, one file each: what is done to a row before and after the model."""

from __future__ import annotations

from tokenizers import Tokenizer

from pipeline.errors import UsageError
from pipeline.spec import JobSpec
from pipeline.tasks.base import Task
from pipeline.tasks.embed import Embed

__all__ = ["Task", "make_task"]

def make_task(spec: JobSpec, tokenizer: Tokenizer, output_size: int) -> Task:
    """The task a spec names, bound to its tokenizer and to the width of the model's output.

    Raises:
        UsageError: this version does not know the task.
    """
    if spec.task == "embed":
        return Embed(spec, tokenizer, output_size)
    raise UsageError(f"--task {spec.task} is not available in this version; embed is")
