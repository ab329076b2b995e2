"""The files of a model with a vector for each token (late interaction), in three layouts.

ColBERT's own    HF_ColBERT in config.json, settings in artifact.metadata, no module files
PyLate           settings in config_sentence_transformers.json, a Transformer and Dense modules
MultiVectorEncoder  of sentence-transformers 6: settings in its Transformer and MultiVectorMask

Sources: colbert/infra/config of stanford-futuredata/ColBERT, pylate/models/colbert.py, and
sentence_transformers/multi_vector_encoder, whose rule for markers is kept: one is a token of its
own where the vocabulary has it, and plain text where it has not.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.config_values import Config, is_whole, model_class
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.modules import (
    Expansion,
    Module,
    MultiModule,
    NormalizeModule,
    SentenceModules,
    TextReading,
)
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, canonical_json
from pipeline.encoder.checkpoint.sentence_modules import (
    GENERAL,
    module_config,
    module_kind,
    module_steps,
    transformer_file,
    with_settings,
)
from pipeline.encoder.checkpoint.sentence_settings import check_model_type, check_transformer
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

COLBERT_CLASS = "HF_ColBERT"
METADATA = "artifact.metadata"
PROJECTION = "linear.weight"
_PYLATE_DENSE = "pylate.models.Dense.Dense"
# Keys of config_sentence_transformers.json that PyLate alone writes.
_PYLATE_KEYS = ("query_prefix", "document_prefix", "do_query_expansion", "skiplist_words")
_MODEL_TYPES = ("MultiVectorEncoder", "ColBERT")
# What the authors' code takes where a file says nothing: ColBERT's, PyLate's.
_COLBERT_LENGTHS = (32, 220)
_PYLATE_LENGTHS = (32, 180)
_PUNCTUATION = tuple(string.punctuation)
_MAX_WORDS = 100_000


def read_multi_modules(files: CheckpointFiles, config: Config) -> SentenceModules | None:
    """The modules of a model with a vector for each token; None of another checkpoint.

    Raises:
        CheckpointError: a file is damaged, or bei-jobs does not compute a module or a setting.
    """
    if not files.modules:
        return _colbert(files) if model_class(config) == COLBERT_CLASS else None
    general = _File(files.path / GENERAL, files.json(files.path / GENERAL))
    types = [str(entry.get("type")) for entry in files.modules]
    pylate = (
        general.values.get("model_type") == "ColBERT"
        or _PYLATE_DENSE in types
        or (_holds(general.values, _PYLATE_KEYS) and not _ends(types, "Pooling"))
    )
    named = general.values.get("model_type") in _MODEL_TYPES or _ends(types, "MultiVectorMask")
    if not pylate and not named:
        return None
    if _ends(types, "Pooling"):
        check_model_type(general.values, general.path)
    file = transformer_file(files, files.folder)
    check_transformer(files.json(file), file)
    steps, mask = _steps(files, pylate=pylate)
    transformer = str(files.modules[0].get("path") or "")
    modules = SentenceModules(transformer=transformer, pooling=(), steps=steps)
    modules = with_settings(files, modules)
    own = _File(file, files.json(file))
    return _pylate(modules, general, own, mask) if pylate else _encoder(modules, own, mask)


@dataclass(frozen=True, slots=True)
class _File:
    """Settings, and the file that they are from, for messages."""

    path: Path
    values: Mapping[str, Any]

    def length(self, key: str, default: int | None = None) -> int | None:
        value = self.values.get(key)
        if value is None:
            return default
        if not is_whole(value) or value < 1:
            raise self._odd(key, "a length")
        return int(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str | None):
            raise self._odd(key, "a text")
        return default if value is None else value

    def words(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.values.get(key)
        if value is None:
            return default
        listed = isinstance(value, list) and len(value) <= _MAX_WORDS
        if not listed or not all(isinstance(word, str) for word in value):
            raise self._odd(key, "a list of words")
        return tuple(value)

    def _odd(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} sets {key} = {shown(self.values[key])}, which is not {wanted}",
            hint=DOWNLOAD_AGAIN,
        )


def _holds(values: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return any(key in values for key in keys)


def _ends(types: list[str], name: str) -> bool:
    return any(kind.endswith(f".{name}") for kind in types)


def _colbert(files: CheckpointFiles) -> SentenceModules:
    """ColBERT v2 and what was trained with its code: no module files."""
    metadata = _File(files.folder / METADATA, files.json(files.folder / METADATA))
    canonical_json(metadata.values, metadata.path)  # which refuses half of a surrogate pair
    query, document = _COLBERT_LENGTHS
    attended = bool(metadata.values.get("attend_to_mask_tokens"))
    expansion = Expansion(metadata.length("query_maxlen", query) or query, attended)
    skipped = _PUNCTUATION if metadata.values.get("mask_punctuation", True) else ()
    markers = {
        "query": metadata.text("query_token_id", "") or "[unused0]",
        "document": metadata.text("doc_token_id", "") or "[unused1]",
    }
    return SentenceModules(
        pooling=(),
        steps=(NormalizeModule(),),
        prompts={kind: f"{marker} " for kind, marker in markers.items()},
        multi=MultiModule(
            query=TextReading(expansion.length, (), expansion),
            document=TextReading(
                metadata.length("doc_maxlen", document), skipped, skips_words=True
            ),
            markers=tuple(markers.values()),
            projection=PROJECTION,
        ),
    )


def _steps(files: CheckpointFiles, *, pylate: bool) -> tuple[tuple[Module, ...], _File | None]:
    """The modules over the vectors of tokens, and the settings of a MultiVectorMask."""
    listing, steps, mask = files.path / "modules.json", list[Module](), None
    for i, entry in enumerate(files.modules):
        dense = entry.get("type") == _PYLATE_DENSE
        kind = "Dense" if dense else module_kind(entry, listing)
        folder = str(entry.get("path") or "")
        file, settings = files.path / folder / "config.json", module_config(kind, files, folder)
        if kind == "Transformer" and i == 0:
            continue
        if kind == "MultiVectorMask" and mask is None:
            mask = _File(file, settings)
        elif kind == "HierarchicalTokenPooling":
            steps += _token_pooling(_File(file, settings))
        elif kind in ("Dense", "LayerNorm", "Normalize", "Dropout"):
            if dense:  # whose activation is none where its config names none
                settings = {"activation_function": None, **settings}
            elif kind == "Normalize" and "module_input_name" not in settings and not pylate:
                raise CheckpointError(
                    f"{file} names no module_input_name: it would read the pooled vector, and this "
                    "model has none",
                    hint='set it to "token_embeddings" if the vectors of tokens are meant',
                )
            steps += module_steps(kind, folder, settings, listing, "token_embeddings")
        else:
            raise CheckpointError(
                f"{listing} names the module {one_line(kind)} in place {i + 1}; of a model with a "
                "vector for each token, bei-jobs computes a Transformer, then Dense, LayerNorm, "
                "Normalize and MultiVectorMask"
            )
    if pylate:  # it keeps the Dense modules, and divides by the length itself
        steps = [step for step in steps if not isinstance(step, NormalizeModule)]
        steps.append(NormalizeModule())
    return tuple(steps), mask


def _token_pooling(settings: _File) -> tuple[Module, ...]:
    """What remains of a pooling that merges no tokens."""
    factor = settings.values.get("pool_factor", 1)
    if not isinstance(factor, int | float) or factor > 1:
        raise CheckpointError(
            f"{settings.path} merges the tokens of a document (pool_factor = {shown(factor)}) by a "
            "clustering that bei-jobs does not compute",
            hint="use a copy without this module: all of its tokens keep their vectors then",
        )
    return (NormalizeModule(),) if settings.values.get("normalize_embeddings") else ()


def _pylate(
    modules: SentenceModules, general: _File, own: _File, mask: _File | None
) -> SentenceModules:
    """PyLate: lengths, markers and the skip list beside the prompts."""
    query, document = _PYLATE_LENGTHS
    query_length = general.length("query_length", query) or query
    expansion = None
    if general.values.get("do_query_expansion") is not False:
        keys = ("attend_to_expansion_tokens", "attend_to_mask_tokens")
        attended = next((general.values[key] for key in keys if key in general.values), False)
        expansion = Expansion(query_length, bool(attended))
    # Files of sentence-transformers 6 that were saved from PyLate's say it in both places.
    for file in (general, own):
        if "query_expansion" in file.values:
            expansion = _expansion(file)
    markers = {
        "query": general.text("query_prefix", "[Q] "),
        "document": general.text("document_prefix", "[D] "),
    }
    prompts = dict(modules.prompts)
    for kind, marker in markers.items():
        prompts[kind] = marker + prompts.get(kind, "").removeprefix(marker)
    skipped = _skipped(mask)
    if mask is None or general.values.get("model_type") == "ColBERT":
        skipped["document"] += general.words("skiplist_words", _PUNCTUATION)
    multi = MultiModule(
        query=TextReading(own.length("query_length", query_length), skipped["query"], expansion),
        document=TextReading(
            own.length("document_length", general.length("document_length", document)),
            skipped["document"],
        ),
        markers=tuple(filter(None, markers.values())),
    )
    return replace(modules, prompts=prompts, multi=_with_expansion(multi))


def _encoder(modules: SentenceModules, own: _File, mask: _File | None) -> SentenceModules:
    """A MultiVectorEncoder, whose markers are prompts."""
    skipped = _skipped(mask)
    query = TextReading(own.length("query_length"), skipped["query"], _expansion(own))
    document = TextReading(own.length("document_length"), skipped["document"])
    multi = _with_expansion(MultiModule(query=query, document=document))
    # Without a mask, tokens have a vector where they are attended to.
    if mask is None and query.expansion is not None and not query.expansion.attended:
        multi = replace(multi, query=replace(multi.query, expansion=None))
    return replace(modules, multi=multi)


def _skipped(mask: _File | None) -> dict[str, tuple[str, ...]]:
    """The tokens of each kind of text that have no vector, by a MultiVectorMask."""
    if mask is None:
        return {"query": (), "document": ()}
    if mask.values.get("keep_only_token_ids"):
        raise CheckpointError(
            f"{mask.path} sets keep_only_token_ids, for documents that are images; bei-jobs reads "
            "texts"
        )
    tasks = mask.values.get("skiplist_tasks")
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not {"query", "document"}.issuperset(map(str, tasks)):
        raise CheckpointError(
            f"{mask.path} sets skiplist_tasks = {shown(tasks)}, which bei-jobs does not know",
            hint="sentence-transformers writes query and document",
        )
    words = mask.words("skiplist_words", ())
    return {kind: words if kind in tasks else () for kind in ("query", "document")}


def _with_expansion(multi: MultiModule) -> MultiModule:
    """The length of a query is that of its expansion where this is fixed."""
    expansion = multi.query.expansion
    if expansion is None or not expansion.fixed:
        return multi
    return replace(multi, query=replace(multi.query, length=expansion.length))


def _expansion(own: _File) -> Expansion | None:
    """`query_expansion` of a Transformer module."""
    values = own.values.get("query_expansion")
    if values is None:
        return None
    given = _File(own.path, values if isinstance(values, dict) else {})
    length, strategy = given.length("length"), given.values.get("strategy")
    if length is None or strategy not in ("fixed", "min"):
        raise CheckpointError(
            f"{own.path} sets query_expansion = {shown(values)}, which bei-jobs does not compute",
            hint="sentence-transformers writes a strategy, fixed or min, and a length",
        )
    token = given.text("token", "")
    return Expansion(length, bool(given.values.get("attend")), token, strategy == "fixed")
