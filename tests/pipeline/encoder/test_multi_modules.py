"""The files of models with a vector for each token: what is read, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from safetensors.numpy import load_file, save_file

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.modules import Expansion
from pipeline.errors import CheckpointError

MULTI = GOLDENS.parent / "multi_goldens"
Harm = Callable[[Path], None]


def setting(file: str, **values: Any) -> Harm:
    """Change a file of JSON; None takes the key away."""

    def changed(model: Path) -> None:
        content = json.loads((model / file).read_text()) | values
        kept = {key: value for key, value in content.items() if value is not None}
        (model / file).write_text(json.dumps(kept))

    return changed


def module(kind: str, settings: dict[str, Any]) -> Harm:
    """Append a module of sentence-transformers."""

    def appended(model: Path) -> None:
        listed = json.loads((model / "modules.json").read_text())
        name = f"sentence_transformers.multi_vector_encoder.modules.{kind}"
        listed.append({"idx": len(listed), "name": "more", "path": "more", "type": name})
        (model / "modules.json").write_text(json.dumps(listed))
        (model / "more").mkdir()
        (model / "more/config.json").write_text(json.dumps(settings))

    return appended


def renamed(old: str, new: str) -> Harm:
    def changed(model: Path) -> None:
        file = model / "model.safetensors"
        tensors = {name.replace(old, new): value for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})

    return changed


def harmed(folder: Path, name: str, *harms: Harm) -> ModelCard:
    model = folder / "model"
    shutil.copytree(MULTI / name, model)
    for harm in harms:
        harm(model)
    return open_card(str(model), cache_dir=folder)


METADATA, GENERAL = "artifact.metadata", "config_sentence_transformers.json"
BERT, MASK = "sentence_bert_config.json", "2_MultiVectorMask/config.json"
POOLING = "HierarchicalTokenPooling"


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("colbert_v2", renamed("linear.weight", "linear.other"), "linear.other"),
        ("colbert_v2", setting(METADATA, doc_maxlen="long"), "doc_maxlen = 'long'"),
        ("colbert_v2", setting(METADATA, query_maxlen=0), "query_maxlen = 0"),
        ("colbert_v2", setting(METADATA, query_token_id=7), "query_token_id = 7"),
        ("colbert_v2", setting(METADATA, query_token_id="\ud800"), "text that is not Unicode"),
        ("colbert_xlmr", renamed("attention.self", "mixer"), "layout of jina-colbert-v2"),
        ("pylate", setting(GENERAL, skiplist_words="!"), "skiplist_words = '!'"),
        ("pylate", setting(GENERAL, document_length=1.5), "document_length = 1.5"),
        ("pylate", module("LSTM", {}), "the module LSTM in place 3"),
        ("st_fixed", module(POOLING, {"pool_factor": 2}), "pool_factor = 2"),
        ("st_fixed", module("MultiVectorMask", {}), "the module MultiVectorMask in place 5"),
        ("st_fixed", setting(MASK, keep_only_token_ids=[3]), "keep_only_token_ids"),
        ("st_fixed", setting(MASK, skiplist_tasks=["image"]), "skiplist_tasks = "),
        ("st_fixed", setting(BERT, query_expansion={"strategy": "wide"}), "query_expansion = "),
        ("st_fixed", setting("3_Normalize/config.json", module_input_name=None), "pooled vector"),
        ("st_fixed", setting("1_Dense/config.json", module_input_name="sentence_embedding"), "ten"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, name: str, harm: Harm, said: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        harmed(tmp_path, name, harm)
    assert said in refused.value.message
    assert refused.value.hint or "token" in refused.value.message


def test_without_its_metadata_a_colbert_is_read_as_its_authors_code_does(tmp_path: Path) -> None:
    card = harmed(tmp_path, "colbert_v2", lambda model: (model / METADATA).unlink())
    assert card.multi is not None
    assert card.multi.query.expansion is not None
    assert (card.multi.query.length, card.multi.document.length) == (32, 220)
    assert card.multi.query.expansion.attended is False
    assert len(card.multi.document.skipped) == 32
    assert card.multi.markers == ("[unused0]", "[unused1]")


def test_a_pooling_that_merges_no_tokens_changes_nothing(tmp_path: Path) -> None:
    card = harmed(tmp_path, "st_fixed", module(POOLING, {"pool_factor": 1.0}))
    plain = open_card(str(MULTI / "st_fixed"), cache_dir=tmp_path)
    assert card.multi is not None
    assert plain.multi is not None
    assert card.multi.identity() == plain.multi.identity()


def test_without_expansion_a_query_has_its_own_tokens_alone(tmp_path: Path) -> None:
    card = harmed(tmp_path, "pylate", setting(GENERAL, do_query_expansion=False))
    assert card.multi is not None
    assert card.multi.query.expansion is None
    assert card.multi.query.length is not None


def test_a_mask_among_pylates_modules_counts_beside_its_list(tmp_path: Path) -> None:
    mask = {"skiplist_words": ["a"], "skiplist_tasks": ["query", "document"]}
    listed = setting(GENERAL, skiplist_words=["!"])
    card = harmed(tmp_path, "pylate", listed, module("MultiVectorMask", mask))
    assert card.multi is not None
    assert card.multi.query.skipped == ("a",)
    assert card.multi.document.skipped == ("a", "!")


def test_an_expansion_in_the_words_of_sentence_transformers_is_that_of_pylate(
    tmp_path: Path,
) -> None:
    expansion = {"strategy": "min", "length": 9, "attend": True}
    card = harmed(tmp_path, "pylate", setting(GENERAL, query_expansion=expansion))
    assert card.multi is not None
    assert card.multi.query.expansion == Expansion(9, attended=True, fixed=False)


@pytest.mark.parametrize("attend", [True, False])
def test_without_a_mask_only_tokens_that_are_attended_to_have_a_vector(
    tmp_path: Path, attend: bool
) -> None:
    def unmasked(model: Path) -> None:
        listed = json.loads((model / "modules.json").read_text())
        kept = [entry for entry in listed if not entry["type"].endswith("MultiVectorMask")]
        (model / "modules.json").write_text(json.dumps(kept))

    expansion = {"strategy": "fixed", "length": 16, "attend": attend}
    card = harmed(tmp_path, "st_fixed", setting(BERT, query_expansion=expansion), unmasked)
    assert card.multi is not None
    assert (card.multi.query.expansion is not None) is attend
    assert card.multi.query.length == 16


def test_an_empty_marker_is_that_of_the_authors_code(tmp_path: Path) -> None:
    card = harmed(tmp_path, "colbert_v2", setting(METADATA, query_token_id="", doc_token_id=""))
    assert card.multi is not None
    assert card.multi.markers == ("[unused0]", "[unused1]")


@pytest.mark.parametrize(
    ("prompts", "kinds"), [({"query": "q: "}, ("query", "document")), ({}, ())]
)
def test_queries_and_documents_are_told_apart_by_prompts_alone(
    tmp_path: Path, prompts: dict[str, str], kinds: tuple[str, ...]
) -> None:
    alike = setting(BERT, query_expansion=None, document_length=None)
    unlisted, named = setting(MASK, skiplist_words=None), setting(GENERAL, prompts=prompts)
    assert harmed(tmp_path, "st_fixed", alike, unlisted, named).kinds == kinds
