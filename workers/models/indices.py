"""Indices of an exported program: every operator that gathers or scatters must provably stay within its tensors.

On a GPU an index beyond a tensor is an assertion of the device, which ends the CUDA context of the worker, not the model. So the integers
of a program are followed as intervals, from its constants on; one that depends on features is as wide as its type until the program
limits it (clamp, remainder, argmax, a look into a constant table). What is not proven to fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from hltfarm.proto.errors import ConfigError

#: Least and greatest value of a tensor's elements.
Interval = tuple[int, int]

#: Operators whose indices can be judged: along a dimension, a list by dimension, rows of a table, elements of a tensor as a whole.
_ALONG = ("gather", "index_select", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce")
_LISTS = ("index", "index_put")
_TABLES = ("embedding",)
_FLAT = ("take",)
#: Arguments by which an operator finds elements, or of which it asserts that they are in a range.
_INDEX_ARGUMENT = re.compile(r".*indices|index|.*offsets|targets?|.*lengths|.*pivots|sorter|batch_sizes")
_REFUSED = ("masked_scatter",)
#: Operators whose elements are those of their first argument, in another order or number.
_ALIKE = frozenset((
    "alias", "clone", "contiguous", "detach", "detach_", "expand", "flatten", "flip", "gather", "index", "index_select",
    "lift_fresh_copy", "max", "min", "amax", "amin", "narrow", "permute", "repeat", "reshape", "roll", "select", "slice", "sort",
    "split", "split_with_sizes", "squeeze", "t", "take", "topk", "transpose", "unbind", "unfold", "unsqueeze", "view",
))  # fmt: skip


def check(program: Any, where: str) -> None:
    """Raise ConfigError for the first index of a torch.export.ExportedProgram, in functional form, that may be out of range."""
    known: dict[Any, Interval] = {}
    constants = _constants(program)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            values = constants[node.name]
            if _is_integer(values) and values.numel():
                known[node] = (int(values.min()), int(values.max()))
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            _check_node(node, known, where)
        found = _interval(node, known)
        if found is not None and _fits(node, found):
            known[node] = found


def _constants(program: Any) -> dict[str, Any]:
    """Tensors that are part of the program, by the name of their placeholder."""
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    every = {**program.constants, **program.state_dict}
    return {name: every[target] for name, target in named.items() if isinstance(every.get(target), torch.Tensor)}


def _check_node(node: Any, known: dict[Any, Interval], where: str) -> None:
    name = _name(node)
    for table, dimension, index in _accesses(node, where):
        if _tensor(index).dtype not in (torch.int32, torch.int64):
            raise ConfigError(f"{where}: operator aten.{name}: the index {index.name} is a mask: use torch.where, or integers")
        size = _size(_tensor(table), dimension)
        low, high = _range(index, known)
        from_the_end = size if size is not None and name in (*_LISTS, *_FLAT) else 0
        if size is None or low < -from_the_end or high >= size:
            raise ConfigError(
                f"{where}: operator aten.{name}: the index {index.name} may be {low} to {high}, its dimension has {size or 'n'} elements; "
                "beyond them it would end a worker on a GPU: gather by constants of the program, or limit integers with clamp"
            )


def _accesses(node: Any, where: str) -> Iterator[tuple[Any, int | None, Any]]:
    """Table, dimension and index of every look that an operator takes. Raises ConfigError for operators whose looks cannot be judged."""
    name, arguments = _name(node), _arguments(node)
    if name in _ALONG:
        yield arguments["self"], arguments["dim"], arguments["index"]
    elif name in _LISTS:
        yield from ((arguments["self"], i, index) for i, index in enumerate(arguments["indices"]) if index is not None)
    elif name in _TABLES:
        yield arguments["weight"], 0, arguments["indices"]
    elif name in _FLAT:
        yield arguments["self"], None, arguments["index"]
    else:
        bad = [key for key, value in arguments.items() if _INDEX_ARGUMENT.fullmatch(key) and _has_tensor(value)]
        if bad or name in _REFUSED:
            raise ConfigError(
                f"{where}: operator aten.{name} is refused: nothing tells that its {bad[0] if bad else 'mask'} fits its tensors"
            )


def _interval(node: Any, known: dict[Any, Interval]) -> Interval | None:
    """What the elements of a node's result lie in, None if nothing is known. Exact arithmetic: the caller compares with the type."""
    name = _name(node)
    if name == "getitem" and len(node.args) == 2:
        return _interval_of_part(node, known)
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    rule = _RULES.get(name)
    arguments = _arguments(node)
    if rule is not None:
        return rule(arguments, known)
    if name in _ALIKE and not {"dtype", "other"} & arguments.keys():  # other bits of the same memory, or of two tensors
        return known.get(arguments["self"])
    return None


