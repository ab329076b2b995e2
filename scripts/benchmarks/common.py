"""What the benchmarks share: texts, the machine's own matrix rate, FLOP counts, tables."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.encoder.config import EncoderConfig

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "corpus.parquet"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "pyarrow", "onnxruntime",
             "openvino", "flash-attn")  # fmt: skip


def read_texts(path: Path, count: int, column: str = "text") -> list[str]:
    """The first `count` texts of a Parquet file spread evenly over it; all where it has fewer."""
    texts = pq.read_table(path, columns=[column])[column].to_pylist()
    step = max(1, len(texts) // count)
    return texts[::step][:count]


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass over a set of sequences costs."""

    rows: int
    tokens: int
    flop: float

    @classmethod
    def of(
        cls, lengths: Sequence[int] | np.ndarray, parameters: int, layers: int, width: int
    ) -> Work:
        """FLOP of a forward pass over real tokens: 2 per weight, 4·layers·width per token pair.

        Args:
            lengths: tokens per sequence.
            parameters: without the embedding tables.
            layers: of the encoder.
            width: heads × head size.
        """
        sizes = np.asarray(lengths, dtype=np.float64)
        flop = 2.0 * parameters * sizes.sum() + 4.0 * layers * width * (sizes**2).sum()
        return cls(len(sizes), int(sizes.sum()), float(flop))


def matrix_parameters(config: EncoderConfig) -> int:
    """Weights of the matrix products of all layers: what a token meets, embeddings left out."""
    queries = config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    attention = config.hidden_size * (2 * queries + 2 * keys)
    mlp = config.hidden_size * config.intermediate_size * (3 if config.gated else 2)
    return config.layers * (attention + mlp)


def matrix_rate(device: str, dtype: torch.dtype, size: int = 0) -> float:
    """FLOP/s of this machine's own large matrix product: the best of several runs."""
    size = size or (8192 if device.startswith("cuda") else 2048)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    times = [timed(lambda: a @ b, device) for _ in range(12)]
    return 2.0 * size**3 / min(times[2:])


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, the device's work included."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(
    engines: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, list[float]]:
    """Seconds of each engine per repeat, taking turns, so that a noisy minute hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(repeats):
        names = list(engines) if turn % 2 == 0 else list(reversed(engines))
        for name in names:
            seconds[name].append(timed(engines[name], device))
    return seconds


def ratio(base: Sequence[float], mine: Sequence[float]) -> float:
    """How many times faster `mine` is: the median over repeats of paired ratios."""
    return statistics.median(b / m for b, m in zip(base, mine, strict=True))


def peak_memory_mib(device: str) -> float:
    """Peak device memory, or on a CPU peak resident memory of this process, in MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def header(command: str, device: str) -> str:
    """Date, machine, versions and command: what a figure means nothing without."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    chip = torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name()
    threads = "" if device.startswith("cuda") else f", {torch.get_num_threads()} threads"
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{date} · {chip}{threads} · python {platform.python_version()}, {', '.join(found)}\n`{command}`"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are right-aligned by their cells' width."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)) + " |"]
    lines.append(
        "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    )
    for row in cells:
        padded = [
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
