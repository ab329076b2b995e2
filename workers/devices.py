"""The devices of this machine, as --device names them, and the defaults that they imply."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.choice import Choice, Choices
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.encoder.card import ModelCard

# At least one of these exists where torch can use a GPU: Linux, containers, WSL, and ROCm.
_GPU_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class Devices:
    """Names of devices, and why they were taken."""

    names: tuple[str, ...]  # such as ("cuda:0", "cuda:1") or ("cpu",)
    reason: str
    chosen: bool  # because the user named none


def find_devices(option: str | None) -> Devices:
    """The devices that --device names; by default all GPUs, or the CPU where there is none.

    Raises:
        UsageError: this machine lacks one of them.
    """
    count = _gpu_count()
    if option is None:
        if count:
            names = tuple(f"cuda:{i}" for i in range(count))
            return Devices(names, f"torch sees {count} GPU{'s' * (count > 1)}", chosen=True)
        return Devices(("cpu",), "torch sees no GPU", chosen=True)
    names = _names(option)
    available = {"cpu", *(f"cuda:{i}" for i in range(count)), *(["cuda"] if count else [])}
    for name in names:
        if name not in available:
            raise UsageError(
                f"--device {name}: this machine has no such device",
                hint=f"give one of {', '.join(sorted(available))}",
            )
    return Devices(names, "set by the user", chosen=False)


def probable_devices(option: str | None) -> tuple[str, ...]:
    """Devices that `find_devices` will most likely name, told without torch; () for a wrong name.

    By default those are the first GPU where there is a driver, and else the CPU.
    """
    driver = _has_gpu_driver()
    if option is None:
        return ("cuda:0",) if driver else ("cpu",)
    names = _names(option)
    known = all(name == "cpu" or (driver and name.startswith("cuda")) for name in names)
    return names if known else ()


def _names(option: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in option.split(","))


def _has_gpu_driver() -> bool:
    return any(map(os.path.exists, _GPU_DRIVERS))


def _gpu_count() -> int:
    """GPUs that torch sees. It takes seconds to import, so only where there is a driver."""
    if not _has_gpu_driver():
        return 0
    from pipeline.encoder.device.devices import gpu_count

    return gpu_count()


def device_choices(devices: Devices) -> Choices:
    """The choice of devices, where the user named none."""
    if not devices.chosen:
        return {}
    return {"device": Choice(",".join(devices.names), devices.reason)}


def fleet_choices(card: ModelCard, *, precision: str, token_budget: int | None) -> Choices:
    """What the workers of a fleet choose, each for its own device."""
    from pipeline.encoder.precision import choose_precision

    choices: dict[str, Choice[object]] = {"device": Choice("auto", "each worker decides")}
    if precision == "auto":
        gpu = choose_precision("auto", card.config, "cuda").value
        reason = f"the first worker decides for all: {gpu} on a GPU, by a trial on a CPU"
        choices["precision"] = Choice("auto", reason)
    if token_budget is None:
        choices["token-budget"] = Choice("auto", "each worker decides, by its device's memory")
    return choices


def local_choices(card: ModelCard, *, revision: str | None, cache_dir: Path) -> Choices:
    """The defaults of a job with this model on this machine."""
    from pipeline.encoder.cpu_trials import bfloat16_gain
    from pipeline.encoder.device.devices import find_device
    from pipeline.encoder.lanes import choose_token_budget
    from pipeline.encoder.precision import choose_precision, gains_by_narrow_products
    from pipeline.planning.choices import model_choices, revision_choice

    devices = find_devices(None)
    first = devices.names[0]
    precision = choose_precision(
        "auto", card.config, first, lambda: bfloat16_gain(card.config, cache_dir)
    )
    choices: dict[str, Choice[object]] = {**device_choices(devices), "precision": precision}
    if first == "cpu" and gains_by_narrow_products(card.config):
        choices["int8"] = _int8_choice(card, cache_dir)
    choices["token-budget"] = choose_token_budget(find_device(first), card.config, precision.value)
    choices |= model_choices(card)
    if revision is None and (chosen := revision_choice(card)) is not None:
        choices["revision"] = chosen
    return choices


def _int8_choice(card: ModelCard, cache_dir: Path) -> Choice[str]:
    """Whether `--precision int8`, which nothing chooses by itself, would be faster here."""
    from pipeline.encoder.cpu_trials import bfloat16_gain, int8_gain

    try:
        int8 = int8_gain(card.config, cache_dir)
    except UsageError as error:
        return Choice("impossible here", str(error))
    bfloat16 = bfloat16_gain(card.config, cache_dir)
    reason = (
        f"products {int8:.1f} times as fast as in float32, in bfloat16 {bfloat16:.1f} times; "
        "less exact, so never chosen by itself"
    )
    return Choice("faster" if int8 > max(1.0, bfloat16) else "slower", reason)
