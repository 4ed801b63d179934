"""Exported programs from elsewhere: what torch.export.load would execute is refused or left out before torch sees it."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers.models import Exported, archive, load, save
from hltfarm.workers.models.exporting import export
from tests.reference.model_samples import FEATURES, TRACK

Edit = Callable[[dict[str, Any]], None]


class Net(torch.nn.Module):
    """Two inputs, a buffer, a constant, dropout, a slice, a reshape: what archives of real models have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = torch.nn.Linear(5, 16), torch.nn.Linear(16, 1)
        self.norm, self.drop = torch.nn.LayerNorm(16), torch.nn.Dropout(0.5)
        self.register_buffer("shift", torch.arange(5.0), persistent=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.drop(torch.relu(self.norm(self.first(torch.cat([x, y], 1) - self.shift))))
        h = h + h.reshape(-1, 4, 4).mean(2).repeat(1, 4)
        return torch.sigmoid(self.last(h))[:, 0]


@pytest.fixture(scope="module")
def good() -> bytes:
    return export(Net(), [3, 2]).archive


def entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return buffer.getvalue()


def edited(data: bytes, edit: Edit, name: str = "models/model.json") -> bytes:
    """The archive with one of its JSON files changed."""
    files = entries(data)
    (path,) = [path for path in files if path.endswith(name)]
    value = json.loads(files[path])
    edit(value)
    files[path] = json.dumps(value).encode()
    return packed(files)


def with_entry(data: bytes, name: str, text: bytes) -> bytes:
    files = entries(data)
    root = next(iter(files)).partition("/")[0]
    return packed({**files, f"{root}/{name}": text})


def refused(data: bytes, *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        archive.exported_program(data, "x.pt2", [3, 2])
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ("x.pt2", *parts)), message


def test_a_checked_program_computes_what_the_module_does(good: bytes) -> None:
    x, y = torch.randn(9, 3), torch.randn(9, 2)
    program = archive.exported_program(good, "x.pt2", [3, 2])
    with torch.no_grad():
        assert torch.equal(program.module()(x, y), Net().eval()(x, y))


def test_package(good: bytes, tmp_path: Path) -> None:
    inputs = [["pt", "eta", "phi"], ["tip", "zip"]]
    model = save(tmp_path / "m", Exported(good), **TRACK, inputs=inputs)
    assert load(tmp_path / "m", FEATURES).inputs == (("pt", "eta", "phi"), ("tip", "zip"))
    assert isinstance(model.content, Exported)
    assert model.content.archive == good
    with pytest.raises(ConfigError, match=r"takes 2 tensors, model\.json gives features for 1"):
        save(tmp_path / "n", Exported(good), **TRACK)
    with pytest.raises(ConfigError, match="'charm' is not among the features"):
        save(tmp_path / "n", Exported(good), **TRACK, inputs=[["pt", "eta", "charm"], ["tip", "zip"]])
    path = tmp_path / "m" / "model.pt2"
    path.write_bytes(path.read_bytes().replace(b"little", b"lIttle"))
    with pytest.raises(ConfigError, match=r"model\.pt2: the digest is"):
        load(tmp_path / "m")


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def attack(name: str, good: bytes, mark: Path) -> bytes:
    """An archive that makes a directory at `mark` when torch loads or runs it."""
    code = f"__import__('os').mkdir({str(mark)!r})"

    def guards(graph: dict[str, Any]) -> None:
        graph["guards_code"] = [f"{code} is None"]

    def size(graph: dict[str, Any]) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0]["as_expr"]["expr_str"] = code

    def target(graph: dict[str, Any]) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"

    def source(graph: dict[str, Any]) -> None:
        text = json.dumps(graph).replace('"layer_norm"', json.dumps(f"a = {code}; layer_norm"))
        graph.clear()
        graph.update(json.loads(text))

    def imports(graph: dict[str, Any]) -> None:
        (entry,) = (e for e in graph["graph_module"]["module_call_graph"] if e["signature"])
        context = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
        leaf = {"type": None, "context": None, "children_spec": []}
        kind = {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}
        entry["signature"]["out_spec"] = json.dumps([1, kind])

    if name == "sample inputs":
        files = entries(good)
        (path,) = [path for path in files if path.endswith("sample_inputs/model.pt")]
        buffer = io.BytesIO()
        torch.save(Payload(mark), buffer)
        return packed({**files, path: buffer.getvalue()})
    edits = {"guards": guards, "size": size, "target": target, "source": source, "imports": imports}
    return edited(good, edits[name])


