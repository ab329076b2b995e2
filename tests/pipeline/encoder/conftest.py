"""Encoder tests compute on one core."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.encoder.checkpoint import tokenizer_build, tokenizer_builder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny models gain nothing from more, and lose much on a busy machine.
    torch.set_num_threads(1)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build here: forty processes would each import transformers. Others test the process."""

    def run(folder: Path, out: Path, request: dict[str, Any]) -> str | None:
        try:
            tokenizer_builder.run(folder, out, request)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    monkeypatch.setattr(tokenizer_build, "_run", run)


@pytest.fixture
def write_adapter() -> Callable[..., dict[str, Tensor]]:
    """Write a random LoRA adapter of modules, [out, in] each, into a folder; returns what it adds
    to the weight of each. With `embedding`, the modules are tables, as peft has those.
    """

    def write(
        folder: Path,
        modules: Mapping[str, tuple[int, int]],
        *,
        base: Path | str = "/nowhere",
        embedding: bool = False,
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        tensors, added = dict[str, Tensor](), dict[str, Tensor]()
        for module, (rows, columns) in modules.items():
            down = torch.randn(2, columns, generator=generator) * 0.3
            up = torch.randn(rows, 2, generator=generator) * 0.3
            added[module] = 6 / 2 * (up @ down)
            name = f"base_model.model.{module}.lora"
            if embedding:
                tensors[f"{name}_embedding_A"] = up.T.contiguous()
                tensors[f"{name}_embedding_B"] = down.T.contiguous()
            else:
                tensors[f"{name}_A.weight"], tensors[f"{name}_B.weight"] = down, up
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {
            "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": [*modules],
            "base_model_name_or_path": str(base),
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return added

    return write
