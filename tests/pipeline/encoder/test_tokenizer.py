"""Tokenizers with their quirks, and how long a text may be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fixtures_encoder import fresh_card
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError

Golden = Callable[[str], Checkpoint]
Bent = Callable[..., Checkpoint]


def _edit(checkpoint: Checkpoint, name: str, **changes: Any) -> None:
    file = checkpoint.path / name
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}))


def test_the_end_token_that_gte_qwen2_forgot_is_appended(golden: Golden) -> None:
    tokenizer = load_tokenizer(fresh_card(golden("gte_qwen2")))
    end = tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.encode("a word").ids[-1] == end
    assert tokenizer.encode("").ids == [end]
    assert [i for i in tokenizer.encode("one", "two").ids if i == end] == [end, end]


def test_an_end_token_that_is_there_already_is_not_doubled(bent: Bent) -> None:
    checkpoint = bent("embeddinggemma")
    _edit(checkpoint, "tokenizer_config.json", add_eos_token=True)
    ids = load_tokenizer(fresh_card(checkpoint)).encode("a word").ids
    assert ids.count(1) == 1


def test_an_end_token_that_transformers_does_not_append_is_not_appended(bent: Bent) -> None:
    checkpoint = bent("nemotron_llama")
    before = load_tokenizer(fresh_card(checkpoint)).encode("a word").tokens
    _edit(checkpoint, "tokenizer_config.json", add_eos_token=True)
    assert load_tokenizer(fresh_card(checkpoint)).encode("a word").tokens == before
    assert before[0] == "<|begin_of_text|>"


def test_an_end_token_outside_the_vocabulary_is_an_error(bent: Bent) -> None:
    checkpoint = bent("gte_qwen2")
    _edit(checkpoint, "tokenizer_config.json", eos_token="<|nowhere|>")
    with pytest.raises(CheckpointError, match="is not in the vocabulary"):
        load_tokenizer(fresh_card(checkpoint))


def test_without_the_flag_no_end_token_is_added(golden: Golden) -> None:
    assert load_tokenizer(fresh_card(golden("voyage_nano"))).encode("").ids == []


def test_lower_case_asked_for_by_the_module_files_is_applied(bent: Bent) -> None:
    checkpoint = bent("roberta_mean")
    plain = load_tokenizer(fresh_card(checkpoint))
    assert plain.encode("Big").ids != plain.encode("big").ids
    _edit(checkpoint, "sentence_bert_config.json", do_lower_case=True)
    lower = load_tokenizer(fresh_card(checkpoint))
    assert lower.encode("Big").ids == plain.encode("big").ids


def test_a_space_before_the_first_word_is_added_where_asked_for(bent: Bent) -> None:
    checkpoint = bent("ner_roberta")
    plain = load_tokenizer(fresh_card(checkpoint))
    _edit(checkpoint, "tokenizer_config.json", add_prefix_space=True)
    assert load_tokenizer(fresh_card(checkpoint)).encode("word").ids == plain.encode(" word").ids


@pytest.mark.parametrize(
    "name",
    [
        "tanaos/tanaos-NER-v1",
        "/models/tanaos-NER-v1/",
        "s3://bucket/tanaos-NER-v1",
        "https://host/tanaos-NER-v1.tar.gz?sig=x/y",
        "tanaos-NER-v1.tgz",
    ],
)
def test_tanaos_gets_the_space_that_its_loader_passes(name: str, golden: Golden) -> None:
    from dataclasses import replace

    checkpoint = golden("ner_roberta")
    named = replace(checkpoint, name=name)
    assert (
        load_tokenizer(fresh_card(named)).encode("word").ids
        == load_tokenizer(fresh_card(checkpoint)).encode(" word").ids
    )


def test_truncation_and_padding_of_the_file_are_switched_off(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    saved = load_tokenizer(fresh_card(checkpoint))
    saved.enable_truncation(4)
    saved.enable_padding(length=9)
    saved.save(str(checkpoint.path / "tokenizer.json"))
    lengths = [
        len(load_tokenizer(fresh_card(checkpoint)).encode(text).ids)
        for text in ("a", "a b c d e f")
    ]
    assert lengths[0] < lengths[1]
    assert lengths[1] > 4


def test_endless_padding_of_the_file_is_never_computed(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    saved = load_tokenizer(fresh_card(checkpoint))
    saved.enable_padding(length=10**12)
    saved.save(str(checkpoint.path / "tokenizer.json"))
    code = (
        "from pipeline.encoder.card import open_card;"
        "from pipeline.encoder.tokenizer import load_tokenizer;"
        f"print(len(load_tokenizer(open_card({str(checkpoint.path)!r})).encode('a').ids))"
    )
    # In a process of its own: where memory runs out, the library ends the process.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "3\n", done.stderr


def test_vocabulary_files_alone_make_the_same_tokenizer(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    fast = load_tokenizer(fresh_card(checkpoint))
    vocabulary = sorted(fast.get_vocab().items(), key=lambda item: item[1])
    (checkpoint.path / "vocab.txt").write_text("\n".join(token for token, _ in vocabulary))
    (checkpoint.path / "tokenizer.json").unlink()
    text = "A small library for fonts"
    assert load_tokenizer(fresh_card(checkpoint)).encode(text).ids == fast.encode(text).ids


@pytest.mark.parametrize("kind", [2, 200])
def test_a_pair_with_types_that_the_model_lacks_is_an_error(kind: int, bent: Bent) -> None:
    head = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    checkpoint = bent("bert_mean", **head)
    weights = checkpoint.path / "model.safetensors"
    classifier = {"classifier.weight": torch.ones(1, 32), "classifier.bias": torch.ones(1)}
    save_file(load_file(weights) | classifier, weights)
    _edit(
        checkpoint,
        "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    file = checkpoint.path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"]["pair"][3]["Sequence"]["type_id"] = kind
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json gives .* types \[{kind}\]"):
        load_tokenizer(fresh_card(checkpoint))


def test_no_tokenizer_at_all_is_an_error(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    (checkpoint.path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor a vocabulary"):
        load_tokenizer(fresh_card(checkpoint))


def test_a_broken_tokenizer_file_is_an_error(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    (checkpoint.path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        load_tokenizer(fresh_card(checkpoint))


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("bert_mean", 128),  # sentence_bert_config
        ("e5_xlmr", 250),
        ("bge_reranker_xlmr", 512),  # 514 positions, two of them RoBERTa's offset
        ("langid_xlmr", 250),  # the tokenizer
        ("modernbert_reranker", 1024),  # the config, as no module file speaks
        ("nomic_old_config", 700),
    ],
)
def test_the_limit_is_that_of_the_first_file_that_speaks(
    name: str, limit: int, golden: Golden
) -> None:
    checkpoint = golden(name)
    assert fresh_card(checkpoint).max_length == limit


def test_the_module_files_override_the_limit_of_the_tokenizer(bent: Bent) -> None:
    # As sentence-transformers does: it passes max_seq_length on as model_max_length.
    checkpoint = bent("qwen3_causal_last")
    _edit(checkpoint, "tokenizer_config.json", model_max_length=20)
    assert fresh_card(checkpoint).modules.max_seq_length is not None
    assert fresh_card(checkpoint).max_length == fresh_card(checkpoint).modules.max_seq_length


def test_a_position_table_caps_what_the_module_files_claim(bent: Bent) -> None:
    checkpoint = bent("e5_xlmr")
    _edit(checkpoint, "sentence_bert_config.json", max_seq_length=4096)
    assert fresh_card(checkpoint).max_length == 256  # 258 − 2


def test_the_tokens_of_a_prompt_leave_out_what_follows_it(golden: Golden) -> None:
    tokenizer = load_tokenizer(fresh_card(golden("bert_mean")))
    assert prompt_tokens(tokenizer, "query:") == len(tokenizer.encode("query:").ids) - 1
