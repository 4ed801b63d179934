"""Fuzz targets for everything that reads foreign bytes. Each takes any bytes, and ends with the errors that it promises or with none.

Whatever else it raises is a finding. Where a checksum would stop it at the door, it is made right half of the time.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from crc32c import crc32c

from hltfarm.loadgen.records import ALIGN, FILE_MAGIC, FOOTER_MAGIC, RECORD_MAGIC
from hltfarm.loadgen.sample import Sample, SampleWriter
from hltfarm.proto import output_wire, wire, worker_link
from hltfarm.proto.columns import decode_columns, encode_columns
from hltfarm.proto.errors import ConditionsError, ConfigError, LimitError, SampleError, WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.framing import check_body, checksum
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import OPS, Command, RunConfig
from hltfarm.proto.raw import check_payload, pack_event
from hltfarm.proto.results import OUTPUT_DECISION
from hltfarm.service.ingest.error_stream import ErrorStream, FailedEvent, Failure
from hltfarm.service.ingest.programmes import Entry
from hltfarm.service.ingest.sample_writer import write_sample
from hltfarm.service.model_store import ModelStore
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import PART, Opening, OutputFile, Place, metadata_of
from hltfarm.service.output.recovery import recover
from hltfarm.service.output.settings import Fsync
from hltfarm.service.replay.bundle import RECORD, read_bundle
from hltfarm.service.replay.link import Prepared
from hltfarm.service.replay.report import lines, to_json
from hltfarm.service.replay.session import Options, Replay, configuration
from hltfarm.service.replay.verdict import Ending, Failed, cautions, differences, judge
from hltfarm.service.security.keys import load_public, load_secret, new_keys
from hltfarm.service.security.tokens import parse_tokens
from hltfarm.workers.menu import DEFAULT_MENU
from hltfarm.workers.menu.menu import Menu, check
from hltfarm.workers.models import archive, manifest, package
from tests.fuzz.farm import SEEDS, ingest
from tests.reference.backends import reconstructor
from tests.reference.detectors import DETECTORS

SHIPPED = Path(package.__file__).with_name("shipped")
LIMITS = Limits(max_payload_bytes=1 << 16)
DETECTOR = "small"
MAX_PAYLOAD = 1 << 16


@dataclass(frozen=True)
class Target:
    """`run` takes bytes; `seeds` are sound ones to begin with. `folder` of both: a place for files."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[Path], Iterator[bytes]]


# -- wire ------------------------------------------------------------------------------------------------------------------


def frames(data: bytes, _folder: Path) -> None:
    """A header and a body, split where the first byte says; sealed if its highest bit is set."""
    if not data:
        return
    cut, sealed = data[0] & 0x7F, data[0] & 0x80
    head, body = data[1 : 1 + cut], data[1 + cut :]
    if sealed and len(head) >= 20:
        head = head[:12] + crc32c(body).to_bytes(4, "little") + head[16:-4]
        head += crc32c(head).to_bytes(4, "little")
    with suppress(WireError):
        header = wire.decode_header(head)
        assert wire.FRAMING.header_bytes[head[5]] == len(head)
        wire.check_body(header, body, LIMITS)
        assert header.body_bytes == len(body)
        if isinstance(header, wire.Decisions):
            assert len(wire.decode_decisions(header, body)) == header.records
        elif isinstance(header, wire.Columns):
            decode_columns(body)
        else:
            wire.decode_text(body)


def frame_seeds(_folder: Path) -> Iterator[bytes]:
    event = EventId(7, 1, 2, 3)
    payload = np.zeros(64, np.uint8)
    tables = {"tracks": {"pt": np.ones(3, np.float32)}, "vertices": {"z": np.zeros((2, 2), np.float32)}}
    messages = [
        (wire.encode_event(event, payload), payload.tobytes()),
        wire.encode_hello("readout"),
        wire.encode_bye(4),
        wire.encode_credit(wire.Credit(1, 2, 3, 4, 5, 6, 7)),
        wire.encode_decisions(np.zeros(2, wire.DECISION)),
        wire.encode_error(WireCode.BAD_CRC, "text"),
        wire.encode_reply_columns(7, 1, 2, 3, encode_columns(tables)),
    ]
    for head, body in messages:
        yield bytes([len(head)]) + head + body
        yield bytes([0x80 | len(head)]) + head + body


