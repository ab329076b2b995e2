"""bge-m3's layers over tokens, in files of their own: wherever it comes from, they come with it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card
from fixtures_hub import Hub
from safetensors.torch import save_file

from pipeline.encoder.checkpoint import choose_weights, download
from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.checkpoint.download import digest

M3 = GOLDENS.parent / "multi_goldens" / "bge_m3"
LAYERS = {"sparse_linear.safetensors", "colbert_linear.safetensors"}
ALL = ("dense", "sparse", "multi")


@pytest.fixture
def store() -> Iterator[str]:
    """The URI of bge-m3 in a store."""
    fs, root = fsspec.filesystem("memory"), f"/heads-{uuid.uuid4().hex[:8]}"
    fs.put(f"{M3}/", root, recursive=True)
    yield f"memory:/{root}"
    fs.rm(root, recursive=True)


def test_they_are_fetched_from_the_hub(cache: Path, hub: Hub) -> None:
    hub.serve(M3)
    card = fresh_card(resolve("BAAI/bge-m3", cache_dir=cache))
    assert {*hub.fetched} >= LAYERS
    assert card.vectors == ALL


def test_they_are_fetched_from_a_store(cache: Path, store: str) -> None:
    found = resolve(store, cache_dir=cache)
    assert {file.name for file in found.path.iterdir()} >= LAYERS
    assert fresh_card(found).vectors == ALL


def test_a_list_of_files_from_before_one_was_wanted_does_not_prove_a_snapshot(
    cache: Path, hub: Hub
) -> None:
    hub.serve(M3)
    name = "BAAI/bge-m3"
    snapshot = hub.put(name, without=("colbert_linear.safetensors",))
    files = [str(f.relative_to(snapshot)) for f in snapshot.rglob("*") if f.is_file()]
    (cache / "complete").mkdir(parents=True)
    listed = cache / "complete" / digest(name, snapshot.name, "*.jinja")
    listed.write_text(json.dumps(files))
    assert fresh_card(resolve(name, cache_dir=cache)).vectors == ALL
    assert hub.fetched == ["colbert_linear.safetensors"]


def test_what_was_fetched_from_a_store_before_one_was_wanted_is_fetched_again(
    cache: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(choose_weights, "TOKEN_HEADS", ("sparse_linear.safetensors",))
        earlier.setattr(download, "TOKEN_VECTORS_NAME", "not yet")
        assert fresh_card(resolve(store, cache_dir=cache)).vectors == ALL[:2]
    assert fresh_card(resolve(store, cache_dir=cache)).vectors == ALL


@pytest.mark.parametrize("own", [False, True], ids=["the base's", "its own"])
def test_an_adapter_has_the_layers_of_its_base_unless_it_has_its_own(
    own: bool, cache: Path, tmp_path: Path, write_adapter: Callable[..., None]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_adapter(adapter, {"encoder.layer.0.attention.self.query": (16, 16)}, base=M3)
    if own:
        weights = {"weight": torch.zeros(4, 16), "bias": torch.zeros(4)}
        save_file(weights, adapter / "colbert_linear.safetensors")
    card = fresh_card(resolve(str(adapter), cache_dir=cache))
    assert card.vectors == ALL
    assert card.multi is not None
    assert card.multi.dimensions == (4 if own else 8)
