from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.errors import AccessDenied, NotFound, StorageError, StoreFull, UsageError
from pipeline.store import backends
from pipeline.store.directory import Directory, OpenedFile, file_info
from pipeline.store.uris import absolute, redact

ODD_NAME = "a/ünï [1-9]*?{b}#%20 &.arrow"


def test_a_file_is_created_once_and_its_first_content_stays(store_uri: str) -> None:
    directory = Directory(store_uri)
    assert directory.create("part.arrow", b"first")
    assert not directory.create("part.arrow", b"second")
    assert directory.read("part.arrow") == b"first"


def test_creating_again_with_the_same_bytes_counts_as_created(store_uri: str) -> None:
    directory = Directory(store_uri)
    assert directory.create("part.arrow", b"attempt 1")
    assert directory.create("part.arrow", b"attempt 1")


class Held:
    """Stands for the bytes of a part."""


@pytest.mark.parametrize("ask", ["exists", "read", "info"])
def test_asking_for_what_is_not_there_keeps_nothing_of_the_caller_alive(
    store_uri: str, ask: str
) -> None:
    directory = Directory(store_uri)
    directory.create("there", b"x")  # what a store imports at first use is done

    def commit() -> weakref.ref[Held]:
        part = Held()
        with contextlib.suppress(NotFound):
            getattr(directory, ask)("absent")
        return weakref.ref(part)

    commit()
    gc.collect()
    gc.disable()
    try:
        assert commit()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_anything_with_a_buffer_can_be_written(store_uri: str, kind: Any) -> None:
    directory = Directory(store_uri)
    assert directory.create("created", kind(b"abc"))
    directory.put("put", kind(b"def"))
    assert directory.read("created") + directory.read("put") == b"abcdef"


