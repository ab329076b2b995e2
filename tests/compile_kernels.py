"""Compile the fused kernels for GPUs that are not here, as a model of MiniLM's width needs them.

Fails if one cannot be compiled, spills registers into memory, or reads its rows value by value:
the interpreter sees none of it. Run by test_fused_kernels in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.encoder.model import fused_kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
HALF, FLOAT, INT, NUMBER = "*bf16", "*fp32", "i32", "fp32"
GPUS = (80, 90)  # A100, H100
# Of arguments that are no pointer and no stride, Triton may assume nothing.
ANY = ("rows", "eps", "prompt", "least")

NORM = dict.fromkeys(("x", "residual", "weight", "bias", "out"), HALF)
NORM |= {**dict.fromkeys(("rows", "x_stride", "residual_stride"), INT), "eps": NUMBER}
ROTATE = dict.fromkeys(("x", "query_weight", "key_weight", "out"), HALF) | {"rotation": FLOAT}
ROTATE |= dict.fromkeys(("rows", "token_stride", "head_stride", "rotation_stride"), INT)
ROTATE |= {"eps": NUMBER}
GATE = {**dict.fromkeys(("gate", "up", "out"), HALF), "rows": INT, "stride": INT}
POOL = {"hidden": HALF, "offsets": "*i32", "out": FLOAT, "prompt": INT, "stride": INT}
POOL |= {"least": NUMBER}


def compile_for(gpu: int, kernel: Any, types: dict[str, str], **constants: Any) -> None:
    """Compile one variant of a kernel and look at what came of it."""
    warps = constants.pop("num_warps", 4)
    names = [parameter.name for parameter in kernel.params]
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = [i for i, name in enumerate(names) if name in types and name not in ANY]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", gpu, 32), options={"num_warps": warps}
    )
    vectors = re.search(r"ld\.global\S*\.v[248]", compiled.asm["ptx"])
    assert vectors, f"{kernel.__name__} reads value by value"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        used = subprocess.check_output([CUOBJDUMP, "-res-usage", file.name], text=True)
    assert "STACK:0 " in used, f"{kernel.__name__} spills registers: {used}"


def main() -> None:
    """Compile every kernel with each of its branches."""
    tile = fused_kernels._tile
    for gpu in GPUS:
        for layer, before, after in ((True, True, False), (False, False, True)):
            flags = {"LAYER": layer, "BIAS": layer, "BEFORE": before, "AFTER": after}
            compile_for(gpu, fused_kernels.fused_norm, NORM, WIDTH=384, **flags, **tile(384))
        for norm in (True, False):
            heads = {"HEADS": 12, "QUERIES": 8, "HALF": 32, "NORM": norm}
            compile_for(gpu, fused_kernels.fused_rotate, ROTATE, **heads, **tile(32))
        for activation in fused_kernels._ACTIVATIONS:
            block = {"WIDTH": 1536, "BLOCK": 1024, "ROWS": 2, "ACTIVATION": activation}
            compile_for(gpu, fused_kernels.fused_gate, GATE, **block)
        for mode in fused_kernels._POOLED:
            unit = {"WIDTH": 384, "MODE": mode, "UNIT": True}
            compile_for(gpu, fused_kernels.fused_pool, POOL, **unit, **tile(384))


if __name__ == "__main__":
    main()
