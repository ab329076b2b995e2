"""How a checkpoint scores a pair of texts, as sentence-transformers' CrossEncoder reads its files.

A language model is a reranker if its files say which tokens' logits make a score: the LogitScore of
modules.json, or a chat template with the roles `query` and `document`. Two published families that
may lack both are known by name, and read as their authors' own code does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.encoder.checkpoint.chat_template import ChatTemplate, read_chat_template
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import is_whole, labels, model_class
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, read_json
from pipeline.encoder.checkpoint.sentence_modules import TRANSFORMER_CONFIGS
from pipeline.encoder.checkpoint.sentence_settings import check_arguments, read_prompts
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# Published code that builds the text of a pair from parts, by what it is called here.
Recipe = Literal["qwen3-reranker", "mxbai-rerank-v2"]


@dataclass(frozen=True, slots=True)
class _Published:
    """A family of rerankers whose files do not say how they score."""

    names: re.Pattern[str]  # of the last part of the name
    model_type: str
    tokens: tuple[str, str]  # the score is the first one's logit minus the second one's
    activation: str


_PUBLISHED: dict[Recipe, _Published] = {
    "qwen3-reranker": _Published(
        re.compile(r"Qwen3-Reranker-(0\.6|4|8)B"), "qwen3", ("yes", "no"), "Sigmoid"
    ),
    "mxbai-rerank-v2": _Published(
        re.compile(r"mxbai-rerank-(base|large)-v2"), "qwen2", ("1", "0"), "Identity"
    ),
}
# The most tokens that both families' code reads where the user does not say.
PUBLISHED_MAX_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """What CrossEncoder knows of a checkpoint besides its encoder and its labels."""

    activation: str = "Sigmoid"  # what turns logits into scores: a class of torch.nn
    template: ChatTemplate | None = None  # None: the tokenizer's own way to join a pair
    # Of a language model: the score is the logit of the first, minus that of the second if any.
    score_tokens: tuple[int, ...] = ()
    recipe: Recipe | None = None
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    default_prompt_name: str | None = None

    def identity(self) -> dict[str, Any]:
        """The facts that shape scores, as JSON, and only those that differ from the default.

        Keys, values and their meaning are frozen, as in `ModelCard.identity`.
        """
        facts: dict[str, Any] = {}
        if self.activation != "Sigmoid":
            facts["activation"] = self.activation
        if self.template is not None:
            facts["chat_template"] = _digest(self.template)
        if self.score_tokens:
            facts["score_tokens"] = list(self.score_tokens)
        if self.recipe is not None:
            facts["recipe"] = self.recipe
        return facts


def read_cross_encoder(checkpoint: Checkpoint) -> CrossEncoder:
    """What CrossEncoder reads from the files of a checkpoint.

    Raises:
        CheckpointError: the files contradict each other, or name what bei-jobs does not compute.
    """
    kind = model_class(checkpoint.config)
    language_model = kind.endswith("ForCausalLM")
    _check_modules(checkpoint.files, language_model=language_model)
    if language_model:
        return _of_language_model(checkpoint)
    if kind.endswith("ForSequenceClassification"):
        return _of_classifier(checkpoint)
    return CrossEncoder()


def _check_modules(files: CheckpointFiles, *, language_model: bool) -> None:
    """Refuse a LogitScore that would be left out."""
    kinds = [_kind(entry) for entry in files.modules]
    if "LogitScore" in kinds and not (language_model and _saved(files) is not None):
        raise CheckpointError(
            f"{files.path / 'modules.json'} names a LogitScore, which belongs to a language model "
            "(ForCausalLM) whose config_sentence_transformers.json says CrossEncoder",
            hint=DOWNLOAD_AGAIN,
        )


def _of_classifier(checkpoint: Checkpoint) -> CrossEncoder:
    files = checkpoint.files
    saved = _saved(files)
    settings = _settings(files) if saved is not None else {}
    default = "Sigmoid" if len(labels(checkpoint.config)) == 1 else "Identity"
    if settings:
        _check_task(settings, "sequence-classification", files)
    prompts, default_prompt = _prompts(files, saved)
    return CrossEncoder(
        _activation(saved, checkpoint, default),
        _template(checkpoint, saved, settings),
        prompts=prompts,
        default_prompt_name=default_prompt,
    )


def _of_language_model(checkpoint: Checkpoint) -> CrossEncoder:
    files = checkpoint.files
    saved = _saved(files)
    if saved is not None:
        settings = _settings(files)
        _check_task(settings, "text-generation", files)
        prompts, default_prompt = _prompts(files, saved)
        return CrossEncoder(
            _activation(saved, checkpoint, "Sigmoid"),
            _template(checkpoint, saved, settings),
            _logit_score(checkpoint),
            prompts=prompts,
            default_prompt_name=default_prompt,
        )
    if files.modules:
        return CrossEncoder()
    template = _template(checkpoint, None, {})
    if template is not None and template.names_roles:
        tokens = _token_ids(files, ("yes", "no"))
        return CrossEncoder(_activation(None, checkpoint, "Sigmoid"), template, tokens)
    for recipe, published in _PUBLISHED.items():
        named = published.names.fullmatch(checkpoint.last_part)
        if named and checkpoint.config.get("model_type") == published.model_type:
            tokens = _token_ids(files, published.tokens)
            return CrossEncoder(published.activation, None, tokens, recipe)
    return CrossEncoder()


def _saved(files: CheckpointFiles) -> Mapping[str, Any] | None:
    """config_sentence_transformers.json of a saved CrossEncoder, None for another checkpoint.

    CrossEncoder reads neither the file nor the modules of a model of another kind.
    """
    content = files.json(files.path / "config_sentence_transformers.json")
    saved = bool(files.modules) and content.get("model_type") == "CrossEncoder"
    return content if saved else None


def _settings(files: CheckpointFiles) -> Mapping[str, Any]:
    """sentence_bert_config.json of the encoder's folder, in any of its historical names.

    Raises:
        CheckpointError: it saves arguments that bei-jobs does not apply.
    """
    for name in TRANSFORMER_CONFIGS:
        if content := files.json(file := files.folder / name):
            check_arguments(content, file)
            return content
    return {}


def _check_task(settings: Mapping[str, Any], task: str, files: CheckpointFiles) -> None:
    given = settings.get("transformer_task", task)
    if given != task:
        raise CheckpointError(
            f"{files.folder} is saved with transformer_task = {shown(given)}; its class needs "
            f"{task!r}",
            hint=DOWNLOAD_AGAIN,
        )


def _prompts(
    files: CheckpointFiles, saved: Mapping[str, Any] | None
) -> tuple[Mapping[str, str], str | None]:
    if saved is None:
        return {}, None
    return read_prompts(files, files.path / "config_sentence_transformers.json")


def _template(
    checkpoint: Checkpoint, saved: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> ChatTemplate | None:
    """The chat template, unless a saved CrossEncoder reads plain text."""
    modality = settings.get("modality_config")
    if saved is not None and not (isinstance(modality, dict) and "message" in modality):
        return None
    model_type = str(checkpoint.config.get("model_type", ""))
    return read_chat_template(checkpoint.files, checkpoint.name, model_type, settings)


def _activation(saved: Mapping[str, Any] | None, checkpoint: Checkpoint, default: str) -> str:
    """The activation as CrossEncoder finds it: a name of torch.nn, or a path that is none."""
    config = checkpoint.config
    nested = config.get("sentence_transformers")
    path = None if saved is None else saved.get("activation_fn")
    if path is None and isinstance(nested, dict) and "activation_fn" in nested:
        path = nested["activation_fn"]
    elif path is None:
        path = config.get("sbert_ce_default_activation_function")
    if path is None:
        return default
    text = one_line(path)
    return text.rpartition(".")[2] if text.startswith("torch.nn.") else text


def _kind(entry: Mapping[str, Any]) -> str:
    """The class of a module, without its package."""
    return str(entry.get("type", "")).rpartition(".")[2]


def _logit_score(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The tokens of the LogitScore module, which must follow the encoder and nothing else."""
    files = checkpoint.files
    kinds = [_kind(entry) for entry in files.modules]
    if kinds != ["Transformer", "LogitScore"]:
        raise CheckpointError(
            f"{files.path / 'modules.json'} lists {one_line(', '.join(kinds))}; of a language "
            "model, bei-jobs computes a Transformer and a LogitScore",
        )
    file = files.path / str(files.modules[1].get("path") or "") / "config.json"
    content = files.json(file)
    tokens = [content.get("true_token_id"), content.get("false_token_id")]
    given = [token for token in tokens if token is not None]
    size: Any = checkpoint.config.get("vocab_size")
    bound = size if is_whole(size) else 0
    if (
        tokens[0] is None
        or not all(is_whole(token) and 0 <= token < bound for token in given)
        or content.get("module_input_name", "causal_logits") != "causal_logits"
    ):
        raise CheckpointError(
            f"{file} does not name the tokens of a score: {shown(content)}", hint=DOWNLOAD_AGAIN
        )
    return tuple(int(token) for token in given)


def _token_ids(files: CheckpointFiles, tokens: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of tokens in the vocabulary of tokenizer.json."""
    file = files.folder / "tokenizer.json"
    content = read_json(file) if file.is_file() else {}
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = [vocabulary.get(token) for token in tokens] if isinstance(vocabulary, dict) else [None]
    if not all(is_whole(number) for number in ids):
        raise CheckpointError(
            f"{file} does not have the tokens {' and '.join(tokens)}, whose logits make the score",
            hint=DOWNLOAD_AGAIN,
        )
    return tuple(int(number) for number in ids if number is not None)


def _digest(template: ChatTemplate) -> str:
    facts = [template.source, template.structured, template.variables, template.restores_end]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
