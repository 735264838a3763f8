"""Built engines on disk: beside the bundle, under a key of all that they depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_sets import GRAPH_NAMES, GRAPH_SETS, Compute, GraphName, GraphSet
from internvl_rt.bundle.manifest import WEIGHTS_FILE
from internvl_rt.engines.tensorrt.profiles import Limits, profiles_of
from internvl_rt.engines.tensorrt.toolkit import Toolkit
from internvl_rt.errors import DeviceError
from internvl_rt.files.errors import advice, reason
from internvl_rt.files.work_folder import InUseError, work_folder

FORMAT = 1
"""Raised whenever graphs or profiles change in a way that their facts do not show."""

PLAN_FILE = "plan.json"
TIMING_CACHE = "timing.cache"

_BUILDING = ".building-"


@dataclass(frozen=True)
class Plan:
    """What engines were, or are to be, built from and for."""

    bundle: str
    """SHA-256 over the weights' hash and the model's facts."""
    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int]
    graphs: str
    limits: Limits
    profiles: str
    """SHA-256 over every shape."""

    @property
    def key(self) -> str:
        """Names the engines' folder: readable in front, and different whenever anything is."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
        major, minor = self.compute_capability
        return f"sm{major}{minor}-{self.graphs}-{digest}"

    @property
    def graph_set(self) -> GraphSet:
        """The dialect and the type that the engines compute in."""
        return GRAPH_SETS[self.graphs]

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(document, indent=2, sort_keys=True) + "\n"


def plan_of(bundle: Bundle, toolkit: Toolkit, limits: Limits, compute: Compute | None = None) -> Plan:
    """The plan for a bundle on a machine.

    Args:
        bundle: an opened bundle.
        toolkit: TensorRT and the GPU.
        limits: what the engines must be able to do.
        compute: the type to compute in. Where None it is fp16 if the weights are fp16, and else bf16, which
            has the range that the models were trained with.
    """
    manifest = bundle.manifest
    chosen = compute or ("fp16" if manifest.precision.llm == "fp16" else "bf16")
    name = GraphSet(toolkit.dialect, chosen).name
    facts = dataclasses.asdict(dataclasses.replace(manifest, files={}))
    facts["weights"] = manifest.files[WEIGHTS_FILE].sha256
    shapes = {
        graph: [
            {port: dataclasses.astuple(shape) for port, shape in profile.items()}
            for profile in profiles_of(manifest, graph, limits)
        ]
        for graph in GRAPH_NAMES
    }
    return Plan(
        bundle=_digest(facts),
        tensorrt=toolkit.tensorrt,
        gpu=toolkit.gpu,
        compute_capability=toolkit.compute_capability,
        graphs=name,
        limits=limits,
        profiles=_digest(shapes),
    )


def store_of(bundle: Bundle) -> Path:
    """The folder of a bundle's engines: ``NAME.tensorrt`` beside it, so that the bundle stays as it is."""
    folder = bundle.folder.resolve()
    return folder.parent / f"{folder.name}.tensorrt"


def engine_file(graph: GraphName) -> str:
    """The name of a graph's engine."""
    return f"{graph}.engine"


def find_engines(bundle: Bundle, plan: Plan) -> Path | None:
    """The folder of the engines of exactly this plan, or None."""
    folder = store_of(bundle) / plan.key
    try:
        same = (folder / PLAN_FILE).read_text(encoding="utf-8") == plan.to_json()
    except OSError:
        return None
    return folder if same and all((folder / engine_file(graph)).is_file() for graph in GRAPH_NAMES) else None


def built_plans(bundle: Bundle, toolkit: Toolkit) -> tuple[Plan, ...]:
    """The plans whose engines are there for a bundle as it is, this TensorRT and this GPU, newest first."""
    written = [
        (path.stat().st_mtime_ns, plan)
        for path in store_of(bundle).glob(f"*/{PLAN_FILE}")
        if (plan := _read_plan(path, bundle, toolkit)) is not None
    ]
    written.sort(key=lambda item: item[0], reverse=True)
    return tuple(plan for _, plan in written)


def _read_plan(path: Path, bundle: Bundle, toolkit: Toolkit) -> Plan | None:
    """The plan of a folder, if it is one for this bundle and machine."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        graphs, limits = GRAPH_SETS[document["graphs"]], Limits(**document["limits"])
        plan = plan_of(bundle, toolkit, limits, graphs.compute)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not ours, or of another release
    return plan if find_engines(bundle, plan) == path.parent else None


@contextlib.contextmanager
def staged_engines(bundle: Bundle, plan: Plan) -> Iterator[Path]:
    """A folder that takes its place under the plan's key when the block ends well, and else is removed.

    What builds that were killed left behind is removed by the next one.

    Raises:
        DeviceError: if nothing can be written beside the bundle, or another process builds the same engines.
    """
    store = store_of(bundle)
    with contextlib.ExitStack() as stack:
        try:
            store.mkdir(exist_ok=True)
            for abandoned in store.glob(f"{_BUILDING}*"):
                # Those that are not abandoned are in use.
                with contextlib.suppress(InUseError), work_folder(abandoned) as folder:
                    _clear(folder)
            work = stack.enter_context(work_folder(store / f"{_BUILDING}{plan.key}"))
            stack.callback(_clear, work)
            staging = work / "engines"
            staging.mkdir()
        except InUseError:
            raise DeviceError(
                f"{store}: another process builds these engines at the moment. Wait until it is done."
            ) from None
        except OSError as error:
            told = advice(error, "Copy the bundle to a place that may be written to.")
            raise DeviceError(f"{store}: engines cannot be written here ({reason(error)}). {told}") from error
        yield staging
        (staging / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8")
        target = store / plan.key
        if target.exists():
            target.rename(work / "replaced")
        staging.rename(target)


def _clear(folder: Path) -> None:
    """Removes what a build made, but for the lock."""
    for made in ("engines", "replaced"):
        shutil.rmtree(folder / made, ignore_errors=True)


def write_whole(path: Path, data: bytes, through: Path) -> None:
    """Writes a file that is there completely or not at all.

    Args:
        path: the file.
        data: its content.
        through: a folder on the same disk that is this process's alone.
    """
    written = through / f".{path.name}"
    with written.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
