"""A deployment's config.yaml sets a job's options, or the error says what is not supported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Bei
from corpora import TINY, write_parquet

from jobs.bei_config import load_bei_config
from jobs.commands.submit import command
from jobs.options import own_revision
from pipeline.errors import UsageError


def config(tmp_path: Path, **changes: Any) -> Path:
    """A full configuration; `build__x=1` sets build.x, None removes it."""
    document: dict[str, Any] = {
        "model_name": "BEI-Bert",
        "resources": {"accelerator": "L4"},
        "trt_llm": {
            "inference_stack": "v1",
            "build": {
                "base_model": "encoder_bert",
                "checkpoint_repository": {
                    "source": "HF", "repo": "BAAI/bge-base-en-v1.5", "revision": "main",
                },
                "max_num_tokens": 16384,
                "quantization_type": "no_quant",
            },
            "runtime": {"webserver_default_route": "/v1/embeddings"},
        },
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = document["trt_llm"]
        for parent in parents:
            section = section[parent]
        section[last] = value
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_model_revision_budget_and_task_are_taken(tmp_path: Path) -> None:
    assert load_bei_config(config(tmp_path)).options == {
        "model": "BAAI/bge-base-en-v1.5",
        "revision": "main",
        "token_budget": 16384,
        "task": "embed",
    }


@pytest.mark.parametrize(
    ("route", "task"),
    [("/rerank", "rerank"), ("/predict", "classify"), ("/predict_tokens", "tag")],
)
def test_the_route_sets_the_task(tmp_path: Path, route: str, task: str) -> None:
    file = config(tmp_path, runtime__webserver_default_route=route)

    assert load_bei_config(file).options["task"] == task


@pytest.mark.parametrize(
    ("source", "repo", "model"),
    [
        ("HF", "org/model", "org/model"),
        ("S3", "s3://b/m/", "s3://b/m/"),
        ("GCS", "gs://b/m", "gs://b/m"),
        ("AZURE", "az://b/m", "az://b/m"),
        ("AZURE", "azure://acme/models/a/b", "abfs://models@acme.dfs.core.windows.net/a/b"),
        (
            "AZURE",
            "https://acme.blob.core.windows.net/models/a/b",
            "abfs://models@acme.dfs.core.windows.net/a/b",
        ),
        ("AZURE", "https://h/m.tgz?sig=x", "https://h/m.tgz?sig=x"),
        ("REMOTE_URL", "https://h/m.tar.gz", "https://h/m.tar.gz"),
    ],
)
def test_a_checkpoint_of_every_source_is_a_model_as_model_takes_it(
    tmp_path: Path, source: str, repo: str, model: str
) -> None:
    file = config(tmp_path, build__checkpoint_repository={"source": source, "repo": repo})

    assert load_bei_config(file).options["model"] == model


@pytest.mark.parametrize(
    "repo",
    ["https://acme.blob.core.windows.net/models/a?sig=hush", "azure://acme/models", "wasb://x/y"],
)
def test_an_azure_address_that_names_no_folder_is_refused_without_its_secret(
    tmp_path: Path, repo: str
) -> None:
    file = config(tmp_path, build__checkpoint_repository={"source": "AZURE", "repo": repo})

    with pytest.raises(UsageError, match=r"checkpoint_repository\.repo is") as refused:
        load_bei_config(file)

    assert "hush" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"build__quantization_type": "fp6"}, "quantization_type is 'fp6'"),
        ({"build__base_model": "decoder"}, "base_model is 'decoder'"),
        ({"build__base_model": None}, "base_model is 'decoder'"),
        ({"build__max_num_tokens": 63}, "max_num_tokens is 63"),
        ({"build__max_num_tokens": 1 << 21}, "max_num_tokens is 2097152"),
        ({"build__max_num_tokens": True}, "max_num_tokens is True"),
        ({"inference_stack": "v2"}, "inference_stack is 'v2'"),
        ({"build__novelty": 1}, "trt_llm.build.novelty"),
        ({"speculator": {}}, "trt_llm.speculator"),
        ({"runtime__webserver_default_route": "/v1/chat"}, "'/v1/chat'"),
        ({"build__checkpoint_repository": {"source": "S3", "repo": "no/uri"}}, "repo is 'no/uri'"),
        ({"build__checkpoint_repository": {"source": "FTP", "repo": "x"}}, "source is 'FTP'"),
        (
            {"build__checkpoint_repository": {"source": "AZURE", "repo": "https://h/m"}},
            "https://h/m",
        ),
        ({"build": None}, "trt_llm.build is missing"),
    ],
)
def test_a_setting_that_is_not_supported_is_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load_bei_config(config(tmp_path, **changes))

    assert named in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", "a: {", "trt_llm: nothing", "[" * 9999, "a: 2024-99-99"]
)
def test_a_file_that_is_not_a_bei_configuration_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)

    with pytest.raises(UsageError, match=r"config\.yaml"):
        load_bei_config(file)


@pytest.mark.parametrize(
    "content",
    [
        "hf_token: swordfish: x",
        'key: "swordfish\\q"',
        "hf_token: swordfish\n\tx: 1",
        "? [swordfish]",
    ],
)
def test_a_line_that_is_no_yaml_is_named_and_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"environment_variables:\n  {content}\n")

    with pytest.raises(
        UsageError, match=r"config\.yaml cannot be read: line \d, column \d"
    ) as refused:
        load_bei_config(file)

    assert "swordfish" not in str(refused.value)


def test_a_quantization_of_null_is_none(tmp_path: Path) -> None:
    found = load_bei_config(config(tmp_path, build__quantization_type=None))

    assert "quantization" not in found.choices


@pytest.mark.parametrize("where", ["line", "environment", "job file", "job file first"])
def test_the_files_revision_does_not_go_to_another_model(
    bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # A directory has no revision, so a revision that came with the file would be refused.
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    words: list[object] = ["--bei-config", config(tmp_path)]
    if where == "line":
        words += ["--model", TINY]
    elif where == "environment":
        monkeypatch.setenv("BEI_JOBS_MODEL", TINY)
    else:
        (tmp_path / "job.toml").write_text(f'model = "{TINY}"')
        file = ["--job-file", tmp_path / "job.toml"]
        words = [*file, *words] if where.endswith("first") else [*words, *file]

    done = bei("submit", corpus, *words, "--device", "cpu", "--quiet")

    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "revision"),
    [
        ([], "main"),
        (["--model", "BAAI/bge-base-en-v1.5"], "main"),  # the file's own
        (["--model", "other/model"], None),
        (["--model", "other/model", "--revision", "v2"], "v2"),
        (["--revision", "v2"], "v2"),
        (["--revision", ""], ""),
    ],
)
def test_a_revision_belongs_to_the_model_beside_it(
    tmp_path: Path, words: list[str], revision: str | None
) -> None:
    ctx = command.make_context(
        "submit", ["in.parquet", "--bei-config", str(config(tmp_path)), *words]
    )

    assert own_revision(ctx, ctx.params["model"], ctx.params["revision"]) == revision


def test_an_empty_revision_means_none(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)

    assert submit(corpus, "--revision", "").code == 0


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    words = ["in.parquet", "--bei-config", str(config(tmp_path)), "--model", "other/model"]

    parsed = command.make_context("submit", words).params

    assert parsed["model"] == "other/model"
    assert parsed["token_budget"] == 16384
