"""Scores of pairs against CrossEncoder of sentence-transformers, one pair at a time, eager."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from corpora import GOLDENS
from tiny_rerankers import (
    CHAT_TEMPLATE,
    QWEN3_TEMPLATE,
    TEXTS,
    ZERANK_TEMPLATE,
    CrossEncoder,
    by_us,
    save_decoder,
    save_modules,
    scores_by_us,
    token,
    write,
)

from pipeline.encoder.card import open_card
from pipeline.errors import BeiJobsError
from pipeline.planning.make_spec import sample_spec
from pipeline.tasks import find_task

TOLERANCE = 2e-5
# Below the length of some rendered texts and above that of others.
LIMIT = 190

# Texts that every tokenizer in the goldens splits as transformers does.
PLAIN = (
    *TEXTS[:1],
    ("what is relevant", "the document is relevant, " * 30 + "or not"),
    ("a query that is long, " * 12 + "or not", "short"),
)

YES_NO: dict[str, int | None] = {"true_token_id": token("yes"), "false_token_id": token("no")}
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"


def qwen3(folder: Path) -> Path:
    """Qwen/Qwen3-Reranker-0.6B: its files as they are on the hub."""
    save_decoder(folder, template=QWEN3_TEMPLATE, tie_word_embeddings=True)
    return save_modules(folder, score=YES_NO)


def qwen3_with_prompt(folder: Path) -> Path:
    save_decoder(folder, jinja=QWEN3_TEMPLATE)
    prompts = {"web": "Given a web search query", "code": "Find {{ code }}"}
    return save_modules(folder, score=YES_NO, prompts=prompts, default_prompt_name="code")


def zerank(folder: Path) -> Path:
    """zeroentropy/zerank-2: one token, its logit, and a template that asks for a reply."""
    save_decoder(folder, jinja=ZERANK_TEMPLATE)
    called = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    score: dict[str, int | None] = {"true_token_id": token("Yes"), "false_token_id": None}
    return save_modules(folder, score=score, transformer=called, activation_fn=IDENTITY)


def without_restored_end(folder: Path) -> Path:
    save_decoder(folder, jinja=QWEN3_TEMPLATE)
    called = {"processing_kwargs": {"chat_template": {"restore_suffix": False}}}
    return save_modules(folder, score=YES_NO, transformer=called)


def no_modules(folder: Path) -> Path:
    """What CrossEncoder makes of a language model whose template is one for pairs."""
    return save_decoder(folder, "Qwen2ForCausalLM", template=QWEN3_TEMPLATE)


def plain_text(folder: Path) -> Path:
    """A LogitScore without a template: the texts are joined, and the longer one is cut."""
    save_decoder(folder, "LlamaForCausalLM", template=CHAT_TEMPLATE)
    text = {"text": {"method": "forward", "method_output_name": "logits"}}
    return save_modules(folder, score=YES_NO, transformer={"modality_config": text})


def matrix_of_its_own(folder: Path) -> Path:
    """Logits are read off lm_head where it is in the file, even if the config says tied."""
    qwen3(folder)
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    torch.manual_seed(9)
    tensors["lm_head.weight"] = torch.randn(512, 32)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    return folder


def gemma_by_default_tied(folder: Path) -> Path:
    """Gemma 3, whose config.json need not say that the embeddings are the head."""
    save_decoder(folder, "Gemma3ForCausalLM", template=QWEN3_TEMPLATE)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    write(file, {key: config[key] for key in config if key != "tie_word_embeddings"})
    return save_modules(folder, score=YES_NO)


def saved_again(folder: Path) -> Path:
    """As CrossEncoder 6.2 saves one: LogitScore names what it reads."""
    qwen3(folder)
    file = folder / "1_LogitScore" / "config.json"
    write(file, {**YES_NO, "module_input_name": "causal_logits"})
    return folder


def converted(folder: Path) -> Path:
    """tomaarsen/Qwen3-Reranker-0.6B-seq-cls."""
    save_decoder(
        folder,
        "Qwen3ForSequenceClassification",
        template=QWEN3_TEMPLATE,
        num_labels=1,
        sentence_transformers={"activation_fn": SIGMOID, "version": "5.0.0"},
    )
    return folder


def converted_in_parts(folder: Path) -> Path:
    """A template whose messages have content in parts, in files of sentence-transformers."""
    parts = "{% for m in messages %}{{ m.role }}: {{ m.content[0].text }}\n{% endfor %}=>"
    save_decoder(folder, "LlamaForSequenceClassification", jinja=parts, num_labels=1)
    method = {"method": "forward", "method_output_name": "logits"}
    modality = {"text": method, "message": {**method, "format": "structured"}}
    return save_modules(
        folder,
        task="sequence-classification",
        transformer={"modality_config": modality, "module_output_name": "scores"},
        activation_fn=IDENTITY,
    )


LAYOUTS = (
    qwen3,
    qwen3_with_prompt,
    zerank,
    without_restored_end,
    no_modules,
    plain_text,
    matrix_of_its_own,
    gemma_by_default_tied,
    saved_again,
    converted,
    converted_in_parts,
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_scores_are_those_of_cross_encoder(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = layout(tmp_path / "model")
    reference = CrossEncoder(folder)
    for limit in (None, LIMIT):
        expected = reference(TEXTS, max_length=limit)
        assert np.ptp(expected) > 1e-3  # random, but not all the same
        ours = scores_by_us(folder, TEXTS, tmp_path, max_length=limit)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    alone = scores_by_us(folder, TEXTS[4:5], tmp_path, max_length=LIMIT)
    np.testing.assert_allclose(alone, expected[4:5], rtol=0, atol=TOLERANCE)


def test_an_instruction_is_the_systems_message_and_logits_are_raw_scores(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "model")
    reference = CrossEncoder(folder)
    told = "Find the capital of a country"
    expected = reference(TEXTS, prompt=told)
    for option in ("instruction", "prompt"):
        ours = scores_by_us(folder, TEXTS, tmp_path, **{option: told})
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    logits = scores_by_us(folder, TEXTS, tmp_path, raw_scores=True)
    expected = reference(TEXTS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(ours - 1 / (1 + np.exp(-logits))).max() > 1e-3


def test_a_prompt_has_a_name(tmp_path: Path) -> None:
    folder = qwen3_with_prompt(tmp_path / "model")
    ours = scores_by_us(folder, TEXTS, tmp_path, prompt_name="web")
    expected = CrossEncoder(folder)(TEXTS, prompt_name="web")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(BeiJobsError) as refused:
        scores_by_us(folder, TEXTS, tmp_path, prompt_name="other")
    assert "no prompt for pairs named 'other'" in refused.value.message
    assert "code, web" in refused.value.hint


def test_a_text_over_the_limit_is_cut_before_the_end_of_the_template_or_refused(
    tmp_path: Path,
) -> None:
    folder = qwen3(tmp_path / "model")
    rows = by_us(folder, TEXTS, tmp_path, max_length=LIMIT)
    assert [row["truncated"] for row in rows] == [False, False, False, True, True, True]
    refused = by_us(folder, TEXTS, tmp_path, max_length=LIMIT, truncate="error")
    assert [row["score"] is None for row in refused] == [row["truncated"] for row in rows]
    assert "more than --max-length 190 leaves whole" in refused[4]["error"]
    np.testing.assert_array_equal(
        [row["score"] for row in refused[:3]], [row["score"] for row in rows[:3]]
    )


def test_saved_arguments_that_would_change_scores_are_refused(tmp_path: Path) -> None:
    folder = qwen3(tmp_path / "model")
    file = folder / "sentence_bert_config.json"
    saved = json.loads(file.read_text())
    for key, arguments, name in [
        ("processing_kwargs", {"text": {"max_length": 8}}, "processing_kwargs.text"),
        ("tokenizer_kwargs", {"model_max_length": 8}, "tokenizer_kwargs.model_max_length"),
    ]:
        file.write_text(json.dumps({**saved, key: arguments}))
        with pytest.raises(BeiJobsError, match=name):
            scores_by_us(folder, TEXTS, tmp_path)


# Encoders.


@pytest.fixture
def reranker(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a golden whose config.json has more keys."""

    def make(name: str = "bge_reranker_xlmr", **config: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(GOLDENS / name, folder)
        file = folder / "config.json"
        write(file, {**json.loads(file.read_text()), **config})
        return folder

    return make


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sentence_transformers": {"activation_fn": IDENTITY}},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
        {
            "sentence_transformers": {"version": "4.0.0"},
            "sbert_ce_default_activation_function": SIGMOID,
        },
        {"sbert_ce_default_activation_function": IDENTITY},
        {
            "sentence_transformers": {"activation_fn": None},
            "sbert_ce_default_activation_function": IDENTITY,
        },
    ],
)
def test_scores_have_the_activation_of_the_config(
    config: dict[str, Any], reranker: Callable[..., Path], tmp_path: Path
) -> None:
    folder = reranker(**config)
    expected = CrossEncoder(folder)(PLAIN)
    ours = scores_by_us(folder, PLAIN, tmp_path)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


