"""What a process under test does to itself; Python imports this file because PYTHONPATH names it.

No hook of this kind is in bei-jobs. Spawned processes import it too, and do as their environment
says:

    CHAOS_POINT          pause once, in the first process that gets there
    CHAOS_DIR            where `reached` (the process id) appears, and `released` is waited for
    CHAOS_POISON         1: a text that contains "poison:kill", ":raise" or ":hang" does that
    CHAOS_NO_RECONCILER  1: workers never reconcile in a loop
    CHAOS_NUMERICS       added to NUMERICS_VERSION
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

POINT = os.environ.get("CHAOS_POINT", "")
POLL_S = 0.01
PAUSE_LIMIT_S = 90.0

Patch = Callable[[ModuleType], None]


def pause(point: str) -> None:
    """Wait here for the test, if it chose this point and no process has paused before."""
    if point != POINT:
        return
    folder = Path(os.environ["CHAOS_DIR"])
    writing = folder / f"pid-{os.getpid()}"
    try:
        writing.write_text(str(os.getpid()))
        os.link(writing, folder / "reached")
    except OSError:  # another process was here, or the test is over
        return
    deadline = time.monotonic() + PAUSE_LIMIT_S
    while not (folder / "released").exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Pause before or after each call of a method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        pause(before)
        result = original(*args, **kwargs)
        pause(after)
        return result

    setattr(owner, name, method)


def patch_engine(module: ModuleType) -> None:
    original = module.Engine.run_all

    def run_all(*args: Any, **kwargs: Any) -> Iterator[Any]:
        pause("before-first-batch")
        for i, item in enumerate(original(*args, **kwargs)):
            if i == 1:
                pause("mid-shard")
            yield item

    module.Engine.run_all = run_all  # type: ignore[attr-defined]


def patch_output(module: ModuleType) -> None:
    around(module.Output, "commit", "before-commit", "after-commit")


def patch_manifest(module: ModuleType) -> None:
    around(module, "totals", "before-manifest")


def patch_consumer(module: ModuleType) -> None:
    pause("before-consumer")


def patch_celery(module: ModuleType) -> None:
    original = module.Celery.send_task
    sent: list[None] = []

    def send_task(*args: Any, **kwargs: Any) -> Any:
        if len(sent) == 2:
            pause("mid-enqueue")
        sent.append(None)
        return original(*args, **kwargs)

    module.Celery.send_task = send_task  # type: ignore[attr-defined]


def patch_texts(module: ModuleType) -> None:
    original = module.TextTokenizer.encode_column

    def encode_column(self: Any, column: Any, *args: Any, **kwargs: Any) -> Any:
        for text in column.to_pylist():
            if text and "poison:kill" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if text and "poison:raise" in text:
                raise RuntimeError("poisoned")
            while text and "poison:hang" in text:
                time.sleep(POLL_S)
        return original(self, column, *args, **kwargs)

    module.TextTokenizer.encode_column = encode_column  # type: ignore[attr-defined]


def patch_reconcile_loop(module: ModuleType) -> None:
    module.ReconcileLoop.reconcile_all = lambda self: None  # type: ignore[attr-defined]


def patch_spec(module: ModuleType) -> None:
    module.NUMERICS_VERSION += int(os.environ["CHAOS_NUMERICS"])  # type: ignore[attr-defined]


def chosen() -> dict[str, Patch]:
    """Module → what is done to it right after its import."""
    patches: dict[str, Patch] = {}
    if POINT:
        patches["pipeline.encoder.engine"] = patch_engine
        patches["pipeline.output.output"] = patch_output
        patches["pipeline.output.manifest"] = patch_manifest
        patches["celery.app.base"] = patch_celery
        patches["workers.consumer"] = patch_consumer
    if os.environ.get("CHAOS_POISON"):
        patches["pipeline.tokenize.texts"] = patch_texts
    if os.environ.get("CHAOS_NO_RECONCILER"):
        patches["workers.reconcile_loop"] = patch_reconcile_loop
    if os.environ.get("CHAOS_NUMERICS"):
        patches["pipeline.spec"] = patch_spec
    return patches


class Patcher(MetaPathFinder):
    """Patches modules when they are imported, so that nothing is imported earlier than usual."""

    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        patch = self._patches.pop(fullname, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if patches := chosen():
    sys.meta_path.insert(0, Patcher(patches))
