"""Makes the adapters beside this file with peft, and the vectors that peft computes with them.

    pip install peft==0.21.2    # not needed by the tests
    python tests/pipeline/encoder/adapters/record.py

Each adapter is random, on a golden; the vectors are of `texts`, one at a time, float32, eager.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import AutoPeftModelForFeatureExtraction, LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

HERE = Path(__file__).parent
GOLDENS = HERE.parents[2] / "goldens"
TEXTS = ["a small library", "fonts for the console, in many sizes and encodings", "x"]

# Name → (golden, class that is trained, settings).
CASES = {
    "plain": ("bert_mean", AutoModel, {"target_modules": ["query", "value"]}),
    "masked_language_model": ("bert_mean", AutoModelForMaskedLM, {"target_modules": ["key"]}),
    "classifier": (
        "go_emotions_roberta",
        AutoModelForSequenceClassification,
        {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    ),
    "patterns": (
        "bert_mean",
        AutoModel,
        {
            "target_modules": ["query", "value", "dense"],
            "use_rslora": True,
            "rank_pattern": {"encoder.layer.0.attention.self.query": 3, "value": 1},
            "alpha_pattern": {"^encoder.layer.1.attention.self.value": 5, "intermediate.dense": 7},
        },
    ),
    "whole_tensors": (
        "bert_mean",
        AutoModel,
        {
            "target_modules": ["query", "word_embeddings"],
            "bias": "all",
            "modules_to_save": ["LayerNorm"],
            "fan_in_fan_out": True,
        },
    ),
    "decoder": ("qwen3_causal_last", AutoModel, {"target_modules": "all-linear"}),
}


def main() -> None:
    for number, (name, (golden, kind, settings)) in enumerate(CASES.items()):
        torch.manual_seed(number)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = kind.from_pretrained(GOLDENS / golden, attn_implementation="eager")
        peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, **settings))
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        peft.save_pretrained(folder)
        (folder / "README.md").unlink()
        vectors = _vectors(golden, kind, folder)
        _check_libraries_agree(golden, kind, folder, vectors)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = golden
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        tokenizer = AutoTokenizer.from_pretrained(GOLDENS / golden)
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        cases = {"golden": golden, "ids": ids, "outputs": vectors}
        (folder / "cases.json").write_text(json.dumps(cases))


@torch.no_grad()
def _vectors(golden: str, kind: type, folder: Path) -> list[list[float]]:
    """Unit vectors as sentence-transformers pools without modules.json, or logits."""
    base = kind if kind is AutoModelForSequenceClassification else AutoModel
    model = base.from_pretrained(GOLDENS / golden, attn_implementation="eager")
    if kind is AutoModelForMaskedLM:  # the encoder alone, whose names lack `bert.`
        whole = AutoModelForMaskedLM.from_pretrained(GOLDENS / golden, attn_implementation="eager")
        peft = PeftModel.from_pretrained(whole, folder).merge_and_unload().base_model
    else:
        peft = PeftModel.from_pretrained(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / golden)
    rows = []
    for text in TEXTS:
        out = peft.eval()(**tokenizer(text, return_tensors="pt"))
        if base is AutoModelForSequenceClassification:
            rows.append(out.logits[0])
        else:
            hidden = out.last_hidden_state[0]
            pooled = hidden[-1] if _pooling(golden) == "lasttoken" else hidden.mean(dim=0)
            rows.append(torch.nn.functional.normalize(pooled, dim=0))
    return [row.tolist() for row in rows]


def _pooling(golden: str) -> str:
    architecture = json.loads((GOLDENS / golden / "config.json").read_text())["architectures"][0]
    return "lasttoken" if architecture.endswith("ForCausalLM") else "mean"


def _check_libraries_agree(golden: str, kind: type, folder: Path, vectors: list) -> None:
    """transformers and sentence-transformers load an adapter to the same values."""
    if kind is not AutoModel:
        return
    merged = AutoPeftModelForFeatureExtraction.from_pretrained(folder).merge_and_unload()
    copy = folder.parent / "copy"
    merged.save_pretrained(copy)
    for place in (folder, copy):
        tokenizer = AutoTokenizer.from_pretrained(GOLDENS / golden)
        tokenizer.save_pretrained(place)
        encoder = Transformer(str(place), model_kwargs={"attn_implementation": "eager"})
        pooling = Pooling(encoder.get_embedding_dimension(), _pooling(golden))
        modules = [encoder, pooling, Normalize()]
        got = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS, batch_size=1)
        difference = float(abs(torch.tensor(vectors) - torch.tensor(got)).max())
        print(folder.name, place.name, difference)
    shutil.rmtree(copy)
    for file in folder.iterdir():
        if not file.name.startswith("adapter_"):
            file.unlink()


main()
