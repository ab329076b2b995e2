"""Published checkpoints whose layout is tested; docs/models.md says how."""

from __future__ import annotations

from typing import NamedTuple


class TestedModel(NamedTuple):
    """One published checkpoint."""

    name: str
    task: str
    family: str


def _all(task: str, family: str, names: str) -> list[TestedModel]:
    return [TestedModel(name, task, family) for name in names.split()]


TESTED_MODELS: tuple[TestedModel, ...] = (
    *_all("embed", "bert", """
        sentence-transformers/all-MiniLM-L6-v2
        BAAI/bge-small-en-v1.5 BAAI/bge-base-en-v1.5 BAAI/bge-large-en-v1.5"""),
    *_all("embed", "xlm-roberta", """
        BAAI/bge-m3 intfloat/multilingual-e5-large-instruct
        Snowflake/snowflake-arctic-embed-l-v2.0"""),
    *_all("embed", "mpnet", """
        sentence-transformers/all-mpnet-base-v2
        sentence-transformers/multi-qa-mpnet-base-dot-v1"""),
    *_all("embed", "jina_bert", """
        jinaai/jina-embeddings-v2-base-en jinaai/jina-embeddings-v2-base-code
        jinaai/jina-embeddings-v2-base-es"""),
    *_all("embed", "nomic_bert", """
        nomic-ai/nomic-embed-text-v1.5 nomic-ai/CodeRankEmbed"""),
    *_all("embed", "nomic_bert_moe", "nomic-ai/nomic-embed-text-v2-moe"),
    *_all("embed", "gte", """
        Alibaba-NLP/gte-large-en-v1.5 Snowflake/snowflake-arctic-embed-m-v2.0"""),
    *_all("embed", "modernbert", "Alibaba-NLP/gte-modernbert-base"),
    *_all("embed", "gemma3", "google/embeddinggemma-300m"),
    *_all("embed", "qwen2", """
        Alibaba-NLP/gte-Qwen2-1.5B-instruct Alibaba-NLP/gte-Qwen2-7B-instruct
        nomic-ai/nomic-embed-code"""),
    *_all("embed", "qwen3", """
        Qwen/Qwen3-Embedding-0.6B Qwen/Qwen3-Embedding-4B Qwen/Qwen3-Embedding-8B
        voyageai/voyage-4-nano"""),
    *_all("embed", "llama", "nvidia/llama-embed-nemotron-8b"),
    *_all("embed", "mistral", """
        intfloat/e5-mistral-7b-instruct Salesforce/SFR-Embedding-Mistral
        Linq-AI-Research/Linq-Embed-Mistral"""),
    *_all("embed", "static", """
        sentence-transformers/static-retrieval-mrl-en-v1
        sentence-transformers/static-similarity-mrl-multilingual-v1
        minishlab/potion-base-8M minishlab/potion-retrieval-32M"""),
    *_all("rerank", "xlm-roberta", "BAAI/bge-reranker-base BAAI/bge-reranker-large"),
    *_all("rerank", "gte", "Alibaba-NLP/gte-multilingual-reranker-base"),
    *_all("rerank", "modernbert", "Alibaba-NLP/gte-reranker-modernbert-base"),
    *_all("rerank", "qwen3", """
        Qwen/Qwen3-Reranker-0.6B Qwen/Qwen3-Reranker-4B Qwen/Qwen3-Reranker-8B
        tomaarsen/Qwen3-Reranker-0.6B-seq-cls"""),
    *_all("rerank", "qwen2", """
        mixedbread-ai/mxbai-rerank-base-v2 mixedbread-ai/mxbai-rerank-large-v2"""),
    *_all("classify", "roberta", "SamLowe/roberta-base-go_emotions"),
    *_all("classify", "xlm-roberta", "papluca/xlm-roberta-base-language-detection"),
    *_all("tag", "bert", "dslim/bert-base-NER dslim/bert-base-NER-uncased"),
    *_all("tag", "roberta", "tanaos/tanaos-NER-v1"),
)  # fmt: skip
