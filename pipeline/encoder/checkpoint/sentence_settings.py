"""Settings of sentence-transformers that change values: those that bei-jobs does not apply are
refused by name.

Known and without effect on the vector of a text: `similarity_fn_name`, `unpad_inputs`,
`query_length`, `document_length` and `query_expansion` (of `encode_query` and `encode_document`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.encoder.checkpoint.bounds import MAX_PROMPT_CHARACTERS
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

# Keys of sentence_bert_config.json that are read, or that change nothing.
_READ = ("max_seq_length", "do_lower_case")
_WITHOUT_EFFECT = ("unpad_inputs", "query_length", "document_length", "query_expansion")
# What sentence-transformers takes of an encoder of texts, by its task.
_TASK_OUTPUTS = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
# Arguments of from_pretrained that decide where and how fast, or in which precision, it computes.
_ARGUMENTS = ("model", "tokenizer", "processor", "config")
_ARGUMENTS_WITHOUT_EFFECT = (
    "add_pooling_layer",
    "attn_implementation",
    "device_map",
    "dtype",
    "low_cpu_mem_usage",
    "padding_side",
    "torch_dtype",
    "trust_remote_code",
    "unpad_inputs",
    "use_cache",
    "use_fast",
    "use_memory_efficient_attention",
    "use_safetensors",
)
# What a module reads and writes.
Place = Literal["sentence_embedding", "token_embeddings"]
_PLACES: Mapping[Place, str] = {
    "sentence_embedding": "the pooled vector",
    "token_embeddings": "the vectors of tokens in this checkpoint",
}
_HINT = "use a checkpoint without it, or ask for it: its values would be others"


def check_transformer(
    settings: Mapping[str, Any], file: Path, task: str = "feature-extraction"
) -> None:
    """Check the settings of the Transformer module, sentence_bert_config.json.

    Args:
        settings: its content.
        file: for messages.
        task: what the modules after it read: hidden states, or for fill-mask logits.

    Raises:
        CheckpointError: one of them would change vectors, and bei-jobs does not apply it.
    """
    usual = {"transformer_task": task, "module_output_name": "token_embeddings"}
    for key, value in settings.items():
        if not value or key in _READ or key in _WITHOUT_EFFECT or usual.get(key) == value:
            continue
        if key == "modality_config":
            if isinstance(value, dict) and _plain_text(value.get("text"), task):
                continue
        elif _holds_arguments(key):
            key, value = _odd_argument(key, value)
            if not key:
                continue
        raise _refused(file, key, value)


def check_arguments(settings: Mapping[str, Any], file: Path) -> None:
    """Check the arguments that a CrossEncoder's sentence_bert_config.json saves.

    Those of its chat template are checked where it is rendered.

    Raises:
        CheckpointError: one of them would change scores, and bei-jobs does not apply it.
    """
    for key, value in settings.items():
        if key == "processing_kwargs" and isinstance(value, dict):
            applied: tuple[str, ...] = ("chat_template",)
        elif value and _holds_arguments(key):
            applied = _ARGUMENTS_WITHOUT_EFFECT
        else:
            continue
        key, value = _odd_argument(key, value, applied)
        if key:
            raise _refused(file, key, value)


def _holds_arguments(key: str) -> bool:
    return key.endswith(("_args", "_kwargs")) and key.partition("_")[0] in _ARGUMENTS


def _plain_text(modality: object, task: str) -> bool:
    usual = {"method": "forward", "method_output_name": _TASK_OUTPUTS[task]}
    return isinstance(modality, dict) and usual.items() <= modality.items()


def _odd_argument(
    key: str, value: object, applied: tuple[str, ...] = _ARGUMENTS_WITHOUT_EFFECT
) -> tuple[str, object]:
    """The first argument that may change values, ("", None) if none does."""
    if not isinstance(value, dict):
        return key, value
    odd = ((f"{key}.{k}", v) for k, v in value.items() if v not in ({}, None) and k not in applied)
    return next(odd, ("", None))


def check_model_type(content: Mapping[str, Any], file: Path) -> None:
    """Check that config_sentence_transformers.json is that of an embedder.

    Raises:
        CheckpointError: it is that of another kind of model.
    """
    # A CrossEncoder is a matter of its task.
    kind = content.get("model_type")
    if kind not in (None, "SentenceTransformer", "CrossEncoder"):
        raise CheckpointError(
            f"{file} says that this is a {shown(kind)}, and its modules are not those of one that "
            "bei-jobs computes: it was not trained to give one vector for a text",
            hint="use a checkpoint of a SentenceTransformer, of a MultiVectorEncoder, or of a "
            "SparseEncoder whose modules are a Transformer and a SpladePooling, or a "
            "SparseStaticEmbedding",
        )


def check_places(
    kind: str, settings: Mapping[str, Any], file: Path, place: Place = "sentence_embedding"
) -> None:
    """Check that a module reads and writes the pooled vector, or those of tokens.

    Raises:
        CheckpointError: it reads something else.
    """
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, place):
            raise CheckpointError(
                f"{file} sets {key} = {shown(settings[key])}; bei-jobs applies {kind} to "
                f"{_PLACES[place]} only"
            )


def truncate_dim(content: Mapping[str, Any], file: Path) -> int | None:
    """How many leading dimensions of a vector are published, None for all.

    Raises:
        CheckpointError: it is not a positive whole number.
    """
    value = content.get("truncate_dim")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{file} sets truncate_dim = {shown(value)}, which is not a width")
    return value


def read_prompts(files: CheckpointFiles, file: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default one; a null prompt is empty.

    Raises:
        CheckpointError: the file does not map names to texts, or a text is too long.
    """
    content = files.json(file)
    prompts, default = content.get("prompts") or {}, content.get("default_prompt_name")
    if not isinstance(prompts, dict) or not isinstance(default, str | None):
        raise CheckpointError(
            f"{file} does not map names to prompts: prompts = {shown(prompts)}, "
            f"default_prompt_name = {shown(default)}"
        )
    texts = {str(k): "" if v is None else str(v) for k, v in prompts.items()}
    if any(len(text) > MAX_PROMPT_CHARACTERS for text in texts.values()):
        raise CheckpointError(
            f"{file} has a prompt of more than {MAX_PROMPT_CHARACTERS:,} characters",
            hint=DOWNLOAD_AGAIN,
        )
    return texts, default


def _refused(file: Path, key: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{file} sets {key} = {shown(value)}, which bei-jobs does not apply", hint=_HINT
    )
