"""Late chunking: each chunk is the mean of its tokens' states in the whole text.

As published (Günther et al., 2024), and as its authors' evaluation does it: the first chunk has the
special tokens before the text too, and the last chunk those after it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.packing import gather, pack
from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens

TEXT = " ".join(f"Sentence number {i} of a long text is here." for i in range(40))
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def computed(engine: Engine, tokens: Tokens, budget: int = 300) -> Vectors:
    """An output for each chunk, in their order."""
    spans = tokens.spans
    assert spans is not None
    outputs = np.zeros((len(spans.counts), engine.output_size), dtype=np.float32)
    batches = (
        gather(tokens.ids, tokens.offsets, some, tokens.type_ids, spans)
        for some in pack(tokens.lengths, budget)
    )
    for batch, values in engine.run(batches):
        assert batch.spans is not None
        for at, sequence in enumerate(batch.sequences):
            first, stop = batch.spans.bounds[at : at + 2]
            outputs[spans.bounds[sequence] : spans.bounds[sequence + 1]] = values[first:stop]
    return outputs


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def with_mean_pooling(name: str, folder: Path, cache: Path) -> Checkpoint:
    shutil.copytree(GOLDENS / name, folder / name)
    path = folder / name / "1_Pooling/config.json"
    config = json.loads(path.read_text())
    config |= {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    path.write_text(json.dumps(config))
    return resolve(str(folder / name), cache_dir=cache)


@pytest.mark.parametrize("window", [1024, 200])
def test_chunks_are_means_of_the_states_that_transformers_computes(
    window: int, tmp_path: Path, cache: Path
) -> None:
    from transformers import AutoModel

    checkpoint = with_mean_pooling("modernbert_cls", tmp_path, cache)
    engine = open_engine(checkpoint, normalize=True, late_chunks=True)
    chunker = ChunkTokenizer(load_tokenizer(engine.card), 60, 8, window=window)
    tokens = chunker.encode([TEXT[:700], "A short one.", TEXT[200:900]])
    spans, chunks = tokens.spans, tokens.chunks
    assert spans is not None
    assert chunks is not None
    assert (len(tokens.lengths) == 3) == (window == 1024)
    got = computed(engine, tokens)
    model = AutoModel.from_pretrained(
        checkpoint.path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    expected = []
    for sequence in range(len(tokens.lengths)):
        start, stop = tokens.offsets[sequence : sequence + 2]
        ids = torch.from_numpy(tokens.ids[start:stop].astype(np.int64))[None]
        with torch.inference_mode():
            states = model(input_ids=ids).last_hidden_state[0].numpy()
        for span in range(spans.bounds[sequence], spans.bounds[sequence + 1]):
            first = spans.firsts[span] - start
            expected.append(states[first : first + spans.counts[span]].mean(axis=0))
    assert len(expected) == len(chunks.row_of) > 15
    np.testing.assert_allclose(got, unit(np.array(expected)), rtol=0, atol=1e-5)


def test_the_spans_of_a_text_are_its_chunks_with_the_special_tokens_at_its_ends(
    golden: Callable[[str], Checkpoint],
) -> None:
    engine = open_engine(golden("jina_en"), late_chunks=True)
    tokenizer = load_tokenizer(engine.card)
    tokens = ChunkTokenizer(tokenizer, 60, 0, window=8192).encode([TEXT])
    spans = tokens.spans
    assert spans is not None
    # Without overlap, every token of the sequence is in one chunk.
    ends = spans.firsts + spans.counts
    assert spans.firsts.tolist() == [0, *ends[:-1]]
    assert ends[-1] == len(tokens.ids)
    whole = unit(np.average(computed_states(engine, tokens), axis=0, weights=None)[None])
    parts = computed(open_engine(golden("jina_en"), normalize=False, late_chunks=True), tokens)
    weighted = np.average(parts, axis=0, weights=spans.counts)
    np.testing.assert_allclose(unit(weighted[None]), whole, rtol=0, atol=1e-5)


def computed_states(engine: Engine, tokens: Tokens) -> Vectors:
    from pipeline.encoder.model.packed_batch import pack_batch

    batch = gather(tokens.ids, tokens.offsets, np.arange(len(tokens.lengths)), tokens.type_ids)
    with torch.inference_mode():
        return engine.forward(pack_batch(batch, torch.device("cpu"))).float().numpy()


@pytest.mark.parametrize("name", ["jina_en", "nomic_old_config", "bert_mean", "e5_xlmr"])
@pytest.mark.parametrize("prompt", ["", "search_document: "])
def test_a_text_of_one_chunk_has_the_vector_that_it_has_without_chunks(
    name: str, prompt: str, golden: Callable[[str], Checkpoint]
) -> None:
    texts = ["It rained.", "a", "Nothing else was said that day, as far as we know."]
    engine = open_engine(golden(name), late_chunks=True)
    chunker = ChunkTokenizer(load_tokenizer(engine.card), 64, 0, window=64, prompt=prompt)
    late = computed(engine, chunker.encode(texts))
    plain = open_engine(golden(name))
    tokens = TextTokenizer(load_tokenizer(plain.card), 64, "right").encode(texts, prompt)
    batch = gather(tokens.ids, tokens.offsets, np.arange(3), tokens.type_ids)
    ((_, outputs),) = plain.run([batch])
    np.testing.assert_allclose(late, outputs, rtol=0, atol=1e-6)


def test_a_prompt_that_the_model_leaves_out_of_pooling_is_in_no_chunk(
    golden: Callable[[str], Checkpoint],
) -> None:
    engine = open_engine(golden("bert_mean"), normalize=False, late_chunks=True)
    tokenizer, prompt = load_tokenizer(engine.card), "query: "
    skipped = prompt_tokens(tokenizer, prompt)
    chunker = ChunkTokenizer(tokenizer, 60, 0, window=120, prompt=prompt, skipped=skipped)
    tokens = chunker.encode([TEXT[:300]])
    assert tokens.spans is not None
    assert tokens.spans.firsts[0] == skipped
    states = computed_states(engine, tokens)
    first = states[skipped : skipped + tokens.spans.counts[0]].mean(axis=0)
    np.testing.assert_allclose(computed(engine, tokens)[0], first, rtol=0, atol=1e-5)


def test_values_do_not_depend_on_what_is_computed_with_them(
    golden: Callable[[str], Checkpoint],
) -> None:
    engine = open_engine(golden("jina_en"), late_chunks=True)
    tokens = ChunkTokenizer(load_tokenizer(engine.card), 40, 0, window=120).encode([TEXT, TEXT[9:]])
    together = computed(engine, tokens, budget=10_000)
    np.testing.assert_allclose(computed(engine, tokens, budget=1), together, rtol=0, atol=1e-6)
    engine.halving.token_limit = 150  # as after a batch that was too large for the device's memory
    np.testing.assert_allclose(computed(engine, tokens, budget=10_000), together, rtol=0, atol=1e-6)
