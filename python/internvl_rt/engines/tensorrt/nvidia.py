"""TensorRT and CUDA through NVIDIA's own Python packages: everything here, and nothing else, needs a GPU.

Written after the documentation of TensorRT 10.3 to 11 and of cuda-bindings 12 and 13. It was never run: there
was no GPU where it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from internvl_rt.engines.tensorrt.device import Binding
from internvl_rt.engines.tensorrt.profiles import Profile
from internvl_rt.engines.tensorrt.toolkit import Toolkit, missing, version_of
from internvl_rt.errors import DeviceError, InternVLError

MOST_GRAPHS = 256
"""CUDA graphs that a program keeps: one for each set of shapes and addresses."""


def _import() -> tuple[Any, Any]:
    """TensorRT and CUDA's run-time API.

    Raises:
        DeviceError: if one of them is not installed, or of a version that is not supported.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise missing(f"TensorRT's Python package does not load ({error})") from error
    version_of(tensorrt.__version__)
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        raise missing(f"CUDA's Python bindings do not load ({error})") from error
    return tensorrt, runtime


class _Cuda:
    """Calls of CUDA's run-time API that raise instead of returning a status."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def __call__(self, name: str, *arguments: Any) -> Any:
        status, *found = getattr(self.runtime, name)(*arguments)
        if int(status) != 0:
            _, text = self.runtime.cudaGetErrorString(status)
            said = text.decode() if isinstance(text, bytes) else str(text)
            kind = DeviceError if name == "cudaMalloc" else InternVLError
            raise kind(
                f"{name} failed: {said}. Close other programs that use the GPU, or use a smaller cache."
            )
        return found[0] if len(found) == 1 else found


def _quiet_logger(tensorrt: Any) -> Any:
    """A logger that keeps the last errors, ``.said``, where TensorRT's own would print them."""

    class Quiet(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self.said = [*self.said[-2:], text[:500]]

    return Quiet()


class Gpu:
    """Satisfies :class:`internvl_rt.engines.tensorrt.device.Device`: the first GPU, and one stream on it."""

    def __init__(self) -> None:
        """Finds TensorRT and the GPU.

        Raises:
            DeviceError: if one of them is missing; the message says what to install on this platform.
        """
        self._tensorrt, runtime = _import()
        self._cuda = _Cuda(runtime)
        try:
            properties = self._cuda("cudaGetDeviceProperties", 0)
            self._stream = self._cuda("cudaStreamCreate")
        except Exception as error:
            raise missing(f"there is no GPU that CUDA can use ({error})") from error
        name = properties.name
        if isinstance(name, bytes):
            name = name.split(b"\0")[0].decode(errors="replace")
        self.toolkit = Toolkit(
            tensorrt=self._tensorrt.__version__,
            gpu=str(name),
            compute_capability=(int(properties.major), int(properties.minor)),
            memory_bytes=int(properties.totalGlobalMem),
        )
        self._logger = _quiet_logger(self._tensorrt)
        self._deserialiser = self._tensorrt.Runtime(self._logger)

    def allocate(self, size: int) -> int:
        """New memory, all zero."""
        address = int(self._cuda("cudaMalloc", size))
        self.clear(address, size)
        return address

    def free(self, address: int) -> None:
        """Waits for what was started, and gives memory back."""
        self._cuda("cudaStreamSynchronize", self._stream)
        self._cuda("cudaFree", address)

    def clear(self, address: int, size: int) -> None:
        """Makes memory zero."""
        self._cuda("cudaMemsetAsync", address, 0, size, self._stream)

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copies to the device. The host's memory is pageable, so it is read before this returns."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def read(self, array: npt.NDArray[Any], address: int) -> None:
        """Copies from the device, and waits."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self._cuda("cudaStreamSynchronize", self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies on the device."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._cuda("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def load(self, engine: bytes) -> EngineProgram:
        """Makes a built engine ready."""
        loaded = self._deserialiser.deserialize_cuda_engine(engine)
        if loaded is None:
            raise DeviceError(
                f"TensorRT {self.toolkit.tensorrt} does not load the engines "
                f"({'; '.join(self._logger.said)}). Build them again: internvl-rt build BUNDLE --rebuild"
            )
        return EngineProgram(loaded, self._cuda, self._stream, self._logger)


class EngineProgram:
    """Satisfies :class:`internvl_rt.engines.tensorrt.device.Program`."""

    def __init__(self, engine: Any, cuda: _Cuda, stream: Any, logger: Any) -> None:
        self._cuda, self._stream, self._logger = cuda, stream, logger
        self._engine = engine
        self._contexts = []
        for profile in range(engine.num_optimization_profiles):
            context = engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(profile, int(stream)):
                raise DeviceError("the GPU has no memory for the engine's activations. Use a smaller cache.")
            self._contexts.append(context)
        self._graphs: dict[object, Any] = {}

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        """Starts a run: from the third time on with the same shapes and addresses, as a CUDA graph.

        The second time it is recorded, behind an ordinary run: TensorRT wants one after every change of
        shapes, and what is recorded is not executed.
        """
        key = (profile, tuple(sorted((name, b.address, b.shape) for name, b in bindings.items())))
        graph = self._graphs.get(key)
        if graph is not None:
            self._cuda("cudaGraphLaunch", graph, self._stream)
            return
        self._enqueue(profile, bindings)
        if key in self._graphs:
            self._graphs[key] = self._record(profile, bindings)
        else:
            if len(self._graphs) >= MOST_GRAPHS:
                self._forget()
            self._graphs[key] = None

    def _enqueue(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        context = self._contexts[profile]
        for name, binding in bindings.items():
            is_input = "INPUT" in str(self._engine.get_tensor_mode(name))
            if is_input and not context.set_input_shape(name, binding.shape):
                raise InternVLError(f"TensorRT does not take {name} of shape {list(binding.shape)}.")
            if not context.set_tensor_address(name, binding.address):
                raise InternVLError(f"TensorRT does not take the memory of {name}.")
        if not context.execute_async_v3(int(self._stream)):
            raise InternVLError(f"TensorRT failed to run an engine ({'; '.join(self._logger.said)}).")

    def _record(self, profile: int, bindings: Mapping[str, Binding]) -> Any:
        mode = self._cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        try:
            self._enqueue(profile, bindings)
        finally:
            captured = self._cuda("cudaStreamEndCapture", self._stream)
        graph = self._cuda("cudaGraphInstantiate", captured, 0)
        self._cuda("cudaGraphDestroy", captured)
        return graph

    def _forget(self) -> None:
        self._cuda("cudaStreamSynchronize", self._stream)
        for graph in self._graphs.values():
            if graph is not None:
                self._cuda("cudaGraphExecDestroy", graph)
        self._graphs.clear()


class TensorRtBuilder:
    """Satisfies :class:`internvl_rt.engines.tensorrt.device.Builder`."""

    def __init__(self) -> None:
        """Finds TensorRT and the GPU.

        Raises:
            DeviceError: if one of them is missing; the message says what to install on this platform.
        """
        self.toolkit = Gpu().toolkit
        self._tensorrt, _ = _import()
        self._logger = _quiet_logger(self._tensorrt)

    def build(
        self, graph: Path, profiles: tuple[Profile, ...], timing_cache: bytes, workspace_bytes: int
    ) -> tuple[bytes, bytes]:
        """Builds one engine from a graph whose types are taken as they stand."""
        trt = self._tensorrt
        builder = trt.Builder(self._logger)
        # From TensorRT 11 on every network is strongly typed, and the flag may be gone.
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            said = "; ".join(parser.get_error(i).desc() for i in range(min(parser.num_errors, 3)))
            raise DeviceError(f"{graph.name}: TensorRT {trt.__version__} does not take the graph ({said}).")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        if not config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False):
            # Measured on another GPU or by another version.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        for profile in profiles:
            made = builder.create_optimization_profile()
            for name, shapes in profile.items():
                made.set_shape(name, shapes.least, shapes.usual, shapes.most)
            if config.add_optimization_profile(made) < 0:
                raise DeviceError(
                    f"{graph.name}: TensorRT {trt.__version__} does not take the profile {profile}."
                )
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise DeviceError(
                f"{graph.name}: TensorRT {trt.__version__} could not build the engine "
                f"({'; '.join(self._logger.said)}). Where memory is short, close other programs or build "
                "with a smaller --cache-tokens."
            )
        return bytes(engine), bytes(config.get_timing_cache().serialize())
