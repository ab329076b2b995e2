"""What is tried again, how often and for how long; through `Directory` and `OpenedFile`."""

from __future__ import annotations

import errno
import gc
import gzip
import logging
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from faulty_s3 import FaultyS3
from fixtures_s3 import Clock

from pipeline.errors import AccessDenied, BeiJobsError, NotFound, StorageError
from pipeline.input.formats.jsonl import JsonLinesReader
from pipeline.store import retry, uris
from pipeline.store.directory import Directory, OpenedFile, file_info


@pytest.fixture
def directory(s3: Any, faulty_s3: FaultyS3) -> Directory:
    """An empty output behind the faulty front."""
    return Directory(f"s3://{s3.make_bucket()}/out")


# What a client may raise, built as the clients build it.


class Answered(Exception):
    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        answer = {"HTTPStatusCode": status}
        self.response = {"Error": {"Code": code}, "ResponseMetadata": answer}


def s3fs_error(code: str, status: int, number: int = errno.EIO) -> OSError:
    error = OSError(number, "as s3fs puts it")
    error.__cause__ = Answered(code, status)
    return error


def azure_exists() -> FileExistsError:
    error = FileExistsError("BlobAlreadyExists")
    error.__cause__ = Exception("its blob exists")
    error.__cause__.status_code = 409  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error",
    [
        s3fs_error("SlowDown", 503, errno.EBUSY),
        s3fs_error("429", 429),
        s3fs_error("500", 500),
        s3fs_error("502", 502),
        s3fs_error("504", 504),
        s3fs_error("InternalError", 500),
        s3fs_error("RequestTimeout", 400),
        s3fs_error("OperationAborted", 409, errno.EBUSY),
        s3fs_error("ConditionalRequestConflict", 409),
        TimeoutError(),
        ConnectionResetError(),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
    ],
    ids=lambda error: str(error.__cause__ or repr(error)),
)
def test_what_may_pass_is_tried_until_it_does(clock: Clock, error: Exception) -> None:
    failures = [error] * 5

    def operation() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert retry.call("s3://bucket/x", operation) == "done"
    assert len(clock.slept) >= 5


@pytest.mark.parametrize(
    "error",
    [
        s3fs_error("AccessDenied", 403),
        s3fs_error("NoSuchBucket", 404),
        s3fs_error("PreconditionFailed", 412, errno.EINVAL),
        s3fs_error("InvalidRange", 416),
        s3fs_error("NotImplemented", 501),
        s3fs_error("XMinioStorageFull", 507),
        azure_exists(),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        StorageError("already ours"),
    ],
    ids=lambda error: str(error.__cause__ or repr(error)),
)
def test_what_will_not_pass_is_tried_once(clock: Clock, error: Exception) -> None:
    tries = []

    def operation() -> None:
        tries.append(1)
        raise error

    with pytest.raises(StorageError) as caught:
        retry.call("s3://bucket/x", operation)
    assert (len(tries), clock.slept) == (1, [])
    assert "tried" not in str(caught.value)


def test_an_error_of_the_program_is_neither_repeated_nor_renamed(clock: Clock) -> None:
    with pytest.raises(TypeError):
        retry.call("s3://bucket/x", lambda: len(3))  # type: ignore[arg-type]
    assert clock.slept == []


def test_a_broken_disk_is_tried_three_times(clock: Clock, tmp_path: Path, monkeypatch: Any) -> None:
    syncs = []

    def broken(_: int) -> None:
        syncs.append(1)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match=r"Input/output error; tried 3 times") as caught:
        Directory(str(tmp_path)).create("part.arrow", b"x")
    assert caught.value.transient
    assert len(syncs) == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_whose_handle_went_stale_is_opened_again(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    class Stale:
        """A handle on a file server that was restarted."""

        def __init__(self, file: BinaryIO) -> None:
            self.tell = file.tell

        def read(self, size: int) -> bytes:
            raise OSError(errno.ESTALE, "Stale file handle")

    with OpenedFile(str(tmp_path / "file")) as file:
        assert file.read(4) == b"0123"
        file._file = Stale(file._file)  # type: ignore[assignment]
        assert file.read(3) == b"456"
        assert file.read() == b"789"


def test_a_dead_store_is_given_up_within_the_budget(clock: Clock) -> None:
    def dead() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(StorageError) as caught:
        retry.call("s3://user:secret@bucket/x", dead)
    assert 40 < clock.now <= 60
    assert max(clock.slept) <= 10
    tries = len(clock.slept) + 1
    assert f"tried {tries} times in {clock.now:.0f} s" in str(caught.value)
    assert caught.value.transient
    assert "secret" not in str(caught.value)


def test_a_long_wait_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def dead() -> None:
        raise s3fs_error("SlowDown", 503)

    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):
        retry.call("s3://user:secret@bucket/x", dead)
    (line,) = caplog.messages
    assert "s3://bucket/x: the store asks for fewer requests; trying again" in line


