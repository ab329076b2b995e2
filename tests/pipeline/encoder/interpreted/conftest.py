"""These tests compute in Triton's interpreter, in a process of their own: see test_fused_kernels.

Where it is installed, torch imports Triton with some of its modules, so it is not on the path of
other tests; and it asks for its interpreter once, when it is imported.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _rounds_to_the_nearest() -> None:
    """A GPU rounds to the nearest bfloat16; the interpreter of Triton 3.7 cuts digits off."""
    from triton import language
    from triton.runtime import interpreter

    sound = interpreter._convert_float

    def convert(data, source, target, rounding):  # type: ignore[no-untyped-def]
        if (source, target) != (language.float32, language.bfloat16):
            return sound(data, source, target, rounding)
        rounded = torch.from_numpy(np.ascontiguousarray(data)).to(torch.bfloat16)
        return rounded.view(torch.int16).numpy().view(np.uint16)

    interpreter._convert_float = convert
