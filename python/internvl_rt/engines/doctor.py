"""What this machine can run, and what it lacks."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import internvl_rt

Level = Literal["ok", "note", "problem"]
"""``note``: something optional is missing or slow; ``problem``: something needed does not work."""


@dataclass(frozen=True)
class Package:
    """A Python package that this one uses."""

    name: str
    version: str | None
    """None: not installed."""
    needed_for: str
    install: str
    """The command that installs it."""


@dataclass(frozen=True)
class Finding:
    """One thing that the machine's owner may want to know."""

    level: Level
    text: str


@dataclass(frozen=True)
class ProviderState:
    """One of ONNX Runtime's execution providers on this machine."""

    key: str
    """What ``providers=`` takes."""
    name: str
    usable: bool
    reason: str
    """Why not, and what to do; empty if it is usable."""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that ``internvl-rt doctor`` tells."""

    version: str
    python: str
    system: str
    cpu: str
    cores: int
    """CPU cores that this process may use, by affinity and the quotas of its control groups."""
    instruction_sets: tuple[str, ...]
    """Compiled into this build and supported by this CPU, least first."""
    instruction_set: str | None
    """The one that kernels run with; None if the extension does not load."""
    memory_bytes: int | None
    """Of the machine, or of the process's control groups where that is less."""
    available_bytes: int | None
    """Free for a new model now."""
    onnxruntime: str | None
    providers: tuple[ProviderState, ...]
    """Of ONNX Runtime: those that this package can ask for."""
    tensorrt: str | None
    """TensorRT's version and the GPU, where ``engine="tensorrt"`` can be used."""
    tensorrt_missing: str
    """What is missing for that, and what to install; empty if nothing is."""
    packages: tuple[Package, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Nothing that is needed is missing."""
        return all(finding.level != "problem" for finding in self.findings)


_REQUIRED = {
    "numpy": "arrays",
    "pillow": "decoding pictures",
    "tokenizers": "prompts and answers",
    "onnxruntime": "the onnxruntime engine",
    "onnx": "export",
    "ml-dtypes": "export",
    "sentencepiece": "export of SentencePiece tokenizers",
    "rich": "the command line",
    "typer": "the command line",
}
_OPTIONAL = {
    "matplotlib": ("bench --plot", "pip install 'internvl-rt[plot]'"),
    "llguidance": ("answers of a given form", "pip install 'internvl-rt[structured]'"),
    "av": ("video files", "pip install 'internvl-rt[video]'"),
}
_LOW_MEMORY = 2 * 1024**3


def diagnose() -> Diagnosis:
    """Looks at this machine. Nothing is installed, downloaded or changed."""
    findings: list[Finding] = []
    core = _core_facts(findings)
    onnxruntime, providers = _onnxruntime_facts(findings)
    tensorrt, missing = _tensorrt_facts()
    packages = tuple(_packages(findings))
    available = core.available_bytes
    if available is not None and available < _LOW_MEMORY:
        findings.append(
            Finding(
                "note",
                f"{available / 1024**2:.0f} MiB of memory are free. The smallest InternVL needs about 1.5 GB "
                "with int4 weights: close other programs, or use a smaller cache_tokens.",
            )
        )
    if core.instruction_set == "portable":
        findings.append(
            Finding(
                "note",
                "The kernels run without vector instructions, which is slow: this CPU has none that this "
                "build knows (AVX2 or better on x86-64, NEON on aarch64), or INTERNVL_RT_ISA forces it.",
            )
        )
    return Diagnosis(
        version=internvl_rt.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        cores=core.cores,
        instruction_sets=core.instruction_sets,
        instruction_set=core.instruction_set,
        memory_bytes=core.memory_bytes,
        available_bytes=available,
        onnxruntime=onnxruntime,
        providers=providers,
        tensorrt=tensorrt,
        tensorrt_missing=missing,
        packages=packages,
        findings=tuple(findings),
    )


def cpu_name() -> str:
    """The CPU's name as the system tells it."""
    fields = _key_values(Path("/proc/cpuinfo"))
    for key in ("model name", "Model", "Hardware", "Processor"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class _CoreFacts:
    """What the C++ extension says of this machine."""

    instruction_sets: tuple[str, ...]
    instruction_set: str | None
    cores: int
    memory_bytes: int | None
    available_bytes: int | None


def _core_facts(findings: list[Finding]) -> _CoreFacts:
    try:
        from internvl_rt import _core
    except ImportError as error:
        findings.append(
            Finding(
                "problem",
                f"The C++ extension does not load ({error}). pip install --force-reinstall internvl-rt",
            )
        )
        return _CoreFacts((), None, os.cpu_count() or 1, None, None)
    try:
        chosen: str | None = _core.instruction_set()
    except Exception as error:
        findings.append(Finding("problem", str(error)))
        chosen = None
    if _core.tile_unit() == "refused":
        findings.append(
            Finding(
                "note",
                "The CPU has AMX, but the system does not let this process use it (Linux does from 5.16 on; "
                "sandboxes and small signal stacks may forbid it). The kernels use AVX-512 instead.",
            )
        )
    sets = tuple(_core.available_instruction_sets())
    return _CoreFacts(sets, chosen, _core.usable_cores(), _core.total_memory(), _core.usable_memory())


def _onnxruntime_facts(findings: list[Finding]) -> tuple[str | None, tuple[ProviderState, ...]]:
    try:
        import onnxruntime

        from internvl_rt.engines.onnxruntime.providers import find_providers
    except ImportError as error:
        findings.append(
            Finding(
                "note",
                f"ONNX Runtime does not load ({error}), so engine='onnxruntime' cannot be used; the native "
                "engine does not need it. Install it: pip install onnxruntime",
            )
        )
        return None, ()
    providers = tuple(
        ProviderState(found.provider.key, found.provider.name, found.usable, found.reason)
        for found in find_providers()
    )
    return str(onnxruntime.__version__), providers


def _tensorrt_facts() -> tuple[str | None, str]:
    from internvl_rt.engines.tensorrt.nvidia import Gpu
    from internvl_rt.errors import InternVLError

    try:
        found = Gpu().toolkit
    except InternVLError as error:
        return None, str(error)
    return f"{found.tensorrt} on {found.gpu}", ""


def _packages(findings: list[Finding]) -> list[Package]:
    packages = []
    for name, needed_for in _REQUIRED.items():
        version = _version(name)
        if version is None and name == "onnxruntime":
            version = _version("onnxruntime-gpu")
        packages.append(Package(name, version, needed_for, f"pip install {name}"))
        if version is None and name != "onnxruntime":
            findings.append(Finding("problem", f"{name} ({needed_for}) is not installed: pip install {name}"))
    for name, (needed_for, install) in _OPTIONAL.items():
        version = _version(name)
        packages.append(Package(name, version, needed_for, install))
        if version is None:
            findings.append(Finding("note", f"{name} ({needed_for}) is not installed: {install}"))
    return packages


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _key_values(path: Path) -> dict[str, str]:
    """The first value of every ``key : value`` line of a file; nothing where there is no such file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    return values
