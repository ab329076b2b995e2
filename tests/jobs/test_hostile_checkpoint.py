"""Checkpoints made to exhaust a machine: one line of error each, before anything is allocated."""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, command
from corpora import GOLDENS, ROOT, write_parquet

#: Changes a copy of bert_mean.
Harm = Callable[[Path], Any]


def config(name: str = "config.json", **changes: Any) -> Harm:
    """Change keys of a JSON file."""

    def harm(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**content, **changes}))

    return harm


INDEX = "model.safetensors.index.json"


def text(name: str, content: str | bytes) -> Harm:
    """Replace a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def index(harm: Harm) -> Harm:
    """Harm an index that is read: without the file that would be read instead."""
    return lambda folder: ((folder / "model.safetensors").unlink(), harm(folder))[1]


def sparse(name: str, size: int, start: bytes = b"") -> Harm:
    """Replace a file by one that claims a size and has no such blocks on the disk."""

    def harm(folder: Path) -> None:
        with (folder / name).open("wb") as handle:
            handle.write(start)
            handle.truncate(size)

    return harm


def link(name: str, target: str) -> Harm:
    """Replace a file by a link."""

    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return harm


def pipe(name: str) -> Harm:
    """Replace a file by a pipe that nobody writes to."""

    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return harm


def header(entries: str, data: int = 0) -> Harm:
    """Replace the weights by a header and zeros."""
    content = len(entries).to_bytes(8, "little") + entries.encode() + bytes(data)
    return text("model.safetensors", content)


def normalizer(*steps: dict[str, Any]) -> Harm:
    return config("tokenizer.json", normalizer={"type": "Sequence", "normalizers": list(steps)})


def pre_tokenizer(*steps: dict[str, Any]) -> Harm:
    sequence = {"type": "Sequence", "pretokenizers": list(steps)}
    return config("tokenizer.json", pre_tokenizer=sequence)


def model(**changes: Any) -> Harm:
    """Change settings of the tokenizer's model."""

    def harm(folder: Path) -> None:
        before = json.loads((folder / "tokenizer.json").read_text())["model"]
        config("tokenizer.json", model={**before, **changes})(folder)

    return harm


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def split(regex: str) -> Harm:
    behavior = {"behavior": "Isolated", "invert": False}
    return pre_tokenizer({"type": "Split", "pattern": {"Regex": regex}, **behavior})


def charsmap(content: bytes) -> Harm:
    encoded = base64.b64encode(content).decode()
    return normalizer({"type": "Precompiled", "precompiled_charsmap": encoded})


def template(single: list[Any], ids: int = 1) -> Harm:
    return config(
        "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": single,
            "pair": [A, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2] * ids, "tokens": ["x"] * ids}},
        },
    )


A = {"Sequence": {"id": "A", "type_id": 0}}
CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
F32 = '"dtype": "F32", "shape": [1], "data_offsets"'
DISTILBERT = {"model_type": "distilbert", "architectures": ["DistilBertModel"]}
DENSE = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
BILLION = 10**9
TRILLION = 10**12


def module(path: str, count: int = 1, kind: str = "Dense") -> Harm:
    entry = {"type": f"sentence_transformers.models.{kind}", "path": path}
    transformer = {"type": "sentence_transformers.models.Transformer", "path": ""}
    return text("modules.json", json.dumps([transformer, *[entry] * count]))


def both(*harms: Harm) -> Harm:
    return lambda folder: [harm(folder) for harm in harms]


