"""Running commands, in this process and in new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from internvl_rt.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that it printed."""
        return json.loads(self.out)


class Run:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, status: int | None = 0) -> Done:
        """Asserts the exit status, unless any will do, and that there is no traceback."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        done = Done(int(left.value.code or 0), captured.out, captured.err)
        assert status is None or done.status == status, captured.err
        assert "Traceback" not in captured.err
        return done


def in_new_process(arguments: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. What is not redirected is captured, as text."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
    return subprocess.run(
        [sys.executable, "-m", "internvl_rt", *map(str, arguments)], text=True, check=False, **options
    )
