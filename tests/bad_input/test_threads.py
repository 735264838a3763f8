"""Threads that the system does not give."""

from __future__ import annotations

import subprocess
import sys

ASK_FOR_TOO_MANY = """
import resource
from internvl_rt import DeviceError, _core

# Little address space: only some of the stacks fit.
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    _core.ThreadTeam(1000)
except DeviceError as error:
    assert "threads=1000: the system gave only" in str(error), error
    print(_core.ThreadTeam(2).size)
"""


def test_too_few_threads_are_a_device_error_and_those_that_started_end() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ASK_FOR_TOO_MANY], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")