def test_an_activation_of_someone_else_is_refused_but_logits_are_not(
    reranker: Callable[..., Path], tmp_path: Path
) -> None:
    folder = reranker(sentence_transformers={"activation_fn": "modeling.Calibrated"})
    with pytest.raises(BeiJobsError) as refused:
        scores_by_us(folder, PLAIN, tmp_path)
    assert "names the activation modeling.Calibrated" in refused.value.message
    assert "--raw-scores" in refused.value.hint
    logits = scores_by_us(folder, PLAIN, tmp_path, raw_scores=True)
    expected = CrossEncoder(folder)(PLAIN, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_a_prompt_is_put_before_each_query(reranker: Callable[..., Path], tmp_path: Path) -> None:
    folder = reranker()
    ours = scores_by_us(folder, PLAIN, tmp_path, prompt="query: ")
    expected = CrossEncoder(folder)(PLAIN, prompt="query: ")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(BeiJobsError, match="reads no instruction"):
        scores_by_us(folder, PLAIN, tmp_path, instruction="Find the capital")


# Several labels.


def test_a_pair_is_classified(reranker: Callable[..., Path], tmp_path: Path) -> None:
    folder = reranker("langid_xlmr")
    labels = open_card(str(folder), cache_dir=tmp_path).labels
    count = len(labels)
    pairs = (*PLAIN, ("premise, " * 60 + "end", "hypothesis, " * 40 + "end"))
    reference = CrossEncoder(folder)
    for limit, prompt in ((None, None), (None, "claim: "), (32, None)):
        expected = reference(pairs, max_length=limit, prompt=prompt)
        rows = by_us(
            folder,
            pairs,
            tmp_path,
            task="classify",
            raw_scores=True,
            top_k=count,
            max_length=limit,
            prompt=prompt,
        )
        for row, logits in zip(rows, expected, strict=True):
            ours = dict(zip(row["labels"], row["scores"], strict=True))
            np.testing.assert_allclose(
                [ours[label] for label in labels], logits, rtol=0, atol=TOLERANCE
            )
    assert [row["truncated"] for row in rows] == [True, True, True, True]


@pytest.mark.parametrize("task", ["classify", "rerank"])
def test_a_sample_of_pairs_has_their_columns(
    task: str, reranker: Callable[..., Path], tmp_path: Path
) -> None:
    card = open_card(str(reranker()), cache_dir=tmp_path)
    spec = replace(
        sample_spec(card, task, precision="float32", max_length=None), document_column="document"
    )
    rows = find_task(task).sample(spec, ["a query\nand more", "another text"])
    assert rows.to_pydict() == {
        "query": ["a query", "another text"],
        "document": ["another text", "a query\nand more"],
    }


# Identity: what jobs hash.


def identity(folder: Path, cache: Path, task: str = "rerank") -> dict[str, Any]:
    return find_task(task).identity(open_card(str(folder), cache_dir=cache))


def test_a_job_hashes_what_differs_from_a_sigmoid_of_a_joined_pair(
    reranker: Callable[..., Path], tmp_path: Path
) -> None:
    plain = identity(GOLDENS / "bge_reranker_xlmr", tmp_path)
    assert plain == identity(GOLDENS / "bge_reranker_xlmr", tmp_path, "classify")
    other = reranker(sentence_transformers={"activation_fn": IDENTITY})
    assert identity(other, tmp_path) == {**plain, "activation": "Identity"}
    assert identity(other, tmp_path, "classify") == plain


def test_a_job_hashes_the_template_and_the_tokens(tmp_path: Path) -> None:
    ours = identity(qwen3(tmp_path / "model"), tmp_path)
    assert ours["score_tokens"] == [token("yes"), token("no")]
    assert len(ours["chat_template"]) == 64
    other = identity(zerank(tmp_path / "other"), tmp_path)
    assert other["chat_template"] != ours["chat_template"]
    assert other["activation"] == "Identity"
