"""Checkpoints whose vocabulary is a model of sentencepiece, against AutoTokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from tokenizers_compared import WORDS, assert_equal, odd_texts, reference

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint import tokenizer_build
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A model of sentencepiece, trained on few words."""
    sentencepiece = pytest.importorskip("sentencepiece")
    made: dict[str, Path] = {}

    def train(kind: str, **options: Any) -> Path:
        key = json.dumps([kind, options])
        if key not in made:
            folder = tmp_path_factory.mktemp("spm")
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([*WORDS, *odd_texts()[40:400]]),
                model_prefix=str(folder / "spm"),
                vocab_size=390 if kind == "unigram" else 800,
                model_type=kind,
                hard_vocab_limit=False,
                character_coverage=0.99,
                minloglevel=2,
                num_threads=1,
                **options,
            )
            made[key] = folder / "spm.model"
        return made[key]

    return train


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """A tiny model with a vocabulary of sentencepiece in place of tokenizer.json."""

    def make(golden: str, name: str, vocabulary: Path, config: Any, **settings: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(GOLDENS / golden, folder, ignore=shutil.ignore_patterns("tokenizer*"))
        shutil.copy(vocabulary, folder / name)
        before = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**before, **config}))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


def card_of(folder: Path) -> ModelCard:
    return open_card(str(folder), cache_dir=folder.parent / "cache")


#: Family → golden, file, kind of sentencepiece's model, config.json, tokenizer_config.json.
FAMILIES: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "DeBERTa-v3": (
        "ner_bert",
        "spm.model",
        "unigram",
        {"model_type": "deberta-v2", "architectures": ["DebertaV2ForTokenClassification"]},
        {"do_lower_case": False, "vocab_type": "spm"},
    ),
    "XLM-R": ("e5_xlmr", "sentencepiece.bpe.model", "unigram", {}, {}),
    "T5": (
        "e5_xlmr",
        "spiece.model",
        "unigram",
        {"model_type": "t5", "architectures": ["T5EncoderModel"], "d_model": 32, "d_ff": 64},
        {"extra_ids": 10},
    ),
    "Llama": (
        "nemotron_llama",
        "tokenizer.model",
        "bpe",
        {"model_type": "llama", "is_causal": False},
        {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True, "add_bos_token": True},
    ),
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_of_sentencepiece_alone_is_enough(
    family: str, spm: Callable[..., Path], model: Callable[..., Path]
) -> None:
    golden, name, kind, config, settings = FAMILIES[family]
    folder = model(golden, name, spm(kind, byte_fallback=kind == "bpe"), config, **settings)

    card = card_of(folder)

    assert_equal(card, reference(folder))
    assert "tokenizer" not in card.identity()  # as 0.1.0 read it, where it could


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("changes", [{}, {"add_prefix_space": False}, {"bos_token": "</s>"}])
def test_what_is_saved_of_it_needs_no_transformers(
    changes: dict[str, Any], spm: Callable[..., Path], model: Callable[..., Path]
) -> None:
    folder = model("e5_xlmr", "sentencepiece.bpe.model", spm("unigram"), {})
    reference(folder).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **changes}))

    card = card_of(folder)

    assert card.tokenizer.is_plain == (not changes)
    assert_equal(card, reference(folder))


def test_a_process_of_its_own_builds_it(
    spm: Callable[..., Path], model: Callable[..., Path]
) -> None:
    folder = model("e5_xlmr", "sentencepiece.bpe.model", spm("unigram"), {})

    tokens = load_tokenizer(card_of(folder)).encode("the fonts").tokens

    assert tokens[0] == "<s>"
    assert tokens[-1] == "</s>"
    assert len(tokens) > 2


def test_without_the_extra_the_hint_names_it(
    spm: Callable[..., Path], model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("e5_xlmr", "sentencepiece.bpe.model", spm("unigram"), {})
    monkeypatch.setattr(tokenizer_build, "_is_installed", lambda name: name != "sentencepiece")

    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model, which needs") as raised:
        load_tokenizer(card_of(folder))

    assert "bei-jobs[sentencepiece]" in raised.value.hint


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("content", [b"", b"\n\xff\xff\xff\xff", b"\n\x05hello", b"aGk= 0\n"])
def test_a_damaged_vocabulary_is_an_error(
    content: bytes, model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "damaged").write_bytes(content)
    folder = model("e5_xlmr", "sentencepiece.bpe.model", tmp_path / "damaged", {})

    with pytest.raises(CheckpointError, match=r"none can be built|is empty"):
        load_tokenizer(card_of(folder))
