"""Every key of the published schema: what it sets, that it has no effect, or why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Bei
from corpora import TINY, write_parquet

from jobs.bei_config import load_bei_config
from jobs.bei_schema import known_keys
from pipeline.errors import UsageError

NO_EFFECT = "no effect"
#: Key, a value, and the option that it sets, NO_EFFECT, or a part of the reason for refusing it.
KEYS: list[tuple[str, Any, Any]] = [
    ("inference_stack", "v1", {}),
    ("inference_stack", "v2", "are v1"),
    ("version_overrides.engine_builder_version", "1.1.0.dev51", NO_EFFECT),
    ("version_overrides.briton_version", "0.20.0", NO_EFFECT),
    ("version_overrides.bei_version", "0.0.30", NO_EFFECT),
    ("version_overrides.bei_bert_version", "1.8.16", NO_EFFECT),
    ("version_overrides.v2_llm_version", "1.0", NO_EFFECT),
    ("version_overrides.bei_version", 3, "a text"),
    ("build.base_model", "encoder", {}),
    ("build.base_model", "encoder_bert", {}),
    ("build.base_model", "decoder", "generate text"),
    ("build.base_model", "llama", "generate text"),
    ("build.base_model", "whisper", "generate text"),
    ("build.checkpoint_repository.source", "HF", {}),
    ("build.checkpoint_repository.source", "LOCAL", "give one of HF, S3, GCS, AZURE"),
    ("build.checkpoint_repository.repo", "org/other", {"model": "org/other"}),
    ("build.checkpoint_repository.repo", "s3://bucket/model", "a name on the hub"),
    ("build.checkpoint_repository.repo", "./model", "a name on the hub"),
    ("build.checkpoint_repository.repo", ["org/other"], "a text"),
    ("build.checkpoint_repository.revision", "v2", {"revision": "v2"}),
    ("build.checkpoint_repository.revision", "", {}),
    ("build.checkpoint_repository.runtime_secret_name", "hf_access_token", NO_EFFECT),
    ("build.max_num_tokens", 262_144, {"token_budget": 262_144}),
    ("build.max_num_tokens", 100, {"token_budget": 100}),
    ("build.max_num_tokens", "8192", "a whole number from 64 to 1,048,576"),
    ("build.max_seq_len", 512, NO_EFFECT),
    ("build.max_batch_size", 32, NO_EFFECT),
    ("build.max_beam_width", 1, NO_EFFECT),
    ("build.max_beam_width", 2, "a whole number from 1 to 1"),
    ("build.max_prompt_embedding_table_size", 0, NO_EFFECT),
    ("build.gather_all_token_logits", False, NO_EFFECT),
    ("build.strongly_typed", True, NO_EFFECT),
    ("build.quantization_type", "no_quant", {}),
    ("build.quantization_type", "q8", "give one of no_quant, fp8"),
    ("build.quantization_config.calib_size", 1024, NO_EFFECT),
    ("build.quantization_config.calib_size", 12, "from 64 to 16,384"),
    ("build.quantization_config.calib_dataset", "abisee/cnn_dailymail", NO_EFFECT),
    ("build.quantization_config.calib_max_seq_length", 1536, NO_EFFECT),
    ("build.tensor_parallel_count", 1, NO_EFFECT),
    ("build.tensor_parallel_count", 2, NO_EFFECT),
    ("build.pipeline_parallel_count", 1, NO_EFFECT),
    ("build.sequence_parallel_count", 1, NO_EFFECT),
    ("build.sequence_parallel_count", 0, "a whole number from 1"),
    ("build.moe_expert_parallel_option", -1, NO_EFFECT),
    ("build.plugin_configuration.paged_kv_cache", False, NO_EFFECT),
    ("build.plugin_configuration.use_paged_context_fmha", False, NO_EFFECT),
    ("build.plugin_configuration.use_fp8_context_fmha", False, NO_EFFECT),
    ("build.plugin_configuration.use_fp8_context_fmha", "no", "true or false"),
    ("build.num_builder_gpus", 4, NO_EFFECT),
    ("build.speculator", {"speculative_decoding_mode": "LOOKAHEAD_DECODING"}, "text generation"),
    ("build.speculator", {}, {}),
    ("build.lora_adapters", {"legal": {"source": "HF", "repo": "org/lora"}}, "was merged"),
    ("build.lora_adapters", {}, {}),
    ("build.lora_configuration.max_lora_rank", 64, NO_EFFECT),
    ("build.lora_configuration.lora_target_modules", ["attn_q"], NO_EFFECT),
    ("build.skip_build_result", False, {}),
    ("build.skip_build_result", True, "from elsewhere"),
    ("runtime.webserver_default_route", "/v1/embeddings", {"task": "embed"}),
    ("runtime.webserver_default_route", "/rerank", {"task": "rerank"}),
    ("runtime.webserver_default_route", "/predict", {"task": "classify"}),
    ("runtime.webserver_default_route", "/predict_tokens", {"task": "tag"}),
    ("runtime.webserver_default_route", "/v1/systemone", "bei-jobs has tasks for"),
    ("runtime.served_model_name", "minilm", NO_EFFECT),
    ("runtime.kv_cache_free_gpu_mem_fraction", 0.9, NO_EFFECT),
    ("runtime.kv_cache_free_gpu_mem_fraction", "90%", "a number"),
    ("runtime.kv_cache_host_memory_bytes", 1 << 30, NO_EFFECT),
    ("runtime.lora_cache_max_adapter_size", 64, NO_EFFECT),
    ("runtime.lora_cache_optimal_adapter_size", 8, NO_EFFECT),
    ("runtime.lora_cache_gpu_memory_fraction", 0.1, NO_EFFECT),
    ("runtime.lora_cache_host_memory_bytes", 1 << 30, NO_EFFECT),
    ("runtime.enable_chunked_context", True, NO_EFFECT),
    ("runtime.batch_scheduler_policy", "max_utilization", NO_EFFECT),
    ("runtime.batch_scheduler_policy", "fair", "one of guaranteed_no_evict, max_utilization"),
    ("runtime.request_default_max_tokens", 64, NO_EFFECT),
    ("runtime.total_token_limit", 500_000, NO_EFFECT),
]


def written(tmp_path: Path, *settings: tuple[str, Any], **others: Any) -> Path:
    """A small configuration with these keys of trt_llm, by their dotted names."""
    document: dict[str, Any] = {
        "trt_llm": {
            "build": {
                "base_model": "encoder_bert",
                "checkpoint_repository": {"source": "HF", "repo": "org/model"},
            },
        },
        **others,
    }
    for name, value in settings:
        *parents, last = name.split(".")
        section = document["trt_llm"]
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_the_table_has_every_key_of_the_schema() -> None:
    assert {f"trt_llm.{name}" for name, _, _ in KEYS} == set(known_keys())


@pytest.mark.parametrize(("name", "value", "expected"), KEYS)
def test_every_key_sets_an_option_or_has_no_effect_or_is_refused(
    tmp_path: Path, name: str, value: Any, expected: Any
) -> None:
    file = written(tmp_path, (name, value))
    dotted = f"trt_llm.{name}"

    if isinstance(expected, str) and expected != NO_EFFECT:
        with pytest.raises(UsageError) as refused:
            load_bei_config(file)
        assert f"config.yaml: {dotted} is " in str(refused.value)
        assert expected in refused.value.hint
        return
    found = load_bei_config(file)

    assert found.without_effect == ((dotted,) if expected == NO_EFFECT else ())
    sets = {} if expected == NO_EFFECT else expected
    assert found.options == {"model": "org/model", **sets}


@pytest.mark.parametrize(
    "name", sorted({name for name, _, expected in KEYS if expected == NO_EFFECT})
)
def test_null_is_not_set(tmp_path: Path, name: str) -> None:
    assert load_bei_config(written(tmp_path, (name, None))).without_effect == ()


@pytest.mark.parametrize(
    "type_",
    ["fp8", "FP8", "fp8_kv", "fp8_mlp_only", "fp4", "fp4_kv", "fp4_mlp_only", "smooth_quant",
     "weights_int8", "weights_kv_int8", "weights_int4", "weights_int4_kv_int8"],
)  # fmt: skip
def test_a_quantized_deployment_is_computed_in_full_precision_and_says_so(
    tmp_path: Path, type_: str
) -> None:
    settings = ("build.quantization_type", type_), ("build.quantization_config.calib_size", 512)

    told = load_bei_config(written(tmp_path, *settings)).choices

    assert told["quantization"].value == "none"
    assert f"config.yaml says {type_.lower()}; bei-jobs computes in 16 or 32 bits" in (
        told["quantization"].reason
    )


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("build.max_num_token", 8192, "did you mean max_num_tokens?"),
        ("build.checkpoint_repo", "org/model", "did you mean checkpoint_repository?"),
        ("runtime.webserver_route", "/rerank", "did you mean webserver_default_route?"),
        ("build.plugin_configuration.paged_kv_cach", True, "did you mean paged_kv_cache?"),
        ("build.lora_cache_host_memory_bytes", 1, "it belongs into trt_llm.runtime"),
        ("runtime.quantization_type", "fp8", "it belongs into trt_llm.build"),
        ("build.zzz", 1, "known are base_model, "),
    ],
)
def test_a_key_that_does_not_exist_is_an_error_with_advice(
    tmp_path: Path, name: str, value: Any, advice: str
) -> None:
    with pytest.raises(UsageError, match=f"does not know the key trt_llm.{name}") as refused:
        load_bei_config(written(tmp_path, (name, value)))

    assert advice in refused.value.hint


@pytest.mark.parametrize(
    ("engine", "route", "expected"),
    [
        ("encoder", "/predict", 128),
        ("encoder", "/rerank", 128),
        ("encoder", "/v1/embeddings", None),
        ("encoder_bert", "/predict", None),
    ],
)
def test_the_longest_sequence_is_read_where_the_engine_reads_it(
    tmp_path: Path, engine: str, route: str, expected: int | None
) -> None:
    file = written(
        tmp_path,
        ("build.base_model", engine),
        ("build.max_seq_len", 128),
        ("runtime.webserver_default_route", route),
    )

    found = load_bei_config(file)

    assert found.options.get("max_length") == expected
    assert ("trt_llm.build.max_seq_len" in found.without_effect) == (expected is None)


def test_the_rest_of_a_truss_is_named_as_without_effect(bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    file = written(
        tmp_path,
        ("runtime.enable_chunked_context", True),
        ("build.quantization_type", "fp8"),
        model_name="my-embeddings",
        model_metadata={"example_model_input": {"input": "a text"}},
        resources={"accelerator": "H100", "use_gpu": True},
        secrets={"hf_access_token": "hush"},
        environment_variables={"DTYPE": "bfloat16"},
        requirements=[],
    )
    named = [
        "trt_llm.runtime.enable_chunked_context", "environment_variables", "model_metadata",
        "model_name", "resources", "secrets",
    ]  # fmt: skip
    words = (corpus, "--bei-config", file, "--model", TINY, "--json")

    submitted = bei("submit", *words, "--device", "cpu")
    planned = bei("plan", *words, "--device", "cpu")

    for done in (submitted, planned):
        assert done.code == 0, done.err
        told = done.json["choices"]
        assert told["bei-config"]["value"] == named
        assert told["quantization"]["value"] == "none"
        assert f"bei-config       {', '.join(named)}: without effect" in done.err
        assert "quantization     none: config.yaml says fp8" in done.err
        assert "hush" not in done.err + done.out


def test_a_checkpoint_of_baseten_training_needs_a_copy(bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    place = {"source": "BASETEN_TRAINING", "repo": "project", "revision": "job/checkpoint-100"}
    file = written(tmp_path, ("build.checkpoint_repository", place))
    words = ("submit", corpus, "--bei-config", file, "--device", "cpu")

    refused = bei(*words)
    done = bei(*words, "--model", TINY)

    assert refused.code == 2
    assert "source is BASETEN_TRAINING" in refused.screen[0]
    assert "--model" in refused.screen[1]
    assert done.code == 0, done.err


@pytest.mark.parametrize("key", [1, None, True])
def test_a_key_that_is_no_text_is_an_error(tmp_path: Path, key: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"trt_llm": {"build": {key: 1, "base_model": "encoder"}}}))

    with pytest.raises(UsageError, match=r"does not know the key trt_llm\.build\."):
        load_bei_config(file)


@pytest.mark.parametrize("name", ["build.plugin_configuration", "version_overrides", "runtime"])
def test_a_section_that_is_no_mapping_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"trt_llm.{name} has no keys"):
        load_bei_config(written(tmp_path, (name, "paged")))
