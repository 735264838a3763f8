"""Measures engines one after the other, each in a process of its own so that its memory is its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import internvl_rt
from internvl_rt import _core, errors
from internvl_rt.bench.measure import Progress
from internvl_rt.bench.report import BenchOptions, BenchReport, EngineReport, Machine, Memory, Stage
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.doctor import cpu_name
from internvl_rt.model.loading import check_cache_type, check_engine


def bench(
    bundle_path: str | Path, engines: Sequence[str], options: BenchOptions, progress: Progress
) -> BenchReport:
    """Measures a bundle on this machine.

    Args:
        bundle_path: the bundle.
        engines: their names; measured in this order.
        options: what to measure.
        progress: is told what is being done.

    Returns:
        what was measured. Where one of several engines fails, the others' figures are not lost with it.

    Raises:
        InternVLError: as ``load`` and ``chat`` do, if nothing could be measured.
    """
    for engine in engines:
        check_engine(engine)
        check_cache_type(engine, options.cache_type)
    manifest = open_bundle(bundle_path).manifest
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measured: list[EngineReport] = []
    failed: dict[str, errors.InternVLError] = {}
    for engine in engines:
        try:
            measured.append(_in_own_process(str(bundle_path), engine, options, progress))
        except errors.InternVLError as error:  # noqa: PERF203
            failed[engine] = error
    if not measured:
        raise next(iter(failed.values()))
    return BenchReport(
        model=manifest.name,
        precision=dataclasses.asdict(manifest.precision),
        version=internvl_rt.__version__,
        machine=Machine(cpu_name(), _core.usable_cores(), _core.instruction_set(), load_average),
        options=options,
        engines=tuple(measured),
        failed={engine: str(error) for engine, error in failed.items()},
    )


_WORKER = "import sys; sys.path[:] = sys.argv[1:]; from internvl_rt.bench import worker; worker.main()"
"""Not ``-m``, which looks for every module in the user's current folder first."""


def _module_folders() -> list[str]:
    """Where this process looks for modules, and the worker will.

    Not in the user's current folder, unless PYTHONPATH names it.
    """
    here = Path.cwd()
    named = [Path(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    folders = [folder for folder in sys.path if folder and (here in named or Path(folder).absolute() != here)]
    spec = importlib.util.find_spec("internvl_rt")
    assert spec is not None
    assert spec.origin is not None
    own = str(Path(spec.origin).parents[1])
    return folders if own in folders else [*folders, own]


def _in_own_process(bundle_path: str, engine: str, options: BenchOptions, progress: Progress) -> EngineReport:
    task = {"bundle": bundle_path, "engine": engine, "options": dataclasses.asdict(options)}
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, *_module_folders()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            # The pipe stays open: its end tells the worker that this process is gone.
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if "progress" in message:
                    progress(f"{engine}: {message['progress']}")
                elif "error" in message:
                    raise getattr(errors, message["error"])(message["message"])
                else:
                    return _report(message["report"])
        except BaseException:
            process.kill()
            raise
    raise errors.InternVLError(
        f"the process that measured {engine} ended with status {process.returncode} before it was done. With "
        "-9 it was out of memory: lower cache_tokens or max_tiles, or choose a smaller precision."
    )


def _report(document: dict[str, Any]) -> EngineReport:
    stages = tuple(
        Stage(stage["name"], tuple(stage["samples_ms"]), stage["tokens"]) for stage in document["stages"]
    )
    return EngineReport(**{**document, "stages": stages, "memory": Memory(**document["memory"])})
