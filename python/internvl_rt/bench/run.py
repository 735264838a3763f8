"""Measures engines one after the other, each in a process of its own so that its memory is its own."""

from __future__ import annotations

import dataclasses
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
from internvl_rt.doctor import cpu_name
from internvl_rt.loading import check_cache_type, check_engine


def bench(
    bundle_path: str | Path, engines: Sequence[str], options: BenchOptions, progress: Progress
) -> BenchReport:
    """Measures a bundle on this machine.

    Args:
        bundle_path: the bundle.
        engines: their names; measured in this order.
        options: what to measure.
        progress: is told what is being done.

    Raises:
        InternVLError: as ``load`` and ``chat`` do.
    """
    for engine in engines:
        check_engine(engine)
        check_cache_type(engine, options.cache_type)
    manifest = open_bundle(bundle_path).manifest
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return BenchReport(
        model=manifest.name,
        precision=dataclasses.asdict(manifest.precision),
        version=internvl_rt.__version__,
        machine=Machine(cpu_name(), _core.usable_cores(), _core.instruction_set(), load_average),
        options=options,
        engines=tuple(_in_own_process(str(bundle_path), engine, options, progress) for engine in engines),
    )


def _in_own_process(bundle_path: str, engine: str, options: BenchOptions, progress: Progress) -> EngineReport:
    task = {"bundle": bundle_path, "engine": engine, "options": dataclasses.asdict(options)}
    with subprocess.Popen(
        [sys.executable, "-m", "internvl_rt.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        try:
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
