"""What a tokenizer's process does; `processes` starts it and is the other side.

It imports one `tokenizers`, of either kind, and no torch. Messages are JSON objects:

    → {"version": …}                      the tokenizer is loaded
    ← {"texts": n, "bytes": b, "shorten": s}   n + 1 offsets (int64) and b bytes of UTF-8 are there
    → {"tokens": t}                       n lengths (int64) and t ids (int32) are there
    → {"invalid": true}                   a text is not UTF-8
    → {"error": …}                        anything else that went wrong
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipeline.tokenize.shared_bytes import SharedBytes
from pipeline.tokenize.shorten import shorten

# Texts that are strings and encodings at the same time.
_TEXTS_AT_ONCE = 1024

Encode = Callable[[list[str]], list[Any]]


def main() -> None:
    """Serve until the parent is gone. The arguments are the last one of the command, as JSON."""
    given = json.loads(sys.argv[-1])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    # One thread: there is a process for each core that may tokenize. For Rust, read by no Python.
    os.putenv("RAYON_NUM_THREADS", "1")
    os.putenv("TOKENIZERS_PARALLELISM", "false")
    link = Connection(given["link"])
    requests: queue.SimpleQueue[dict[str, int]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(link, requests), daemon=True).start()
    texts, ids = SharedBytes(given["texts"]), SharedBytes(given["ids"])
    try:
        version, encode = _load(given["tokenizer"], given["splits_special"])
        _send(link, {"version": version})
        while True:
            _send(link, _answer(requests.get(), texts, ids, encode))
    except BaseException as error:  # a panic of Rust is no Exception
        _send(link, {"error": f"{type(error).__name__}: {error}"})


def _receive(link: Connection, requests: queue.SimpleQueue[dict[str, int]]) -> None:
    try:
        while True:
            requests.put(json.loads(link.recv_bytes()))
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, also while a text is tokenized


def _send(link: Connection, message: dict[str, object]) -> None:
    link.send_bytes(json.dumps(message).encode())


def _load(descriptor: int, splits_special: bool) -> tuple[str, Encode]:
    """The version of the library, and its function from texts to encodings."""
    import tokenizers

    tokenizer: Any = tokenizers.Tokenizer.from_file(f"/dev/fd/{descriptor}")
    if hasattr(tokenizer, "encode_batch_fast"):  # 0.2x
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = splits_special
        return tokenizers.__version__, lambda texts: tokenizer.encode_batch_fast(
            texts, add_special_tokens=False
        )
    tokenizer.truncation = tokenizer.padding = None
    return tokenizers.__version__, lambda texts: tokenizer.encode_batch(
        texts, add_special_tokens=False, encode_special_tokens=splits_special
    )


def _answer(
    request: dict[str, int], texts: SharedBytes, ids: SharedBytes, encode: Encode
) -> dict[str, object]:
    count, size, limit = request["texts"], request["bytes"], request["shorten"]
    start = 8 * (count + 1)
    given = texts.first(start + size)
    offsets, data = given[:start].view(np.int64).tolist(), given[start:].data
    written = 0
    for first in range(0, count, _TEXTS_AT_ONCE):
        bounds = itertools.pairwise(offsets[first : first + _TEXTS_AT_ONCE + 1])
        try:
            some = [str(data[a:b], "utf-8") for a, b in bounds]
        except UnicodeDecodeError:
            return {"invalid": True}
        encodings = encode([shorten(text, limit) for text in some] if limit else some)
        lengths = [len(one) for one in encodings]
        total = sum(lengths)
        out = ids.first(8 * count + 4 * (written + total))
        out[8 * first : 8 * (first + len(some))].view(np.int64)[:] = lengths
        out[8 * count + 4 * written :].view(np.int32)[:] = _flat(encodings, total)
        written += total
    return {"tokens": written}


def _flat(encodings: list[Any], total: int) -> np.ndarray[Any, Any]:
    if encodings and hasattr(encodings[0], "ids_array"):  # 1.x
        return np.concatenate([one.ids_array for one in encodings])
    flat = itertools.chain.from_iterable(one.ids for one in encodings)
    return np.fromiter(flat, dtype=np.int32, count=total)
