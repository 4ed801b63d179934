"""The program of a torch.export archive: JSON, of which every string is held to a grammar before torch reads it.

torch makes Python out of it: names become source code, sizes are evaluated, targets are looked up in the torch module, contexts of
pytrees import modules. See archive.py. All functions raise ConfigError, or KeyError and its like where the structure is another one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from hltfarm.proto.errors import ConfigError

MAX_TENSOR_BYTES = 1 << 28
MAX_NESTING = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_PATH = re.compile(r"((?!__)[A-Za-z0-9_]{1,200}(\.(?!__)[A-Za-z0-9_]{1,200}){0,31})?")
_TEXT = re.compile(r"[A-Za-z0-9_ ,.>()-]{0,200}")
_VERSION = re.compile(r"[A-Za-z0-9_.+-]{0,64}")
_TARGET = re.compile(r"torch\.ops\.aten\.(_?[a-z][A-Za-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)")
_TREE_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict")
#: Tagged as of a size that depends on data, since its index may be a mask: that is for indices.check to refuse.
_INDEX = "torch.ops.aten.index.Tensor"
_SYMPY = {"Symbol", "Integer", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing"}
_SYMPY |= {"Identity", "Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "And", "Or", "Not"}
_OPERATORS = ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "and_", "or_", "not_")
_ARITHMETIC = {f"_operator.{name}" for name in _OPERATORS} | {f"torch.sym_{name}" for name in ("max", "min", "not")}
#: Operators that reach beyond their tensors (files, memory that bounds checks do not cover, other streams), and those that are
#: internal to torch and trust their arguments.
_FORBIDDEN = re.compile(
    r"_(?!assert_tensor_metadata$|softmax$|log_softmax$|to_copy$|native_batch_norm_legit_no_training$).*"
    r"|from_file|as_strided.*|set_.*|resize.*|record_stream|pin_memory|.*quantized.*|rename.*|data"
)
#: Members of the unions in the program that stand for objects, subgraphs or functions.
_FORBIDDEN_KEYS = frozenset({"as_custom_obj", "as_graph", "as_operator", "custom_obj", "token", "as_opaque_obj"})
_FLOAT32 = 7
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}


def strip(graph: dict[str, Any]) -> None:
    """Leave out what torch would execute, import or print, and what inference does not need."""
    module = graph["graph_module"]
    graph["guards_code"] = []
    module["metadata"], module["treespec_namedtuple_fields"] = {}, {}
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}


def check_strings(value: Any, key: str, where: str, depth: int) -> None:
    """Hold every string of the program to the grammar of its key."""
    if depth > MAX_NESTING:
        raise ConfigError(f"{where}: nested deeper than {MAX_NESTING}")
    if isinstance(value, dict):
        for inner, item in value.items():
            if inner in _FORBIDDEN_KEYS:
                raise ConfigError(f"{where}: {inner} is refused: only tensors and numbers may be arguments")
            if not _PATH.fullmatch(inner):
                raise ConfigError(f"{where}: the key {inner[:80]!r} is not a name")
            if inner == "device" and item is not None and item.get("type") != "cpu":
                raise ConfigError(f"{where}: device {item.get('type')!r:.80}; export the model on the CPU, it is moved when it is loaded")
            check_strings(item, inner, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_strings(item, key, where, depth + 1)
    elif isinstance(value, str):
        if key == "expr_str":
            _check_expression(value, where)
        elif key in ("in_spec", "out_spec"):
            _check_tree(json.loads(value)[1], where, 0)
        elif key == "target":
            pass  # held to a list of its own
        elif not _grammar(key).fullmatch(value):
            raise ConfigError(f"{where}: {key} {value[:80]!r} is refused: it does not have the form that torch.export writes")


def _grammar(key: str) -> re.Pattern[str]:
    if key in ("name", "as_name", "forward_arg_names"):
        return _NAME
    return {"as_string": _TEXT, "torch_version": _VERSION, "as_complex": _TEXT}.get(key, _PATH)


def _check_expression(text: str, where: str) -> None:
    """A size: sympy functions of a list, symbols and integers; nothing that evaluation could call otherwise."""
    try:
        tree = ast.parse(text, mode="eval").body if len(text) <= 4000 else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if tree is None or not _is_size(tree):
        raise ConfigError(f"{where}: expr_str {text[:80]!r} is refused: it is not arithmetic of sizes")


def _is_size(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            return re.fullmatch(r"[su]\d{1,9}", name) is not None and all(
                isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool) for k in keywords
            )
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return name in _SYMPY and all(_is_size(argument) for argument in arguments)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_size(operand)
        case ast.Constant(value=int(number)):
            return abs(number) < 2**63
        case ast.Name(id=name):
            return name in ("true", "false") or re.fullmatch(r"[su]\d{1,9}", name) is not None
    return False


def _check_tree(spec: Any, where: str, depth: int) -> None:
    """A pytree of tuples, lists and dicts of tensors: the structure of inputs and outputs."""
    kind, context = spec["type"], spec["context"]
    plain = (kind is None and context is None) or (kind in _TREE_TYPES and isinstance(context, str) and _is_keys(json.loads(context)))
    if depth > 4 or not plain:
        raise ConfigError(f"{where}: {kind!r:.80} as structure of inputs or outputs is refused: use tensors only")
    for child in spec["children_spec"]:
        _check_tree(child, where, depth + 1)


def _is_keys(context: Any) -> bool:
    return context is None or (isinstance(context, list) and all(isinstance(key, str) and _NAME.fullmatch(key) for key in context))


def check_target(node: dict[str, Any], where: str) -> None:
    """The operator of a node is one on tensors or sizes, by name; `check_operators` looks it up."""
    target = node["target"]
    match = _TARGET.fullmatch(target)
    if target not in _ARITHMETIC and (match is None or _FORBIDDEN.fullmatch(match[1])):
        raise ConfigError(f"{where}: operator {target[:80]!r} is refused: only aten operators on tensors may be in a model")


def check_index(index: dict[str, Any], files: Mapping[str, bytes], where: str) -> None:
    """The table of weights or constants: raw tensors that lie within their files."""
    check_strings(index, "", where, 0)
    folder = where.rpartition(": ")[2].rpartition("/")[0]
    for name, entry in index["config"].items():
        meta, path = entry["tensor_meta"], f"{folder}/{entry['path_name']}"
        if entry["use_pickle"] is not False or meta is None:
            raise ConfigError(f"{where}: {name!r} would be unpickled; save it as a plain, dense tensor")
        if path not in files:
            raise ConfigError(f"{where}: {name!r} refers to {path!r:.100}, which is not in the archive")
        sizes = [size["as_int"] for size in meta["sizes"]]
        strides, offset = [stride["as_int"] for stride in meta["strides"]], meta["storage_offset"]["as_int"]
        item = _ITEM_BYTES.get(meta["dtype"])
        if item is None or len(sizes) != len(strides) or min([*sizes, *strides, offset]) < 0:
            raise ConfigError(f"{where}: {name!r} has dtype {meta['dtype']}, sizes {sizes}, strides {strides}: not a plain tensor")
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if prod(sizes) * item > MAX_TENSOR_BYTES or (prod(sizes) and (last + 1) * item > len(files[path])):
            raise ConfigError(f"{where}: {name!r} of sizes {sizes} does not fit into the {len(files[path])} bytes of {path}")


def check_signature(module: dict[str, Any], groups: Sequence[int], where: str) -> None:
    """Inputs (n, k) float32 with n left open, one output (n,) or (n, 1) float32."""
    values = module["graph"]["tensor_values"]
    inputs = [s["user_input"]["arg"]["as_tensor"]["name"] for s in module["signature"]["input_specs"] if "user_input" in s]
    outputs = [next(iter(s.items())) for s in module["signature"]["output_specs"]]
    if len(inputs) != len(groups):
        raise ConfigError(f"{where}: the program takes {len(inputs)} tensors, model.json gives features for {len(groups)}")
    rows = set()
    for name, k in zip(inputs, groups, strict=True):
        meta = values[name]
        sizes = meta["sizes"]
        if meta["dtype"] != _FLOAT32 or len(sizes) != 2 or "as_expr" not in sizes[0] or sizes[1].get("as_int") != k:
            raise ConfigError(f"{where}: input {name!r} is {_describe(meta)}; expected float32 (n, {k}) with a dynamic first dimension")
        rows.add(sizes[0]["as_expr"]["expr_str"])
    if len(outputs) != 1 or outputs[0][0] != "user_output":
        raise ConfigError(f"{where}: outputs {[kind for kind, _ in outputs]}; expected one tensor of scores, and no other effects")
    meta = values[outputs[0][1]["arg"]["as_tensor"]["name"]]
    sizes = meta["sizes"]
    rows.add(sizes[0].get("as_expr", {}).get("expr_str", "") if sizes else "")
    if meta["dtype"] != _FLOAT32 or len(rows) != 1 or [size.get("as_int") for size in sizes[1:]] not in ([], [1]):
        raise ConfigError(f"{where}: the output is {_describe(meta)}; expected float32 scores (n,) or (n, 1), n as in the inputs")


def _describe(meta: dict[str, Any]) -> str:
    sizes = ", ".join(str(size.get("as_int", "n")) for size in meta["sizes"])
    return f"{'float32' if meta['dtype'] == _FLOAT32 else 'dtype ' + str(meta['dtype'])} ({sizes})"


def check_operators(graph: dict[str, Any], where: str) -> None:
    """Every target is an operator of this torch that is a function of its inputs and needs no look at the data by the host."""
    import torch

    tags = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    for node in graph["graph_module"]["graph"]["nodes"]:
        match = _TARGET.fullmatch(node["target"])
        if match is None:
            continue
        operator = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
        if not isinstance(operator, torch._ops.OpOverload):
            raise ConfigError(f"{where}: operator {node['target']!r} is unknown to torch {torch.__version__}")
        if any(tag in operator.tags for tag in tags) and node["target"] != _INDEX and not _is_idle_dropout(node):
            raise ConfigError(f"{where}: operator {node['target']!r} is refused: random, or its result's size depends on data")


def _is_idle_dropout(node: dict[str, Any]) -> bool:
    return node["target"] == "torch.ops.aten.dropout.default" and node["inputs"][-1]["arg"].get("as_bool") is False
