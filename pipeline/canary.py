"""The canary: sixteen fixed texts whose values show a device that computes something else.

Another driver or kernel, a damaged weight, another version of the tokenizer's library: none of
them raises an error. So each device computes these texts when it has loaded a model, and compares
them with those of the run's first device before it touches a row. That also warms it up.
"""

from __future__ import annotations

import logging
import os

import numpy as np

from pipeline.encoder.engine import Engine
from pipeline.output.canary_file import Canary, agree
from pipeline.output.output import Output
from pipeline.output.process import user_and_host
from pipeline.output.run import Run, now
from pipeline.output.versions import software_versions
from pipeline.packing import pack
from pipeline.spec import JobSpec, digest
from pipeline.tasks.base import Task

logger = logging.getLogger(__name__)

# Of many scripts, from one letter to a paragraph. Few tokens: each device waits for them.
TEXTS = (
    "The lighthouse keeper wrote down the weather every evening: the wind, the waves, the ships "
    "that passed and those that did not. When a machine replaced the lamp, nobody asked for her "
    "books, so she carried them home, and found that the storms had come from somewhere else.",
    "a",
    "How tall is the tower of Pisa?",
    "Le café était fermé.",
    "Übermut kostet 1.000 €",
    "Съешь ещё булок",
    "Ξεσκεπάζω ψυχή",
    "كتاب قديم",
    "ספר ישן",
    "ऋषि और राक्षस",
    "นานมาแล้ว",
    "天地玄黄,宇宙",
    "いろはに ホヘト",
    "키스의 고유조건",
    "x = r ** 2  # m²",
    "https://a.org/?b=%20 👩‍🚀\t½",
)
# So that two threads of a CPU share them, and a GPU meets no shape twice, which it would capture.
_BATCH_TOKENS = 128
# A reranker reads each text with the next one.
_DOCUMENTS = 1


def check_canary(output: Output, run: Run, engine: Engine, task: Task) -> None:
    """Compute the canary and compare it with that of the run's first device, or be the first.

    Args:
        output: of the run.
        run: whose rows the engine is to compute.
        engine: just loaded.
        task: of the run, bound to the engine's model.

    Raises:
        CanaryDiffers: this device computes other values than the first one.
        StorageError: the canary can be neither read nor written.
    """
    try:
        own = compute_canary(run.spec, engine, task)
    except Exception as error:  # of a foreign model: the rows show what it cannot compute
        logger.warning("job %s: the canary cannot be computed: %s", run.job, error)
        return
    agree(output, run, own, logits=engine.card.head != "embedding")


def compute_canary(spec: JobSpec, engine: Engine, task: Task) -> Canary:
    """The sixteen texts as a job computes its rows: with its prompt and its limit."""
    tokens = task.tokenize(task.sample(spec, TEXTS, _DOCUMENTS))
    batches = (tokens.batch(some) for some in pack(tokens.lengths, _BATCH_TOKENS))
    values = [np.empty((0, engine.output_size), dtype=np.float32)]
    values += [outputs.reshape(-1, engine.output_size) for _, outputs in engine.run(batches)]
    types = None if tokens.type_ids is None else tokens.type_ids.tolist()
    return Canary(
        at=now(),
        by=user_and_host(),
        pid=os.getpid(),
        device=engine.device,
        device_name=engine.device_name,
        precision=engine.precision,
        versions=software_versions(),
        texts=digest(TEXTS, _BATCH_TOKENS, _DOCUMENTS),
        tokens=digest(tokens.ids.tolist(), tokens.offsets.tolist(), types),
        values=np.concatenate(values),
    )
