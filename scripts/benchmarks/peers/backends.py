"""sentence-transformers on OpenVINO and ONNX Runtime, as its own documentation sets them up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.library import Embedder, Reranker

_KINDS: dict[str, type[Embedder] | type[Reranker]] = {"embed": Embedder, "rerank": Reranker}
# What the static int8 of OpenVINO is calibrated on.
_CALIBRATION_ROWS = 300


def on_openvino(
    task: str, folder: Path, limit: int, *, exact: bool = False, **options: Any
) -> Embedder | Reranker:
    """A model in the precision that OpenVINO chooses, or `exact` in float32."""
    settings = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}} if exact else {}
    peer = _KINDS[task](
        folder, "cpu", limit, backend="openvino", precision="float32",
        model_kwargs={**settings, **options},
    )  # fmt: skip
    found = peer.model.transformers_model
    found.compile()
    hint = found.request.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    peer.precision = {"bf16": "bfloat16", "f16": "float16"}.get(hint, "float32")
    return peer


def on_openvino_int8(
    task: str, folder: Path, limit: int, scratch: Path, texts: list[str]
) -> Embedder | Reranker:
    """Static int8 by NNCF, calibrated on some of the texts."""
    from sentence_transformers import export_static_quantized_openvino_model

    copy = _copied(folder, scratch / "openvino")
    samples = scratch / "calibration"
    samples.mkdir()
    step = max(1, len(texts) // _CALIBRATION_ROWS)
    pq.write_table(pa.table({"text": texts[::step]}), samples / "train.parquet")
    export_static_quantized_openvino_model(
        on_openvino(task, copy, limit).model, None, str(copy), dataset_name=str(samples),
        dataset_config_name="default", dataset_split="train", column_name="text",
    )  # fmt: skip
    (file,) = (copy / "openvino").glob("*quantized.xml")
    peer = on_openvino(task, copy, limit, file_name=f"openvino/{file.name}")
    peer.precision = "int8"
    return peer


def on_onnx(task: str, folder: Path, limit: int) -> Embedder | Reranker:
    """A model in float32."""
    return _KINDS[task](folder, "cpu", limit, backend="onnx", precision="float32")


def on_onnx_int8(task: str, folder: Path, limit: int, scratch: Path) -> Embedder | Reranker:
    """Dynamic int8 for CPUs with VNNI."""
    from sentence_transformers import export_dynamic_quantized_onnx_model

    copy = _copied(folder, scratch / "onnx")
    export_dynamic_quantized_onnx_model(on_onnx(task, copy, limit).model, "avx512_vnni", str(copy))
    (file,) = (copy / "onnx").glob("*qint8*.onnx")
    return _KINDS[task](
        copy, "cpu", limit, backend="onnx", precision="int8",
        model_kwargs={"file_name": f"onnx/{file.name}"},
    )  # fmt: skip


def _copied(folder: Path, to: Path) -> Path:
    """A copy that an export may be written into; its name is that of the model."""
    return Path(shutil.copytree(folder, to / folder.name))
