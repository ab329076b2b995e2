"""A head over a known body: a vector needs the body alone, and all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine
from foreign_models import make, save
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.errors import CheckpointError

TEXTS = [list(range(5, 5 + n)) for n in (20, 9, 20, 3)]

#: Class → a tensor of its head.
HEADS = {
    "DistilBert ForMaskedLM": "vocab_transform.weight",
    "DistilBert ForQuestionAnswering": "qa_outputs.weight",
    "Electra ForPreTraining": "discriminator_predictions.dense.weight",
    "Electra ForMaskedLM": "generator_predictions.dense.weight",
    "Albert ForPreTraining": "predictions.dense.weight",
    "T5 ForConditionalGeneration": "",
    "MT5 ForConditionalGeneration": "decoder.block.0.layer.0.SelfAttention.k.weight",
    "XLNet LMHeadModel": "lm_loss.bias",
    "GPT2 LMHeadModel": "",
    "Funnel ForPreTraining": "discriminator_predictions.dense.weight",
    "Flaubert WithLMHeadModel": "pred_layer.proj.bias",
    "Bert ForMaskedLM": "cls.predictions.transform.dense.weight",
    "Bert ForPreTraining": "cls.seq_relationship.weight",
    "Bert ForNextSentencePrediction": "cls.seq_relationship.weight",
    "Bert ForQuestionAnswering": "qa_outputs.weight",
    "Bert ForMultipleChoice": "classifier.weight",
    "Roberta ForMaskedLM": "lm_head.dense.weight",
    "Roberta ForCausalLM": "lm_head.dense.weight",
    "Roberta ForQuestionAnswering": "qa_outputs.weight",
    "XLMRoberta ForMaskedLM": "lm_head.dense.weight",
    "MPNet ForMaskedLM": "lm_head.dense.weight",
    "ModernBert ForMaskedLM": "head.dense.weight",
    "ModernBert ForQuestionAnswering": "classifier.weight",
}


def _body(folder: Path) -> Any:
    """The body as sentence-transformers loads it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    auto: Any = transformers.AutoModel
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForTextEncoding
    return auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpoint_with_another_head_embeds_with_its_body_and_names_the_head(
    name: str,
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save(make(*name.split()), tmp_path / "saved")
    engine = open_engine(resolve(str(folder), cache_dir=cache), normalize=False)
    body = _body(folder)
    pooling = engine.card.modules.pooling
    for text, row in zip(TEXTS, compute(engine, TEXTS), strict=True):
        with torch.inference_mode():
            hidden = body(input_ids=torch.tensor([text])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == ("mean",) else hidden[-1]
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-5, atol=1e-5)
    sparse = engine.card.sparse  # a head that other vectors depend on is not unused
    of_sparse = [info.name for info in sparse.tensors.values()] if sparse is not None else []
    warned = caplog.text.replace(",", "").split()
    assert HEADS[name] in [*engine.card.unused_tensors, *of_sparse, *warned, ""]


def _changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    file = folder / "model.safetensors"
    kept = {**load_file(file), **tensors}
    save_file({k: v for k, v in kept.items() if v is not None}, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("stem", "head", "tensors", "problem"),
    [
        (
            "DistilBert",
            "ForMaskedLM",
            {"distilbert.transformer.layer.0.attention.q_lin.weight": None},
            r"missing: transformer\.layer\.0\.attention\.q_lin\.weight$",
        ),
        ("DistilBert", "ForMaskedLM", {"adapter": torch.ones(2)}, r"left over: adapter$"),
        ("Bert", "ForMaskedLM", {"qa_outputs.weight": torch.ones(2)}, r"left over: qa_outputs"),
        ("Albert", "ForSequenceClassification", {"albert.pooler.weight": None}, "missing: albert"),
        ("DebertaV2", "ForSequenceClassification", {"pooler.dense.bias": None}, "missing: pooler"),
    ],
    ids=["body", "unknown", "head of another class", "pooler that is read", "another"],
)
def test_a_tensor_of_the_body_that_is_missing_and_one_that_nobody_knows_are_errors(
    stem: str,
    head: str,
    tensors: dict[str, torch.Tensor | None],
    problem: str,
    tmp_path: Path,
    cache: Path,
) -> None:
    folder = _changed(save(make(stem, head), tmp_path / "saved"), **tensors)
    with pytest.raises(CheckpointError, match=problem):
        open_engine(resolve(str(folder), cache_dir=cache))


@pytest.mark.parametrize("name", ["BertForMaskedLM", "os.path", "PreTrainedModel", "pipeline"])
def test_only_a_class_of_this_architecture_excuses_tensors(
    name: str, tmp_path: Path, cache: Path
) -> None:
    folder = save(make("DistilBert", "ForMaskedLM"), tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(CheckpointError, match="left over: vocab_layer_norm"):
        open_engine(resolve(str(folder), cache_dir=cache))


@pytest.mark.parametrize(
    ("stem", "head", "problem"),
    [
        ("Reformer", "Model", "hashes at random, so that no two runs"),
        ("Perceiver", "Model", "PerceiverModel of transformers reads no tokens"),
        ("Funnel", "BaseModel", r"gives no last_hidden_state of each token: its shape is 1x10x32"),
        ("Bart", "ForConditionalGeneration", "a bart is an encoder with a decoder"),
    ],
)
def test_a_model_without_one_vector_for_each_token_is_refused(
    stem: str,
    head: str,
    problem: str,
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
) -> None:
    folder = save(make(stem, head), tmp_path / "saved")
    with pytest.raises(CheckpointError, match=problem):
        compute(open_engine(resolve(str(folder), cache_dir=cache)), TEXTS)


@pytest.mark.parametrize(
    "stem",
    ["Longformer", "Data2VecText", "XLMRobertaXL", "IBert", "Esm", "RobertaPreLayerNorm", "Luke",
     "Xmod", "Nystromformer", "GPT2", "Roberta"],
)  # fmt: skip
@pytest.mark.parametrize("stated", [None, 500], ids=["no limit", "a limit that is too high"])
def test_the_longest_text_is_as_long_as_the_positions_and_one_more_would_not_fit(
    stem: str, stated: int | None, tmp_path: Path, cache: Path, compute: Callable[..., list[Any]]
) -> None:
    folder = save(make(stem), tmp_path / "saved")
    if stated is not None:
        (folder / "modules.json").write_text(json.dumps([_module("Transformer", ""), _POOLING]))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": stated}))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    card = fresh_card(resolve(str(folder), cache_dir=cache))
    after_padding = 0 if stem in ("GPT2", "Nystromformer") else 2
    assert card.max_length == card.positions == 128 - after_padding
    engine = open_engine(resolve(str(folder), cache_dir=cache))
    (row,) = compute(engine, [[7] * card.max_length])
    assert np.isfinite(row).all()


def _module(kind: str, path: str) -> dict[str, str]:
    return {"type": f"sentence_transformers.models.{kind}", "path": path, "name": kind}


_POOLING = _module("Pooling", "1_Pooling")
