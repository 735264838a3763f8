"""What OpenVINO needs to read ``llm.onnx``, and to run it as fast as it can.

It lacks the operator TensorScatter, which writes into the cache. ``vit.onnx`` and ``projector.onnx`` need
nothing, and neither do the graphs of the dialect ``trt10``::

    core = openvino.Core()
    core.add_extension(tensor_scatter())
    decoder = core.read_model("out/llm.onnx")
    keep_cache(decoder)  # unless the caller wants to hold the cache
    request = core.compile_model(decoder, "CPU").create_infer_request()
"""

from __future__ import annotations

from typing import Any

from internvl_rt.bundle.graph_ports import EMBEDDINGS, MASK, WRITE_INDICES
from internvl_rt.errors import BundleError, DeviceError

BEAMS = "beam_idx"
"""int32 [batch]: which sequence's past each one continues; 0, 1, 2, ... for its own"""


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


def keep_cache(model: Any) -> None:
    """Has OpenVINO keep keys and values itself, as states of an infer request that grow with every call.

    This is the form whose attention OpenVINO fuses with the cache: nothing is copied, and its CPU plugin
    stores keys and values in int8 (``KV_CACHE_PRECISION``). The inputs and outputs for the caches go, and so
    does ``write_indices``: the n new positions of every sequence are appended. ``BEAMS`` is a new input, and
    the mask's width is all that was appended before plus n; it has to let every position, of padding too,
    look at one place at least. ``request.reset_state()`` empties the cache.

    Args:
        model: the ``llm.onnx`` of the dialect ``onnx24``, read and not compiled; it is changed.

    Raises:
        BundleError: if it is another graph.
    """
    import openvino.opset15 as ops
    from openvino import Type

    attentions = [node for node in model.get_ordered_ops() if _is(node, "ScaledDotProductAttention")]
    if not attentions or not any(_is(node, "ScatterNDUpdate") for node in model.get_ops()):
        raise BundleError(
            "the model has no attention over a cache that it could keep; expected llm.onnx of the dialect "
            "onnx24, read with the extension tensor_scatter()."
        )
    beams = ops.parameter([-1], Type.i32)
    beams.output(0).tensor.set_names({BEAMS})
    model.add_parameters([beams])
    # Booleans would do, but the CPU plugin's attention is slower with them. Made once, for all layers.
    compute = attentions[0].get_output_element_type(0)
    seen, unseen = (ops.constant(value, dtype=compute) for value in (0.0, float("-inf")))
    mask = ops.select(model.input(MASK).get_node(), seen, unseen)
    batch = _extent(ops, model.input(EMBEDDINGS).get_node(), 0)
    for attention in attentions:
        queries, keys, values, _, scale = attention.input_values()
        past_and_new = [_appended(ops, model, _cache_update(old), batch, beams) for old in (keys, values)]
        heads = attention.get_output_partial_shape(0)[1].get_length()
        attended = [_for_all_heads(ops, cache, heads) for cache in past_and_new]
        # Without what the conversion does for positions that look at nothing.
        guarded = (use.get_node() for use in attention.output(0).get_target_inputs())
        old = next((node for node in guarded if _is(node, "Select")), attention)
        old.output(0).replace(ops.scaled_dot_product_attention(queries, *attended, mask, scale).output(0))
    model.remove_parameter(model.input(WRITE_INDICES).get_node())
    model.validate_nodes_and_infer_types()


def _is(node: Any, kind: str) -> bool:
    return bool(node.get_type_name() == kind)


def _extent(ops: Any, node: Any, axis: int) -> Any:
    """As int64 [1]."""
    index, along = (ops.constant(value, dtype="int64") for value in ([axis], 0))
    return ops.gather(ops.shape_of(node, output_type="i64"), index, along)


def _cache_update(attended: Any) -> Any:
    """The node that writes into the cache whose rows, once for every head, an attention reads."""
    node = attended.get_node()
    while not _is(node, "ScatterNDUpdate"):
        node = node.input_value(0).get_node()
    return node


def _appended(ops: Any, model: Any, update: Any, batch: Any, beams: Any) -> Any:
    """The state that takes the place of a cache's input and output: [batch, kv_heads, past + n, head_dim]."""
    from openvino import PartialShape
    from openvino.op.util import Variable, VariableInfo

    cache, new = update.input_value(0).get_node(), update.input_value(2)
    _, kv_heads, _, head_dim = cache.get_output_partial_shape(0)
    info = VariableInfo()
    info.variable_id = cache.get_friendly_name()
    info.data_type = cache.get_output_element_type(0)
    info.data_shape = PartialShape([-1, kv_heads, -1, head_dim])
    variable = Variable(info)

    rest = ops.constant([kv_heads.get_length(), 0, head_dim.get_length()], dtype="int64")
    nothing = ops.broadcast(ops.constant(0.0, dtype=info.data_type), ops.concat([batch, rest], 0))
    past = ops.gather(ops.read_value(nothing, variable), beams, ops.constant(0, dtype="int64"))
    whole = ops.concat([past, new], 2)
    for use in update.output(0).get_target_inputs():
        if _is(use.get_node(), "Result"):
            model.remove_result(use.get_node())
    model.add_variables([variable])
    model.add_sinks([ops.assign(whole, variable)])
    model.remove_parameter(cache)
    return whole


def _for_all_heads(ops: Any, cache: Any, heads: int) -> Any:
    """Keys or values once for every query head, in the operators that the fused attention looks through."""
    shape = cache.get_output_partial_shape(0)
    kv_heads, head_dim = shape[1].get_length(), shape[3].get_length()
    if kv_heads == heads:
        return cache

    def integers(values: list[int]) -> Any:
        return ops.constant(values, dtype="int64")

    group = ops.unsqueeze(cache, integers([2]))
    group = ops.broadcast(group, integers([1, 1, heads // kv_heads, 1, 1]), broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(group, integers([0, heads, -1, head_dim]), special_zero=True)
