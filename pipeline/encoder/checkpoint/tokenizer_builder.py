"""Builds a tokenizer as transformers' AutoTokenizer does; run by `tokenizer_build` as a script.

    python tokenizer_builder.py FOLDER OUT < the JSON of `tokenizer_build`

Writes OUT/tokenizer.json and OUT/settings.json, or prints what went wrong after a zero byte, since
libraries print too, and exits with 1. It may be killed by its own limits at any point.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# The largest published vocabulary takes 10 s.
_CPU_SECONDS = 120
# Address space, most of which PyTorch reserves without using it.
_MEMORY_BYTES = 48 * 1024**3


def main() -> None:
    """Build within limits."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
    ):
        with suppress(ValueError, OSError):  # macOS has no limit on the address space
            hard = resource.getrlimit(kind)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (least, least))
    run(Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin))


def run(folder: Path, out: Path, request: dict[str, Any]) -> None:
    """Build, and write what was built."""
    built = build(folder, request)
    backend = getattr(built, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(f"{type(built).__name__} of transformers is not a fast tokenizer")
    backend.save(str(out / "tokenizer.json"), pretty=False)
    settings = {
        "class": type(built).__name__,
        "truncation_side": built.truncation_side,
        "passes_types": "token_type_ids" in built.model_input_names,
        "split_special_tokens": bool(built.split_special_tokens),
    }
    (out / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def build(folder: Path, request: dict[str, Any]) -> Any:
    """The tokenizer of transformers; the request is that of the script."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options = {"local_files_only": True, **request["options"]}
    if request["as_it_is"]:
        return PreTrainedTokenizerFast.from_pretrained(folder, **options)
    config = empty_config(request["model_type"])
    config._name_or_path = request["name"]
    if request["tokenizer_class"] is not None:
        config.tokenizer_class = request["tokenizer_class"]
    return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, **options)


def empty_config(model_type: str) -> Any:
    """A config of a type with no values but its defaults: AutoTokenizer reads no others."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    if model_type in CONFIG_MAPPING:
        with suppress(Exception):  # types that are made of others have no defaults
            return CONFIG_MAPPING[model_type]()
    config = PreTrainedConfig()
    config.model_type = model_type  # type: ignore[misc]  # as the config of remote code has it
    return config


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # a panic of Rust is no Exception
        sys.stdout.write(f"\0{type(error).__name__}: {error}"[:4_000])
        sys.exit(1)
