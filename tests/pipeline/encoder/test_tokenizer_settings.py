"""Every setting of a tokenizer that its files may hold, against transformers' AutoTokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from tokenizers import Tokenizer
from tokenizers_compared import as_it_is, assert_equal, odd_texts, reference

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.tokenizer_reading import with_prefix_space
from pipeline.encoder.tokenizer import load_tokenizer

#: Goldens whose tokenizer.json has steps that the class which they name would drop, so that
#: AutoTokenizer gives tokens that their models were not made for: they are read as they are.
AS_THEY_ARE = {
    "arctic_gte", "bge_reranker_xlmr", "e5_xlmr", "embeddinggemma", "gte_new_reranker",
    "gte_qwen2", "langid_xlmr", "qwen3_causal_last", "voyage_nano",
}  # fmt: skip
#: Of them, those whose end token the authors' own code appends.
ENDED = {"gte_qwen2", "qwen3_causal_last"}
#: AutoTokenizer itself needs code of the repository for its config.
FOREIGN_CONFIG = {"nemotron_llama"}

ADDED = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDENS.iterdir() if path.is_dir()))
def test_the_tokenizer_of_a_golden_is_transformers(name: str, tmp_path: Path) -> None:
    card = open_card(str(GOLDENS / name), cache_dir=tmp_path)
    whole = name in AS_THEY_ARE or name in FOREIGN_CONFIG
    expected = (as_it_is if whole else reference)(GOLDENS / name)
    if name in ENDED:
        expected.add_eos_token = True  # what the authors' own code obeys

    assert card.tokenizer.is_plain  # so that nothing has to import transformers
    assert bool(card.tokenizer.note) == (name in AS_THEY_ARE)
    assert_equal(card, expected)


Change = Mapping[str, Any] | Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Setting:
    """Files of a checkpoint's copy that are changed; None removes a key, or a file."""

    base: str
    files: Mapping[str, Change | None]
    plain: bool = False  # tokenizer.json is the tokenizer all the same

    def apply(self, folder: Path) -> None:
        for name, change in self.files.items():
            file = folder / name
            content = json.loads(file.read_text()) if file.is_file() else {}
            if change is None:
                file.unlink()
            elif callable(change):
                change(content)
            else:
                content = {k: v for k, v in {**content, **change}.items() if v != DELETE}
            if change is not None:
                file.write_text(json.dumps(content))


DELETE = "delete this key"


def settings(**changes: Any) -> dict[str, Change | None]:
    return {"tokenizer_config.json": changes}


def token(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, **ADDED, "special": False, **flags}


