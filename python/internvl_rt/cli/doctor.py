"""``internvl-rt doctor``."""

from __future__ import annotations

import dataclasses
import functools

import typer

from internvl_rt.cli.options import JsonOption
from internvl_rt.cli.wording import ALL_OPTIONS, for_command


def command(
    as_json: JsonOption = False,
) -> None:
    """Tell what this machine can run and what it lacks. Exits with 1 if something needed is missing."""
    from internvl_rt.cli.output import console, facts, print_json, table
    from internvl_rt.engines.doctor import diagnose

    found = diagnose()
    said = functools.partial(for_command, options=ALL_OPTIONS)
    if as_json:
        print_json({**dataclasses.asdict(found), "healthy": found.healthy})
    else:
        out = console()
        rows = [
            ("internvl_rt", f"{found.version} on {found.python}, {found.system}"),
            ("CPU", f"{found.cpu}, {found.cores} cores usable"),
            (
                "kernels",
                f"{found.instruction_set or 'none'} of {', '.join(found.instruction_sets) or 'none'}",
            ),
            ("memory", _memory(found.memory_bytes, found.available_bytes)),
            ("ONNX Runtime", found.onnxruntime or "missing"),
            ("TensorRT", found.tensorrt or said(found.tensorrt_missing)),
        ]
        out.print(facts("This machine", rows))
        out.print(
            table(
                "ONNX Runtime providers",
                ("provider", "usable", "why not"),
                [(p.key, "yes" if p.usable else "no", said(p.reason)) for p in found.providers],
            )
        )
        out.print(
            table(
                "Packages",
                ("package", "version", "needed for"),
                [(p.name, p.version or "missing", p.needed_for) for p in found.packages],
            )
        )
        for finding in found.findings:
            out.print(f"{finding.level}: {said(finding.text)}")
        if found.healthy:
            out.print("Everything that is needed is here.")
    if not found.healthy:
        raise typer.Exit(1)


def _memory(total: int | None, available: int | None) -> str:
    from internvl_rt.files.sizes import readable_size as size

    if total is None:
        return "unknown"
    free = "" if available is None else f", {size(available)} free"
    return size(total) + free
