"""The engine: memory, values that are not finite, stopping, precision, tasks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine, recognised
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.model import load as load_module
from pipeline.encoder.precision import choose_precision
from pipeline.errors import CheckpointError, EncodeError, Interrupted, UsageError
from pipeline.packing import Batch, gather
from pipeline.tasks import task_of

Golden = Callable[[str], Checkpoint]
Compute = Callable[..., list[Any]]
Make = Callable[[int, int], list[list[int]]]


def _batch(texts: list[list[int]]) -> Batch:
    flat = np.array([i for text in texts for i in text], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
    return gather(flat, offsets, np.arange(len(texts)))


class SmallMemory:
    """Runs out of memory on more tokens than it has room for."""

    def __init__(self, encode: Any, room: int) -> None:
        self.encode, self.room = encode, room
        self.asked: list[int] = []

    def __call__(self, packed: Any) -> Any:
        self.asked.append(packed.ids.shape[0])
        if self.asked[-1] > self.room:
            raise torch.OutOfMemoryError("no memory left")
        return self.encode(packed)


def test_a_batch_too_large_for_memory_is_halved_until_it_fits(
    golden: Golden, sentences: Make
) -> None:
    engine = open_engine(golden("bert_mean"))
    batch = _batch(sentences(8, 20))
    ((_, expected),) = engine.run([batch])
    small = SmallMemory(engine.forward, batch.tokens // 3)
    engine.forward = small
    ((_, rows),) = engine.run([batch])
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
    failed = len([n for n in small.asked if n > small.room])
    list(engine.run([batch]))
    # The second time nothing is tried that is known not to fit.
    assert len([n for n in small.asked if n > small.room]) == failed


def test_a_single_sequence_too_large_for_memory_says_so(golden: Golden) -> None:
    engine = open_engine(golden("bert_mean"))
    engine.forward = SmallMemory(engine.forward, 3)
    with pytest.raises(EncodeError, match="a sequence of 5 tokens does not fit") as caught:
        list(engine.run([_batch([[5, 6, 7, 8, 9]])]))
    assert "--max-length" in caught.value.hint


def test_an_error_that_is_not_memory_is_not_hidden(golden: Golden) -> None:
    engine = open_engine(golden("bert_mean"))

    def broken(packed: Any) -> Any:
        raise RuntimeError("shapes do not match")

    engine.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(engine.run([_batch([[5, 6], [7]])]))


def _overflow(encode: Any, token: int) -> Any:
    """An encoder that overflows on sequences with a token, as 16 bits do."""

    def run(packed: Any) -> Any:
        hidden = encode(packed).clone()
        hidden[packed.ids == token] = torch.inf
        return hidden

    return run


def test_a_row_that_overflows_is_computed_again_in_float32(golden: Golden) -> None:
    exact = open_engine(golden("bert_mean"))
    batch = _batch([[5, 6, 7], [5, 99, 7], [8, 9]])
    ((_, expected),) = exact.run([batch])
    engine = open_engine(golden("bert_mean"), precision="bfloat16")
    engine.forward = _overflow(engine.forward, 99)
    ((_, rows),) = engine.run([batch])
    np.testing.assert_allclose(rows[1], expected[1], rtol=0, atol=1e-6)
    assert np.isfinite(rows).all()
    assert np.abs(rows[0] - expected[0]).max() > 1e-6  # the others stay in bfloat16


@pytest.mark.parametrize("loads", [False, True], ids=["its weights", "what it computes"])
def test_a_row_that_overflows_is_nan_where_float32_does_not_fit(
    loads: bool, golden: Golden, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(golden("bert_mean"), precision="bfloat16")
    batch = _batch([[5, 6, 7], [5, 99, 7], [8, 9]])
    ((_, expected),) = engine.run([batch])
    asked, cleared, load = list[str](), list[int](), engine.load

    def short(precision: str) -> Any:
        asked.append(precision)
        if loads:
            return SmallMemory(load(precision), 0)
        raise torch.OutOfMemoryError("no memory left")

    engine.load = short
    engine.forward = _overflow(engine.forward, 99)
    engine.graphs = SimpleNamespace(
        run=lambda batch: None, clear=lambda: cleared.append(len(asked))
    )
    for _, rows in engine.run([batch, batch]):
        assert np.isnan(rows[1]).all()
        np.testing.assert_array_equal(rows[[0, 2]], expected[[0, 2]])
    assert asked == ["float32"]  # and not for every row that overflows
    assert cleared[0] == 0  # room is made before
    assert caplog.text.count("does not fit") == 1


@pytest.mark.parametrize(("name", "task"), [("bert_mean", "embed"), ("ner_bert", "tag")])
def test_a_sequence_that_stays_non_finite_is_nan_and_its_neighbours_are_not(
    name: str, task: str, golden: Golden
) -> None:
    engine = open_engine(golden(name))
    batch = _batch([[5, 6, 7], [5, 99, 7], [8, 9]])
    ((_, expected),) = engine.run([batch])
    engine.forward = _overflow(engine.forward, 99)
    ((_, rows),) = engine.run([batch])
    bad = slice(3, 6) if task == "tag" else slice(1, 2)
    assert np.isnan(rows[bad]).all()
    keep = np.ones(len(rows), dtype=bool)
    keep[bad] = False
    np.testing.assert_array_equal(rows[keep], expected[keep])


def test_logits_that_overflow_in_float32_too_are_nan_and_not_infinite(golden: Golden) -> None:
    engine = open_engine(golden("ner_bert"), precision="bfloat16")
    load = engine.load
    engine.load = lambda precision: _overflow(load(precision), 99)
    engine.forward = engine.load("bfloat16")
    ((_, rows),) = engine.run([_batch([[5, 99, 7], [8, 9]])])
    assert np.isnan(rows[:3]).all()
    assert np.isfinite(rows[3:]).all()


@pytest.mark.parametrize(
    ("name", "task", "shape"),
    [
        ("bert_mean", "embed", (2, 32)),
        ("bge_reranker_xlmr", "rerank", (2,)),
        ("langid_xlmr", "classify", (2, 5)),
        ("ner_bert", "tag", (0, 9)),
    ],
)
def test_sequences_without_tokens_give_nan_rows_of_the_right_shape(
    name: str, task: str, shape: tuple[int, ...], golden: Golden
) -> None:
    ((_, rows),) = open_engine(golden(name)).run([_batch([[], []])])
    assert rows.shape == shape
    assert rows.dtype == np.float32
    assert np.isnan(rows).all()


def test_an_empty_sequence_among_others_is_nan_and_the_others_are_not(golden: Golden) -> None:
    ((_, rows),) = open_engine(golden("voyage_nano")).run([_batch([[5, 6], [], [7, 8, 9], []])])
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("name", "task", "shape"),
    [
        ("bert_mean", "embed", (3, 32)),
        ("bge_reranker_xlmr", "rerank", (3,)),
        ("go_emotions_roberta", "classify", (3, 7)),
        ("ner_roberta", "tag", (6, 9)),
    ],
)
def test_rows_have_the_shape_of_their_task(
    name: str, task: str, shape: tuple[int, ...], golden: Golden
) -> None:
    engine = open_engine(golden(name))
    ((_, rows),) = engine.run([_batch([[5, 6, 7], [8, 9], [10]])])
    assert rows.shape == shape
    assert engine.output_size == (1 if task == "rerank" else shape[-1])


def test_it_stops_between_batches_when_asked(golden: Golden, sentences: Make) -> None:
    engine = open_engine(golden("bert_mean"))
    answers = iter([False, True])
    taken = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            taken.append(number)
            yield _batch(sentences(2, 9))

    results = engine.run(batches(), lambda: next(answers))
    next(results)
    with pytest.raises(Interrupted):
        next(results)
    assert taken == [0, 1]


def test_a_sequence_beyond_the_position_table_is_refused(golden: Golden) -> None:
    engine = open_engine(golden("roberta_mean"))
    list(engine.run([_batch([[7] * 256])]))  # 258 rows, two of them RoBERTa's offset
    with pytest.raises(UsageError, match=r"257 tokens.*holds 256"):
        list(engine.run([_batch([[7] * 257])]))


def test_a_token_outside_the_vocabulary_blames_the_tokenizer(golden: Golden) -> None:
    with pytest.raises(EncodeError, match="token 400 is outside"):
        list(open_engine(golden("bert_mean")).run([_batch([[5, 400]])]))


@pytest.mark.parametrize(
    ("name", "task", "kind"),
    [
        ("bert_mean", "rerank", "an embedding model"),
        ("bert_mean", "tag", "an embedding model"),
        ("bge_reranker_xlmr", "embed", "a reranker"),
        ("langid_xlmr", "rerank", "a sequence classifier with several classes"),
        ("ner_bert", "classify", "a token classifier"),
    ],
)
def test_a_model_that_cannot_do_a_task_says_what_it_can(
    name: str, task: str, kind: str, golden: Golden
) -> None:
    with pytest.raises(CheckpointError, match=f"cannot {task}: it is {kind}") as caught:
        task_of(fresh_card(golden(name)), task)
    assert "--task" in caught.value.hint


def test_a_task_that_does_not_exist_is_refused(golden: Golden) -> None:
    with pytest.raises(UsageError, match="--task 'dance' is not one of"):
        task_of(fresh_card(golden("bert_mean")), "dance")


def test_options_of_embed_are_refused_elsewhere(golden: Golden) -> None:
    with pytest.raises(UsageError, match="belong to embedding models"):
        open_engine(golden("langid_xlmr"), normalize=True)


def test_precision_is_float32_on_a_cpu_unless_asked(golden: Golden, sentences: Make) -> None:
    assert open_engine(golden("bert_mean")).precision == "float32"
    batch = _batch(sentences(4, 40))
    ((_, exact),) = open_engine(golden("bert_mean")).run([batch])
    ((_, half),) = open_engine(golden("bert_mean"), precision="bfloat16").run([batch])
    assert half.dtype == np.float32
    assert ((exact * half).sum(axis=1) > 0.999).all()


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("bert_mean", "float16"),
        ("modernbert_cls", "float16"),
        ("embeddinggemma", "bfloat16"),
        ("gte_qwen2", "bfloat16"),
        ("nemotron_llama", "bfloat16"),
    ],
)
def test_each_family_has_the_sixteen_bits_that_hold_it(
    name: str, half: str, golden: Golden
) -> None:
    encoder = recognised(golden(name))
    assert encoder is not None
    assert choose_precision("auto", encoder, "cuda:0").value == half


def test_gemma_is_never_computed_in_float16(golden: Golden) -> None:
    with pytest.raises(UsageError, match="overflows in float16"):
        open_engine(golden("embeddinggemma"), precision="float16")


def test_a_precision_that_does_not_exist_is_refused(golden: Golden) -> None:
    with pytest.raises(UsageError, match="no precision 'fp8'"):
        open_engine(golden("bert_mean"), precision="fp8")


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_here_is_refused(device: str, golden: Golden) -> None:
    with pytest.raises(UsageError, match=f"no device '{device}'"):
        open_engine(golden("bert_mean"), device=device)


def test_weights_cut_short_are_damaged_not_random(tmp_path: Path, cache: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(GOLDENS / "bert_mean", copy)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="the file has 193,180"):
        open_engine(resolve(str(copy), cache_dir=cache))


def test_token_types_of_a_pair_change_the_result(golden: Golden, compute: Compute) -> None:
    engine = open_engine(golden("bert_mean"))
    plain = compute(engine, [[5, 6, 7, 8]])
    typed = compute(engine, [[5, 6, 7, 8]], [[0, 0, 1, 1]])
    assert np.abs(plain[0] - typed[0]).max() > 1e-3
    np.testing.assert_array_equal(compute(engine, [[5, 6, 7, 8]], [[0, 0, 0, 0]]), plain)


def _classifier(golden: Path, target: Path, cache: Path) -> Checkpoint:
    """A BERT with a sequence classifier, which no golden has."""
    import transformers

    torch.manual_seed(2)
    config = transformers.AutoConfig.from_pretrained(golden, num_labels=3)
    config.architectures = ["BertForSequenceClassification"]
    transformers.BertForSequenceClassification(config).save_pretrained(target)
    return resolve(str(target), cache_dir=cache)


def test_a_sequence_classifier_of_bert_equals_transformers(
    tmp_path: Path, cache: Path, compute: Compute
) -> None:
    import transformers

    checkpoint = _classifier(GOLDENS / "bert_mean", tmp_path / "saved", cache)
    model = transformers.BertForSequenceClassification.from_pretrained(checkpoint.path).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.numpy()
    got = compute(open_engine(checkpoint), [[5, 6, 7, 8]])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_weights_of_sixteen_bits_are_computed_in_float32(
    tmp_path: Path, cache: Path, compute: Compute
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(GOLDENS / "gte_qwen2", copy)
    tensors = {k: v.to(torch.bfloat16) for k, v in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors")
    checkpoint = resolve(str(copy), cache_dir=cache)
    engine = open_engine(checkpoint)
    assert engine.precision == "float32"
    assert fresh_card(checkpoint).dtype == "BF16"
    assert np.isfinite(compute(engine, [[5, 6, 7]])).all()


def test_known_families_never_import_transformers() -> None:
    code = (
        "import sys; from pipeline.encoder.card import open_card;"
        "from pipeline.encoder.engine import Engine;"
        "from pipeline.encoder.tokenizer import load_tokenizer;"
        f"c = open_card({str(GOLDENS / 'bert_mean')!r}); Engine(c); load_tokenizer(c);"
        "print('transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(("few", "expected"), [(10**9, 1), (1, 2)])
def test_a_small_model_is_loaded_by_one_thread_and_a_large_one_by_all(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, few: int, expected: int
) -> None:
    monkeypatch.setattr("pipeline.encoder.device.devices._FEW_PARAMETERS", few)
    threads = torch.get_num_threads()
    seen = []
    convert = load_module.load_weights

    def watched(*given: Any) -> Any:
        seen.append(torch.get_num_threads())
        return convert(*given)

    monkeypatch.setattr(load_module, "load_weights", watched)
    torch.set_num_threads(2)
    try:
        open_engine(golden("bert_mean"))
        assert (seen[-1], torch.get_num_threads()) == (expected, 2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["bert_mean", "mpnet_mean", "modernbert_cls", "jina_en"])
def test_batches_computed_at_once_are_those_computed_alone_and_in_order(
    name: str, golden: Golden, sentences: Make
) -> None:
    batches = [_batch(sentences(3 + i % 5, 10 + 3 * i)) for i in range(20)]
    alone = [rows for _, rows in open_engine(golden(name)).run(batches)]
    torch.set_num_threads(4)
    try:
        engine = open_engine(golden(name))
        threads: list[int] = []
        later = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
        later.start()
        later.join()
        threads.append(torch.get_num_threads())
        found = list(engine.run(batches))
        count = lambda: torch.tensor(torch.get_num_threads())  # noqa: E731
        own = [engine.lane.launch(count)().item() for _ in range(8)]
    finally:
        torch.set_num_threads(1)
    assert threads == [4, 4]  # the engine's own alone have fewer
    assert own == [1] * 8  # after operators, too: at the first of them torch makes up its mind
    assert [b is batch for b, (batch, _) in zip(batches, found, strict=True)] == [True] * 20
    for rows, (_, together) in zip(alone, found, strict=True):
        np.testing.assert_array_equal(together, rows)


def test_an_error_in_one_of_several_batches_at_once_is_raised(golden: Golden) -> None:
    torch.set_num_threads(2)
    try:
        engine = open_engine(golden("bert_mean"))
    finally:
        torch.set_num_threads(1)
    batches = [_batch([[5, 6, 7]]) for _ in range(4)]
    encode = engine.forward
    engine.forward = SmallMemory(encode, 2)
    with pytest.raises(EncodeError, match="does not fit"):
        list(engine.run(batches))
    engine.forward = encode
    assert len(list(engine.run(batches))) == 4  # and it goes on serving


@pytest.mark.parametrize("name", ["bert_mean", "e5_xlmr", "qwen3_causal_last", "modernbert_cls"])
def test_int8_stays_near_float32_and_says_how_near(
    name: str, golden: Golden, sentences: Make
) -> None:
    batch = _batch(sentences(12, 40))
    ((_, exact),) = open_engine(golden(name), normalize=True).run([batch])
    engine = open_engine(golden(name), precision="int8", normalize=True)
    ((_, rows),) = engine.run([batch])
    assert 0.99 <= (exact * rows).sum(1).min() < 0.999_999_9
    assert engine.precision == "int8"
    assert "one scale per token" in engine.quantization
    cosine = float(engine.quantization.partition("least cosine to float32 ")[2].split()[0])
    assert 0.9 < cosine < 1


def test_auto_is_never_int8(golden: Golden) -> None:
    engine = open_engine(golden("bert_mean"), precision="auto")
    assert (engine.precision, engine.quantization) == ("float32", "")


def test_int8_on_a_gpu_is_refused(golden: Golden) -> None:
    encoder = open_engine(golden("bert_mean")).config
    with pytest.raises(UsageError, match="int8 is for a CPU"):
        choose_precision("int8", encoder, "cuda:0")
