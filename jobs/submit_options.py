"""The options of `bei-jobs submit`, which `bei-jobs plan` has too."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jobs.bei_option import read_bei_config
from jobs.options import (
    Function,
    Several,
    broker_option,
    choice,
    json_option,
    log_option,
    metrics_option,
    notify_option,
    option,
    own_revision,
    quiet_option,
    read_job_file,
)
from pipeline.request import DEFAULT_MODEL, TASK_NAMES, LongTexts, Request
from pipeline.spec import (
    MAX_FAILED_ROWS,
    Aggregation,
    InputFormat,
    Kind,
    OutputDtype,
    OutputFormat,
    Precision,
    Truncate,
    Vectors,
)

_OPTIONS = (
    click.argument("inputs", nargs=-1, metavar="INPUT...", required=False),
    click.option(
        "--job-file",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=read_job_file,
        is_eager=True,
        expose_value=False,
        help="TOML file that sets any of these options, and `inputs`.",
    ),
    click.option(
        "--bei-config",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=read_bei_config,
        is_eager=True,
        expose_value=False,
        help="config.yaml of a BEI or BEI-Bert deployment; sets model, task and token budget.",
    ),
    option("--task", type=click.Choice(TASK_NAMES), default="embed", show_default=True),
    option("--model", default=DEFAULT_MODEL, show_default=True, help="Hub name, directory or URI."),
    option("--revision", help="Branch, tag or commit of a model on the hub."),
    option("--output", metavar="URI", help="Default: next to the input, such as corpus.embed."),
    option("--text-column", default="text", show_default=True),
    option("--query-column", default="query", show_default=True),
    option(
        "--documents-column",
        default="documents",
        show_default=True,
        help="Column of lists of texts.",
    ),
    option("--document-column", help="Column of single documents: rerank or classify pairs."),
    option(
        "--id-column",
        help="Passed through. Default: `id`, if the input has it; else source_file and source_row "
        "are written.",
    ),
    option(
        "--keep",
        multiple=True,
        metavar="COLUMN",
        help="Columns to pass through: a,b or repeated. A name may hold a comma.",
    ),
    option("--prompt-name", help="Name of one of the model's prompts."),
    option("--prompt", help="Text to put before each text, of a pair before the query."),
    option("--instruction", metavar="TEXT", help="What a reranker should consider relevant."),
    option(
        "--max-length", type=click.IntRange(min=1), help="Maximum tokens. Default: the model's."
    ),
    option(
        "--long-texts",
        type=choice(LongTexts),
        help="What becomes of a text over the limit. Default: it is cut, usually at the end, as "
        "the tokenizer says.",
    ),
    option(
        "--chunk-tokens",
        type=click.IntRange(min=1),
        help="Maximum of a chunk, prompt and special tokens included. Default: 256; late-chunk: "
        "at most a quarter of --max-length; pool: all of it.",
    ),
    option(
        "--chunk-overlap",
        type=click.IntRange(min=0),
        help="Tokens that a chunk shares with the one before. Default: 0.",
    ),
    option(
        "--truncate",
        type=choice(Truncate),
        default="right",
        show_default=True,
        help="Earlier name of --long-texts cut-end, cut-start and error.",
    ),
    option(
        "--vectors",
        type=Several(choice(Vectors)),
        metavar="KIND[,KIND]",
        help="dense, sparse, multi (a vector for each token), or several of them from one pass. "
        "Default: what the model was trained for.",
    ),
    option(
        "--kind",
        type=choice(Kind),
        help="Whether the texts are queries or documents, for models that read them differently. "
        "Default: the model's own, usually document.",
    ),
    option(
        "--dimensions",
        type=Several(click.IntRange(min=1)),
        metavar="N[,N]",
        help="Keep the first N dimensions (Matryoshka); several numbers give one column each.",
    ),
    option(
        "--output-dtype",
        type=Several(choice(OutputDtype)),
        default="float32",
        show_default=True,
        metavar="TYPE[,TYPE]",
        help="float32, float16, int8 or binary; several in one column each. int8 comes with "
        "embedding_scale; binary is packed uint8, called ubinary elsewhere.",
    ),
    option(
        "--sparse-top-k",
        type=click.IntRange(min=1),
        help="Keep the N terms of a sparse vector with the largest weights.",
    ),
    option("--sparse-terms", is_flag=True, help="Write the terms' tokens as text, too."),
    option(
        "--token-offsets",
        is_flag=True,
        help="With a vector for each token: also write where the token is in the text.",
    ),
    option(
        "--output-format",
        type=choice(OutputFormat),
        help="Of the parts. Default: arrow; an output keeps the format it was begun with.",
    ),
    option("--normalize/--no-normalize", default=None, help="Default: the model's setting."),
    option(
        "--top-k",
        type=click.IntRange(min=1),
        help="Labels per row. Default: 1, or all if multi-label.",
    ),
    option("--raw-scores", is_flag=True, help="Write logits instead of probabilities."),
    option("--aggregation", type=choice(Aggregation), default="simple", show_default=True),
    option("--precision", type=choice(Precision), default="auto", show_default=True),
    option(
        "--token-budget", type=click.IntRange(min=1), help="Tokens per batch. Default: by device."
    ),
    option(
        "--rows-per-shard",
        type=click.IntRange(min=1),
        help="Of new and changed files. Default: 16384 or fewer.",
    ),
    option(
        "--format",
        type=choice(InputFormat),
        help="Of every input file. Default: by suffix, or by the first bytes where there is none.",
    ),
    option(
        "--where",
        metavar="SQL",
        help="Process only these rows, such as \"lang = 'en' AND published >= '2026-01-01'\".",
    ),
    option(
        "--csv-escape",
        metavar="CHAR",
        help="In CSV, the character after CHAR stands for itself: '\\' where a quote is \\\".",
    ),
    option("--limit", type=click.IntRange(min=1), help="Process only the first N rows."),
    option("--add", is_flag=True, help="Add these inputs to the output's existing ones."),
    option("--replace", is_flag=True, help="Replace the output's existing inputs with these."),
    option("--prune", is_flag=True, help="Allow a run to drop more than half of the rows."),
    option(
        "--reuse-from",
        metavar="OUTPUT",
        help="Another output whose rows are copied where model, options and text are the same.",
    ),
    option(
        "--device", metavar="NAME[,NAME]", help="cpu, cuda or cuda:N. Default: all GPUs, or cpu."
    ),
    broker_option,
    option("--wait/--no-wait", default=False, help="With --broker, follow the job until it ends."),
    option(
        "--max-failed-rows",
        default=MAX_FAILED_ROWS,
        show_default=True,
        metavar="N|P%",
        help="The job fails if more rows than this have no result. Of two numbers the larger "
        "counts, but never all rows.",
    ),
    option(
        "--max-bad-files",
        default="50%",
        show_default=True,
        metavar="N|P%",
        help="Files that cannot be read, or do not fit the others, are skipped.",
    ),
    option(
        "--report",
        metavar="FILE",
        help="Write a page about the output when the job ends, as `bei-jobs report` does.",
    ),
    notify_option,
    metrics_option,
    log_option,
    json_option,
    quiet_option,
)


def submit_options(function: Function) -> Function:
    """INPUT and all options of `submit`."""
    return reduce(lambda decorated, decorator: decorator(decorated), reversed(_OPTIONS), function)


def make_request(inputs: tuple[str, ...], options: dict[str, Any]) -> Request:
    """The request of INPUT and the options that decide what is computed."""
    context = click.get_current_context()
    options["revision"] = own_revision(context, options["model"], options["revision"])
    if context.get_parameter_source("truncate") is ParameterSource.DEFAULT:
        options["truncate"] = None
    options["keep"] = tuple(options["keep"])
    for name in ("vectors", "dimensions"):
        options[name] = options[name] or ()
    return Request(inputs=inputs, **options)
