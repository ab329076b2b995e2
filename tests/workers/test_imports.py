"""What `bei-jobs status --broker` may import, so that it answers at once."""

from __future__ import annotations

import subprocess
import sys


def test_reading_a_job_loads_neither_celery_nor_torch() -> None:
    heavy = ("celery", "kombu", "torch", "tokenizers", "transformers")
    code = (
        "import sys, workers.broker, workers.reconcile, workers.known_jobs, workers.settings\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_parent_of_a_worker_loads_no_device_library() -> None:
    code = "import sys, workers.supervisor\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
