"""Tokenizers as transformers' classes save them, against AutoTokenizer."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from tokenizers_compared import assert_equal, reference

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("in_this_process")

LETTERS = (*string.ascii_letters, *string.digits, *".,'-!?", "é", "京", "▁")
MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("f", "o"), ("▁", "fo")]


def merged(*special: str) -> dict[str, int]:
    """A vocabulary of letters and of MERGES after special tokens and the 256 bytes."""
    pieces = [*special, *(f"<0x{i:02X}>" for i in range(256)), *LETTERS, *map("".join, MERGES)]
    return {piece: i for i, piece in enumerate(pieces)}


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a golden without its tokenizer, and with other values in config.json."""

    def copy(name: str, **config: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(GOLDENS / name, folder, ignore=shutil.ignore_patterns("tokenizer*"))
        edit(folder / "config.json", **config)
        return folder

    return copy


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}))


def card_of(folder: Path) -> ModelCard:
    return open_card(str(folder), cache_dir=folder.parent / "cache")


def llama(folder: Path, **options: Any) -> None:
    from transformers import LlamaTokenizer

    made = LlamaTokenizer(vocab=merged("<unk>", "<s>", "</s>"), merges=MERGES, **options)
    made.save_pretrained(folder)


def qwen(folder: Path) -> None:
    reference(GOLDENS / "qwen3_causal_last").save_pretrained(folder)


def gemma(folder: Path) -> None:
    from transformers import GemmaTokenizer

    vocab = merged("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    GemmaTokenizer(vocab=vocab, merges=MERGES).save_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({}, True),
        ({"add_prefix_space": True}, False),
        ({"unk_token": None}, True),
        ({"extra_special_tokens": ["<new>"]}, False),
        ({"bos_token": "<|im_start|>"}, True),
        ({"add_bos_token": True}, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),
    ],
    ids=str,
)
def test_qwen(changes: dict[str, Any], plain: bool, model: Callable[..., Path]) -> None:
    folder = model("voyage_nano")
    qwen(folder)
    edit(folder / "tokenizer_config.json", **changes)

    card = card_of(folder)

    assert card.tokenizer.is_plain == plain
    assert_equal(card, reference(folder))


@pytest.mark.parametrize("changes", [{}, {"unk_token": "<mask>"}, {"bos_token": "<unk>"}], ids=str)
def test_gemma(changes: dict[str, Any], model: Callable[..., Path]) -> None:
    folder = model("embeddinggemma")
    gemma(folder)
    edit(folder / "tokenizer_config.json", **changes)

    card = card_of(folder)

    assert card.tokenizer.is_plain == ("unk_token" not in changes)
    assert_equal(card, reference(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"legacy": True},
        {"add_prefix_space": False},
        {"legacy": True, "add_prefix_space": True},
        {"add_eos_token": True, "add_bos_token": False},
    ],
    ids=str,
)
def test_llama(changes: dict[str, Any], model: Callable[..., Path]) -> None:
    folder = model("nemotron_llama", model_type="llama", is_causal=False)
    llama(folder)
    edit(folder / "tokenizer_config.json", **changes)

    card = card_of(folder)

    assert not card.tokenizer.is_plain
    assert_equal(card, reference(folder))


def test_a_mistral_ends_as_transformers_ends_it_and_says_so(model: Callable[..., Path]) -> None:
    """e5-mistral: 0.1.0 gave `<s> </s> text </s>`, and one token more than the limit."""
    folder = model(
        "nemotron_llama", model_type="mistral", architectures=["MistralModel"], is_causal=True
    )
    llama(folder, add_bos_token=True)
    edit(folder / "tokenizer_config.json", add_bos_token=True, add_eos_token=True)

    card = card_of(folder)

    assert_equal(card, reference(folder))
    assert load_tokenizer(card).encode("the").tokens == ["<s>", "▁the"]
    assert "add_eos_token" in card.tokenizer.note
    assert "tokenizer" in card.identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"padding_side": "up"},
        {"truncation_side": "up"},
        {"mask_token": {"content": "[MASK]"}},
        {"added_tokens_decoder": {"0": "[PAD]"}},
        {"tokenizer_class": "CanineTokenizer"},
        {"encode": 1},
        {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
        {"cls_token": "[NEW]"},
        {"do_lower_case": "yes"},
    ],
    ids=str,
)
def test_what_transformers_cannot_read_is_refused_by_name(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDENS / "ner_bert", folder)
    edit(folder / "tokenizer_config.json", **changes)

    with pytest.raises(CheckpointError) as raised:
        load_tokenizer(card_of(folder))

    assert str(folder) in str(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}, "9" * 5_000: {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(i): 1 for i in range(200_000)}}),
        ("tokenizer_config.json", {"cls_token": [["a"]], "tokenizer_class": {"a": 1}}),
        ("tokenizer_config.json", {"extra_special_tokens": [{}, 1, [2]]}),
        ("tokenizer_config.json", {"model_input_names": 7}),
        ("tokenizer_config.json", {"init_inputs": [1, 2]}),
        ("special_tokens_map.json", {"cls_token": {"a": 1}}),
        ("special_tokens_map.json", {"tokenizer_object": "x", "vocab": 3}),
        ("added_tokens.json", {"a": [1]}),
        ("added_tokens.json", {"a": -1, "b": 10**30}),
        ("tokenizer.json", {"added_tokens": [{"id": [1], "content": {}}, 3]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_no_file_has_are_refused_in_one_line_or_read_as_by_transformers(
    file: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDENS / "ner_bert", folder)
    edit(folder / file, **changes)

    error = tokens = None
    try:
        tokens = load_tokenizer(card_of(folder)).encode("a font").ids
    except CheckpointError as raised:
        error = str(raised)

    if error is not None:
        assert len(error.splitlines()) == 1
    else:
        assert tokens == reference(folder)("a font")["input_ids"]


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_qwen_forgets_the_flags_of_its_special_tokens(
    flag: str, model: Callable[..., Path]
) -> None:
    folder = model("qwen3_causal_last")
    qwen(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    (end,) = (token for token in content["added_tokens"] if token["content"] == "<|endoftext|>")
    end[flag] = True
    edit(folder / "tokenizer.json", added_tokens=content["added_tokens"])

    card = card_of(folder)

    assert not card.tokenizer.is_plain
    assert_equal(card, reference(folder))


def test_code_of_the_checkpoint_is_not_run_and_the_note_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDENS / "bert_mean", folder)
    before = load_tokenizer(card_of(folder)).to_str()
    (folder / "tokenization_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )

    card = card_of(folder)

    assert json.loads(load_tokenizer(card).to_str()) == json.loads(before)
    assert not (tmp_path / "ran").exists()
    assert "auto_map" in card.tokenizer.note or "own code" in card.tokenizer.note
    assert "tokenizer" not in card.identity()
