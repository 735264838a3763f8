"""The measurements as a picture."""

from __future__ import annotations

from pathlib import Path

from internvl_rt.bench.report import BenchReport
from internvl_rt.errors import InternVLError


def check_plot(path: Path) -> None:
    """Tells before anything is measured whether a picture can be written.

    Raises:
        InternVLError: if matplotlib does not load or does not know the file's ending.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InternVLError(
            f"a picture needs matplotlib, which does not load ({error}). Install it: pip install "
            "'internvl-rt[plot]'"
        ) from error

    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise InternVLError(f"{path}: a picture's name ends in one of {', '.join(known)}.")


def write_plot(report: BenchReport, path: Path) -> None:
    """Writes bars of the median time of every stage, up to the 95th percentile, one colour per engine.

    Raises:
        InternVLError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    names = [stage.name for stage in report.engines[0].stages]
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(names) * len(report.engines)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(report.engines)
    for index, engine in enumerate(report.engines):
        medians = [engine.stage(name).percentile(50) for name in names]
        spread = [
            max(0.0, engine.stage(name).percentile(95) - m) for name, m in zip(names, medians, strict=True)
        ]
        places = [
            position + (index - (len(report.engines) - 1) / 2) * height for position in range(len(names))
        ]
        bars = axes.barh(
            places, medians, height, xerr=[[0.0] * len(spread), spread], capsize=2, label=engine.engine
        )
        axes.bar_label(
            bars,
            labels=[f" {median:,.{0 if median >= 100 else 2}f}" for median in medians],
            fontsize=8,
            padding=4,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("milliseconds: median, whisker to the 95th percentile")
    axes.set_title(f"{report.model} on {report.machine.cpu}, {report.machine.cores} cores", fontsize=10)
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InternVLError(f"{path}: the picture cannot be written ({reason}).") from error
