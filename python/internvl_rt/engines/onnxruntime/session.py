"""ONNX Runtime sessions over memory that the caller owns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from internvl_rt.errors import BundleError, InternVLError

_FATAL = 4


class Session:
    """One graph. Inputs and outputs are NumPy arrays that ONNX Runtime reads and writes in place."""

    def __init__(self, path: Path, threads: int, *, fold_weights: bool) -> None:
        """Loads a graph.

        Args:
            path: the graph; its weights lie beside it.
            threads: how many compute.
            fold_weights: turn integer weights into floats once, now, instead of in every run: four (int8) or
                eight (int4) times the memory, and no time spent on it afterwards.

        Raises:
            BundleError: if ONNX Runtime does not take the graph.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        # A pattern is kept for every shape ever seen, and prompts have any length.
        options.enable_mem_pattern = False
        if fold_weights:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._path = path
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({_first_line(error)}). "
                "Export the bundle again, or update onnxruntime: language models need 1.24, and that needs "
                "Python 3.11; the native engine needs less."
            ) from error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Computes ``outputs`` from ``inputs``; an array may be both where the graph updates it.

        Args:
            inputs: contiguous arrays of the graph's types and shapes.
            outputs: contiguous arrays, written by the call.

        Raises:
            InternVLError: if ONNX Runtime fails.
        """
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise InternVLError(f"{self._path}: ONNX Runtime failed ({_first_line(error)}).") from error


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if ONNX Runtime can read it in place, or a copy."""
    return np.require(array, requirements=["C", "A"])


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:500]
