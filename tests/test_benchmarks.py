"""What `scripts/bench encode`, `models`, `profile` and `host` print of tiny models."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import GOLDENS, ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import contest, encode, host, models, ours, peers, profile, shapes


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No products of seconds, and one thread: several wait for one another on a busy machine."""
    for module in (contest, profile):
        monkeypatch.setattr(module, "matrix_rate", lambda device, precision: 1e9)
    monkeypatch.setattr(contest, "_REST_S", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def printed(module: object, *words: str) -> str:
    parser = argparse.ArgumentParser()
    module.arguments(parser)  # type: ignore[attr-defined]
    return str(module.run(parser.parse_args(words), "scripts/bench …"))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that a golden reads whole, but the last."""
    file = tmp_path_factory.mktemp("texts") / "texts.parquet"
    short = [f"Word {i} of the list{' again' * (i % 5)}" for i in range(12)]
    pq.write_table(pa.table({"text": [*short, "a long text" * 80]}), file)
    return file


def of_golden(name: str, texts: Path, *words: str) -> str:
    sizes = ("--lengths", "texts", "--max-length", "120", "--tokens", "600", "--repeats", "1")
    return printed(
        encode,
        "--model",
        str(GOLDENS / name),
        "--texts",
        str(texts),
        *sizes,
        "--peers",
        "defaults",
        *words,
    )


def rows(table: str) -> list[list[str]]:
    """The cells of each engine's line, from its name on."""
    lines = [line for line in table.splitlines() if re.match(r"\| .*(bei-jobs|defaults)", line)]
    return [[cell.strip() for cell in line.split("|")[3:-1]] for line in lines]


def test_the_first_line_is_what_a_user_gets_by_default_and_names_its_precision(texts: Path) -> None:
    found = rows(of_golden("bert_mean", texts, "--precision", "auto,float32,bfloat16"))

    assert [row[0] for row in found] == [
        "bei-jobs, defaults (float32)",  # tiny: 16 bits gain nothing
        "sentence-transformers, defaults",
        "bei-jobs bfloat16",
    ]


@pytest.mark.parametrize(
    ("model", "agrees", "words"),
    [
        ("bert_mean", "1.00000", ()),
        ("bge_reranker_xlmr", "± 0.00000", ()),
        ("go_emotions_roberta", "± 0.00000", ()),
        ("ner_bert", "± 0.00000", ()),
        ("../sparse_goldens/splade_bert", "1.00000", ("--max-length", "40")),
        ("../multi_goldens/st_fixed", "1.00000", ("--max-length", "40")),
        ("../multi_goldens/st_fixed", "± 0.00000", ("--task", "rerank", "--max-length", "40")),
    ],
)
def test_every_task_is_held_against_the_library_of_its_authors(
    model: str, agrees: str, words: tuple[str, ...], texts: Path
) -> None:
    table = of_golden(model, texts, "--precision", "float32", *words)

    assert [row[-1] for row in rows(table)] == [agrees, agrees], table
    assert "default against default" not in table  # float32 was asked for


def test_values_that_are_not_the_librarys_show(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ours.Ours.values
    monkeypatch.setattr(ours.Ours, "values", lambda self, inputs: found(self, inputs) ** 2)

    (mine, theirs) = rows(of_golden("bert_mean", texts, "--precision", "float32"))

    assert mine[-1] < "0.999"
    assert theirs[-1] == "1.00000"


def test_tokens_that_only_fill_a_shape_are_padding(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours.Engine, "take_padding", lambda self: 10**6)

    (mine, _) = rows(of_golden("bert_mean", texts, "--precision", "float32"))

    assert mine[5] == "100 %"


def test_a_peer_that_is_not_installed_or_cannot_load_a_model_is_named_below_the_table(
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> peers.Runner:
        raise ValueError("no such architecture\nand more")

    others = [
        peers.Peer("far, defaults", broken, ("no_such_module",)),
        peers.Peer("near, defaults", broken),
    ]
    monkeypatch.setattr(peers, "peers", lambda case: others)

    table = of_golden("bert_mean", texts)

    assert "far, defaults (no_such_module is not installed)" in table
    assert "near, defaults (no such architecture)" in table
    assert "float32 is that of bei-jobs float32" in table


def tiny(monkeypatch: pytest.MonkeyPatch, *names: str) -> str:
    """Make shapes tiny; returns their names as an option."""
    sizes = {"num_hidden_layers": 2, "vocab_size": 30_000}
    for name in names:
        shape = shapes.SHAPES[name]
        small = shapes.Shape(**{**vars(shape), "config": {**shape.config, **sizes}})
        monkeypatch.setitem(shapes.SHAPES, name, small)
    return ",".join(names)


def test_one_table_shows_models_of_several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tiny(monkeypatch, "MiniLM-L6", "MiniLM-L6-reranker")

    table = printed(
        models, "--shapes", names, "--tokens", "192", "--repeats", "1", "--peers", "none"
    )

    assert re.search(r"\| MiniLM-L6 +\| +embed \| bei-jobs, defaults", table), table
    assert re.search(r"\| MiniLM-L6-reranker +\| +rerank \| bei-jobs, defaults", table), table


def test_a_model_with_a_vector_for_each_token_has_a_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = tiny(monkeypatch, "colbert-MiniLM-L6")

    table = printed(profile, "--shapes", names, "--precision", "float32")

    assert "| colbert-MiniLM-L6 |" in table


def test_the_profile_gives_one_share_of_the_matrix_rate_for_the_whole_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = tiny(monkeypatch, "MiniLM-L6")

    table = printed(profile, "--shapes", names, "--precision", "float32,int8")

    head, _, *lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in head.split("|")][1:6] == [
        *("model", "precision", "tokens/s", "of matrix rate", "products, of matrix rate"),
    ]
    for line in lines:
        _, _, precision, tokens, share, *_ = (cell.strip() for cell in line.split("|"))
        # MiniLM's two layers: 7.08 MFLOP a token in products, and 1,536 a pair of 96 in attention.
        flop = 2 * 2 * 1_769_472 + 2 * 4 * 384 * 96
        speed = float(tokens.replace(",", "")) * flop / 1e9
        assert float(share.removesuffix(" %")) == pytest.approx(100 * speed, rel=0.02), precision


def test_the_host_alone_is_counted_by_stage(texts: Path) -> None:
    table = printed(
        host,
        *("--texts", str(texts), "--rows", "40", "--repeats", "1", "--cores", "1"),
        *("--vectors", "64:float32", "--tokenizer", str(GOLDENS / "bert_mean")),
    )

    for stage in ("row keys, duplicates", "sort and pack", "gather batches", "create files"):
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {stage} ")]
        assert float(line.split("|")[4]) > 0, table


def test_every_shape_is_a_checkpoint_that_its_task_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.encoder.card import open_card
    from pipeline.tasks import task_of

    tiny(monkeypatch, *models.MODELS)
    texts = ["some words to learn a tokenizer from", "a few more of them"]

    for name in models.MODELS:
        monkeypatch.setitem(shapes.SHAPES[name].config, "vocab_size", 64)
        path = shapes.write_checkpoint(tmp_path, name, texts, "cpu")
        assert task_of(open_card(str(path))).name == shapes.SHAPES[name].task
