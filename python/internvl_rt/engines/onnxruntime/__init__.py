"""The engine ``onnxruntime``: the bundle's graphs on ONNX Runtime, on a CPU."""

from internvl_rt.engines.onnxruntime.engine import OnnxEngine
from internvl_rt.engines.onnxruntime.vision import OnnxVision

__all__ = ["OnnxEngine", "OnnxVision"]
