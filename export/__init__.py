"""The exporter: ``internvl_rt.export(checkpoint, out, ...)`` makes a bundle. Its arguments stand below.

``internvl_rt.export`` is this package (readers, graph builders, quantisation) and, by the design of the
public API, also the function that exports: so the package can be called, whatever was imported before.
Nothing heavy is loaded until then.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from internvl_rt.export.exporter import export
    from internvl_rt.export.synthetic import export_synthetic

__all__ = ["export", "export_synthetic"]

_DEFINED_IN = {"export": "exporter", "export_synthetic": "synthetic"}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """A package that is called like the function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        result: Path = self.export(*arguments, **options)
        return result

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.export)


sys.modules[__name__].__class__ = _CallablePackage
