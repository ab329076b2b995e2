"""Real weights, real texts: the same vectors as sentence-transformers in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main

CORPUS = Path(__file__).parents[2] / "examples" / "corpus.parquet"
ROWS = 600
ODD = [
    "",
    " ",
    "a",
    "Ünïcödé — 東京 is 東京; naïve café",
    "👩‍👩‍👧‍👦 family, e\u0301 combining, \u202eright-to-left\u202c, \u00ad soft hyphen",
    "tab\tnew\nline\r\n   spaces  ",
    "[CLS] not a token [SEP] [MASK]",
    "word " * 3000,
    "漢字" * 2000,
    "x" * 5000,
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Odd ones first, then every long and every non-ASCII text, then the rest up to ROWS."""
    corpus = pq.read_table(CORPUS)["text"].to_pylist()
    special = [t for t in corpus if len(t) > 1200 or not t.isascii()]
    plain = [t for t in corpus if t not in set(special)]
    assert len(special) < ROWS - 100
    return [*ODD, *special, *plain][:ROWS]


@pytest.mark.timeout(600)
def test_texts_equal_the_reference(
    texts: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")  # every core, as the reference
    from sentence_transformers import SentenceTransformer

    source, output = tmp_path / "in.parquet", tmp_path / "out"
    pq.write_table(pa.table({"text": texts}), source)
    arguments = ["submit", str(source), "--output", str(output), "--json", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--precision", "float32"])
    assert ended.value.code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["truncated"] > 20

    with pytest.raises(SystemExit):
        main(["files", str(output)])
    parts = capsys.readouterr().out.split()
    table = pa.concat_tables(pa.ipc.open_file(part).read_all() for part in parts)
    ours = np.stack(table["embedding"].to_numpy())

    metadata = pa.ipc.open_file(parts[0]).schema.metadata
    assert metadata[b"bei.sha256"].decode() == summary["model"]["sha256"]
    model = SentenceTransformer(_checkpoint(), device="cpu")
    reference = model.encode(texts)

    cosines = (ours * reference).sum(axis=1)
    assert cosines.min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-5


def _checkpoint() -> str:
    from pipeline.encoder.checkpoint.checkpoint import resolve
    from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL

    return str(resolve(DEFAULT_MODEL).path)
