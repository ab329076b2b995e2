"""The tasks, one file each: what is done to a row before and after the model."""

from __future__ import annotations

from tokenizers import Tokenizer

from pipeline.spec import JobSpec
from pipeline.tasks.base import Task
from pipeline.tasks.classify import Classify
from pipeline.tasks.embed import Embed
from pipeline.tasks.rerank import Rerank
from pipeline.tasks.tag import Tag

__all__ = ["Task", "make_task"]


def make_task(spec: JobSpec, tokenizer: Tokenizer, output_size: int) -> Task:
    """The task a spec names, bound to its tokenizer and to the width of the model's output.

    Raises:
        UsageError: options that do not fit the model, such as a limit below its special tokens.
    """
    if spec.task == "rerank":
        return Rerank(spec, tokenizer)
    if spec.task == "classify":
        return Classify(spec, tokenizer)
    if spec.task == "tag":
        return Tag(spec, tokenizer)
    return Embed(spec, tokenizer, output_size)