ATTACKS = ("sample inputs", "guards", "size", "target", "source", "imports")


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_inert(name: str, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    data = attack(name, good, mark)
    if name in ("sample inputs", "guards"):  # left out, the rest is fine
        program = archive.exported_program(data, "x.pt2", [3, 2])
        assert program.module()(torch.zeros(4, 3), torch.zeros(4, 2)).shape == (4,)
    else:
        refused(data)
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def test_attacks_are_real(good: bytes, tmp_path: Path) -> None:
    """Without the checks torch executes them: if this fails, torch has become safer, and the checks may be looked at again."""
    names = ("sample inputs", "guards", "size")
    for name in names:
        (tmp_path / f"{name}.pt2").write_bytes(attack(name, good, tmp_path / name))
    code = (
        "import sys, torch\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        torch.export.load(path).module()(torch.zeros(4, 3), torch.zeros(4, 2))\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.pt2") for name in names)]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert [name for name in names if not (tmp_path / name).is_dir()] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("data/aotinductor/model/code.so", "compiled code is only taken from the own cache"),
        ("data/constants/custom_obj_0", "unpickled"),
        ("data/constants/opaque_obj_0", "unpickled"),
        ("data/weights/model.pt", "unpickled"),
        ("data/constants/model.pt", "unpickled"),
        ("data/weights/../../../etc/cron.d/x", "no such entry belongs"),
        ("extra/../../x", "outside of the archive's folder"),
        ("models/other.json", "no such entry belongs"),
        ("version", "no such entry belongs"),
    ],
)
def test_entries_that_are_refused(name: str, reason: str, good: bytes) -> None:
    refused(with_entry(good, name, pickle.dumps(1)), name.rpartition("/")[2], reason)


def test_entries_that_overlap() -> None:
    """Each holds all that follow it: a small archive would fill the memory."""
    bomb = nested(200, 1 << 12)
    assert len(bomb) < 1 << 16
    with pytest.raises(ConfigError, match="the entries overlap: together they are larger than the archive"):
        archive.inspect(bomb, "model.pt2")


def nested(entries: int, size: int) -> bytes:
    """A zip file of entries of which each one's data are the headers and data of the next ones."""
    body, central, headers = bytes(size), b"", list[tuple[bytes, int, int]]()
    for i in reversed(range(entries)):
        name = f"model/data/weights/weight_{i}".encode()
        local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0, zlib.crc32(body), len(body), len(body), len(name), 0) + name
        headers.insert(0, (name, zlib.crc32(body), len(body)))
        body = local + body
    at = 0
    for name, crc, length in headers:
        fields = (0x02014B50, 20, 20, 0, 0, 0, 0, crc, length, length, len(name), 0, 0, 0, 0, 0, at)
        central += struct.pack("<IHHHHHHIIIHHHHHII", *fields) + name
        at += 30 + len(name)
    return body + central + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, entries, entries, len(central), len(body), 0)


def test_broken_archives(good: bytes) -> None:
    refused(b"", "not a torch.export archive")
    refused(good[: len(good) // 2], "not a torch.export archive")
    refused(packed(entries(good), zipfile.ZIP_DEFLATED), "is compressed or encrypted")
    refused(packed({"a/b": b""}), "no such entry belongs")
    refused(packed({k: v for k, v in entries(good).items() if not k.endswith("models/model.json")}), "models/model.json is missing")
    refused(packed({k: b"{" if k.endswith("models/model.json") else v for k, v in entries(good).items()}), "not JSON")
    refused(packed({k: b"{}" if k.endswith("models/model.json") else v for k, v in entries(good).items()}), "not the program", "KeyError")
    refused(packed({k: b"big" if k.endswith("byteorder") else v for k, v in entries(good).items()}), "byteorder is not little")
    deep = b"[" * 100000 + b"]" * 100000
    refused(packed({k: deep if k.endswith("models/model.json") else v for k, v in entries(good).items()}), "not JSON")
    twice = packed(entries(good)).replace(b"weight_1", b"weight_0")
    refused(twice, "weight_0' is there twice")


def weights_index(**fields: Any) -> Edit:
    def edit(index: dict[str, Any]) -> None:
        index["config"]["last.weight"].update(fields)

    return edit


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (weights_index(use_pickle=True), ["'last.weight' would be unpickled"]),
        (weights_index(path_name="weight_99"), ["weight_99', which is not in the archive"]),
        (weights_index(path_name="../../../etc/passwd"), ["path_name '../../../etc/passwd' is refused"]),
        (lambda i: i["config"]["last.weight"]["tensor_meta"].update(sizes=[{"as_int": 1 << 40}, {"as_int": 16}]), ["does not fit"]),
        (lambda i: i["config"]["last.weight"]["tensor_meta"].update(storage_offset={"as_int": 1}), ["does not fit"]),
        (lambda i: i["config"]["last.weight"]["tensor_meta"].update(strides=[{"as_int": 16}, {"as_int": -1}]), ["not a plain tensor"]),
        (lambda i: i["config"]["last.weight"]["tensor_meta"].update(dtype=99), ["not a plain tensor"]),
    ],
)
def test_weights_lie_within_their_files(edit: Edit, parts: list[str], good: bytes) -> None:
    refused(edited(good, edit, "model_weights_config.json"), "model_weights_config.json", *parts)


