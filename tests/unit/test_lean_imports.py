"""What a worker imports before its first step, in a process of its own."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from tap_platform.training.lean_imports import UNUSED, without_extras

with without_extras():
    from tap_platform.training.worker import train_worker
unwanted = *UNUSED, "deepspeed", "mlflow", "wandb", "transformers"
imported = [name for name in unwanted if name in sys.modules]
import scipy.signal
print(json.dumps([imported, scipy.signal.__name__]))
"""


def test_a_worker_imports_no_extras_and_they_can_be_had_afterwards():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    imported, later = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert later == "scipy.signal"
