"""An ONNX graph under construction: nodes, constants, and weights that stay in the weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from internvl_rt.bundle.graph_sets import Compute
from internvl_rt.bundle.manifest import WEIGHTS_FILE
from internvl_rt.bundle.tensors import TensorPlace

IR_VERSION = 10

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

ELEMENT_TYPE: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
}

COMPUTE_TYPE: dict[Compute, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}

Shape = Sequence[int | str]
"""Extents; a name stands for one that is known when the graph runs."""


class Graph:
    """Collects the nodes of one graph. Values are named after the node that makes them."""

    def __init__(self, name: str, places: Mapping[str, TensorPlace], opset: int) -> None:
        self.name = name
        self._opset = opset
        self._places = places
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._declared: list[onnx.ValueInfoProto] = []
        self._initialisers: dict[str, TensorProto] = {}
        self._domains: set[str] = {""}

    def declare(self, name: str, element_type: int, shape: Shape) -> None:
        """States the shape of a value that shape inference cannot see."""
        self._declared.append(helper.make_tensor_value_info(name, element_type, shape))

    def require_opset(self, opset: int) -> None:
        """Raises the opset to at least ``opset``."""
        self._opset = max(self._opset, opset)

    def input(self, name: str, element_type: int, shape: Shape) -> str:
        """Declares an input and returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, element_type, shape))
        return name

    def output(self, name: str, element_type: int, shape: Shape) -> None:
        """Declares that the value ``name`` is an output."""
        self._outputs.append(helper.make_tensor_value_info(name, element_type, shape))

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node and returns the name of its first output.

        Args:
            kind: the operator.
            inputs: names of values; an empty one stands for an input that is left out.
            name: of the node, and of its output if there is one only.
            outputs: names of several outputs, likewise.
            domain: of the operator; the empty one is ONNX's own.
            attributes: of the operator.
        """
        self._domains.add(domain)
        made = helper.make_node(kind, inputs, outputs or [name], name=name, domain=domain, **attributes)
        self._nodes.append(made)
        return outputs[0] if outputs else name

    def split(self, value: str, sizes: Sequence[int], names: Sequence[str]) -> Sequence[str]:
        """Splits the last axis."""
        self.op("Split", [value, self.integers(sizes)], f"{names[0]}.split", outputs=names, axis=-1)
        return names

    def integers(self, values: Sequence[int]) -> str:
        """An int64 constant; equal ones are one."""
        name = "integers." + "_".join(str(v) for v in values)
        if name not in self._initialisers:
            self._initialisers[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def scalar(self, value: float, element_type: int, name: str) -> str:
        """A constant without axes."""
        if name not in self._initialisers:
            self._initialisers[name] = helper.make_tensor(name, element_type, [], [value])
        return name

    def reshape(self, value: str, shape: Sequence[int], name: str) -> str:
        """Reshapes to constant extents, where -1 is what is left and 0 is as before."""
        return self.op("Reshape", [value, self.integers(shape)], name)

    def stored(self, name: str, shape: Sequence[int] | None = None) -> str:
        """A tensor of the weights file: an initialiser that points at its bytes there.

        A shape takes the place of its own, of as many elements.
        """
        place = self._places[name]
        kind = ELEMENT_TYPE[place.tensor.dtype]
        if shape is None or tuple(shape) == place.tensor.shape:
            return self._external(name, name, kind, place.tensor.shape)
        return self._external(f"{name}.shaped", name, kind, shape)

    def stored_bytes(self, name: str, shape: Sequence[int]) -> str:
        """The bytes of a tensor of the weights file as uint8 of some shape."""
        return self._external(f"{name}.bytes", name, TensorProto.UINT8, shape)

    def _external(self, name: str, stored: str, element_type: int, shape: Sequence[int]) -> str:
        if name not in self._initialisers:
            place = self._places[stored]
            tensor = TensorProto(
                name=name, data_type=element_type, dims=shape, data_location=TensorProto.EXTERNAL
            )
            where = {"location": WEIGHTS_FILE, "offset": place.begin, "length": place.end - place.begin}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            self._initialisers[name] = tensor
        return name

    def stored_type(self, name: str) -> str:
        """The element type in which a tensor is stored."""
        return self._places[name].tensor.dtype

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """The extents of a stored tensor, in elements."""
        return self._places[name].tensor.shape

    def body(self, name: str) -> Graph:
        """A graph for inside of this one: it sees this one's values, and its constants are this one's."""
        inner = Graph(name, self._places, self._opset)
        inner._initialisers, inner._domains = self._initialisers, self._domains
        return inner

    def as_body(self) -> onnx.GraphProto:
        """What :meth:`body` became, as the attribute of a node."""
        return helper.make_graph(self._nodes, self.name, self._inputs, self._outputs)

    def write(self, path: Path) -> None:
        """Writes the graph. The weights file lies, or will lie, in the same folder."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            self._inputs,
            self._outputs,
            list(self._initialisers.values()),
            value_info=self._declared,
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid(domain, 1 if domain else self._opset) for domain in sorted(self._domains)
            ],
            ir_version=IR_VERSION,
            producer_name="internvl_rt",
        )
        path.write_bytes(model.SerializeToString(deterministic=True))
