"""The weights of terms beside the logits of transformers, whatever the blocks and the family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.engine import Engine
from pipeline.encoder.model import sparse_heads
from pipeline.outputs import Lists
from pipeline.packing import gather, pack

TERMS = 2600  # three blocks
SIZES = {
    "vocab_size": TERMS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 1300, "pad_token_id": 1,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": TERMS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
    "max_position_embeddings": 1300,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "untied": ("Bert", {**SIZES, "tie_word_embeddings": False, "hidden_act": "relu"}),
    "distilbert": ("DistilBert", DISTILBERT),
    "roberta": ("Roberta", SIZES),
    "xlm-roberta": ("XLMRoberta", {**SIZES, "type_vocab_size": 1}),
    "mpnet": ("MPNet", SIZES),
    "modernbert": ("ModernBert", {**SIZES, "norm_bias": True, "classifier_bias": True}),
}
Build = Callable[..., tuple[Path, Any]]


def sequences() -> list[list[int]]:
    """Lengths from 1 to more tokens than are taken at once; equal neighbours, and an odd one."""
    draw = np.random.default_rng(0)
    lengths = (1, 3, 3, 3, 17, 200, 200, 340, 1250)
    return [draw.integers(2, TERMS, length).tolist() for length in lengths]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A masked language model of a family as a SparseEncoder's files, and transformers' own."""

    def built(family: str, pooling: str = "max", activation: str = "relu") -> tuple[Path, Any]:
        import transformers

        name, sizes = FAMILIES[family]
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**sizes, attn_implementation="eager")
        model = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.2)
        folder = tmp_path / family
        model.save_pretrained(folder)
        shutil.copy(GOLDENS / "bert_mean/tokenizer.json", folder)
        kinds = {"": "Transformer", "1_SpladePooling": "SpladePooling"}
        listed = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "1_SpladePooling").mkdir()
        settings = {"pooling_strategy": pooling, "activation_function": activation}
        (folder / "1_SpladePooling/config.json").write_text(json.dumps(settings))
        return folder, model

    return built


def splade(model: Any, given: Sequence[Sequence[int]], pooling: str, activation: str) -> Any:
    """Rows of all terms by the published formula, from transformers' logits of each text alone."""
    rows = []
    for ids in given:
        with torch.inference_mode():
            weights = torch.log1p(torch.relu(model(torch.tensor([ids])).logits[0]))
        weights = torch.log1p(weights) if activation == "log1p_relu" else weights
        rows.append(weights.sum(0) if pooling == "sum" else weights.amax(0))
    return torch.stack(rows).numpy()


def compute(engine: Engine, given: Sequence[Sequence[int]], budget: int = 4096) -> Lists:
    """The terms of sequences, in their order."""
    offsets = np.cumsum([0, *map(len, given)])
    flat = np.array([token for ids in given for token in ids], dtype=np.int32)
    batches = (gather(flat, offsets, some) for some in pack(np.diff(offsets), budget))
    found = [(batch.sequences, out.lists["sparse"]) for batch, out in engine.run_all(batches)]
    return Lists.placed(len(given), found)


def matrix(lists: Lists) -> Any:
    rows = np.zeros((len(lists.counts), TERMS), dtype=np.float32)
    rows[lists.owners, lists.ids] = lists.values
    return rows


@pytest.mark.parametrize(
    ("family", "pooling", "activation"),
    [
        *((family, "max", "relu") for family in FAMILIES),
        ("bert", "sum", "relu"),
        ("distilbert", "max", "log1p_relu"),
        ("bert", "sum", "log1p_relu"),
    ],
)
def test_weights_are_those_of_the_logits_of_transformers(
    build: Build, cache: Path, family: str, pooling: str, activation: str
) -> None:
    folder, model = build(family, pooling, activation)
    engine = open_engine(
        resolve(str(folder), cache_dir=cache), precision="float32", vectors=("sparse",)
    )
    given = sequences()
    expected = splade(model, given, pooling, activation)
    for budget in (4096, 1):  # in company, and alone
        found = compute(engine, given, budget)
        scale = expected.max() if pooling == "sum" else 1.0
        np.testing.assert_allclose(matrix(found), expected, rtol=0, atol=1e-4 * scale)
        assert all((np.diff(ids) > 0).all() for ids in np.split(found.ids, _ends(found)))


def _ends(lists: Lists) -> Any:
    return np.cumsum(lists.counts)[:-1]


def test_a_sequence_without_tokens_has_no_terms_and_moves_no_others(
    build: Build, cache: Path
) -> None:
    folder, _ = build("bert")
    engine = open_engine(resolve(str(folder), cache_dir=cache), vectors=("sparse",))
    some = sequences()[1:6]
    alone = matrix(compute(engine, some))
    mixed = compute(engine, [[], some[0], [], *some[1:3], [], *some[3:]])
    assert mixed.counts[[0, 2, 5]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(matrix(mixed)[[1, 3, 4, 6, 7]], alone, rtol=0, atol=1e-5)
    assert compute(engine, [[], []]).counts.tolist() == [0, 0]


def test_entries_are_cut_while_a_vocabulary_is_gone_through(
    build: Build, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a sequence has more terms than memory has room for."""
    folder, _ = build("bert")
    checkpoint = resolve(str(folder), cache_dir=cache)
    whole = compute(open_engine(checkpoint, vectors=("sparse",)), sequences())
    monkeypatch.setattr(sparse_heads, "_ADDED", 50)
    cut = compute(open_engine(checkpoint, vectors=("sparse",), sparse_top_k=9), sequences())
    assert cut.counts.tolist() == [9] * 9
    for one, row in enumerate(matrix(whole)):
        best = np.sort(np.argsort(-row, kind="stable")[:9])
        assert cut.ids[9 * one : 9 * one + 9].tolist() == best.tolist()


def test_values_that_overflow_are_computed_again_in_float32(build: Build, cache: Path) -> None:
    folder, _ = build("bert")
    checkpoint = resolve(str(folder), cache_dir=cache)
    given = [[5, 6], [7, 8, 9]]
    expected = compute(open_engine(checkpoint, precision="float32", vectors=("sparse",)), given)
    engine = open_engine(checkpoint, precision="bfloat16", vectors=("sparse",))
    encode = engine.forward

    class Overflow:
        capturable = False

        def __call__(self, batch: Any) -> torch.Tensor:
            hidden = encode(batch).clone()
            hidden[0] = torch.inf  # of the longest sequence, which comes first
            return hidden

    engine.forward = Overflow()
    found = compute(engine, given)
    np.testing.assert_allclose(matrix(found)[1], matrix(expected)[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(matrix(found)[0], matrix(expected)[0], rtol=0, atol=0.1)
    engine._exact = Overflow()
    assert compute(engine, given).finite().tolist() == [True, False]


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple) else (made,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return made


def test_the_logits_of_all_tokens_and_terms_never_stand_whole(build: Build, cache: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the engine computes in this thread
    try:
        folder, _ = build("bert")
        engine = open_engine(resolve(str(folder), cache_dir=cache), vectors=("sparse",))
        with Largest() as largest:
            compute(engine, [[5 + i] * 64 for i in range(64)])
    finally:
        torch.set_num_threads(threads)
    assert 64 * 64 * 32 <= largest.elements < 64 * 64 * TERMS / 10
