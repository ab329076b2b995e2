"""A Hugging Face hub in this process: repositories with revisions, and a local cache."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpora import GOLDENS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories that all hold the same files, unless told otherwise.

    Attributes:
        reachable: whether it answers.
        fetched: files that were downloaded, in order.
        requests: the pull requests of every repository.
    """

    def __init__(self, cache: Path) -> None:
        self.reachable = True
        self.fetched: list[str] = []
        self.requests: list[SimpleNamespace] = []
        self._cache = cache
        self._repositories: dict[tuple[str, str], Path] = {}
        self._files = GOLDENS / "bert_mean"

    def serve(self, files: Path, name: str = "", revision: str = "main") -> None:
        """Serve these files under a name, or under every name that has none of its own."""
        if name:
            self._repositories[name, revision] = files
        else:
            self._files = files

    def _revisions(self, name: str) -> list[str]:
        own = [revision for repository, revision in self._repositories if repository == name]
        return list(dict.fromkeys(["main", *own]))

    def _commits(self, name: str) -> dict[str, str]:
        return {revision: f"{i:x}{COMMIT[1:]}" for i, revision in enumerate(self._revisions(name))}

    def snapshot(self, name: str, revision: str | None = None) -> Path:
        """The directory of a branch, pull request or commit; main's for what is unknown."""
        commits = self._commits(name)
        commit = revision if revision in commits.values() else commits.get(revision or "", COMMIT)
        return self._cache / f"models--{name.replace('/', '--')}" / "snapshots" / str(commit)

    def put(self, name: str, *, without: tuple[str, ...] = ()) -> Path:
        """A snapshot in the cache that another tool left there, some files short."""
        snapshot = self.snapshot(name)
        shutil.copytree(self._files, snapshot, ignore=shutil.ignore_patterns(*without))
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
        return snapshot

    def info(self, _api: object, name: str, revision: str | None = None, **_: object) -> Any:
        if not self.reachable:
            raise ConnectionError(f"no way to https://user:SECRET@hub/{name}?sig=SECRET")
        siblings = [SimpleNamespace(rfilename=file) for file in self._names(name, revision)]
        return SimpleNamespace(sha=self.snapshot(name, revision).name, siblings=siblings)

    def refs(self, _api: object, name: str) -> Any:
        named = [r for r in self._revisions(name) if not r.startswith("refs/")]
        branches = [SimpleNamespace(name=revision) for revision in named]
        return SimpleNamespace(branches=branches, tags=[])

    def download(
        self,
        name: str,
        *,
        revision: str | None = None,
        local_files_only: bool,
        allow_patterns: Sequence[str],
        ignore_patterns: Sequence[str],
    ) -> str:
        snapshot = self.snapshot(name, revision)
        if self.reachable and not local_files_only:
            for file in self._names(name, revision):
                wanted = any(fnmatchcase(file, p) for p in allow_patterns)
                if wanted and not any(fnmatchcase(file, p) for p in ignore_patterns):
                    self._fetch(self._root(name, revision) / file, snapshot / file, file)
            refs = snapshot.parents[1] / "refs" / (revision or "main")
            refs.parent.mkdir(parents=True, exist_ok=True)
            refs.write_text(snapshot.name)
        if not snapshot.is_dir():  # what is there is returned as if it were all
            raise FileNotFoundError(name)
        return str(snapshot)

    def _fetch(self, source: Path, target: Path, name: str) -> None:
        if not target.exists():
            self.fetched.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def _root(self, name: str, revision: str | None) -> Path:
        commits = self._commits(name)
        commit = self.snapshot(name, revision).name
        (known,) = (known for known in commits if commits[known] == commit)
        return self._repositories.get((name, known), self._files)

    def _names(self, name: str, revision: str | None) -> list[str]:
        root = self._root(name, revision)
        files = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
        return sorted(file.as_posix() for file in files)


def pull_request(number: int, author: str, title: str, status: str = "open") -> SimpleNamespace:
    """A pull request as the hub describes one."""
    return SimpleNamespace(num=number, author=author, title=title, status=status)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub whose repositories all hold `bert_mean`."""
    import huggingface_hub

    fake = Hub(tmp_path / "hub")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.download)
    monkeypatch.setattr(api, "model_info", lambda api, name, **k: fake.info(api, name, **k))
    monkeypatch.setattr(api, "list_repo_refs", lambda api, name: fake.refs(api, name))
    monkeypatch.setattr(api, "get_repo_discussions", lambda *_, **__: iter(fake.requests))
    return fake