def dense(folder: Path) -> None:
    """A module of 4 terabytes that its config agrees with."""
    module("2_Dense")(folder)
    (folder / "2_Dense").mkdir()
    config("2_Dense/config.json", in_features=32, out_features=TRILLION // 32)(folder)
    entry = {"dtype": "F32", "shape": [TRILLION // 32, 32], "data_offsets": [0, 4 * TRILLION]}
    names = json.dumps({"linear.weight": entry}).encode()
    start = len(names).to_bytes(8, "little") + names
    sparse("2_Dense/model.safetensors", 10**11, start)(folder)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


HARMS: dict[str, tuple[Harm, str]] = {
    # config.json
    "layers": (config(num_hidden_layers=BILLION), "num_hidden_layers = 1000000000"),
    "layers of distilbert": (config(**DISTILBERT, n_layers=BILLION), "n_layers"),
    "vocabulary": (config(vocab_size=TRILLION), "vocab_size"),
    "hidden size": (config(hidden_size=TRILLION), "hidden_size"),
    "heads": (config(num_attention_heads=BILLION), "num_attention_heads"),
    "positions": (config(max_position_embeddings=TRILLION), "max_position_embeddings"),
    "positions of distilbert": (
        config(**DISTILBERT, max_position_embeddings=TRILLION, sinusoidal_pos_embds=True),
        "max_position_embeddings",
    ),
    "width of distilbert": (config(**DISTILBERT, hidden_dim=TRILLION), "hidden_dim"),
    "labels": (
        config(architectures=["BertForSequenceClassification"], num_labels=BILLION),
        "num_labels",
    ),
    "labels of distilbert": (config(**DISTILBERT, num_labels=BILLION), "num_labels"),
    "labels by name": (
        config(
            architectures=["BertForSequenceClassification"],
            id2label={str(i): "a" for i in range(100_000)},
        ),
        "missing: classifier.bias",
    ),
    "negative": (config(num_hidden_layers=-3), "num_hidden_layers is -3"),
    "infinite": (config(hidden_size=float("inf")), "hidden_size is inf"),
    "not a number": (config(vocab_size=float("nan")), "vocab_size is nan"),
    "a boolean": (config(num_hidden_layers=True), "num_hidden_layers is True"),
    "a fraction": (config(num_hidden_layers=2.5), "num_hidden_layers is 2.5"),
    "a long text": (config(num_hidden_layers="9" * 10**6), "num_hidden_layers is '999"),
    "a long class": (config(hidden_act="x\n" * 10**5), "the activation"),
    "a long rope": (config(**{"model_type": "y\n" * 10**5}), "model_type"),
    # JSON
    "nesting": (text("config.json", nested(100_000)), "config.json nests"),
    "a little nesting": (text("config.json", f'{{"a": {nested(200)}}}'), "config.json nests"),
    "digits": (text("config.json", f'{{"vocab_size": {"9" * 10**6}}}'), "config.json"),
    "exponent": (config(hidden_size=1e308), "hidden_size"),
    "half a surrogate": (text("config.json", '{"model_type": "\\ud800"}'), "not Unicode"),
    "a bomb of lists": (text("config.json", "[" + "[]," * 5_000_000 + "0]"), "more values"),
    "a large file": (sparse("config.json", 10**12), "config.json has more than"),
    "nesting in tokenizer.json": (text("tokenizer.json", nested(100_000)), "tokenizer.json nests"),
    "a large index": (index(sparse(INDEX, 10**10)), "index.json has more than"),
    # files
    "an endless device": (link("config.json", "/dev/zero"), "no config.json"),
    "endless weights": (link("model.safetensors", "/dev/zero"), "no model.safetensors"),
    "a pipe": (pipe("config.json"), "no config.json"),
    "a circle of links": (link("config.json", "config.json"), "no config.json"),
    # modules.json
    "modules": (module("1_Pooling", 100_000, "Pooling"), "modules.json names 100,001 modules"),
    "a module above": (module("../other"), "outside the checkpoint"),
    "a module anywhere": (module("/etc"), "outside the checkpoint"),
    "a module of itself": (module("."), "config.json"),
    "a long path": (module("a" * 5_000), "cannot be a folder's name"),
    "a path of nothing": (module("a\0b"), "cannot be a folder's name"),
    "a large module": (dense, "2_Dense"),
    "endless length": (
        config("sentence_bert_config.json", max_seq_length=float("inf")),
        "max_seq_length = inf",
    ),
    "no length": (
        both(
            text("sentence_bert_config.json", "{}"),
            config("tokenizer_config.json", model_max_length=float("nan")),
        ),
        "model_max_length = nan",
    ),
    "a prompt": (
        config("config_sentence_transformers.json", prompts={"query": "a" * 10**6}),
        "a prompt of more than 100,000 characters",
    ),
    "a larger prompt": (
        config("config_sentence_transformers.json", prompts={"query": "a" * 10**8}),
        "config_sentence_transformers.json has more than",
    ),
    # safetensors
    "an index above": (
        index(text(INDEX, '{"weight_map": {"a": "../x.safetensors"}}')),
        "outside its own folder",
    ),
    "an index anywhere": (
        index(text(INDEX, '{"weight_map": {"a": "/etc/passwd"}}')),
        "outside its own folder",
    ),
    "shards": (
        index(
            text(
                INDEX,
                json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(200_000)}}),
            )
        ),
        "names 200,000 files",
    ),
    "a header that lies": (text("model.safetensors", b"\xff" * 7 + b"\0{}"), "a header of"),
    "a header of all": (sparse("model.safetensors", 10**12, b"\0\0\0\x7f\0\0\0\0"), "a header of"),
    "a tensor twice": (
        header(f'{{"a": {{{F32}: [0, 4]}}, "a": {{{F32}: [0, 4]}}}}', 4),
        "comes twice",
    ),
    "tensors above each other": (
        header(f'{{"a": {{{F32}: [0, 4]}}, "b": {{{F32}: [0, 4]}}}}', 4),
        "where 4 to 8 is expected",
    ),
    "a tensor beyond the file": (header(f'{{"a": {{{F32}: [0, 4]}}}}'), "the file has 0 for them"),
    "a tensor that is smaller": (header(f'{{"a": {{{F32}: [0, 8]}}}}', 8), "where 0 to 4"),
    "a negative shape": (
        header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', 4),
        "whole numbers",
    ),
    # tokenizer.json
    "a large tokenizer": (sparse("tokenizer.json", 10**9), "tokenizer.json has more than"),
    "added tokens": (
        config("tokenizer.json", added_tokens=[{"id": i} for i in range(200_000)]),
        "200,000 added_tokens",
    ),
    "steps": (normalizer(*[{"type": "NFC"}] * 100_000), "more than 32 steps"),
    "a doubling text": (normalizer(*[replace("a", "aa")] * 30), "bytes of each byte"),
    "a long replacement": (normalizer(replace("a", "b" * 10**6)), "bytes of each byte"),
    "a replacement of nothing": (normalizer(replace("", "b" * 10**4)), "bytes of each byte"),
    "prefixes": (normalizer(*[{"type": "Prepend", "prepend": "a" * 10**5}] * 9), "characters"),
    "doubling bytes": (normalizer(*[{"type": "ByteLevel"}] * 30), "bytes of each byte"),
    "a long expression": (split("(" * 20_000 + "a" + ")" * 20_000), "parse depth"),
    "a catastrophic split": (split("(a+)+$"), "retry-limit"),
    "a catastrophic replacement": (
        normalizer(replace("(x|xx)+$", "b", "Regex")),
        "retry-limit",
    ),
    "a cubic expression": (split(r"\s*\s*\s*\s*;"), "pattern"),
    "an empty charsmap": (charsmap(b""), "precompiled_charsmap"),
    "a charsmap of rubbish": (charsmap(b"\x10\0\0\0" + b"\xff" * 16 + b"abc"), "charsmap"),
    "a charsmap that grows": (charsmap(b"\4\0\0\0\0\0\0\0" + b"x" * 10_000), "bytes of each byte"),
    "a charsmap that leaves": (charsmap(b"\4\0\0\0\0\xff\xff\x7f" + b"x"), "index out of bounds"),
    "a repeated text": (template([A] * 50), "repeats a text"),
    "special tokens": (template([CLS] * 10_000 + [A]), "parts"),
    "a special token of many": (template([CLS, A], 10**6), "stands for 1,000,000"),
    "long words": (model(max_input_chars_per_word=10**9), "max_input_chars_per_word"),
    "an unknown step": (normalizer({"type": "Quine"}), "Quine"),
}

