"""What transformers computes for us is the value of each text alone, for every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine
from foreign_models import END, PAD, SETTINGS, make, save

from pipeline.encoder.architecture.transformers_config import EXACT_WITH_PADDING
from pipeline.encoder.checkpoint.checkpoint import resolve

#: Of every length that matters: above and below windows and blocks, alone and in company.
LENGTHS = (30, 30, 12, 30, 60, 12, 7, 60, 29, 31, 3)
EMBEDDING, LOGITS, LABELS = "Model", "ForSequenceClassification", "ForTokenClassification"

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "distilbert": ("DistilBert", EMBEDDING, {}),
    "electra": ("Electra", LABELS, {}),
    "albert": ("Albert", LOGITS, {"num_labels": 1}),
    "t5": ("T5", "EncoderModel", {}),
    "t5, end tokens in texts": ("T5", LOGITS, {"num_labels": 3}),
    "bart, end tokens in texts": ("Bart", LOGITS, {"num_labels": 3}),
    "xlnet": ("XLNet", LOGITS, {"num_labels": 3}),
    "funnel": ("Funnel", EMBEDDING, {}),
    "longformer": ("Longformer", LOGITS, {}),
    "longformer tags": ("Longformer", LABELS, {}),
    "big bird": ("BigBird", EMBEDDING, {}),
    "big bird tags": ("BigBird", LABELS, {}),
    "deberta v2": ("DebertaV2", LOGITS, {}),
    "mobilebert": ("MobileBert", EMBEDDING, {}),
    "fnet": ("FNet", EMBEDDING, {}),
    "perceiver": ("Perceiver", LOGITS, {}),
    "convbert": ("ConvBert", EMBEDDING, {}),
    "data2vec": ("Data2VecText", LABELS, {}),
    "nystromformer": ("Nystromformer", EMBEDDING, {}),
    "squeezebert": ("SqueezeBert", LOGITS, {}),
    "roformer": ("RoFormer", EMBEDDING, {}),
    "luke": ("Luke", EMBEDDING, {}),
    "yoso": ("Yoso", EMBEDDING, {}),
    "gpt2": ("GPT2", LOGITS, {}),
    "mpt": ("Mpt", LOGITS, {}),
    "llama": ("Llama", LOGITS, {}),
    "llama whose rotary frequencies grow": (
        "Llama",
        EMBEDDING,
        {
            "max_position_embeddings": 16,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        },
    ),
    "qwen3": ("Qwen3", LOGITS, {"num_labels": 3}),
    "qwen2, padding tokens in texts": ("Qwen2", LOGITS, {"num_labels": 3, "pad_token_id": PAD}),
}


def _texts(name: str) -> list[list[int]]:
    rng = np.random.default_rng(7)
    texts: list[list[int]] = [rng.integers(5, 400, n).tolist() for n in LENGTHS]
    if "end tokens" in name:
        texts = [[*text[:-1], END] for text in texts]
        texts[1][4] = texts[7][9] = texts[7][20] = END
    if "padding tokens" in name:
        texts[1][-2:] = texts[3][4:6] = [PAD, PAD]
    return texts


def _expected(model: Any, text: list[int]) -> Any:
    """What a model that was just loaded gives for one text: a row, or one per token."""
    ids = torch.tensor([text])
    # The tokenizer of the tests gives all tokens of a text the same type.
    types = {"token_type_ids": 0 * ids} if model.config.model_type == "xlnet" else {}
    with torch.inference_mode():
        out = copy.deepcopy(model)(input_ids=ids, **types)
    return (out.last_hidden_state[0].mean(0) if "logits" not in out else out.logits[0]).numpy()


@pytest.mark.parametrize("name", CASES)
def test_a_text_has_the_value_that_transformers_gives_it_alone(
    name: str,
    tmp_path: Path,
    cache: Path,
    compute: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stem, head, changes = CASES[name]
    model = make(stem, head, attn_implementation="eager", **changes)
    checkpoint = resolve(str(save(model, tmp_path / "saved")), cache_dir=cache)
    engine, texts = open_engine(checkpoint), _texts(name)
    expected = [np.squeeze(_expected(model, text)) for text in texts]

    def same(rows: list[Any], wanted: list[Any]) -> None:
        for row, value in zip(rows, wanted, strict=True):
            np.testing.assert_allclose(np.squeeze(row), value, rtol=1e-5, atol=1e-5)

    options = {"per_token": head == LABELS}
    same(compute(engine, texts, **options), expected)
    same(compute(engine, texts[::-1], token_budget=128, **options), expected[::-1])
    same([compute(engine, [text], **options)[0] for text in texts], expected)
    assert "bei-jobs does not know" in caplog.text


def _padded(model: Any, texts: list[list[int]]) -> Any:
    longest = max(map(len, texts))
    pad = getattr(model.config, "pad_token_id", None) or 0
    ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state


def _stems() -> dict[str, str]:
    """Model type → stem of its classes."""
    import transformers

    def kind(stem: str) -> str:
        name = f"{stem}Config" if stem != "Gemma3Text" else "Gemma3TextConfig"
        return str(getattr(transformers, name).model_type)

    return {kind(stem): stem for stem in SETTINGS}


@pytest.mark.parametrize("kind", sorted(EXACT_WITH_PADDING))
def test_outputs_of_a_family_whose_padding_never_showed_go_on(
    kind: str, tmp_path: Path, cache: Path
) -> None:
    stem = _stems()[kind]
    head = {"T5": "EncoderModel", "MT5": "EncoderModel", "UMT5": "EncoderModel"}.get(stem, "Model")
    model = make(stem, head)
    texts = _texts("")[:5]
    together = _padded(model, texts)
    for text, row in zip(texts, together, strict=True):
        alone = _padded(copy.deepcopy(model), [text])[0]
        torch.testing.assert_close(row[: len(text)], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("stem", "changes", "key"),
    [
        ("DistilBert", {}, None),
        ("Llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, None),
        ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "none"),
        ("FNet", {}, "none"),
    ],
    ids=["distilbert", "yarn", "dynamic", "fnet"],
)
def test_the_space_changes_only_where_neighbours_did_change_a_value(
    stem: str, changes: dict[str, Any], key: str | None, tmp_path: Path, cache: Path
) -> None:
    checkpoint = resolve(str(save(make(stem, **changes), tmp_path / "saved")), cache_dir=cache)
    card = fresh_card(checkpoint)
    assert card.config.family.startswith("transformers/")
    assert card.identity().get("padding") == key