def test_an_empty_file_is_refused(store_uri: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        Directory(store_uri).create("part.arrow", b"")


def test_put_overwrites(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("status.json", b"old")
    directory.put("status.json", b"new")
    assert directory.read("status.json") == b"new"


def test_glob_characters_and_unicode_in_names_are_taken_literally(store_uri: str) -> None:
    directory = Directory(f"{store_uri}/ök [x]*")
    assert directory.create(ODD_NAME, b"odd")
    assert directory.create("a/ünï 1", b"plain")
    assert directory.read(ODD_NAME) == b"odd"
    assert directory.exists(ODD_NAME)
    assert [info.name for info in directory.list("a/")] == ["a/ünï 1", ODD_NAME]
    directory.delete(ODD_NAME)
    assert [info.name for info in directory.list(recursive=True)] == ["a/ünï 1"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../beside", "a/../../b"])
def test_names_cannot_leave_the_directory(store_uri: str, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Directory(store_uri).put(name, b"x")


def test_listing_is_in_byte_order_of_whole_names(store_uri: str) -> None:
    directory = Directory(store_uri)
    names = ["b", "a/z", "a.b", "a/b/c", "a0", "A", "é", "z", "_bei/x"]
    for name in names:
        directory.put(name, name.encode())
    listed = list(directory.list(recursive=True))
    assert [info.name for info in listed] == sorted(names, key=str.encode)
    assert [info.size for info in listed] == [len(info.name.encode()) for info in listed]
    assert [info.name for info in directory.list()] == ["A", "a.b", "a0", "b", "z", "é"]
    assert [info.name for info in directory.list("a/")] == ["a/z"]
    assert [info.name for info in directory.list("a", recursive=True)] == [
        "a.b", "a/b/c", "a/z", "a0",
    ]  # fmt: skip
    assert [info.name for info in directory.list(after="a0")] == ["b", "z", "é"]


def test_listing_what_does_not_exist_is_empty(store_uri: str) -> None:
    assert list(Directory(store_uri).list(recursive=True)) == []
    assert list(Directory(store_uri).list("no/such/")) == []


def test_listing_more_than_a_page_of_keys_on_s3(s3: Any) -> None:
    def small_pages(request: dict[str, Any], moto: Any) -> None:
        request["QUERY_STRING"] += "&max-keys=4"

    directory = Directory(f"s3://{s3.make_bucket()}")
    names = [f"part-{i:05d}" for i in range(11)]
    for name in names:
        directory.put(name, b"x")
    s3.requests.clear()
    s3.fault = small_pages
    assert [info.name for info in directory.list()] == names
    assert len(s3.requests) == 3
    assert [info.name for info in directory.list(after=names[4])] == names[5:]


def test_what_another_process_wrote_is_seen_at_once(store_uri: str) -> None:
    directory, other = Directory(store_uri), Directory(store_uri)
    directory.put("a", b"1")
    assert [info.name for info in directory.list()] == ["a"]
    other.put("b", b"2")
    assert [info.name for info in directory.list()] == ["a", "b"]
    assert directory.exists("b")


def test_reading_deleting_and_asking_for_a_missing_file(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("here", b"x")
    with pytest.raises(NotFound, match="missing: does not exist"):
        directory.read("missing")
    assert not directory.exists("missing")
    directory.delete("missing")


def test_ranges_can_be_read(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("data", bytes(range(256)) * 100)
    with directory.open("data") as file:
        file.seek(-2, os.SEEK_END)
        assert file.read() == b"\xfe\xff"
        file.seek(1)
        assert file.read(3) == b"\x01\x02\x03"


def test_two_readers_of_one_file_do_not_share_a_position(store_uri: str) -> None:
    Directory(store_uri).put("data", b"0123456789")
    with OpenedFile(f"{store_uri}/data") as one, OpenedFile(f"{store_uri}/data") as two:
        one.seek(5)
        assert two.read(2) == b"01"
        assert one.read(2) == b"56"


def test_a_version_changes_with_the_content_and_only_then(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("data", b"one")
    uri = directory.uri_of("data")
    version = file_info(uri).version
    assert version == directory.info("data").version == next(directory.list()).version
    with OpenedFile(uri) as file:
        assert file.version() == version
    directory.put("data", b"two")
    assert file_info(uri).version != version


def test_probe_leaves_nothing_behind(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.probe()
    assert list(directory.list(recursive=True)) == []


def test_probe_detects_a_store_that_ignores_the_condition(s3: Any) -> None:
    def ignore_condition(request: dict[str, Any], moto: Any) -> None:
        request.pop("HTTP_IF_NONE_MATCH", None)

    directory = Directory(f"s3://{s3.make_bucket()}/out")
    s3.fault = ignore_condition
    with pytest.raises(StorageError, match="overwrites a file") as caught:
        directory.probe()
    assert "conditional writes" in caught.value.hint
    assert list(directory.list(recursive=True)) == []


def test_probe_removes_temporary_files_of_a_day_ago(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path))
    directory.put("_bei/tmp/left-by-a-killed-process", b"x")
    directory.put("_bei/tmp/being-written", b"x")
    two_days_ago = time.time() - 48 * 3600
    os.utime(tmp_path / "_bei/tmp/left-by-a-killed-process", (two_days_ago, two_days_ago))
    directory.probe()
    assert os.listdir(tmp_path / "_bei/tmp") == ["being-written"]


@pytest.fixture
def switch_often() -> Iterator[None]:
    """Let threads interrupt each other almost everywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_two_threads_never_both_create_a_file(
    kind: str, tmp_path: Path, switch_often: None
) -> None:
    directory = Directory(str(tmp_path) if kind == "local" else f"memory://{tmp_path}")
    barrier = threading.Barrier(2)

    def race(me: bytes) -> list[bool]:
        wins = []
        for i in range(200):
            barrier.wait()
            wins.append(directory.create(f"key-{i}", me))
        return wins

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(race, [b"one", b"two"])
    assert [a + b for a, b in zip(one, two, strict=True)] == [1] * 200
    for i in range(200):
        assert directory.read(f"key-{i}") == (b"one" if one[i] else b"two")


def test_two_processes_never_both_create_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_race, args=(str(tmp_path), me, barrier)) for me in ("one", "two")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    wins = {me: set((tmp_path / f"wins-{me}").read_text().split()) for me in ("one", "two")}
    assert not wins["one"] & wins["two"]
    assert len(wins["one"] | wins["two"]) == 200


def _race(root: str, me: str, barrier: Any) -> None:
    won = []
    for i in range(200):
        barrier.wait()
        if Directory(root).create(f"key-{i}", me.encode()):
            won.append(str(i))
    Path(root, f"wins-{me}").write_text(" ".join(won))


def test_two_threads_never_both_create_an_s3_object(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    barrier = threading.Barrier(2)

    def race(me: bytes) -> list[bool]:
        wins = []
        for i in range(20):
            barrier.wait()
            wins.append(directory.create(f"key-{i}", me))
        return wins

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(race, [b"one", b"two"])
    for i in range(20):
        assert directory.read(f"key-{i}") in ((b"one",) if one[i] else (b"two",))
        assert one[i] != two[i]


def lose_responses(request: dict[str, Any], moto: Any) -> tuple[str, bytes] | None:
    """Apply the write, then answer with an error, as if the response had been lost."""
    if request["REQUEST_METHOD"] != "PUT":
        return None
    for _ in moto(request, lambda *_: None):
        pass
    return "500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>"


def test_asking_s3_for_an_object_that_is_not_there_is_one_request(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/folder")
    directory.create("here/file", b"content")
    s3.requests.clear()
    assert not directory.exists("gone")
    assert not directory.exists("here")  # a "directory"
    assert directory.exists("here/file")
    assert [method for method, _ in s3.requests] == ["HEAD"] * 3


def test_a_write_whose_response_was_lost_counts_as_created(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    s3.fault = lose_responses
    s3.requests.clear()
    assert directory.create("part.arrow", b"attempt 1")
    assert [method for method, _ in s3.requests] == ["PUT", "GET"]


def test_a_lost_response_over_another_attempts_part_does_not(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    assert directory.create("part.arrow", b"attempt 1")
    s3.fault = lose_responses
    assert not directory.create("part.arrow", b"attempt 2")
    assert directory.read("part.arrow") == b"attempt 1"


def test_a_write_that_was_never_applied_is_an_error(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    busy = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
    s3.fault = lambda request, _: (
        ("503 Slow Down", busy) if request["REQUEST_METHOD"] == "PUT" else None
    )
    with pytest.raises(StorageError, match=r"out/part\.arrow") as caught:
        directory.create("part.arrow", b"attempt 1")
    assert caught.value.transient
    attempts = [path for method, path in s3.requests if method == "PUT" and "part" in path]
    assert len(attempts) <= 40  # a minute's


def test_an_object_larger_than_one_request_is_created_only_once(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    large = bytes(101 << 20)
    assert directory.create("part.arrow", large)
    assert not directory.create("part.arrow", b"1" + large)
    assert directory.info("part.arrow").size == len(large)


def test_a_bucket_that_does_not_exist_is_named(s3: Any) -> None:
    directory = Directory("s3://no-such-bucket-here/out")
    for attempt in (directory.probe, lambda: list(directory.list())):
        with pytest.raises(NotFound, match=r"no-such-bucket-here.*bucket does not exist"):
            attempt()


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_bad_credentials_are_named_without_the_secret(s3: Any, code: str) -> None:
    access_key, secret_key = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    body = f"<Error><Code>{code}</Code><Message>for {access_key}</Message></Error>"
    s3.fault = lambda *_: ("403 Forbidden", body.encode())
    with pytest.raises(AccessDenied, match=code) as caught:
        list(Directory("s3://bucket/out").list())
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    assert access_key not in f"{caught.value} {caught.value.hint}"
    assert secret_key not in "".join(traceback.format_exception(caught.value))


def test_missing_credentials_are_access_denied(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with pytest.raises(AccessDenied, match="s3://bucket/out"):
            Directory("s3://bucket/out").put("x", b"x")
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_an_endpoint_that_does_not_answer_is_transient(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with pytest.raises(StorageError, match="s3://bucket/out") as caught:
            Directory("s3://bucket/out").put("x", b"x")
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert caught.value.transient
    assert "hunter2" not in str(caught.value)


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="No space left"):
        Directory(str(tmp_path)).create("part.arrow", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_a_filesystem_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="refuses hard links") as caught:
        Directory(str(tmp_path)).probe()
    assert "another filesystem" in caught.value.hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_access_denied(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDenied, match="Permission denied"):
        Directory(str(tmp_path / "out")).probe()


def test_a_refused_local_write_is_access_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(backends.os, "makedirs", refuse)
    with pytest.raises(AccessDenied, match="Permission denied") as caught:
        Directory(str(tmp_path / "out")).probe()
    assert "owner and mode" in caught.value.hint


def test_an_output_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file/out"):
        Directory(str(tmp_path / "file/out")).probe()


def test_a_store_used_before_a_fork_works_in_the_child(s3: Any) -> None:
    directory = Directory(f"s3://{s3.make_bucket()}/out")
    directory.put("a", b"from the parent")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=directory.create, args=("b", b"from the child"))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert directory.read("b") == b"from the child"


def test_a_writer_thread_and_a_reader_thread_share_a_directory(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("input", b"x" * 1000)
    with ThreadPoolExecutor(2) as pool:
        writes = [pool.submit(directory.create, f"part-{i}", b"y") for i in range(20)]
        reads = [pool.submit(directory.read, "input") for _ in range(20)]
    assert all(write.result() for write in writes)
    assert {read.result() for read in reads} == {b"x" * 1000}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/data/a?token=b@c", "/data/a?token=b@c"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("https://user:pass@host:8080/a", "https://host:8080/a"),
        ("https://token@host/a", "https://host/a"),
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
        ("redis://:sec/r#e?t@host:6379/0", "redis://host:6379/0"),
        ("redis://:6379/secret@host", "redis://host"),
        ("redis://:sec::ret@host", "redis://host"),
        ("redis://sec?ret:s@host/0", "redis://host/0"),
        ("rediss://:sec[ret@host/0?password=secret", "rediss://host/0?password=..."),
        ("rediss://host:1/0?username=me@here", "rediss://host:1/0?username=me@here"),
        ("rediss://u:p@host/0?ssl_ca_certs=/a@b", "rediss://host/0?ssl_ca_certs=/a@b"),
        ("https://[user:secret@host/a", "https://host/a"),
        ("https://[host/a", "https://..."),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        (
            "https://h/a?versionId=7&X-Amz-Signature=abc&X-Amz-Credential=AKIA&sig=x",
            "https://h/a?versionId=7&X-Amz-Signature=...&X-Amz-Credential=...&sig=...",
        ),
    ],
)
def test_printed_uris_hold_no_secret(uri: str, shown: str | None) -> None:
    assert redact(uri) == (shown or uri)


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_what_names_no_host_is_refused_without_its_password(slashes: str) -> None:
    uri = f"https://{slashes}/user:hunter2@host/f"
    with pytest.raises(UsageError, match="names no bucket or host") as refused:
        absolute(uri)
    assert "hunter2" not in str(refused.value)
    assert f"https://{slashes}/host/f" in str(refused.value)


def test_local_paths_become_absolute_and_plain(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "out")
    for uri in ("out", "./out/", "x/../out", f"file://{tmp_path}/out/", f"{tmp_path}/out"):
        assert absolute(uri) == expected
    assert absolute("s3://bucket/out/") == "s3://bucket/out"
    assert absolute("memory:///a/b/") == "memory://a/b"


def test_an_unknown_kind_of_store_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nosuch://"):
        Directory("nosuch://bucket/out").probe()


def test_every_store_says_when_a_file_was_written_last(store_uri: str) -> None:
    directory = Directory(store_uri)
    directory.put("lease", b"1")
    directory.put("lease", b"2")
    (listed,) = directory.list()
    for info in (listed, directory.info("lease")):
        assert abs(time.time() - info.modified) < 60