def _interval_of_part(node: Any, known: dict[Any, Interval]) -> Interval | None:
    """One result of several: values as those that went in, or positions along a dimension."""
    source, which = node.args
    if not (isinstance(source, torch.fx.Node) and isinstance(source.target, torch._ops.OpOverload)):
        return None
    name, arguments = _name(source), _arguments(source)
    if name in ("max", "min", "sort", "topk", "kthvalue", "median", "mode") and which == 1:
        return _positions(arguments)
    return known.get(arguments.get("self")) if name in _ALIKE else None


def _positions(arguments: dict[str, Any]) -> Interval | None:
    size = _size(_tensor(arguments["self"]), arguments.get("dim"))
    return (0, size - 1) if size else None


def _size(tensor: Any, dimension: int | None) -> int | None:
    """Elements along a dimension, or (None) of all; None if that is open."""
    size = tensor.numel() if dimension is None else tensor.shape[dimension] if tensor.dim() else 1
    return size if isinstance(size, int) else None


def _sum(arguments: dict[str, Any], known: dict[Any, Interval], sign: int) -> Interval | None:
    a, b, factor = _operand(arguments["self"], known), _operand(arguments["other"], known), arguments.get("alpha", 1)
    if a is None or b is None or not isinstance(factor, int):
        return None
    ends = sorted(sign * factor * end for end in b)
    return a[0] + ends[0], a[1] + ends[1]


