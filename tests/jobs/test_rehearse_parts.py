"""What `bei-jobs rehearse` reckons with: search, overlap, metrics, intervals and the sample."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from corpora import GOLDENS, TINY, write_parquet

from jobs.rehearse.bootstrap import bootstrapped
from jobs.rehearse.judgements import read_judgements
from jobs.rehearse.overlap import most_changed, overlaps, shared
from jobs.rehearse.queries import query_request
from jobs.rehearse.retrieval import compare, measured
from jobs.rehearse.sample import draw
from jobs.rehearse.search import Ranking, neighbours, rank, top
from jobs.rehearse.sides import Side, parse_sides
from jobs.rehearse.vectors import ROW, Sparse, Vectors, read_vectors, vector_column
from pipeline.encoder.card import open_card
from pipeline.planning.draft import draft
from pipeline.request import Request
from pipeline.tasks import find_task


def quiet(rows: int) -> None:
    pass


def ranking(*rows: list[int]) -> Ranking:
    return Ranking(np.array(rows), np.zeros((len(rows), len(rows[0])), dtype=np.float32))


def by_hand(scores: np.ndarray, k: int) -> list[list[int]]:
    """The k largest of each row, equal ones in their order."""
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_largest_scores_and_equal_ones_in_their_order(k: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (30, 40)).astype(np.float32)  # many are equal

    assert top(scores, k).tolist() == by_hand(scores, k)


@pytest.mark.parametrize("block", [1 << 24, 90])
def test_neighbours_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.rehearse.search._SCORES", block)
    vectors = np.random.default_rng(1).standard_normal((41, 8)).astype(np.float32)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)

    found = neighbours(Vectors(vectors, None, None), 5, quiet)

    assert found.rows.tolist() == by_hand(scores, 5)
    assert found.scores[3, 0] == pytest.approx(scores[3].max(), rel=1e-5)


@pytest.mark.parametrize("block", [1 << 24, 30])
def test_two_texts_in_chunks_are_as_alike_as_their_nearest_chunks(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.rehearse.search._SCORES", block)
    rng = np.random.default_rng(2)
    chunks = [rng.standard_normal((n, 4)).astype(np.float32) for n in (1, 3, 2, 1, 4, 2)]
    starts = np.array([0, 1, 4, 6, 7, 11])
    scores = np.array([[(a @ b.T).max() for b in chunks] for a in chunks])
    documents = Vectors(np.concatenate(chunks), None, starts)

    asked = rank(documents, documents, 4, quiet)
    assert asked.rows.tolist() == by_hand(scores, 4)

    np.fill_diagonal(scores, -np.inf)
    assert neighbours(documents, 4, quiet).rows.tolist() == by_hand(scores, 4)


def test_sparse_vectors_are_compared_by_their_inner_product() -> None:
    rng = np.random.default_rng(3)
    dense = rng.random((12, 9)).astype(np.float32) * (rng.random((12, 9)) < 0.4)
    dense[4] = 0
    terms = [np.flatnonzero(row) for row in dense]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in terms])])
    sparse = Sparse(offsets, np.concatenate(terms).astype(np.int32), dense[dense > 0])
    vectors = Vectors(None, sparse, None)

    assert rank(vectors, vectors, 12, quiet).rows.tolist() == by_hand(dense @ dense.T, 12)


def test_bits_are_compared_by_the_number_that_differ() -> None:
    bits = np.random.default_rng(4).integers(0, 256, (9, 2), dtype=np.uint8)
    column = pa.FixedSizeListArray.from_arrays(pa.array(bits.reshape(-1)), 2)
    table = pa.table({ROW: range(9), "embedding": column})
    read = vector_column([table.schema.field("embedding")], dot=False, side="--to")
    numbers = [int.from_bytes(row) for row in bits.tolist()]
    distances = np.array([[(a ^ b).bit_count() for b in numbers] for a in numbers])

    vectors = read_vectors(table, read, np.arange(9))

    assert rank(vectors, vectors, 9, quiet).rows.tolist() == by_hand(-distances, 9)
    assert (read.rule, read.width, read.bytes) == ("hamming", 16, 2)


def test_int8_is_compared_with_its_scales_and_rows_without_a_vector_are_left_out() -> None:
    values = pa.array([[2, 0], None, [1, 0], [0, 3]], pa.list_(pa.int8(), 2))
    table = pa.table({ROW: range(4), "embedding": values, "embedding_scale": [1.0, None, 4.0, 1.0]})
    column = vector_column([table.schema.field("embedding")], dot=True, side="--to")

    vectors = read_vectors(table, column, np.array([0, 2, 3]))

    assert vectors.dense is not None
    assert vectors.dense.tolist() == [[2, 0], [4, 0], [0, 3]]


def test_overlap_by_hand() -> None:
    before, after = ranking([1, 2, 3, 4], [0, 2, 3, 4]), ranking([2, 1, 5, 6], [9, 8, 7, 6])

    assert shared(before.rows, after.rows, 2).tolist() == [2, 0]
    one, four = overlaps(before, after, [1, 4])
    assert (one.mean, one.counts) == (0.0, (2, 0))
    assert (four.mean, four.unchanged, four.counts) == (0.25, 0.0, (1, 0, 1, 0, 0))
    assert most_changed(before, after, [1, 4], 2).tolist() == [1, 0]


def test_metrics_by_hand() -> None:
    """Two relevant documents first and third; none found; and equal scores keep their ranks."""
    relevance = {"q1": {"0": 2, "2": 1}, "q2": {"9": 1}}
    found = measured(["q1", "q2"], ["0", "1", "2"], relevance, ranking([0, 1, 2], [2, 1, 0]))

    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert found["nDCG@10"].tolist() == pytest.approx([(2 + 1 / np.log2(4)) / ideal, 0])
    assert found["recall@100"].tolist() == [1, 0]
    assert found["MRR@100"].tolist() == [1, 0]


def test_a_difference_is_that_of_the_same_queries() -> None:
    relevance = {f"q{n}": {"0": 1} for n in range(30)}
    queries, documents = list(relevance), ["0", "1"]
    better, worse = ranking(*[[0, 1]] * 30), ranking(*[[1, 0]] * 30)

    mrr = compare(queries, documents, relevance, worse, better)[2]

    assert (mrr.first.mean, mrr.second.mean, mrr.difference.low) == (0.5, 1.0, 0.5)
    assert (mrr.better, mrr.worse) == (30, 0)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    intervals = [bootstrapped(rng.random(60)) for _ in range(60)]

    assert 52 <= sum(one.low < 0.5 < one.high for one in intervals) <= 60
    assert bootstrapped(np.arange(9.0)) == bootstrapped(np.arange(9.0))


def beir(name: str, data: pl.DataFrame) -> str:
    file = io.BytesIO()
    data.write_parquet(file)
    fsspec.filesystem("memory").pipe(f"/beir/{name}", file.getvalue())
    return f"memory://beir/{name}"


def test_judgements_in_parquet_in_trec_s_form_and_in_beir_s_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1\tone two\n2\tthree\n3\tnever judged\n")
    (tmp_path / "r.txt").write_text("1 0 a 1\n1 Q0 b 2\n\n2\t0\tc\t1\n2 0 d 0\n")
    (tmp_path / "r.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t2\n2\tc\t1\n2\td\t0\n"
    )
    (tmp_path / "q.jsonl").write_text(
        '{"_id": "1", "text": "one two", "metadata": {}}\n{"_id": "2", "text": "three"}\n'
        '{"_id": "3", "text": "never judged"}\n'
    )
    texts = ["one two", "three", "never judged"]
    queries = beir("q.parquet", pl.DataFrame({"qid": [1, 2, 3], "query": texts}))
    relevance = {"query_id": [1, 1, 2, 2], "document_id": list("abcd"), "relevance": [1, 2, 1, 0]}
    qrels = beir("r.parquet", pl.DataFrame(relevance))

    trec = read_judgements(str(tmp_path / "q.tsv"), str(tmp_path / "r.txt"))

    assert trec.relevance == {"1": {"a": 1, "b": 2}, "2": {"c": 1}}
    assert (trec.texts, trec.left_out) == ({"1": "one two", "2": "three"}, 1)
    assert trec.documents == {"a", "b", "c"}
    assert read_judgements(queries, qrels) == trec
    assert read_judgements(str(tmp_path / "q.jsonl"), str(tmp_path / "r.tsv")) == trec


def test_a_query_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_bytes("1\tone\u2028two\x0cthree\r\n2\tfour\r\n".encode())
    (tmp_path / "r.txt").write_bytes(b"1 0 a 1\r\n2 0 b 1\r\n")

    found = read_judgements(str(tmp_path / "q.tsv"), str(tmp_path / "r.txt"))

    assert found.texts == {"1": "one\u2028two\x0cthree", "2": "four"}


def test_a_side_is_spelled_in_one_way_or_the_other() -> None:
    start, end = parse_sides("org/model revision=1 prompt='a: ' query-prompt='q: '", "dimensions=8")
    assert end.words == ["--model=org/model", "--revision=1", "--prompt=a: ", "--dimensions=8"]
    assert (start.query, end.query) == ({"query-prompt": "q: "},) * 2

    _, other = parse_sides("org/model revision=1", "model=org/other normalize=no")
    assert other.words == ["--model=org/other", "--no-normalize"]
    assert other.short == "other normalize=no"

    of_an_output = {"model": "org/model", "revision": "1", "prompt": "", "max-length": "9"}
    another = Side("--to", "vectors", {"model": "org/other"}, {}, of_an_output)
    assert another.words == ["--model=org/other", "--prompt=", "--max-length=9"]


def test_queries_are_read_with_the_prompt_for_queries(tmp_path: Path) -> None:
    def prompt(model: str, words: str) -> str:
        side, _ = parse_sides(f"{GOLDENS / model} {words}", "dimensions=8")
        request = side.request(("corpus.parquet",), ())
        card = open_card(request.model, None, cache_dir=tmp_path)
        asked = query_request(side, request, card)
        return find_task("embed").prompt(asked, card)

    assert prompt("arctic_gte", "prompt='passage: '") == "query: "
    assert prompt("bert_mean", "prompt='passage: ' query-prompt='ask: '") == "ask: "
    assert prompt("bert_mean", "prompt='passage: '") == ""
    assert prompt("e5_xlmr", "query-prompt-name=query").startswith("Instruct: ")


def test_a_sample_is_the_same_each_time_and_holds_what_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = str(write_parquet(tmp_path / "c.parquet", 300))
    request = Request(inputs=(corpus,), model=TINY, output=str(tmp_path / "out"), rows_per_shard=20)
    drafted = draft(request, tmp_path / "cache")
    judged = {"0-7", "0-299"}

    sample = draw(drafted, 25, judged, quiet)

    assert draw(drafted, 25, judged, quiet) == sample
    assert (len(sample), sample.judged, sample.corpus_rows) == (25, 2, 300)
    places = [int(one.partition("-")[2]) for one in sample.ids]
    assert places == sorted(places)
    assert judged <= set(sample.ids)
    assert len({place // 20 for place in places}) > 8  # of 15 shards
    assert len(draw(drafted, 999, (), quiet)) == 300

    monkeypatch.setattr("jobs.rehearse.sample.MAX_SHARDS", 3)
    few = [int(one.partition("-")[2]) // 20 for one in draw(drafted, 25, (), quiet).ids]
    assert len(set(few)) == 3