#: What a refusal may take above what the process has anyway; seconds of a processor, as the machine
#: may be busy.
MEMORY = 500 * 1024**2
SECONDS = 10


def used() -> float:
    """Seconds that this process and its ended children have computed."""
    return sum(os.times()[:4])


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[[Harm], Path]:
    """A copy of bert_mean with one thing changed."""

    def make(harm: Harm) -> Path:
        folder = Path(shutil.copytree(GOLDENS / "bert_mean", tmp_path / "model"))
        harm(folder)
        return folder

    return make


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Lets this process reserve no more than MEMORY beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", HARMS)
def test_a_hostile_checkpoint_is_refused_in_one_line(
    bei: Bei, hostile: Callable[[Harm], Path], kind: str
) -> None:
    harm, reason = HARMS[kind]
    folder = hostile(harm)
    start = used()

    told = bei("models", folder)

    assert told.code == 1
    message, *hint = told.screen
    assert reason in message
    assert len(message) < 600 + len(str(folder))
    assert len(hint) <= 1
    assert used() - start < SECONDS


# Runs a command, and prints the peak of its memory in KiB.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def test_submit_refuses_one_with_little_memory(
    hostile: Callable[[Harm], Path], tmp_path: Path
) -> None:
    harm, reason = HARMS["a charsmap of rubbish"]
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    words = ("submit", corpus, "--model", hostile(harm), "--output", tmp_path / "out")
    # From a small process: a child's peak begins at what its parent held when it was started.
    command_line = command(*words, "--device", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command_line], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert reason in done.stderr.splitlines()[0]
    assert "race" not in done.stderr  # neither Python's traceback nor Rust's backtrace
    assert int(done.stdout) * 1024 < 2 * MEMORY
    assert not (tmp_path / "out").exists()
