"""How much faster this CPU multiplies in bfloat16 and in int8 than in float32, by trials.

Chips differ more than their names tell: AMX has eight times float32's rate, AVX512-BF16 up to
twice, and what lacks both converts and is slower. So the largest product of a layer is timed once
for each chip, and the result is kept:

    <cache_dir>/trials/<digest of chip, torch, cores and shapes>.json
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.device.cpu_time import least_seconds
from pipeline.encoder.device.devices import cpu_streams
from pipeline.encoder.model.int8 import fastest_passes
from pipeline.encoder.model.linear import Linear, make_linear
from pipeline.spec import digest
from pipeline.store.small_file import read_small, replace_small

# A product that is as fast as those of whole batches, and not so large that the trial is felt.
_TOKENS = 256
_MOST_WIDTH = 2048
_REPEATS = 5
# A gain between these may be that of a busy machine: it is measured again next time. AVX512-BF16
# gains 1.9, AMX more, and a chip without either loses.
_UNSURE = (1.0, 1.6)
# Lines of /proc/cpuinfo, of x86 and of ARM.
_TELLING = ("model", "vendor_id", "cpu family", "flags", "CPU ", "Features")
_MAX_BYTES = 4096
_MAX_GAIN = 1000.0


def bfloat16_gain(config: EncoderConfig, cache_dir: Path | None = None) -> float:
    """Seconds of a model's largest product in float32 / in bfloat16, on this CPU.

    Args:
        config: of the model: its hidden and intermediate size are what is multiplied.
        cache_dir: where the result is kept, if it is a clear one; None to measure again.
    """
    sizes = min(config.hidden_size, _MOST_WIDTH), min(config.intermediate_size, _MOST_WIDTH)
    return _kept(cache_dir, (_TOKENS, sizes), lambda: _measure(*sizes))


def int8_gain(config: EncoderConfig, cache_dir: Path | None = None) -> float:
    """The same of int8, quantizing and scaling back included; args as of `bfloat16_gain`.

    Raises:
        UsageError: this CPU cannot compute exact products.
    """
    sizes = min(config.hidden_size, _MOST_WIDTH), min(config.intermediate_size, _MOST_WIDTH)
    passes = type(fastest_passes()).__name__
    return _kept(cache_dir, ("int8", passes, _TOKENS, sizes), lambda: _measure_int8(*sizes))


def _kept(cache_dir: Path | None, what: tuple[object, ...], measure: Callable[[], float]) -> float:
    """The result of an earlier trial of the same, or of one now."""
    path = None
    if cache_dir is not None:
        key = digest(_chip(), torch.__version__, torch.get_num_threads(), *what)
        path = cache_dir / "trials" / f"{key}.json"
        if (known := _read(path)) is not None:
            return known
    gain = _alone(measure)
    if path is not None and not _UNSURE[0] < gain < _UNSURE[1]:
        _keep(path, gain)
    return gain


def _alone(measure: Callable[[], float]) -> float:
    """Call it in a thread with as many of torch's threads as one that computes batches has."""
    threads = torch.get_num_threads()

    def measured() -> float:
        torch.get_num_threads()  # see `thread_per_core`
        torch.set_num_threads(threads // cpu_streams(threads))
        return measure()

    with ThreadPoolExecutor(1) as pool:
        gain = pool.submit(measured).result()
    torch.set_num_threads(threads)
    return gain


@torch.inference_mode()
def _measure(hidden: int, intermediate: int) -> float:
    x = torch.randn(_TOKENS, hidden)
    weight = torch.randn(intermediate, hidden)
    exact = make_linear(weight, None), x
    return _ratio(exact, (make_linear(weight.bfloat16(), None), x.bfloat16()))


@torch.inference_mode()
def _measure_int8(hidden: int, intermediate: int) -> float:
    x = torch.randn(_TOKENS, hidden)
    weight = torch.randn(intermediate, hidden)
    quantized = make_linear(weight, None, quantize=True), x
    return _ratio((make_linear(weight, None), x), quantized)


def _ratio(*products: tuple[Linear, torch.Tensor]) -> float:
    """Least seconds of the first product / of the second one."""
    first, second = least_seconds([partial(linear, x) for linear, x in products], 1 + _REPEATS)
    return first / second


def _chip() -> list[str]:
    """What tells this CPU from another one: its name and what it can do."""
    found = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n", 1)[0].splitlines()
        found += [x for x in lines if x.startswith(_TELLING)]
    return found


def _read(path: Path) -> float | None:
    """The result of an earlier trial; a file that is damaged counts as missing."""
    text = read_small(path, _MAX_BYTES)
    if text is None:
        return None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        gain = float(json.loads(text)["gain"])
        return gain if 0 < gain < _MAX_GAIN else None
    return None


def _keep(path: Path, gain: float) -> None:
    with suppress(OSError):  # a read-only directory keeps none: the next process measures again
        replace_small(path, json.dumps({"gain": round(gain, 3)}))