def named(content: str, **flags: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", **token(content, special=True, **flags)}


def decoder(*contents: str, **extra: Any) -> dict[str, Any]:
    return {str(i): token(c, special=True) for i, c in enumerate(contents)} | extra


def cased(content: dict[str, Any]) -> None:
    content["normalizer"]["lowercase"] = False


def cut_left(content: dict[str, Any]) -> None:
    content["truncation"] = {
        "direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip


def one_more(content: dict[str, Any]) -> None:
    content["added_tokens"].append({"id": 400, **token("[NEW]", normalized=True)})


def spaced(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["add_prefix_space"] = True
    content["post_processor"]["add_prefix_space"] = True


def ending(content: dict[str, Any]) -> None:
    content["post_processor"] = None


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
FAST = "PreTrainedTokenizerFast"

SETTINGS: dict[str, Setting] = {
    "lower case": Setting("ner_bert", settings(do_lower_case=True), plain=True),
    "cased": Setting("ner_bert", settings(do_lower_case=False)),
    "cased, without accents": Setting(
        "ner_bert", settings(do_lower_case=False, strip_accents=True)
    ),
    "accents kept": Setting("ner_bert", settings(strip_accents=False)),
    "no accents named": Setting("ner_bert", settings(strip_accents=None), plain=True),
    "Chinese in words": Setting("ner_bert", settings(tokenize_chinese_chars=False)),
    "cased file, class lowers": Setting("ner_bert", {"tokenizer.json": cased}),
    "cased file and key": Setting(
        "ner_bert", {"tokenizer.json": cased, **settings(do_lower_case=False)}, plain=True
    ),
    "decoder as the file": Setting(
        "ner_bert", settings(added_tokens_decoder=decoder(*BERT)), plain=True
    ),
    "decoder with one more": Setting(
        "ner_bert", settings(added_tokens_decoder=decoder(*BERT, **{"400": token("[NEW]")}))
    ),
    "decoder with a word": Setting(
        "ner_bert",
        settings(added_tokens_decoder=decoder(*BERT, **{"400": token("font", single_word=True)})),
    ),
    "decoder with one less": Setting(
        "ner_bert",
        {"tokenizer.json": one_more, **settings(added_tokens_decoder=decoder(*BERT))},
    ),
    "file with one more": Setting("ner_bert", {"tokenizer.json": one_more}, plain=True),
    "decoder of a fast class": Setting(
        "ner_bert",
        settings(tokenizer_class=FAST, added_tokens_decoder=decoder(**{"400": token("[NEW]")})),
    ),
    "mask takes the space before": Setting(
        "ner_bert",
        settings(
            added_tokens_decoder=decoder(
                *BERT[:4], **{"4": token("[MASK]", lstrip=True, special=True)}
            )
        ),
    ),
    "mask token with flags": Setting("ner_bert", settings(mask_token=named("<m>", lstrip=True))),
    "added_tokens.json": Setting("ner_bert", {"added_tokens.json": {"[NEW]": 400}}),
    "added_tokens.json as the file": Setting(
        "ner_bert", {"added_tokens.json": {"[MASK]": 4}}, plain=True
    ),
    "special_tokens_map.json as the file": Setting(
        "ner_bert",
        {"special_tokens_map.json": {"cls_token": "[CLS]", "mask_token": token("[MASK]")}},
        plain=True,
    ),
    "special_tokens_map.json with other flags": Setting(
        "mpnet_mean",
        {"special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True)}},
        plain=True,
    ),
    "special_tokens_map.json names a token that is not there": Setting(
        "ner_bert", {"special_tokens_map.json": {"mask_token": token("<m>", lstrip=True)}}
    ),
    "special_tokens_map.json names another": Setting(
        "ner_bert", {"special_tokens_map.json": {"cls_token": "[MASK]"}}
    ),
    "special_tokens_map.json adds": Setting(
        "ner_bert", {"special_tokens_map.json": {"additional_special_tokens": ["<extra>"]}}
    ),
    "special_tokens_map.json is passed over": Setting(
        "ner_bert",
        {
            "special_tokens_map.json": {"cls_token": "[MASK]"},
            **settings(added_tokens_decoder=decoder(*BERT)),
        },
        plain=True,
    ),
    "other ends": Setting("ner_bert", settings(cls_token="[SEP]", sep_token="[MASK]")),
    "extra special tokens": Setting("ner_bert", settings(extra_special_tokens=["<extra>"])),
    "extra tokens by name": Setting(
        "ner_bert", settings(extra_special_tokens={"x_token": "<new>"})
    ),
    "additional special tokens": Setting(
        "ner_bert", settings(additional_special_tokens=[named("<extra>", rstrip=True)])
    ),
    "a token of another name": Setting("ner_bert", settings(image_token="<new>")),
    "cut on the left": Setting("ner_bert", settings(truncation_side="left"), plain=True),
    "cut on the left by the file": Setting("ner_bert", {"tokenizer.json": cut_left}, plain=True),
    "cut on the right after all": Setting(
        "ner_bert", {"tokenizer.json": cut_left, **settings(truncation_side="right")}, plain=True
    ),
    "no types": Setting(
        "ner_bert", settings(model_input_names=["input_ids", "attention_mask"]), plain=True
    ),
    "special tokens as text": Setting("ner_bert", settings(split_special_tokens=True), plain=True),
    "keys for decoding": Setting(
        "ner_bert",
        settings(
            clean_up_tokenization_spaces=True,
            padding_side="left",
            errors="strict",
            backend="tokenizers",
            is_local=False,
            local_files_only=False,
            sp_model_kwargs={},
            tokenizer_file="/nowhere",
            vocab_file="/nowhere",
            merges_file=None,
            use_fast=False,
            never_split=None,
            do_basic_tokenize=True,
            name_or_path="somebody/else",
            pad_to_multiple_of=8,
            stride=3,
            max_length=5,
            truncation_strategy="only_first",
            processor_class="Nobody",
            pad_token_type_id=1,
            special_tokens_map_file="/nowhere",
        ),
        plain=True,
    ),
    "an unknown key": Setting("ner_bert", settings(surprise={"a": [1]}, from_slow=True)),
    "limit": Setting("ner_bert", settings(model_max_length=77), plain=True),
    "limit of old files": Setting(
        "ner_bert", settings(model_max_length=DELETE, max_len=99), plain=True
    ),
    "no limit": Setting("ner_bert", settings(model_max_length=int(1e30)), plain=True),
    "no settings": Setting("ner_bert", {"tokenizer_config.json": None}, plain=True),
    "no class": Setting("ner_bert", settings(tokenizer_class=DELETE), plain=True),
    "fast class by its old name": Setting(
        "ner_bert", settings(tokenizer_class="BertTokenizerFast"), plain=True
    ),
    "no class of its own": Setting(
        "ner_bert", settings(tokenizer_class=FAST, do_lower_case=False), plain=True
    ),
    "no class of its own, with types": Setting(
        "ner_bert",
        settings(tokenizer_class=FAST, model_input_names=["input_ids", "token_type_ids"]),
        plain=True,
    ),
    "an end that is ignored": Setting(
        "ner_bert", settings(
            tokenizer_class=FAST, add_bos_token=True, add_eos_token=True, eos_token="[SEP]"
        ),
    ),
    "another model's class": Setting("ner_bert", settings(tokenizer_class="MPNetTokenizer")),
    "a class of nobody": Setting("ner_bert", settings(tokenizer_class="NobodysTokenizer")),
    "a class of the config": Setting(
        "ner_bert",
        {
            **settings(tokenizer_class=DELETE),
            "config.json": {"tokenizer_class": "ElectraTokenizerFast"},
        },
    ),
    "MPNet cased": Setting("mpnet_mean", settings(do_lower_case=False)),
    "offsets with spaces": Setting("ner_roberta", settings(trim_offsets=False)),
    "space before": Setting("ner_roberta", settings(add_prefix_space=True), plain=True),
    "space before and in offsets": Setting(
        "ner_roberta", settings(add_prefix_space=True, trim_offsets=False)
    ),
    "space of the file, class without": Setting("ner_roberta", {"tokenizer.json": spaced}),
    "space of the file and key": Setting(
        "ner_roberta", {"tokenizer.json": spaced, **settings(add_prefix_space=True)}, plain=True
    ),
    "space that no class reads": Setting(
        "ner_roberta", settings(tokenizer_class=FAST, add_prefix_space=True)
    ),
    "RoBERTa's mask": Setting(
        "ner_roberta",
        settings(
            added_tokens_decoder=decoder(
                *ROBERTA[:4], **{"4": token("<mask>", lstrip=True, special=True)}
            )
        ),
    ),
    "RoBERTa's other ends": Setting("ner_roberta", settings(cls_token="<mask>")),
    "class of the wrong name": Setting(
        "modernbert_cls", settings(add_prefix_space=False, trim_offsets=True), plain=True
    ),
    "class of the wrong name, space": Setting("modernbert_cls", settings(add_prefix_space=True)),
    "no post-processor": Setting("modernbert_cls", {"tokenizer.json": ending}, plain=True),
}  # fmt: skip


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Setting], ModelCard]:
    """The card of a copy with a setting."""

    def change(setting: Setting) -> ModelCard:
        folder = tmp_path / "model"
        shutil.copytree(GOLDENS / setting.base, folder)
        setting.apply(folder)
        return open_card(str(folder), cache_dir=tmp_path / "cache")

    return change


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_read_as_transformers_reads_it(
    name: str, changed: Callable[[Setting], ModelCard]
) -> None:
    card = changed(SETTINGS[name])
    folder = card.checkpoint.folder

    assert card.tokenizer.is_plain == SETTINGS[name].plain
    assert_equal(card, reference(folder))

    before = earlier_reading(folder, card.tokenizer.options)
    ours = load_tokenizer(card)
    texts = odd_texts()[:600]
    moved = any(
        one.ids != other.ids or (card.head == "token_classifier" and one.offsets != other.offsets)
        for one, other in zip(before.encode_batch(texts), ours.encode_batch(texts), strict=True)
    )
    # The space of a job changes where its tokens do.
    assert ("tokenizer" in card.identity()) == moved


def earlier_reading(folder: Path, options: Mapping[str, Any]) -> Tokenizer:
    """tokenizer.json as bei-jobs 0.1.0 read it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    if options.get("add_prefix_space"):
        with_prefix_space(content)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    return tokenizer