def test_a_short_wait_is_not_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    failures = [TimeoutError()] * 2

    def operation() -> None:
        if failures:
            raise failures.pop()

    retry.call("s3://bucket/x", operation)
    assert caplog.messages == []


def test_a_call_that_takes_longer_than_the_budget_is_still_tried_three_times(clock: Clock) -> None:
    tries = []

    def stalled() -> None:
        tries.append(1)
        clock.now += 90
        raise TimeoutError

    with pytest.raises(StorageError, match="tried 3 times"):
        retry.call("s3://bucket/x", stalled)
    assert len(tries) == 3


def test_a_process_stops_retrying_a_dead_store_and_recovers_with_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "sleep", lambda seconds: None)  # as many threads do at once
    monkeypatch.setattr(retry, "policy", retry.Policy(clock=lambda: clock.now, sleep=clock.sleep))
    tries = []

    def dead() -> None:
        tries.append(1)
        raise TimeoutError

    for _ in range(200):
        with pytest.raises(StorageError) as caught:
            retry.call("s3://bucket/x", dead)
    assert len(tries) == 200 + 100
    assert "used up its retries" in str(caught.value)
    for _ in range(20):
        retry.call("s3://bucket/x", lambda: None)
    tries.clear()
    with pytest.raises(StorageError):
        retry.call("s3://bucket/x", dead)
    assert len(tries) in {2, 3}