def consumer_frames(data: bytes, _folder: Path) -> None:
    """A header and a body of the output stream, split and sealed as in `frames`."""
    if not data:
        return
    cut, sealed = data[0] & 0x7F, data[0] & 0x80
    head, body = data[1 : 1 + cut], data[1 + cut :]
    if sealed and len(head) >= 20:
        head = head[:12] + crc32c(body).to_bytes(4, "little") + head[16:-4]
        head += crc32c(head).to_bytes(4, "little")
    with suppress(WireError):
        header = output_wire.decode_header(head)
        assert output_wire.FRAMING.header_bytes[head[5]] == len(head)
        check_body("body", body, header.body_bytes, header.body_crc, output_wire.MAX_TEXT_BYTES)
        if isinstance(header, output_wire.Subscribe):
            name, streams = output_wire.decode_names(body)
            assert output_wire.encode_names(name, streams) == body


def consumer_seeds(_folder: Path) -> Iterator[bytes]:
    names = output_wire.encode_names("monitor", ("physics", "monitoring"))
    messages = [
        (output_wire.encode(output_wire.Subscribe(output_wire.Mode.LOSSLESS), names), names),
        (output_wire.encode(output_wire.Credit(1, 64, 3)), b""),
        (output_wire.encode(output_wire.Status(1, 2, 3, 4)), b""),
        (output_wire.encode(output_wire.Description(1, 2), b"{}"), b"{}"),
        (output_wire.encode(output_wire.Event(*range(14)), b"abc"), b"abc"),
        (output_wire.encode(output_wire.Bye(1), b"why"), b"why"),
        (output_wire.encode(output_wire.Error(7), b"text"), b"text"),
    ]
    for head, body in messages:
        yield bytes([len(head)]) + head + body
        yield bytes([0x80 | len(head)]) + head + body


def columns(data: bytes, _folder: Path) -> None:
    """Tables of columns: what can be read is written as the same bytes or not at all."""
    with suppress(WireError):
        decode_columns(data)


def column_seeds(_folder: Path) -> Iterator[bytes]:
    yield encode_columns({})
    yield encode_columns({"tracks": {"pt": np.arange(4, dtype=np.float32), "n": np.arange(4, dtype=np.int32)}})
    yield encode_columns({"a": {"b": np.zeros((3, 2), np.float64)}, "empty": {"x": np.zeros(0, np.uint8)}})


def worker_messages(data: bytes, _folder: Path) -> None:
    """Messages of workers and to workers, commands of the control plane.

    msgspec lets UnicodeDecodeErrors through; the ingest expects them.
    """
    for decode in (worker_link.decode_from_worker, worker_link.decode_to_worker):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            decode(data)
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        msgspec.json.decode(data, type=Command)


def worker_seeds(_folder: Path) -> Iterator[bytes]:
    config = RunConfig(run=7, menu="version: 1")
    yield worker_link.encode(worker_link.Hello(name="w", backend="cpu", device="cpu", pid=1, host="h", capacity=8))
    yield worker_link.encode(worker_link.Configured(generation=1, paths=(worker_link.PathInfo("a", "b"),)))
    yield worker_link.encode(worker_link.Failed(error="e"))
    yield worker_link.encode(worker_link.Configure(generation=1, config=config))
    for op in OPS:
        yield msgspec.json.encode(Command(id="1", op=op, config=config))


# -- events ----------------------------------------------------------------------------------------------------------------


