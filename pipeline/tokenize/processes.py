"""Token ids from processes of their own: Python's lock is never held for them here.

A process gets texts and gives ids in memory that it shares with this one, and may import another
release of `tokenizers` than this process: 1.x, which is several times as fast, and which
transformers does not allow beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.packing import Int32Array, Int64Array
from pipeline.tokenize.ids import InvalidText, utf8
from pipeline.tokenize.shared_bytes import SharedBytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Loading the largest published vocabulary takes 3 s, and much longer on a busy machine.
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_SOURCES = str(Path(__file__).parents[2])
# The library's directory comes before the installed one. -P: the working directory is not for
# import.
_COMMAND = (
    "import sys\n"
    "sys.path[:0] = [each for each in sys.argv[1:2] if each]\n"
    "sys.path.append(sys.argv[2])\n"
    "from pipeline.tokenize.tokenizer_process import main\n"
    "main()\n"
)


class ProcessesLost(Exception):
    """The processes do not tokenize any more; `str(error)` says why."""


class TokenizerProcesses:
    """Tokenizes with one thread in each of several processes; safe to share between threads.

    The processes end with this one, whatever ends it. After an error, none is left.

    Args:
        count: of the processes.
        library: a directory that holds a `tokenizers` 1.x; None for the installed one.
    """

    def __init__(self, count: int, library: Path | None) -> None:
        self.count = count
        self.library = library
        self.version = ""
        self._processes: list[_Process] = []
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"tokenizers {self.version or version('tokenizers')}"

    def start(self, tokenizer: Tokenizer) -> None:
        """Start the processes, and wait until each has loaded the tokenizer.

        Args:
            tokenizer: with all of its settings; its truncation does not count.

        Raises:
            ProcessesLost: one cannot be started, or load it, or the library is no 1.x.
        """
        with self._all_or_none(), tempfile.TemporaryFile() as file:
            file.write(tokenizer.to_str().encode())
            file.seek(0)  # macOS opens it where it stands here
            arguments = {
                "tokenizer": file.fileno(),
                "splits_special": tokenizer.encode_special_tokens,
            }
            for _ in range(self.count):
                self._processes.append(_Process(self.library, arguments))
            for process in self._processes:
                self.version = str(process.started()["version"])
            if self.library is not None and not self.version.startswith("1."):
                raise ProcessesLost(f"{self.library} holds tokenizers {self.version}, and no 1.x")

    def encode(self, texts: pa.LargeStringArray, shorten: int = 0) -> tuple[Int32Array, Int64Array]:
        """As of `ids.Ids`.

        Raises:
            InvalidText: as there.
            ProcessesLost: a process has ended, or raised.
        """
        with self._all_or_none():
            if not self._processes:
                raise ProcessesLost("its processes have ended")
            return self._encode(texts, shorten)

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """One thread at a time; after an error, no process is left."""
        with self._lock:
            try:
                yield
            except InvalidText:
                raise
            except OSError as error:  # no room for a process, a file or a mapping
                self._end()
                raise ProcessesLost(f"its processes cannot be used: {error}") from error
            except BaseException:
                self._end()
                raise

    def _encode(self, texts: pa.LargeStringArray, shorten: int) -> tuple[Int32Array, Int64Array]:
        offsets, data = utf8(texts)
        shares = np.linspace(0, offsets[-1], len(self._processes) + 1)
        cuts = np.searchsorted(offsets, shares)
        cuts[0], cuts[-1] = 0, len(texts)
        busy = []
        for process, first, last in zip(self._processes, cuts[:-1], cuts[1:], strict=True):
            if last > first:
                some = offsets[first : last + 1]
                process.send(some - some[0], data[some[0] : some[-1]], shorten)
                busy.append(process)
        answers = [process.receive() for process in busy]
        if any("invalid" in answer for answer in answers):
            raise InvalidText
        found = [each.result(answer) for each, answer in zip(busy, answers, strict=True)]
        # Copied, since the next texts go where these came from.
        ids = np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in found)])
        return ids, np.concatenate([np.empty(0, np.int64), *(sizes for _, sizes in found)])

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.end()
        self._processes = []


class _Process:
    def __init__(self, library: Path | None, arguments: Mapping[str, int]) -> None:
        self._texts, self._ids = SharedBytes.create(), SharedBytes.create()
        self._link, other = Pipe()
        self._count = 0
        descriptors = {
            "link": other.fileno(),
            "texts": self._texts.descriptor,
            "ids": self._ids.descriptor,
        }
        given = {**arguments, **descriptors}
        command = [sys.executable, "-P", "-c", _COMMAND, str(library or ""), _SOURCES]
        try:
            with other:
                self._process = subprocess.Popen(
                    [*command, json.dumps(given)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[*descriptors.values(), arguments["tokenizer"]],
                )
        except BaseException:
            self._close()
            raise

    def started(self) -> dict[str, object]:
        if not self._link.poll(_START_SECONDS):
            raise ProcessesLost(f"its process does not start within {_START_SECONDS:g} s")
        return self.receive()

    def send(self, offsets: Int64Array, data: npt.NDArray[np.uint8], shorten: int) -> None:
        self._count = len(offsets) - 1
        shared = self._texts.first(offsets.nbytes + data.nbytes)
        shared[: offsets.nbytes].view(np.int64)[:] = offsets
        shared[offsets.nbytes :] = data
        message = {"texts": self._count, "bytes": data.nbytes, "shorten": shorten}
        try:
            self._link.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> dict[str, object]:
        try:
            answer: dict[str, object] = json.loads(self._link.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if "error" in answer:
            raise ProcessesLost(f"its process raised {answer['error']}")
        return answer

    def _lost(self) -> ProcessesLost:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return ProcessesLost("its process closed the link")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return ProcessesLost(f"its process {how}")

    def result(self, answer: dict[str, object]) -> tuple[Int32Array, Int64Array]:
        """Ids and lengths, where the process wrote them."""
        size = 8 * self._count
        shared = self._ids.first(size + 4 * int(str(answer["tokens"])))
        return shared[size:].view(np.int32), shared[:size].view(np.int64)

    def end(self) -> None:
        self._link.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        self._link.close()
        self._texts.close()
        self._ids.close()