def retarget(old: str, new: str) -> Edit:
    def edit(graph: dict[str, Any]) -> None:
        (node,) = [node for node in graph["graph_module"]["graph"]["nodes"] if node["target"] == f"torch.ops.aten.{old}"]
        node["target"] = new

    return edit


def redevice(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["tensor_values"]["x"]["device"] = {"type": "cuda", "index": 0}


def train(graph: dict[str, Any]) -> None:
    (node,) = [node for node in graph["graph_module"]["graph"]["nodes"] if node["target"].endswith("dropout.default")]
    node["inputs"][-1]["arg"] = {"as_bool": True}


def subgraph(graph: dict[str, Any]) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_graph": {"name": "g"}}


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (retarget("relu.default", "torch.load"), ["'torch.load' is refused"]),
        (retarget("relu.default", "torch.hub.load"), ["'torch.hub.load' is refused"]),
        (retarget("relu.default", "#evil:op"), ["'#evil:op' is refused"]),
        (retarget("relu.default", "_operator.attrgetter"), ["is refused"]),
        (retarget("relu.default", "torch.ops.aten.from_file.default"), ["from_file.default' is refused"]),
        (retarget("relu.default", "torch.ops.aten.as_strided.default"), ["as_strided.default' is refused"]),
        (retarget("relu.default", "torch.ops.aten.set_.source_Tensor"), ["is refused"]),
        (retarget("relu.default", "torch.ops.aten._cdist_forward.default"), ["_cdist_forward.default' is refused"]),
        (retarget("relu.default", "torch.ops.aten.relu.nonsense"), ["relu.nonsense' is unknown to torch"]),
        (retarget("relu.default", "torch.ops.aten.relu.redispatch"), ["relu.redispatch' is unknown to torch"]),
        (retarget("relu.default", "torch.ops.aten.nonzero.default"), ["size depends on data"]),
        (retarget("relu.default", "torch.ops.aten.rand_like.default"), ["random"]),
        (train, ["dropout.default' is refused: random"]),
        (redevice, ["device 'cuda'", "export the model on the CPU"]),
        (subgraph, ["as_graph is refused"]),
    ],
)
def test_operators(edit: Edit, parts: list[str], good: bytes) -> None:
    refused(edited(good, edit), *parts)


class Wrong(torch.nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        score = torch.sigmoid(x.sum(1) + y.sum(1))
        return {"two": (score, score), "wide": torch.cat([x, y], 1), "double": score.double(), "scalar": score.sum()}[self.what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("two", "expected one tensor of scores"),
        ("wide", r"the output is float32 \(n, 5\); expected float32 scores"),
        ("double", "the output is dtype 8"),
        ("scalar", r"the output is float32 \(\)"),
    ],
)
def test_outputs_that_are_no_scores(what: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(Wrong(what), [3, 2])


def test_inputs_that_do_not_fit(good: bytes) -> None:
    for groups, message in (([5], "takes 2 tensors"), ([2, 3], r"input 'x' is float32 \(n, 3\); expected float32 \(n, 2\)")):
        with pytest.raises(ConfigError, match=message):
            archive.inspect(good, "x.pt2", groups)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(4, 3), torch.zeros(4, 2))), buffer)
    refused(buffer.getvalue(), "input 'x' is float32 (4, 3); expected float32 (n, 3) with a dynamic first dimension")


def test_the_page_on_models_shows_how(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/models.md, as it stands there."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "models.md").read_text(), re.DOTALL)
    exec(code, {})
    assert load("my-model").inputs == (("log_pt", "eta", "log_chi2"),)


class Writes(torch.nn.Module):
    """In place on what is its own, or on what is not."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.what == "input":
            x[:, 0].clamp_(0, 1)
        if self.what == "buffer":
            self.calls.add_(1)
        return (x * 2).relu_().mean(1).sigmoid_() + 0 * self.calls


@pytest.mark.parametrize(("what", "target"), [("input", "'x'"), ("buffer", "'calls'")])
def test_programs_that_write_elsewhere(what: str, target: str) -> None:
    """The features of a track are not the model's to change."""
    with pytest.raises(ConfigError, match=f"writes into {target}; a model must leave its inputs"):
        export(Writes(what), [3])
    assert export(Writes("nothing"), [3]).archive


def test_modules_that_cannot_be_exported() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0] if bool(x.sum() > 0) else x[:, 1]

    with pytest.raises(BackendError, match=r"torch\.export cannot write this module down"):
        export(Branches(), [2])


def test_inspection_needs_no_torch(good: bytes, tmp_path: Path) -> None:
    """The control plane may look at every kind of model."""
    save(tmp_path / "m", Exported(good), **TRACK, inputs=[["pt", "eta", "phi"], ["tip", "zip"]])
    code = "import sys; from hltfarm.workers.models import load; load(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path / "m")], check=True)
