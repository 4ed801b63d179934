"""What may be in a torch.export archive (.pt2) that comes from somebody else, checked before torch sees any of it.

torch.export.load is not safe on foreign files. Read in torch 2.13 (torch/export/pt2_archive/_package.py, _export/serde/serialize.py,
export/_unlift.py, utils/_pytree.py), it

* unpickles weights and constants marked `use_pickle` (torch.load with weights_only=False), custom and opaque objects, legacy `.pt`
  weights, and, when its first attempt with weights_only=True fails, the sample inputs that every archive has;
* loads native code from data/aotinductor/ and hands node targets to getattr(torch, ...): `torch.load` would become a node that is called;
* evaluates every `expr_str` with sympy.sympify, executes `guards_code`, puts names into the Python source of the graph, and imports
  the modules that pytree contexts name.

Here only the files of PARTS are taken, weights as raw bytes. The program is JSON of which every string is held to a grammar, targets
to aten operators, and what is not needed (sample inputs, guards, stack traces) is left out. torch gets an archive that is written
anew from what passed; its indices must provably lie within its tensors (indices.py). What is left to trust is the arithmetic: a model can
still be wrong, or ask for too much memory.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers.models import program
from hltfarm.workers.models.torch_extra import require_torch

PROGRAM = "models/model.json"
WEIGHTS_INDEX = "data/weights/model_weights_config.json"
CONSTANTS_INDEX = "data/constants/model_constants_config.json"
#: Files that are read; the second group of patterns is known, harmless and not even looked at.
PARTS = re.compile(r"models/model\.json|data/weights/weight_\d{1,5}|data/constants/tensor_\d{1,5}|" + f"{WEIGHTS_INDEX}|{CONSTANTS_INDEX}")
IGNORED = re.compile(r"archive_format|archive_version|byteorder|\.data/.*|data/sample_inputs/model\.pt|extra/.*", re.DOTALL)
REFUSED = (
    (re.compile(r"data/aotinductor/.*", re.DOTALL), "compiled code is only taken from the own cache"),
    (
        re.compile(r".*(custom_obj|opaque_obj)_.*|.*\.pt|.*\.pkl", re.DOTALL),
        "it would be unpickled; export the model again with tensors only",
    ),
)
MAX_ENTRIES = 4096
MAX_PROGRAM_BYTES = 1 << 26


@dataclass(frozen=True)
class Program:
    """A checked archive: its program without what torch would execute, and the files with raw tensors."""

    graph: dict[str, Any]
    files: dict[str, bytes]


def inspect(data: bytes, origin: object, groups: Sequence[int] | None = None) -> Program:
    """Check an archive; `groups`: features of each input tensor that the model must take. Imports no torch, executes nothing.

    Raises ConfigError with one line that names the entry at fault and what is wrong with it.
    """
    files = _entries(data, origin)
    where = f"{origin}: {PROGRAM}"
    graph = _json(files.pop(PROGRAM), where)
    try:
        program.strip(graph)
        program.check_strings(graph, "", where, 0)
        for node in graph["graph_module"]["graph"]["nodes"]:
            program.check_target(node, where)
        for index in (WEIGHTS_INDEX, CONSTANTS_INDEX):
            table = _json(files[index], f"{origin}: {index}")
            program.check_index(table, files, f"{origin}: {index}")
            files[index] = json.dumps(table).encode()
        if groups is not None:
            program.check_signature(graph["graph_module"], groups, where)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not the program of a torch.export archive: {type(error).__name__}: {error}") from None
    return Program(graph, files)


def exported_program(data: bytes, origin: object, groups: Sequence[int]) -> Any:
    """The torch.export.ExportedProgram of an archive, checked as by `inspect`, its operators and indices resolved and checked too.

    Raises ConfigError for what is refused, BackendError if this torch cannot read the archive, or there is none.
    """
    checked = inspect(data, origin, groups)
    require_torch("a torch program")
    program.check_operators(checked.graph, f"{origin}: {PROGRAM}")
    import torch
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    from hltfarm.workers.models import indices

    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        for name, part in checked.files.items():
            writer.write_bytes(name, part)
        writer.write_bytes(PROGRAM, json.dumps(checked.graph).encode())
        writer.write_bytes("data/sample_inputs/model.pt", b"")
    buffer.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            loaded = torch.export.load(buffer)
            functional = loaded.run_decompositions({})
    except Exception as error:
        raise BackendError(f"{origin}: torch {torch.__version__} cannot load the program: {_brief(error)}") from error
    for spec in functional.graph_signature.output_specs:
        if spec.kind != torch.export.graph_signature.OutputKind.USER_OUTPUT:
            raise ConfigError(f"{origin}: {PROGRAM}: writes into {spec.target!r:.80}; a model must leave its inputs and itself as they are")
    try:
        indices.check(functional, f"{origin}: {PROGRAM}")
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ConfigError(f"{origin}: {PROGRAM}: its indices cannot be followed: {_brief(error)}") from None
    return loaded


def _entries(data: bytes, origin: object) -> dict[str, bytes]:
    """The files of PARTS by name without the archive's root folder; each stored once, uncompressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if not 1 <= len(entries) <= MAX_ENTRIES:
                raise ConfigError(f"{origin}: {len(entries)} entries; possible are 1 to {MAX_ENTRIES}")
            if sum(entry.compress_size for entry in entries) > len(data):
                raise ConfigError(f"{origin}: the entries overlap: together they are larger than the archive of {len(data)} bytes")
            root = entries[0].filename.partition("/")[0] + "/"
            found: dict[str, bytes] = {}
            for entry in entries:
                name = entry.filename.removeprefix(root)
                _check_entry(entry, name, root, found, origin)
                if PARTS.fullmatch(name):
                    found[name] = archive.read(entry)
                elif name == "byteorder" and archive.read(entry) != b"little":
                    raise ConfigError(f"{origin}: byteorder is not little; export the model on a little-endian machine")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{origin}: not a torch.export archive: {_brief(error)}") from None
    for name in (PROGRAM, WEIGHTS_INDEX, CONSTANTS_INDEX):
        if name not in found:
            raise ConfigError(f"{origin}: {name} is missing; write the archive with torch.export.save (torch >= 2.9)")
    return found


def _check_entry(entry: zipfile.ZipInfo, name: str, root: str, found: dict[str, bytes], origin: object) -> None:
    shown = entry.filename[:100]
    if IGNORED.fullmatch(name) is None and PARTS.fullmatch(name) is None:
        reason = next((reason for pattern, reason in REFUSED if pattern.fullmatch(name)), "no such entry belongs into an exported program")
        raise ConfigError(f"{origin}: entry {shown!r} is refused: {reason}")
    if not entry.filename.startswith(root) or ".." in entry.filename.split("/"):
        raise ConfigError(f"{origin}: entry {shown!r} lies outside of the archive's folder {root!r}")
    if name in found:
        raise ConfigError(f"{origin}: entry {shown!r} is there twice")
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ConfigError(f"{origin}: entry {shown!r} is compressed or encrypted; torch.export.save stores entries as they are")
    limit = MAX_PROGRAM_BYTES if name.endswith(".json") else program.MAX_TENSOR_BYTES
    if entry.file_size > limit:
        raise ConfigError(f"{origin}: entry {shown!r} has {entry.file_size} bytes; at most {limit} are read")


def _json(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {_brief(error)}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
