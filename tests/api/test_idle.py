"""A loaded model that is asked nothing uses no processor time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
import internvl_rt as ivl
with ivl.load(sys.argv[1], engine="native", cache_tokens=512, threads=4) as model:
    model.chat("What is this?", max_new_tokens=4)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(2)
    print(time.process_time() - before)
"""


def test_an_idle_model_uses_no_processor_time(tiny_bundle: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_bundle)], check=True, capture_output=True, text=True
    )
    assert float(run.stdout) < 0.02
