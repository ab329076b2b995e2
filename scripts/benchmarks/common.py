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
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.model.linear import make_linear

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "corpus.parquet"
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "pyarrow",
    "onnxruntime",
    "openvino",
    "nncf",
    "ctranslate2",
    "llama-cpp-python",
    "flash-attn",
)


def read_texts(path: Path, count: int, column: str = "text") -> list[str]:
    """`count` texts of a Parquet file spread evenly over it; all where it has fewer."""
    texts = pq.read_table(path, columns=[column])[column].to_pylist()
    step = max(1, len(texts) // count)
    return texts[::step][:count]


def repeated(texts: list[str], count: int) -> list[str]:
    """So many texts, from the start again where there are fewer."""
    return list(islice(cycle(texts), count))


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass over a set of sequences costs."""

    rows: int
    tokens: int
    flop: float

    @classmethod
    def of(cls, lengths: Sequence[int] | np.ndarray, config: EncoderConfig) -> Work:
        """FLOP of a forward pass over real tokens: 2 a weight, 4 · width a pair that attends.

        Embeddings, norms, activations and heads are left out; so are pairs that a causal mask or a
        window hides, whether or not an engine computes them.

        Args:
            lengths: tokens per sequence.
            config: of the encoder.
        """
        sizes = np.asarray(lengths, dtype=np.float64)
        pairs = sum(_pairs(sizes, config, config.window(i)) for i in range(config.layers))
        width = config.heads * config.head_dim
        flop = 2.0 * matrix_parameters(config) * sizes.sum() + 4.0 * width * pairs
        return cls(len(sizes), int(sizes.sum()), float(flop))


def _pairs(sizes: np.ndarray, config: EncoderConfig, window: int | None) -> float:
    """Pairs (query, key) that one layer attends to."""
    reach = sizes - 1 if window is None else np.minimum(window, sizes - 1)
    # Keys up to `reach` before a query: reach + 1 each, less what lies before the start.
    before = sizes * (reach + 1) - reach * (reach + 1) / 2
    return float((before if config.causal else 2 * before - sizes).sum())


def matrix_parameters(config: EncoderConfig) -> int:
    """Weights of the matrix products of all layers: what a token meets, embeddings left out."""
    queries = config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    attention = config.hidden_size * (2 * queries + 2 * keys)
    mlp = config.hidden_size * config.intermediate_size * (3 if config.gated else 2)
    return config.layers * (attention + mlp)


def matrix_rate(device: str, precision: str, size: int = 0) -> float:
    """FLOP/s of this machine's own large matrix product: the best of several runs.

    On a CPU the best of torch's product, that of the encoder, and in int8 oneDNN's prepacked one.

    Args:
        device: such as "cpu".
        precision: float32, float16, bfloat16 or int8.
        size: of the matrices; 0 for one that is large on the device.
    """
    size = size or (8192 if device.startswith("cuda") else 2048)
    with torch.inference_mode():
        products = _int8_products(size) if precision == "int8" else _products(
            size, device, getattr(torch, precision)
        )  # fmt: skip
        times = [timed(product, device) for _ in range(10) for product in products]
    return 2.0 * size**3 / min(times[2 * len(products) :])


def _products(size: int, device: str, dtype: torch.dtype) -> list[Callable[[], object]]:
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    linear = make_linear(b, None)
    return [lambda: a @ b, lambda: linear(a)]


def _int8_products(size: int) -> list[Callable[[], object]]:
    """Products of integers alone: what quantizes and scales back is the engine's own cost."""
    a = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    b = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    found: list[Callable[[], object]] = [lambda: torch._int_mm(a, b.t())]
    small = 256
    prepacked, plain = _prepacked(a[:small, :small], b[:small, :small]), found[0]
    try:
        # It refuses some chips, and takes seconds on others.
        if min(timed(prepacked), timed(prepacked)) < min(timed(plain), timed(plain)):
            found.append(_prepacked(a, b))
    except RuntimeError:
        pass
    return found


def _prepacked(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    def multiply() -> object:
        return torch.ops.onednn.qlinear_pointwise(
            a, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    rows = b.shape[0]
    scales, zeros = torch.ones(rows), torch.zeros(rows, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(b.contiguous(), None)
    return multiply


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


def reset_peak_memory(device: str) -> None:
    """Begin a new peak of `peak_memory_mib`."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set


def peak_memory_mib(device: str) -> float:
    """Peak device memory, or on a CPU peak resident memory of this process, in MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    if _CLEAR.exists():
        (line,) = [x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
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
    versions = ", ".join([f"python {platform.python_version()}", *found])
    return f"{date} · {chip}{threads} · {versions}\n`{command}`"


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
