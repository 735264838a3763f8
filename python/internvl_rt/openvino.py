"""What OpenVINO lacks to read ``llm.onnx``: the operator TensorScatter, which writes into the cache.

``vit.onnx`` and ``projector.onnx`` need nothing, and neither do the graphs of the dialect ``trt10``::

    core = openvino.Core()
    core.add_extension(tensor_scatter())
    decoder = core.compile_model(core.read_model("out/llm.onnx"), "CPU")
"""

from __future__ import annotations

from typing import Any

from internvl_rt.errors import DeviceError


def tensor_scatter() -> Any:
    """The conversion of TensorScatter-24 on [batch, kv_heads, capacity, head_dim], axis -2, for a ``Core``.

    The new rows of sequence b go to ``write_indices[b]`` and behind it, which is a ScatterNDUpdate. OpenVINO
    2026.4 has no conversion of its own.

    Raises:
        DeviceError: if OpenVINO is not installed.
    """
    try:
        import openvino.opset15 as ops
        from openvino.frontend import NodeContext
        from openvino.frontend.onnx import ConversionExtension
    except ImportError as error:
        raise DeviceError(f"OpenVINO does not load ({error}). Install it: pip install openvino") from error

    def convert(node: NodeContext) -> list[Any]:
        cache, new, write_indices = (node.get_input(i) for i in range(3))

        def integers(values: Any) -> Any:
            return ops.constant(values, dtype="int64")

        shape = ops.shape_of(new, output_type="i64")
        batch, heads, n = (ops.gather(shape, integers(i), integers(0)) for i in range(3))

        def count(extent: Any) -> Any:
            return ops.range(integers(0), extent, integers(1), output_type="i64")

        def spread(values: Any, axes: list[int]) -> Any:
            return ops.unsqueeze(values, integers(axes))

        places = ops.add(spread(write_indices, [1, 2]), spread(count(n), [0, 1]))
        extents = ops.gather(shape, integers([0, 1, 2]), integers(0))
        indices = [
            spread(ops.broadcast(values, extents), [3])
            for values in (spread(count(batch), [1, 2]), spread(count(heads), [0, 2]), places)
        ]
        return [ops.scatter_nd_update(cache, ops.concat(indices, 3), new).output(0)]

    return ConversionExtension("TensorScatter", convert)