def test_a_process_without_retries_gets_some_back_with_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a store that fails half of its calls would never be used again."""
    monkeypatch.setattr(clock, "sleep", lambda seconds: None)
    monkeypatch.setattr(retry, "policy", retry.Policy(clock=lambda: clock.now, sleep=clock.sleep))

    def dead() -> None:
        raise TimeoutError

    for _ in range(200):
        with pytest.raises(StorageError):
            retry.call("s3://bucket/x", dead)
    clock.now += 60
    answers = iter([TimeoutError, TimeoutError, TimeoutError, None])

    def fails_three_times() -> None:
        if error := next(answers):
            raise error

    retry.call("s3://bucket/x", fails_three_times)


def test_failures_that_pass_use_up_nothing(clock: Clock) -> None:
    calls = iter(range(10_000))

    def every_second_fails() -> None:
        if next(calls) % 2 == 0:
            raise s3fs_error("InternalError", 500)

    for _ in range(1000):
        retry.call("s3://bucket/x", every_second_fails)


def test_throttling_slows_every_call_of_the_process_down_for_a_while(clock: Clock) -> None:
    def seconds_of(calls: int) -> float:
        start = clock.now
        for _ in range(calls):
            retry.call("s3://bucket/other", lambda: None)
        return clock.now - start

    failures = [s3fs_error("SlowDown", 503)]

    def throttled() -> None:
        if failures:
            raise failures.pop()

    assert seconds_of(100) == 0
    retry.call("s3://bucket/x", throttled)
    assert 0.5 < seconds_of(25) < 1  # 32 per second
    assert seconds_of(500) < 10
    assert seconds_of(100) == 0


def test_a_local_call_waits_for_no_store(clock: Clock, tmp_path: Path) -> None:
    retry.load.slow_down(clock.now)
    for _ in range(3):
        Directory(str(tmp_path)).put("x", b"x")
    assert clock.slept == []


def test_what_failed_before_a_success_keeps_nothing_alive(clock: Clock, tmp_path: Path) -> None:
    def commit() -> weakref.ref[Part]:
        part, failures = Part(), [TimeoutError()]

        def operation(kept: Part = part) -> None:
            frames_refer_to_me = failures
            if frames_refer_to_me:
                raise frames_refer_to_me.pop()

        retry.call("s3://bucket/x", operation)
        return weakref.ref(part)

    gc.collect()
    gc.disable()
    try:
        assert commit()() is None
    finally:
        gc.enable()


# Through the clients, over HTTP.


def test_one_layer_retries(directory: Directory, faulty_s3: FaultyS3, monkeypatch: Any) -> None:
    monkeypatch.setattr(retry, "policy", replace(retry.policy, budget=0, min_tries=1))
    for fault in ("500", "503", "slowdown", "reset"):
        faulty_s3.heal()
        faulty_s3.inject(fault)
        with pytest.raises(StorageError):
            directory.info("x")
        # A request whose connection was closed is sent once more by the HTTP client.
        assert faulty_s3.count() == (2 if fault == "reset" else 1), fault


def test_the_code_of_the_store_is_in_the_message(directory: Directory, faulty_s3: FaultyS3) -> None:
    faulty_s3.inject("slowdown")
    with pytest.raises(StorageError, match=r"out/x: the store answered SlowDown: .*; tried \d+ ti"):
        directory.put("x", b"x")


def test_403_is_not_tried_again(directory: Directory, faulty_s3: FaultyS3) -> None:
    faulty_s3.inject("403", methods=("PUT",), times=1)
    with pytest.raises(AccessDenied):
        directory.put("x", b"x")
    assert faulty_s3.count("PUT") == 1


@pytest.mark.parametrize("fault", ["500", "slowdown", "reset"])
def test_one_call_in_five_may_fail(directory: Directory, faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.inject(fault, share=0.2)
    names = [f"part-{i:02}" for i in range(8)]
    for name in names:
        assert directory.create(name, name.encode())
        assert not directory.create(name, b"another attempt")
    assert [info.name for info in directory.list()] == names
    assert [directory.read(name) for name in names] == [name.encode() for name in names]
    for name in names:
        directory.delete(name)
    assert not any(directory.exists(name) for name in names)
    assert faulty_s3.faults


def test_a_conflict_of_conditional_writes_is_tried_again(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("409", methods=("PUT",), share=0.3)
    assert all(directory.create(f"part-{i}", b"x") for i in range(30))
    assert faulty_s3.count("PUT") == 30 + len(faulty_s3.faults)
    assert len(faulty_s3.faults) > 3


def test_a_cut_answer_costs_one_write_and_its_read_back(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("cut", methods=("PUT",))
    for i in range(10):
        assert directory.create(f"part-{i}", b"attempt 1")
    # The HTTP client sends each once more, as every connection was closed; then it is read back.
    assert faulty_s3.count("PUT") == 20
    assert faulty_s3.count("GET") == 10
    assert faulty_s3.count() == 30
    assert not directory.create("part-0", b"attempt 2")
    directory.put("status.json", b"old")
    directory.put("status.json", b"new")
    assert directory.read("status.json") == b"new"


def test_a_lost_answer_is_decided_when_the_store_can_be_read_again(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("cut", methods=("PUT",), times=1)
    faulty_s3.inject("500", methods=("HEAD", "GET"), times=3)
    assert directory.create("part", b"attempt 1")
    faulty_s3.heal()
    faulty_s3.inject("500", methods=("HEAD", "GET"), times=3)
    assert not directory.create("part", b"attempt 2")
    assert directory.read("part") == b"attempt 1"


class Part(bytearray):
    """Bytes that tell when they are gone."""


def test_a_write_that_failed_at_first_keeps_no_bytes(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    def commit(name: str) -> weakref.ref[Part]:
        part = Part(b"x")
        assert directory.create(name, part)
        return weakref.ref(part)

    commit("warm-up")
    faulty_s3.inject("500", methods=("PUT",), times=2)
    faulty_s3.inject("cut", methods=("PUT",), times=2)
    gc.collect()
    gc.disable()
    try:
        assert commit("part")() is None
    finally:
        gc.enable()
    assert len(faulty_s3.faults) == 4


def test_racing_writers_agree_on_one_winner_while_the_store_fails(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    faulty_s3.inject("cut", methods=("PUT",), share=0.3)
    faulty_s3.inject("409", methods=("PUT",), share=0.3)
    faulty_s3.inject("500", share=0.1)
    barrier = threading.Barrier(2)

    def race(me: bytes) -> list[bool]:
        wins = []
        for i in range(15):
            barrier.wait()
            wins.append(directory.create(f"part-{i}", me))
        return wins

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(race, [b"one", b"two"])
    faulty_s3.heal()
    for i in range(15):
        assert one[i] != two[i]
        assert directory.read(f"part-{i}") == (b"one" if one[i] else b"two")


def test_a_listing_goes_on_where_a_page_failed(
    directory: Directory, s3: Any, faulty_s3: FaultyS3
) -> None:
    names = [f"part-{i:02}" for i in range(11)]
    for name in names:
        directory.put(name, b"x")

    def small_pages(request: dict[str, Any], moto: Any) -> None:
        request["QUERY_STRING"] += "&max-keys=4"

    s3.fault = small_pages
    faulty_s3.heal()
    listing = directory.list()
    seen = [next(listing).name for _ in range(4)]
    faulty_s3.inject("503", methods=("GET",), times=2)
    assert [*seen, *(info.name for info in listing)] == names
    assert len(faulty_s3.faults) == 2
    assert faulty_s3.count("GET") == 3 + 2


DATA = bytes(range(256)) * 40_000  # 10 MB: more than one range of a sequential reader


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is silent for a second has failed."""
    monkeypatch.setitem(uris._S3_CONFIG, "read_timeout", 1)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("fault", ["truncate", "500"])
