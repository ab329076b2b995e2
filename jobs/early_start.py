"""Which devices a submit needs, told from its options alone. Cheap to import."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.output.begun import begun_here
from pipeline.planning.default_output import default_output
from pipeline.request import Request
from pipeline.store.uris import is_web
from workers.devices import probable_devices


def devices_needed(request: Request, device: str | None) -> Sequence[str]:
    """Devices that will most likely compute the request here; () where that is not known.

    The first run of an output has rows to compute. A later one often has nothing to do, and then
    no process shall import torch.

    Args:
        request: what the user asked for.
        device: the value of --device; None for the default.
    """
    if any(uri.startswith("memory://") for uri in request.inputs):
        return ()
    output = output_of(request)
    return probable_devices(device) if output and begun_here(output) is False else ()


def output_of(request: Request) -> str:
    """URI of the output; "" where the request is wrong, of which planning says more."""
    try:
        output = request.output or default_output(request.inputs, request.task)
    except UsageError:
        return ""
    return "" if is_web(output) else output
