"""What a model is, is read once: every open of a checkpoint's files by one command, counted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from corpora import GOLDENS, ROOT, write_parquet

# Python tells an audit hook of every file that it opens. Libraries in Rust (safetensors,
# tokenizers) open files unseen: they read weights and vocabularies, which is what they are for.
_COUNTING = """
import json, sys
opened = []
folder = sys.argv.pop(1)
def hook(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith(folder):
        opened.append(args[0][len(folder) + 1:])
sys.addaudithook(hook)
from jobs.cli import main
try:
    main()
finally:
    print(json.dumps(opened), file=sys.stderr)
"""


def opens(model: Path, *words: object) -> Counter[str]:
    """How often each file of a model was opened by `bei-jobs WORDS…`."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNTING, str(model), *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Counter(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    name: str = getattr(request, "param", "bert_mean")
    return Path(shutil.copytree(GOLDENS / name, tmp_path / "model"))


@pytest.mark.parametrize("model", ["bert_mean", "embeddinggemma", "ner_bert"], indirect=True)
def test_one_submit_reads_each_file_of_its_model_once(model: Path, tmp_path: Path) -> None:
    task = "embed" if (model / "modules.json").exists() else "tag"
    corpus = write_parquet(tmp_path / "corpus.parquet", 50)
    words = ("submit", corpus, "--output", tmp_path / "out", "--model", model, "--task", task)

    first = opens(model, *words, "--device", "cpu", "--quiet")

    parsed = {name: count for name, count in first.items() if name.endswith(".json")}
    parsed.pop("tokenizer.json")  # hashed here, parsed by the tokenizers library
    assert "config.json" in parsed
    assert "tokenizer_config.json" in parsed
    assert set(parsed.values()) == {1}, parsed
    # Once for its hash, which the cache remembers, and once for its header.
    assert {n: c for n, c in first.items() if n.endswith(".safetensors") and c > 2} == {}

    again = opens(model, *words, "--device", "cpu", "--quiet", "--limit", 60, "--replace")

    assert again["model.safetensors"] == 1  # its header
    assert again["config.json"] == 1


def test_models_reads_each_file_once(model: Path) -> None:
    found = opens(model, "models", model, "--json")

    assert found["modules.json"] == found["config.json"] == found["1_Pooling/config.json"] == 1
