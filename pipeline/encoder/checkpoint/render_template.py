"""Renders conversations with a chat template; run by `chat_template` as a script.

    python render_template.py < {"template": …, "conversations": […], "variables": {…}}

Writes the texts as a JSON list and exits with 0, or writes why there are none. A template is a
program: the sandbox of transformers keeps it away from everything but its messages, and limits of
this process keep it from using up the time or the memory. They may end it at any point.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from typing import Any

# Beyond what the interpreter and its imports take; published templates need next to nothing.
_MEMORY_BYTES = 512 * 1024**2
_CPU_SECONDS = 10
# Of all texts together: far more than probes and a prompt of the longest kind.
_MAX_CHARACTERS = 16 * 1024**2


def main() -> None:
    """Render every conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, _CPU_SECONDS)
    limit(resource.RLIMIT_AS, address_space() + _MEMORY_BYTES)
    given = json.load(sys.stdin)
    rendered: Any = render_jinja_template(
        given["conversations"], chat_template=given["template"], **given["variables"]
    )
    texts = rendered[0]
    if sum(map(len, texts)) > _MAX_CHARACTERS:
        raise ValueError(f"it makes more than {_MAX_CHARACTERS:,} characters of short texts")
    json.dump(texts, sys.stdout)


def limit(kind: int, most: int) -> None:
    """Limit a resource of this process, unless a lower limit is set already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # macOS has no limit on the address space
        resource.setrlimit(kind, (most, most))


def address_space() -> int:
    """Bytes of this process's address space, 0 where /proc does not tell."""
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # a template may raise anything
        sys.stdout.write(str(error) or type(error).__name__)
        sys.exit(1)
