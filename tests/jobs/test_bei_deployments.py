"""Each deployment that the reference and its public examples describe is a job."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs.bei_config import load_bei_config

#: Engine, model, max_num_tokens, quantization_type, num_builder_gpus, route; - where it is not set.
DEPLOYMENTS = """
encoder_bert  Babelscape/wikineural-multilingual-ner  16384  -  -  /predict_tokens
encoder_bert  baseten-admin/bert-base-ner-uncased  16384  -  -  /predict_tokens
encoder_bert  lcampillos/roberta-es-clinical-trials-ner  16384  -  -  /predict_tokens
encoder_bert  tanaos/tanaos-NER-v1  16384  -  -  /predict_tokens
encoder_bert  Alibaba-NLP/gte-reranker-modernbert-base  16384  -  -  /rerank
encoder_bert  BAAI/bge-reranker-large  16384  -  -  /rerank
encoder_bert  baseten-admin/bert-base-ner-uncased  16384  -  -  /rerank
encoder_bert  Alibaba-NLP/gte-modernbert-base  16384  -  -  /v1/embeddings
encoder_bert  Alibaba-NLP/gte-Qwen2-1.5B-instruct  131072  -  -  /v1/embeddings
encoder_bert  Alibaba-NLP/gte-Qwen2-7B-instruct  131072  -  -  /v1/embeddings
encoder_bert  google/embeddinggemma-300m  16384  -  -  /v1/embeddings
encoder_bert  intfloat/multilingual-e5-large-instruct  16384  -  -  /v1/embeddings
encoder_bert  jinaai/jina-embeddings-v2-base-code  16384  -  -  /v1/embeddings
encoder_bert  jinaai/jina-embeddings-v2-base-en  16384  -  -  /v1/embeddings
encoder_bert  mixedbread-ai/mxbai-embed-large-v1  16384  -  -  /v1/embeddings
encoder_bert  nomic-ai/nomic-embed-text-v1.5  16384  -  -  /v1/embeddings
encoder_bert  nomic-ai/nomic-embed-text-v2-moe  16384  -  -  /v1/embeddings
encoder_bert  nvidia/llama-embed-nemotron-8b  131072  -  -  /v1/embeddings
encoder_bert  nvidia/llama-nemotron-embed-1b-v2  131072  -  -  /v1/embeddings
encoder_bert  redis/langcache-embed-v2  16384  -  -  /v1/embeddings
encoder_bert  sentence-transformers/all-MiniLM-L6-v2  16384  -  -  /v1/embeddings
encoder_bert  TaylorAI/bge-micro-v2  16384  -  -  /v1/embeddings
encoder_bert  voyageai/voyage-4-nano  40960  -  -  /v1/embeddings
encoder  allenai/Llama-3.1-Tulu-3-8B-RM  131072  fp8  1  /predict
encoder  baseten/example-Meta-Llama-3-70B-InstructForSequenceClassification  16384  fp8  2  /predict
encoder  michaelfeil/mxbai-rerank-base-v2-seq  32768  fp8  4  /predict
encoder  michaelfeil/mxbai-rerank-large-v2-seq  32768  fp8  4  /predict
encoder  michaelfeil/Qwen3-Reranker-0.6B-seq  40960  fp8  4  /predict
encoder  michaelfeil/Qwen3-Reranker-4B-seq  40960  fp8  1  /predict
encoder  michaelfeil/Qwen3-Reranker-8B-seq  40960  fp4  1  /predict
encoder  michaelfeil/Qwen3-Reranker-8B-seq  40960  fp8  1  /predict
encoder  papluca/xlm-roberta-base-language-detection  16384  -  -  /predict
encoder  SamLowe/roberta-base-go_emotions  16384  -  -  /predict
encoder  Skywork/Skywork-Reward-Llama-3.1-8B-v0.2  131072  fp8  1  /predict
encoder  BAAI/bge-reranker-large  16384  -  -  /rerank
encoder  BAAI/bge-reranker-v2-m3  16384  -  -  /rerank
encoder  ncbi/MedCPT-Cross-Encoder  16384  -  -  /rerank
encoder  BAAI/bge-en-icl  32768  fp8  2  /v1/embeddings
encoder  BAAI/bge-large-en-v1.5  16384  -  -  /v1/embeddings
encoder  BAAI/bge-m3  16384  -  -  /v1/embeddings
encoder  BAAI/bge-multilingual-gemma2  16384  -  -  /v1/embeddings
encoder  codefuse-ai/F2LLM-4B  40960  fp8  2  /v1/embeddings
encoder  intfloat/e5-mistral-7b-instruct  32768  fp8  2  /v1/embeddings
encoder  jinaai/jina-code-embeddings-0.5b  32768  fp8  1  /v1/embeddings
encoder  michaelfeil/Qwen3-Embedding-0.6B-auto  32768  fp8  4  /v1/embeddings
encoder  michaelfeil/Qwen3-Embedding-4B-auto  40960  fp4  1  /v1/embeddings
encoder  michaelfeil/Qwen3-Embedding-4B-auto  40960  fp8  1  /v1/embeddings
encoder  michaelfeil/Qwen3-Embedding-8B-auto  40960  fp8  1  /v1/embeddings
encoder  mixedbread-ai/mxbai-embed-large-v1  16384  -  -  /v1/embeddings
encoder  nomic-ai/nomic-embed-code  32768  fp8  1  /v1/embeddings
encoder  Salesforce/SFR-Embedding-Mistral  32768  fp8  1  /v1/embeddings
encoder  Snowflake/snowflake-arctic-embed-l-v2.0  16384  -  -  /v1/embeddings
encoder  WhereIsAI/UAE-Large-V1  16384  -  -  /v1/embeddings
"""
TASKS = {
    "/v1/embeddings": "embed", "/rerank": "rerank", "/predict": "classify",
    "/predict_tokens": "tag",
}  # fmt: skip


@pytest.mark.parametrize("deployment", DEPLOYMENTS.strip().splitlines())
def test_every_published_deployment_is_a_job(tmp_path: Path, deployment: str) -> None:
    engine, model, tokens, quantization, builders, route = deployment.split()
    build = {
        "base_model": engine,
        "checkpoint_repository": {"repo": model, "revision": "main", "source": "HF"},
        "max_num_tokens": int(tokens),
        **({} if quantization == "-" else {"quantization_type": quantization}),
        **({} if builders == "-" else {"num_builder_gpus": int(builders)}),
    }
    file = tmp_path / "config.yaml"
    document = {
        "model_name": f"{model} of ours",
        "model_metadata": {"example_model_input": {"input": "a text"}},
        "python_version": "py311",
        "resources": {"accelerator": "L4", "cpu": "1", "memory": "10Gi", "use_gpu": True},
        "trt_llm": {"build": build, "runtime": {"webserver_default_route": route}},
    }
    file.write_text(yaml.safe_dump(document))

    found = load_bei_config(file)

    assert found.options == {
        "model": model,
        "revision": "main",
        "token_budget": int(tokens),
        "task": TASKS[route],
    }
    others = ("model_metadata", "model_name", "python_version", "resources")
    assert found.without_effect[-4:] == others
    assert ("trt_llm.build.num_builder_gpus" in found.without_effect) == (builders != "-")
    assert ("quantization" in found.choices) == (quantization != "-")


def test_there_are_as_many_as_are_published() -> None:
    assert len(set(DEPLOYMENTS.strip().splitlines())) == 53


def test_the_complete_example_of_the_reference_is_a_job(tmp_path: Path) -> None:
    """Every key that the reference's own example for all-MiniLM-L6-v2 has."""
    plugins = ("paged_kv_cache", "use_paged_context_fmha", "use_fp8_context_fmha")
    ignored = ("kv_cache_free_gpu_mem_fraction", "batch_scheduler_policy")
    trt_llm = {
        "build": {
            "base_model": "encoder_bert",
            "checkpoint_repository": {
                "source": "HF", "repo": "sentence-transformers/all-MiniLM-L6-v2",
                "revision": "main",
            },
            "max_num_tokens": 8192,
            "quantization_type": "no_quant",
            "plugin_configuration": dict.fromkeys(plugins, False),
        },
        "runtime": {
            "webserver_default_route": "/v1/embeddings",
            "kv_cache_free_gpu_mem_fraction": 0.9,
            "batch_scheduler_policy": "guaranteed_no_evict",
        },
    }  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"trt_llm": trt_llm}))

    found = load_bei_config(file)

    assert found.options == {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "main",
        "token_budget": 8192,
        "task": "embed",
    }
    assert set(found.without_effect) == {
        *(f"trt_llm.build.plugin_configuration.{name}" for name in plugins),
        *(f"trt_llm.runtime.{name}" for name in ignored),
    }