def feds(data: bytes, _folder: Path) -> None:
    """A payload through the compiled kernels, unpack to menu, twice in a batch: the same row both times, digest included."""
    payload = np.frombuffer(data[: MAX_PAYLOAD // 4 * 4], np.uint8)
    payload = payload[: len(payload) // 4 * 4].copy()
    with suppress(WireError):
        check_payload(payload)
    event = RawEvent(EventId(1, 1, 1, 1), payload)
    results = reconstructor(DETECTOR, "cpu").run([event, event]).results
    assert results[0] == results[1]


def fed_seeds(_folder: Path) -> Iterator[bytes]:
    detector = DETECTORS[DETECTOR]()
    rng = np.random.default_rng(1)
    for pixels in (0, 1, 40, 400):
        module = rng.integers(0, detector.n_modules, pixels)
        row, col = (rng.integers(0, size, pixels) for size in (detector.topology.rows, detector.topology.cols))
        yield pack_event(detector, module, row, col, rng.integers(1, 255, pixels)).tobytes()


# -- files -----------------------------------------------------------------------------------------------------------------


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def samples(data: bytes, folder: Path) -> None:
    """A sample file: opened, read, verified. The first byte says whether the checksums of its records are made right."""
    content = _sealed_records(data[1:]) if data[:1] > b"\x7f" else data[1:]
    path = _written(folder, "fuzz.hlt", content)
    with suppress(SampleError, ConditionsError):
        sample = Sample(path)
        with suppress(SampleError):
            sample.verify()
        for i in range(min(4, len(sample))):
            with suppress(SampleError):
                sample[i]
            with suppress(SampleError):
                sample.truth(i)
        sample.detector()


def _sealed_records(data: bytes) -> bytes:
    """The same with right checksums in what looks like a head or a foot and stands where one may be."""
    content = bytearray(data)
    for at in range(0, len(content) - ALIGN + 1, ALIGN):
        begin = bytes(content[at : at + 8])
        if begin[:4] == RECORD_MAGIC.to_bytes(4, "little"):
            stored = int.from_bytes(content[at + 16 : at + 24], "little")
            crc = crc32c(bytes(content[at + ALIGN : at + ALIGN + min(stored, len(content))]))
            content[at + 12 : at + 16] = crc.to_bytes(4, "little")
        elif begin not in (FILE_MAGIC, FOOTER_MAGIC):
            continue
        content[at + ALIGN - 4 : at + ALIGN] = crc32c(bytes(content[at : at + ALIGN - 4])).to_bytes(4, "little")
    return bytes(content)


def sample_seeds(folder: Path) -> Iterator[bytes]:
    path = folder / "seed.hlt"
    for compress in (False, True):
        with SampleWriter(path, {"made": "for the fuzzer"}, detector=DETECTORS[DETECTOR](), compress=compress) as writer:
            for number in range(2):
                writer.add(RawEvent(EventId(1, 1, number, 1), np.zeros(64, np.uint8)), {"pt": np.ones(2, np.float32)})
        yield b"\x00" + path.read_bytes()
        yield b"\xff" + path.read_bytes()


def bundles(data: bytes, folder: Path) -> None:
    """The record of a bundle beside sound events: read, compared with what would decide here, told."""
    _bundle(folder)
    _written(folder / "bundle", RECORD, data)
    with suppress(SampleError):
        read = read_bundle(folder / "bundle")
        here = Prepared(backend="cpu", device="cpu:1", menu_hash="", paths=(), models=(), conditions="")
        verdicts = tuple(judge(event, [Failed(ending=Ending.RAISED, text="no")]) for event in read.record.events)
        found = (*differences(read.record, here), *cautions(read.record, here, {}))
        outcome = Replay(bundle=read, here=here, differences=found, cautions=(), verdicts=verdicts)
        assert all(line.isprintable() for line in lines(outcome, details=True))
        json.dumps(to_json([outcome]))
        with suppress(ConfigError):
            configuration(read, Options())


def _bundle(folder: Path) -> None:
    if not (folder / "bundle").exists():
        event = RawEvent(EventId(1, 1, 7, 1), np.zeros(64, np.uint8))
        failure = Failure("w0", "RuntimeError: no", 1, {"backend": "cpu", "device": "cpu:2"})
        entry = Entry(1, RunConfig(run=1), built=True, menu_hash="12", conditions="34")
        stream = ErrorStream(folder / "errors", write_sample)
        stream.write(entry, wire.Reason.WORKER_FAILED, [FailedEvent(event, 1, (failure,))], 1e9).rename(folder / "bundle")


def bundle_seeds(folder: Path) -> Iterator[bytes]:
    _bundle(folder)
    yield (folder / "bundle" / RECORD).read_bytes()


def recovery(data: bytes, folder: Path) -> None:
    """An output file that a dead ingest left behind, sealed as in `samples`: whatever it is, the next ingest starts."""
    content = _sealed_records(data[1:]) if data[:1] > b"\x7f" else data[1:]
    root = folder / "output"
    shutil.rmtree(root, ignore_errors=True)
    part = Place(7, 1, "physics").folder(root) / (Place(7, 1, "physics").name(1) + PART)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    for done in recover(root, Fsync.NONE):
        with suppress(SampleError):
            assert done.events == len(Sample(done.path)) > 0


def recovery_seeds(folder: Path) -> Iterator[bytes]:
    place = Place(7, 1, "physics")
    described = Deciders(RunConfig(run=7), "0" * 16, (), (worker_link.PathInfo("HLT_A", "physics"),)).description()
    for complete in (False, True):
        path = folder / f"left-{complete}.hlt"
        path.unlink(missing_ok=True)
        path.with_name(path.name + PART).unlink(missing_ok=True)
        file = OutputFile(path, Opening(place, metadata_of(place, described, None, columns=True)))
        payload = np.zeros(64, np.uint8).tobytes()
        decision = np.zeros(1, OUTPUT_DECISION).tobytes()
        for number in range(2):
            file.append([OutputEvent(number, EventId(7, 1, number, 1), payload, checksum(payload), 1, decision)])
        if complete:
            file.close(sync=False)
        else:
            file.abandon()
        content = (path if complete else file.part).read_bytes()
        yield b"\x00" + content
        yield b"\xff" + content


def menus(data: bytes, _folder: Path) -> None:
    """A menu: one that is taken has a hash and is taken again, one that is not has faults with lines."""
    text = data.decode(errors="surrogateescape" if data[:1] == b"\xff" else "replace")
    found = check(text)
    if isinstance(found, Menu):
        assert Menu.parse(text).hash == found.hash
    else:
        assert found
        assert all(fault.line >= 1 and "\n" not in fault.text for fault in found)


def menu_seeds(_folder: Path) -> Iterator[bytes]:
    yield DEFAULT_MENU.encode()
    yield b"version: 1\nname: x\nstreams: [a]\npaths:\n  - {name: HLT_A, prescale: 3, stream: a, require: {tracks: {min: 2, max: 9}}}\n"
    yield b'{"version": 1, "paths": [{"name": "HLT_All"}]}'


def manifests(data: bytes, _folder: Path) -> None:
    """The manifest of a model."""
    with suppress(ConfigError):
        manifest.parse(data, "fuzz")


def manifest_seeds(_folder: Path) -> Iterator[bytes]:
    for model in sorted(SHIPPED.iterdir()):
        yield (model / package.MANIFEST).read_bytes()


def models(data: bytes, folder: Path) -> None:
    """A package whose weights are the bytes, with the digest that they have, so that they are looked at."""
    described = _manifest("track-mlp")
    (name,) = described.files
    place = folder / "model"
    place.mkdir(exist_ok=True)
    sealed = described.model_copy(update={"files": {name: package.digest(data)}})
    (place / package.MANIFEST).write_text(sealed.to_json())
    (place / name).write_bytes(data)
    with suppress(ConfigError):
        package.load(place)


@lru_cache(maxsize=2)
def _manifest(name: str) -> manifest.Manifest:
    return manifest.read(SHIPPED / name)


def model_seeds(_folder: Path) -> Iterator[bytes]:
    for model in sorted(SHIPPED.iterdir()):
        (name,) = manifest.read(model).files
        yield (model / name).read_bytes()


def archives(data: bytes, _folder: Path) -> None:
    """An exported program (.pt2). If the first byte is above 0x7f the rest is the program of an archive that is sound otherwise."""
    content = data[1:]
    if data[:1] > b"\x7f":
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr(f"m/{archive.PROGRAM}", content)
            for index in (archive.WEIGHTS_INDEX, archive.CONSTANTS_INDEX):
                file.writestr(f"m/{index}", b'{"config": {}}')
        content = buffer.getvalue()
    with suppress(ConfigError):
        archive.inspect(content, "fuzz", (3, 2))


def archive_seeds(_folder: Path) -> Iterator[bytes]:
    node = '{"target": "torch.ops.aten.relu.default", "inputs": [], "outputs": [], "metadata": {}}'
    program = f'{{"graph_module": {{"graph": {{"nodes": [{node}]}}, "signature": {{}}}}, "opset_version": {{}}}}'.encode()
    yield b"\xff" + program
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("m/models/model.json", program)
        file.writestr("m/data/weights/weight_0", bytes(16))
        file.writestr(f"m/{archive.WEIGHTS_INDEX}", '{"config": {"w": {"path_name": "weight_0", "use_pickle": false, "tensor_meta": {}}}}')
        file.writestr(f"m/{archive.CONSTANTS_INDEX}", '{"config": {}}')
    yield b"\x00" + buffer.getvalue()


def uploads(data: bytes, folder: Path) -> None:
    """An uploaded model: a zip, or, if the first byte is above 0x7f, the manifest of one that is sound otherwise."""
    content = data[1:]
    if data[:1] > b"\x7f":
        content = zipped(SHIPPED / "track-mlp", {package.MANIFEST: content})
    store = ModelStore(folder / "models")
    with suppress(ConfigError, LimitError):
        found, place, size = store.add(BytesIO(content))
        assert place.is_relative_to(folder / "models")
        assert size > 0
        store.remove(found.name, found.hash)


def zipped(folder: Path, instead: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The files of a folder as a zip, some with other content."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(folder.iterdir()):
            file.writestr(path.name, instead.get(path.name) or path.read_bytes())
    return buffer.getvalue()


def upload_seeds(_folder: Path) -> Iterator[bytes]:
    yield b"\x00" + zipped(SHIPPED / "track-mlp")
    yield b"\xff" + (SHIPPED / "track-mlp" / package.MANIFEST).read_bytes()


def tokens(data: bytes, _folder: Path) -> None:
    """A tokens file."""
    with suppress(ConfigError):
        found = parse_tokens(data.decode(errors="replace"), "fuzz")
        assert found.find("hlt_x") is None
        assert all(entry.end is None or entry.end.tzinfo is not None for entry in found.entries)


def token_seeds(_folder: Path) -> Iterator[bytes]:
    digest = "ab" * 32
    yield f'tokens:\n  - {{name: a, role: admin, sha256: "{digest}", expires: 2027-01-01}}\n'.encode()
    yield f'tokens:\n  - name: b\n    role: viewer\n    sha256: "{digest}"\n    expires: "2027-01-01T00:00:00+02:00"\n'.encode()


def keys(data: bytes, folder: Path) -> None:
    """Key files, public and secret."""
    path = _written(folder, "fuzz.key", data)
    for load in (load_public, load_secret):
        with suppress(ConfigError):
            load(path)


def key_seeds(folder: Path) -> Iterator[bytes]:
    for path in (folder / "seed.key", folder / "seed.key_secret"):
        path.unlink(missing_ok=True)
    for path in new_keys("seed", folder):
        yield path.read_bytes()


TARGETS: dict[str, Target] = {
    "frames": Target(frames, frame_seeds),
    "columns": Target(columns, column_seeds),
    "consumer_frames": Target(consumer_frames, consumer_seeds),
    "worker_messages": Target(worker_messages, worker_seeds),
    "ingest": Target(ingest, lambda _: iter(SEEDS)),
    "feds": Target(feds, fed_seeds),
    "samples": Target(samples, sample_seeds),
    "bundles": Target(bundles, bundle_seeds),
    "recovery": Target(recovery, recovery_seeds),
    "menus": Target(menus, menu_seeds),
    "manifests": Target(manifests, manifest_seeds),
    "models": Target(models, model_seeds),
    "archives": Target(archives, archive_seeds),
    "uploads": Target(uploads, upload_seeds),
    "tokens": Target(tokens, token_seeds),
    "keys": Target(keys, key_seeds),
}
