"""A Router of sentence-transformers: modules of their own for queries and for documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.bounds import MAX_MODULES
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError, UsageError

# The file of a Router, and its name in earlier versions.
_FILES = ("router_config.json", "config.json")
# Which texts a job reads unless the files or the user say.
_DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Router:
    """The modules for each kind of text."""

    file: Path
    routes: Mapping[str, Sequence[Mapping[str, Any]]]  # kind of text → entries as in modules.json
    default: str

    def modules(self, kind: str) -> list[dict[str, Any]]:
        """The entries for a kind of text, "" for the default.

        Raises:
            UsageError: there are none for this kind.
        """
        wanted = kind or self.default
        if wanted not in self.routes:
            known = ", ".join(sorted(map(one_line, self.routes)))
            raise UsageError(
                f"the model has no modules for --kind {wanted}: {self.file} names {known}",
                hint=f"give --kind {' or '.join(self.kinds)}" if self.kinds else DOWNLOAD_AGAIN,
            )
        return [dict(entry) for entry in self.routes[wanted]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of text that a job can name."""
        return tuple(kind for kind in ("query", _DOCUMENT) if kind in self.routes)


def read_router(
    listed: Sequence[Mapping[str, Any]], path: Path, json: Callable[[Path], Mapping[str, Any]]
) -> Router | None:
    """The Router that a list of modules begins with, None if there is none.

    Args:
        listed: the entries of modules.json.
        path: of the checkpoint.
        json: reads a file, {} if there is none.

    Raises:
        CheckpointError: its file is missing or damaged.
    """
    if not listed or not str(listed[0].get("type")).endswith(".Router"):
        return None
    folder = str(listed[0].get("path") or "")
    files = [path / folder / name for name in _FILES]
    file = next((file for file in files if json(file).get("structure")), files[0])
    content = json(file)
    types, structure = content.get("types"), content.get("structure")
    if not (isinstance(types, dict) and isinstance(structure, dict)):
        raise CheckpointError(
            f"{file} does not say which modules a Router has", hint=DOWNLOAD_AGAIN
        )
    routes = {}
    for kind, ids in structure.items():
        known = isinstance(ids, list) and all(isinstance(i, str) and i in types for i in ids)
        if not known or not 0 < len(ids) <= MAX_MODULES:
            raise CheckpointError(
                f"{file} names the modules {shown(ids)} for {shown(kind)}", hint=DOWNLOAD_AGAIN
            )
        routes[str(kind)] = [{"type": types[name], "path": _below(folder, name)} for name in ids]
    parameters = content.get("parameters")
    default = parameters.get("default_route") if isinstance(parameters, dict) else None
    return Router(file, routes, str(default or _DOCUMENT))


def _below(folder: str, name: object) -> str:
    return "/".join(part for part in (folder, str(name)) if part)