def test_a_read_that_broke_off_is_repeated_at_its_range(
    directory: Directory, faulty_s3: FaultyS3, fault: str, sequential: bool
) -> None:
    directory.put("data", DATA)
    faulty_s3.inject(fault, methods=("GET",), times=2)
    read = b""
    with OpenedFile(directory.uri_of("data"), sequential=sequential) as file:
        while chunk := file.read(1 << 20):
            read += chunk
            if len(read) == 5 << 20:
                faulty_s3.inject(fault, methods=("GET",), times=1)
    assert read == DATA
    assert len(faulty_s3.faults) == 3


def test_a_whole_file_is_read_again_when_its_body_was_cut(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    directory.put("data", DATA)
    faulty_s3.inject("truncate", methods=("GET",), times=2)
    assert directory.read("data") == DATA


def test_a_connection_that_falls_silent_is_given_up_for_another(
    directory: Directory, faulty_s3: FaultyS3, impatient: None
) -> None:
    directory.put("data", b"0123456789")
    faulty_s3.inject("stall", methods=("GET",), times=1)
    with OpenedFile(directory.uri_of("data"), sequential=True) as file:
        assert file.read() == b"0123456789"
    assert faulty_s3.faults == ["stall"]


def test_a_compressed_text_is_read_through_failures(
    directory: Directory, faulty_s3: FaultyS3
) -> None:
    text = b"".join(
        b'{"id": %d, "text": "%s"}\n' % (i, os.urandom(20).hex().encode()) for i in range(5000)
    )
    directory.put("rows.jsonl.gz", gzip.compress(text))
    faulty_s3.inject("truncate", methods=("GET",), times=1)
    with OpenedFile(directory.uri_of("rows.jsonl.gz"), sequential=True) as file:
        assert JsonLinesReader(file, "gzip").summarize(["id"], 1000).rows == 5000
    assert faulty_s3.faults == ["truncate"]


def test_a_missing_file_costs_no_retry(directory: Directory, faulty_s3: FaultyS3) -> None:
    with pytest.raises(NotFound):
        file_info(directory.uri_of("missing"))
    assert faulty_s3.count("HEAD") == 1


def test_a_probe_of_a_dead_store_takes_one_budget(
    directory: Directory, faulty_s3: FaultyS3, clock: Clock
) -> None:
    faulty_s3.inject("503")
    with pytest.raises(BeiJobsError, match="tried"):
        directory.probe()
    assert clock.now <= 61  # the last try waits for its turn
