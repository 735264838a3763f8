"""Whether the Python code beside a checkpoint computes what InternVL's class does. It is read, never run.

A person may copy the class under another name, to chat in another way for example. What it computes is said
by three of its methods, and a model that merges the tokens of frames, weighs features or adds a module has to
call something in them that the plain class does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_rt.export.checkpoint.checkpoint import unreadable

MAX_SOURCE_BYTES = 1 << 20

_BASES = {"PreTrainedModel", "GenerationMixin"}


@dataclass(frozen=True)
class _Method:
    """What a method calls, by the last name of each call."""

    must: frozenset[str]
    may: frozenset[str]


def _method(must: str, may: str) -> _Method:
    return _Method(frozenset(must.split()), frozenset(may.split()))


_METHODS = {
    "extract_feature": _method("vision_model reshape pixel_shuffle mlp1", "int"),
    "pixel_shuffle": _method("view permute", "size contiguous int warn"),
    "generate": _method("extract_feature generate get_input_embeddings", "reshape sum to size"),
}

_SIZES = {"int", "reshape", "view"}
"""Calls whose arguments are sizes, which may be computed."""

_REFUSED = (
    ast.For,
    ast.While,
    ast.AugAssign,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Try,
    ast.Await,
    ast.Yield,
    ast.YieldFrom,
)


def computes_plainly(path: Path, name: str) -> bool:
    """Whether a file defines a class of that name that has the plain class's methods, and calls no more.

    Args:
        path: of the Python file; False where there is none.
        name: of the class.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_SOURCE_BYTES:
            return False
        module = ast.parse(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    found = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name]
    if len(found) != 1 or not found[0].bases:
        return False
    if not all(_last_name(base) in _BASES for base in found[0].bases):
        return False
    methods = {node.name: node for node in found[0].body if isinstance(node, ast.FunctionDef)}
    return all(name in methods and _is_plain(methods[name], calls) for name, calls in _METHODS.items())


def _is_plain(method: ast.FunctionDef, calls: _Method) -> bool:
    called = set()
    for node, sized in _walk(method.body):
        if isinstance(node, _REFUSED) or (isinstance(node, ast.BinOp) and not sized):
            return False
        if isinstance(node, ast.Slice) and not _drops_class_token_at_most(node):
            return False
        # The embedding table is looked up by a call of what a call gave.
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Call):
            called.add(_last_name(node.func))
    return calls.must <= called <= calls.must | calls.may


def _walk(body: list[ast.stmt]) -> Iterator[tuple[ast.AST, bool]]:
    """Every node of a method, and whether it is a size."""
    waiting: list[tuple[ast.AST, bool]] = [(statement, False) for statement in body]
    while waiting:
        node, sized = waiting.pop()
        yield node, sized
        if isinstance(node, ast.Call) and _last_name(node.func) in _SIZES:
            waiting.append((node.func, sized))
            waiting += [(argument, True) for argument in node.args]
            waiting += [(keyword.value, True) for keyword in node.keywords]
        else:
            waiting += [(child, sized) for child in ast.iter_child_nodes(node)]


def _drops_class_token_at_most(node: ast.Slice) -> bool:
    begin = node.lower.value if isinstance(node.lower, ast.Constant) else None
    whole = node.lower is None or begin in (0, 1)
    return whole and node.upper is None and node.step is None


def _last_name(node: ast.expr) -> str:
    """``view`` of ``x.view``; empty for what has no name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