def _product(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    a, b = _operand(arguments["self"], known), _operand(arguments["other"], known)
    if a is None or b is None:
        return None
    ends = [x * y for x in a for y in b]
    return min(ends), max(ends)


def _clamp(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    """Of integers only: a number that is none survives the clamp of a float."""
    if not _is_integer(_tensor(arguments["self"])):
        return None
    low, high = _range(arguments["self"], known)
    least, most = arguments.get("min"), arguments.get("max")
    if not all(bound is None or type(bound) is int for bound in (least, most)):
        return None
    if least is not None:
        low, high = max(low, least), max(high, least)
    return (low, high) if most is None else (min(low, most), min(high, most))


def _remainder(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    by = arguments["other"]
    return (0, by - 1) if type(by) is int and by > 0 and _is_integer(_tensor(arguments["self"])) else None


def _mask(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    by = arguments["other"]
    return (0, by) if type(by) is int and by >= 0 and _is_integer(_tensor(arguments["self"])) else None


def _union(parts: Sequence[Any], known: dict[Any, Interval]) -> Interval | None:
    found = [_operand(part, known) for part in parts]
    if not found or any(interval is None for interval in found):
        return None
    return min(i[0] for i in found if i), max(i[1] for i in found if i)


def _steps(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    start, end, step = arguments.get("start", 0), arguments["end"], arguments.get("step", 1)
    if not all(type(x) is int for x in (start, end, step)) or not len(range(start, end, step)):
        return None
    steps = range(start, end, step)
    return min(steps[0], steps[-1]), max(steps[0], steps[-1])


def _filled(value: Any) -> Interval | None:
    return (int(value), int(value)) if isinstance(value, int) else None


def _table(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
    return known.get(arguments["weight"])


def _bins(edges: str) -> Callable[[dict[str, Any], dict[Any, Interval]], Interval | None]:
    def rule(arguments: dict[str, Any], known: dict[Any, Interval]) -> Interval | None:
        size = _tensor(arguments[edges]).shape[-1]
        return (0, size) if isinstance(size, int) else None

    return rule


_RULES: dict[str, Callable[[dict[str, Any], dict[Any, Interval]], Interval | None]] = {
    "add": lambda arguments, known: _sum(arguments, known, 1),
    "sub": lambda arguments, known: _sum(arguments, known, -1),
    "rsub": lambda arguments, known: _sum({**arguments, "self": arguments["other"], "other": arguments["self"]}, known, -1),
    "mul": _product,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "remainder": _remainder,
    "bitwise_and": _mask,
    "where": lambda arguments, known: _union([arguments["self"], arguments["other"]], known) if "self" in arguments else None,
    "cat": lambda arguments, known: _union(arguments["tensors"], known),
    "stack": lambda arguments, known: _union(arguments["tensors"], known),
    "_to_copy": lambda arguments, known: _operand(arguments["self"], known),
    "argmax": lambda arguments, known: _positions(arguments),
    "argmin": lambda arguments, known: _positions(arguments),
    "argsort": lambda arguments, known: _positions({"dim": -1, **arguments}),
    "arange": _steps,
    "full": lambda arguments, known: _filled(arguments["fill_value"]),
    "full_like": lambda arguments, known: _filled(arguments["fill_value"]),
    "scalar_tensor": lambda arguments, known: _filled(arguments["s"]),
    "zeros": lambda arguments, known: (0, 0),
    "zeros_like": lambda arguments, known: (0, 0),
    "ones": lambda arguments, known: (1, 1),
    "ones_like": lambda arguments, known: (1, 1),
    "embedding": _table,
    "searchsorted": _bins("sorted_sequence"),
    "bucketize": _bins("boundaries"),
}


def _name(node: Any) -> str:
    """Of the operator, without its overload."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name).rpartition("::")[2]
    return str(getattr(node.target, "__name__", node.target))


def _arguments(node: Any) -> dict[str, Any]:
    """By the names of the operator's schema, defaults included."""
    schema = node.target._schema.arguments
    given = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    positional = [argument.name for argument in schema if not argument.kwarg_only]
    return given | dict(zip(positional, node.args, strict=False)) | dict(node.kwargs)


def _operand(value: Any, known: dict[Any, Interval]) -> Interval | None:
    """Of a number or a tensor of integers; None for floats."""
    if isinstance(value, torch.fx.Node):
        return _range(value, known) if _is_integer(_tensor(value)) else None
    return (int(value), int(value)) if isinstance(value, int) else None


def _range(node: Any, known: dict[Any, Interval]) -> Interval:
    """What is known of a tensor of integers, else all that its type can hold."""
    return known.get(node) or _limits(_tensor(node).dtype)


def _limits(dtype: torch.dtype) -> Interval:
    if dtype == torch.bool:
        return 0, 1
    info = torch.iinfo(dtype)
    return int(info.min), int(info.max)


def _fits(node: Any, found: Interval) -> bool:
    """Whether a result is a tensor of integers that holds the interval: what does not fit wraps around, and nothing is known."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not _is_integer(value):
        return False
    low, high = _limits(value.dtype)
    return low <= found[0] and found[1] <= high


def _has_tensor(value: Any) -> bool:
    return isinstance(value, torch.fx.Node) or (isinstance(value, list | tuple) and any(map(_has_tensor, value)))


def _tensor(node: Any) -> Any:
    """The example that torch.export keeps of a node: its shape and type."""
    return node.meta["val"]


def _is_integer(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.dtype.is_floating_point and not value.dtype.is_complex
