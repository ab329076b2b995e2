"""The devices of this machine, as --device names them."""

from __future__ import annotations

from pipeline.errors import UsageError


def devices(option: str | None) -> tuple[str, ...]:
    """What --device says; all CUDA devices, or the CPU where there is none, by default.

    Raises:
        UsageError: a device that is not here.
    """
    import torch  # seconds to import: only where a device is about to be used

    count = torch.cuda.device_count()
    if option is None:
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    names = tuple(name.strip() for name in option.split(","))
    known = {"cpu", *(f"cuda:{i}" for i in range(count)), *(["cuda"] if count else [])}
    for name in names:
        if name not in known:
            raise UsageError(
                f"--device {name} is not here", hint=f"this machine has {', '.join(sorted(known))}"
            )
    return names
