"""Which weight files are read and downloaded: those of transformers, and no others."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine
from fixtures_hub import Hub, pull_request
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError

Compute = Callable[..., list[Any]]
Layout = Callable[[Path], None]

BERT = GOLDENS / "bert_mean"
TEXTS = ["a small library", "fonts for the console"]
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint to change."""
    shutil.copytree(BERT, tmp_path / "copy", ignore=shutil.ignore_patterns("cases.json"))
    return tmp_path / "copy"


def _weights(seed: int | None = None) -> dict[str, torch.Tensor]:
    """The golden's tensors, or others of the same shapes."""
    tensors = load_file(BERT / "model.safetensors")
    if seed is None:
        return tensors
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(tensor) * 0.1 if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _shard(folder: Path, tensors: dict[str, torch.Tensor], index: str = INDEX) -> None:
    names = sorted(tensors)
    halves = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, half in halves.items() for name in half}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def _stale_index(folder: Path) -> None:
    _shard(folder, _weights(1))


def _shards_alone(folder: Path) -> None:
    _shard(folder, _weights(1))
    save_file(_weights(2), folder / "model-00003-of-00003.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()


def _other_copies(folder: Path) -> None:
    for name in ("model.fp16", "consolidated", "adapter_model"):
        save_file(_weights(2), folder / f"{name}.safetensors", {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"never opened")


def _named_in_the_config(folder: Path) -> None:
    save_file(_weights(3), folder / "encoder.safetensors", {"format": "pt"})
    _edit(folder / "config.json", transformers_weights="encoder.safetensors")


def _index_named_in_the_config(folder: Path) -> None:
    _shard(folder, _weights(4), "encoder.safetensors.index.json")
    _edit(folder / "config.json", transformers_weights="encoder.safetensors.index.json")


def _index_names_the_wrong_shard(folder: Path) -> None:
    _shards_alone(folder)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    swapped = dict(zip(weight_map, reversed(weight_map.values()), strict=True))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": swapped}))


@pytest.mark.parametrize(
    "layout",
    [
        _stale_index,
        _shards_alone,
        _other_copies,
        _named_in_the_config,
        _index_named_in_the_config,
        _index_names_the_wrong_shard,
    ],
)
def test_the_weights_are_those_that_sentence_transformers_reads(
    layout: Layout, copy: Path, cache: Path, compute: Compute
) -> None:
    from sentence_transformers import SentenceTransformer

    layout(copy)
    expected = SentenceTransformer(str(copy), device="cpu").encode(TEXTS)
    checkpoint = resolve(str(copy), cache_dir=cache)
    tokenizer = load_tokenizer(fresh_card(checkpoint))
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    got = np.array(compute(open_engine(checkpoint), ids))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_the_hash_of_the_weights_follows_what_is_read(copy: Path, cache: Path) -> None:
    before = resolve(str(copy), cache_dir=cache).sha256
    _stale_index(copy)
    _other_copies(copy)
    assert resolve(str(copy), cache_dir=cache).sha256 == before
    (copy / "model.safetensors").unlink()
    assert resolve(str(copy), cache_dir=cache).sha256 != before


def _duplicate(folder: Path) -> None:
    _shards_alone(folder)
    first = load_file(folder / SHARDS[0])
    second = load_file(folder / SHARDS[1])
    name = next(iter(first))
    save_file(second | {name: first[name]}, folder / SHARDS[1], {"format": "pt"})


def _both_names_of_a_norm(folder: Path) -> None:
    weights = _weights()
    weights["embeddings.LayerNorm.gamma"] = weights["embeddings.LayerNorm.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _without(name: str) -> Layout:
    return lambda folder: (_shards_alone(folder), (folder / name).unlink())[0]


def _renamed(name: str) -> Layout:
    def rename(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / name)

    return rename


def _config(value: object) -> Layout:
    return lambda folder: _edit(folder / "config.json", transformers_weights=value)


def _tensor_that_no_file_has(folder: Path) -> None:
    _shards_alone(folder)
    second = load_file(folder / SHARDS[1])
    del second[next(name for name in second if "query" in name)]
    save_file(second, folder / SHARDS[1], {"format": "pt"})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (_without(SHARDS[1]), rf"lacks {SHARDS[1]}, which its index names"),
        (_duplicate, rf"{SHARDS[1]} holds the tensor \S+, which {SHARDS[0]} holds as"),
        (_both_names_of_a_norm, r"holds as embeddings\.LayerNorm\.(gamma|weight): it is unclear"),
        (_tensor_that_no_file_has, "do not match its config; missing: "),
        (_renamed("model.fp16.safetensors"), r"only model\.fp16\.safetensors, which"),
        (_renamed("consolidated.safetensors"), r"only consolidated\.safetensors, which"),
        (_renamed("adapter_model.safetensors"), r"only adapter_model\.safetensors, which"),
        (_config("../x.safetensors"), "outside its own folder"),
        (_config("x.bin"), r"transformers_weights = 'x\.bin', which is not"),
        (_config(3), "transformers_weights = 3, which is not"),
        (_config("gone.safetensors"), r"lacks gone\.safetensors, which its config\.json names"),
    ],
)
def test_weights_that_cannot_be_read_are_refused_by_name(
    layout: Layout, message: str, copy: Path, cache: Path
) -> None:
    layout(copy)
    with pytest.raises(CheckpointError, match=message):
        fresh_card(resolve(str(copy), cache_dir=cache))


def _crowded(folder: Path) -> set[str]:
    """Every further copy of the weights that repositories keep; returns the names to fetch."""
    _stale_index(folder)
    _other_copies(folder)
    for name in ("onnx", "checkpoint-500"):
        (folder / name).mkdir()
        save_file(_weights(5), folder / name / "model.safetensors", {"format": "pt"})
    return {"model.safetensors"}


def _sharded(folder: Path) -> set[str]:
    _crowded(folder)
    (folder / "model.safetensors").unlink()
    return set(SHARDS)


def _in_a_folder(folder: Path) -> set[str]:
    _crowded(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).rename(inner / file)
    shutil.copy(folder / "model.safetensors", inner)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    return {"0_Transformer/model.safetensors"}


def _with_a_dense(folder: Path) -> set[str]:
    shutil.rmtree(folder)
    shutil.copytree(GOLDENS / "embeddinggemma", folder)
    _other_copies(folder)
    return {f"{place}model.safetensors" for place in ("", "2_Dense/", "3_Dense/")}


CROWDS = [_crowded, _sharded, _in_a_folder, _with_a_dense]


@pytest.mark.parametrize("crowd", CROWDS)
def test_the_hub_is_asked_for_no_other_weights_than_are_read(
    crowd: Callable[[Path], set[str]], copy: Path, cache: Path, hub: Hub
) -> None:
    wanted = crowd(copy)
    hub.serve(copy)
    found = resolve("a/b", cache_dir=cache)
    assert {name for name in hub.fetched if name.endswith(".safetensors")} == wanted
    assert found.sha256 == resolve(str(copy), cache_dir=cache).sha256
    assert fresh_card(found).dimensions
    hub.reachable = False
    assert resolve("a/b", cache_dir=cache).path == found.path


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_store_is_asked_for_no_other_weights_than_are_read(
    crowd: Callable[[Path], set[str]], copy: Path, cache: Path
) -> None:
    wanted = crowd(copy)
    fs = fsspec.filesystem("memory")
    root = f"/weights-{uuid.uuid4().hex[:8]}"
    fs.put(f"{copy}/", root, recursive=True)
    found = resolve(f"memory:/{root}", cache_dir=cache)
    fs.rm(root, recursive=True)
    fetched = {str(f.relative_to(found.path)) for f in found.path.rglob("*.safetensors")}
    assert fetched == wanted
    assert fresh_card(found).dimensions


@pytest.fixture
def pickled(copy: Path, hub: Hub) -> Hub:
    """A hub where BAAI/bge-m3 has pickles on its main branch."""
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    hub.serve(copy, "BAAI/bge-m3")
    return hub


BOT = "a pull request by SFconvertbot that the author has not accepted"


@pytest.mark.parametrize(
    ("revisions", "requests", "advice"),
    [
        ([], [], "use a revision with model.safetensors, or convert once"),
        (
            ["refs/pr/15", "refs/pr/9"],
            [pull_request(9, "somebody", "Add Safetensors"), pull_request(15, "SFconvertbot",
             "Adding `safetensors` variant of this model")],
            f"add `--revision refs/pr/15`, which has safetensors: {BOT} "
            "(https://huggingface.co/BAAI/bge-m3/discussions/15), or convert once",
        ),
        (
            [],  # a pull request that has none after all
            [pull_request(15, "SFconvertbot", "Adding `safetensors` variant of this model")],
            "use a revision with model.safetensors",
        ),
        (
            ["refs/pr/7"],
            [pull_request(7, "SFconvertbot", "Adding `safetensors` variant", status="closed")],
            "use a revision with model.safetensors",
        ),
        (
            ["converted", "refs/pr/15"],
            [pull_request(15, "SFconvertbot", "Adding `safetensors` variant of this model")],
            "add `--revision converted`, which has safetensors: a branch or tag of the "
            "repository's author",
        ),
    ],
)  # fmt: skip
def test_a_repository_that_has_pickles_alone_says_which_revision_has_safetensors(
    pickled: Hub, cache: Path, revisions: list[str], requests: list[Any], advice: str
) -> None:
    for revision in revisions:
        pickled.serve(BERT, "BAAI/bge-m3", revision)
    pickled.requests = requests
    pattern = r"only as pytorch_model\.bin: a pickle"
    with pytest.raises(CheckpointError, match=pattern) as caught:
        resolve("BAAI/bge-m3", cache_dir=cache)
    assert caught.value.hint.startswith(advice)
    assert "save_pretrained" in caught.value.hint
    assert not [name for name in pickled.fetched if name.endswith((".bin", ".safetensors"))]


def test_the_revision_that_was_named_is_used(pickled: Hub, cache: Path) -> None:
    pickled.serve(BERT, "BAAI/bge-m3", "refs/pr/15")
    found = resolve("BAAI/bge-m3", "refs/pr/15", cache_dir=cache)
    assert found.sha256 == resolve(str(BERT), cache_dir=cache).sha256


def test_a_hub_that_does_not_answer_about_revisions_hides_no_error(
    pickled: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", fail)
    with pytest.raises(CheckpointError, match=r"only as pytorch_model\.bin") as caught:
        resolve("BAAI/bge-m3", cache_dir=cache)
    assert caught.value.hint.startswith("use a revision with model.safetensors")
