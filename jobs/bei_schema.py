"""The published schema of `trt_llm` in a Truss's config.yaml: which keys there are, and what each
may hold. What they mean for a job is in `jobs.bei_config`.

Of inference stack v1, which serves BEI and BEI-Bert, as in truss 0.18
(https://docs.baseten.co/engines/bei/bei-reference).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key may hold: in words that complete "give …", and the check."""

    wanted: str
    fits: Callable[[object], bool]


Section: TypeAlias = Mapping[str, "Kind | Section"]


def _whole(low: int, high: int | None = None) -> Kind:
    wanted = f"a whole number from {low:,}" + ("" if high is None else f" to {high:,}")
    return Kind(
        wanted,
        lambda value: type(value) is int and value >= low and (high is None or value <= high),
    )


def _one_of(*names: str) -> Kind:
    return Kind(
        f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names
    )


_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_TEXT = Kind("a text, in quotes if need be", lambda value: isinstance(value, str))
_INTEGER = Kind("a whole number", lambda value: type(value) is int)
_NUMBER = Kind("a number", lambda value: type(value) in (int, float))
_TEXTS = Kind(
    "a list of texts",
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)
_MAPPING = Kind("keys and values", lambda value: isinstance(value, Mapping))

_MOST_TOKENS = 1_048_576

# Texts of which only some are good for a job are checked where they are read: the message says why.
TRT_LLM: Section = {
    "inference_stack": _TEXT,
    "version_overrides": {
        "engine_builder_version": _TEXT,
        "briton_version": _TEXT,
        "bei_version": _TEXT,
        "bei_bert_version": _TEXT,
        "v2_llm_version": _TEXT,
    },
    "build": {
        "base_model": _TEXT,
        "checkpoint_repository": {
            "source": _TEXT,
            "repo": _TEXT,
            "revision": _TEXT,
            "runtime_secret_name": _TEXT,
        },
        "max_num_tokens": _whole(64, _MOST_TOKENS),
        "max_seq_len": _whole(1, _MOST_TOKENS),
        "max_batch_size": _whole(1, 2048),
        "max_beam_width": _whole(1, 1),
        "max_prompt_embedding_table_size": _INTEGER,
        "gather_all_token_logits": _FLAG,
        "strongly_typed": _FLAG,
        "quantization_type": _TEXT,
        "quantization_config": {
            "calib_size": _whole(64, 16_384),
            "calib_dataset": _TEXT,
            "calib_max_seq_length": _whole(64, 16_384),
        },
        "tensor_parallel_count": _whole(1),
        "pipeline_parallel_count": _whole(1),
        "sequence_parallel_count": _whole(1),
        "moe_expert_parallel_option": _INTEGER,
        "plugin_configuration": {
            "paged_kv_cache": _FLAG,
            "use_paged_context_fmha": _FLAG,
            "use_fp8_context_fmha": _FLAG,
        },
        "num_builder_gpus": _whole(1),
        "speculator": _MAPPING,
        "lora_adapters": _MAPPING,
        "lora_configuration": {"max_lora_rank": _INTEGER, "lora_target_modules": _TEXTS},
        "skip_build_result": _FLAG,
    },
    "runtime": {
        "webserver_default_route": _TEXT,
        "served_model_name": _TEXT,
        "kv_cache_free_gpu_mem_fraction": _NUMBER,
        "kv_cache_host_memory_bytes": _whole(1),
        "lora_cache_max_adapter_size": _whole(1),
        "lora_cache_optimal_adapter_size": _whole(1),
        "lora_cache_gpu_memory_fraction": _NUMBER,
        "lora_cache_host_memory_bytes": _whole(1),
        "enable_chunked_context": _FLAG,
        "batch_scheduler_policy": _one_of("guaranteed_no_evict", "max_utilization"),
        "request_default_max_tokens": _whole(1),
        "total_token_limit": _INTEGER,
    },
}


def checked(file: object, values: object) -> Mapping[str, object]:
    """The `trt_llm` section of a file: dotted key → value, in the file's order.

    Keys that are null are left out: they are not set.

    Raises:
        UsageError: a key that the schema does not have, or a value of another kind; both are named.
    """
    return MappingProxyType(dict(_walk(str(file), "trt_llm", values, TRT_LLM)))


def known_keys(schema: Section = TRT_LLM, name: str = "trt_llm") -> Iterator[str]:
    """The dotted keys of the schema."""
    for key, inner in schema.items():
        if isinstance(inner, Kind):
            yield f"{name}.{key}"
        else:
            yield from known_keys(inner, f"{name}.{key}")


def _walk(file: str, name: str, values: object, schema: Section) -> Iterator[tuple[str, object]]:
    if not isinstance(values, Mapping):
        raise UsageError(
            f"{file}: {name} has no keys", hint=f"give keys, such as {next(iter(schema))}"
        )
    for key, value in values.items():
        inner = schema.get(key) if isinstance(key, str) else None
        if inner is None:
            raise UsageError(
                f"{file}: bei-jobs does not know the key {name}.{one_line(key)}",
                hint=_advice(key, schema),
            )
        dotted = f"{name}.{key}"
        if value is None:
            continue
        if not isinstance(inner, Kind):
            yield from _walk(file, dotted, value, inner)
        elif inner.fits(value):
            yield dotted, value
        else:
            # A whole mapping or list is not shown: it may be large, or hold what is secret.
            held = type(value).__name__ if isinstance(value, Mapping | list) else shown(value)
            raise UsageError(f"{file}: {dotted} is {held}", hint=f"give {inner.wanted}")


def _advice(key: object, schema: Section) -> str:
    """What to write instead of an unknown key."""
    if close := difflib.get_close_matches(str(key), schema, n=1):
        return f"did you mean {close[0]}?"
    for known in known_keys():
        section, _, name = known.rpartition(".")
        if name == key:
            return f"it belongs into {section}"
    return f"remove it for the backfill; known are {', '.join(sorted(schema))}"
