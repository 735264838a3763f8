"""ONNX Runtime sessions over memory that the caller owns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from internvl_rt.bundle.graph_sets import Compute
from internvl_rt.engines.onnxruntime.providers import PROVIDERS, Provider, open_session
from internvl_rt.engines.turns import WATCH_S
from internvl_rt.errors import BundleError, InternVLError

_FATAL = 4

Tensor: TypeAlias = "npt.NDArray[Any] | onnxruntime.OrtValue"
"""An array in the host's memory, or a value in a device's."""


NUMPY_TYPE: dict[Compute, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
"""NumPy has no bfloat16, and no graph that is run here computes in it."""


class Session:
    """One graph. Inputs and outputs are NumPy arrays that ONNX Runtime reads and writes in place."""

    def __init__(
        self,
        path: Path,
        threads: int,
        *,
        fold_weights: bool,
        providers: Sequence[Provider] = (),
        extents: Mapping[str, int] | None = None,
    ) -> None:
        """Loads a graph.

        Args:
            path: the graph; its weights lie beside it.
            threads: how many compute.
            fold_weights: turn integer weights into floats once, now, instead of in every run: four (int8) or
                eight (int4) times the memory, and no time spent on it afterwards.
            providers: what ``choose_providers`` returned; the CPU where none.
            extents: of dimensions that the graph names, fixed when it is loaded.

        Raises:
            BundleError: if ONNX Runtime does not take the graph.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        # A pattern is kept for every shape ever seen, and prompts have any length.
        options.enable_mem_pattern = False
        for dimension, extent in (extents or {}).items():
            options.add_free_dimension_override_by_name(dimension, extent)
        if fold_weights:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._path = path
        try:
            self._session: Any = open_session(str(path), options, providers or (PROVIDERS["cpu"],))
        except Exception as error:
            raise BundleError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({_first_line(error)}). "
                "Export the bundle again, or update onnxruntime; the native engine does not need it."
            ) from error

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        step: Callable[[], None] | None = None,
    ) -> None:
        """Computes ``outputs`` from ``inputs``; a tensor may be both where the graph updates it.

        Signals are handled on the way: there, Ctrl-C ends the run.

        Args:
            inputs: contiguous arrays, or values in a device's memory, of the graph's types and shapes.
            outputs: likewise, written by the call.
            step: asked every ``WATCH_S`` seconds whether to go on; what it raises ends the run.

        Raises:
            InternVLError: if ONNX Runtime fails.
        """
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
            else:
                binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
            else:
                binding.bind_ortvalue_output(name, value)
        if step is None and threading.current_thread() is not threading.main_thread():
            self._compute(binding, onnxruntime.RunOptions())  # nobody asks, and signals go to the main thread
        else:
            self._compute_watched(binding, (inputs, outputs), step)

    def _compute(self, binding: Any, options: Any) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            raise InternVLError(f"{self._path}: ONNX Runtime failed ({_first_line(error)}).") from error

    def _compute_watched(self, binding: Any, tensors: object, step: Callable[[], None] | None) -> None:
        """Computes in a thread of its own: while ONNX Runtime has this one, no signal is handled."""
        options = onnxruntime.RunOptions()
        ended = threading.Event()
        failures: list[InternVLError] = []

        def compute(_: object) -> None:
            try:
                self._compute(binding, options)
            except InternVLError as error:
                failures.append(error)
            finally:
                ended.set()

        # The thread holds the tensors as long as ONNX Runtime writes to them, whatever becomes of this call.
        thread = threading.Thread(target=compute, args=(tensors,), name="onnxruntime", daemon=True)
        try:
            thread.start()
            while not ended.wait(WATCH_S):
                if step is not None:
                    step()
        except BaseException:
            options.terminate = True
            ended.wait()
            raise
        if failures:
            raise failures[0]


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if ONNX Runtime can read it in place, or a copy."""
    return np.require(array, requirements=["C", "A"])


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:500]
