"""Uploaded model packages: what is kept, and everything that an upload may try."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service.model_store import ModelStore
from hltfarm.workers.models import Cut, Cuts, load, save
from hltfarm.workers.models.registry import shipped

POINTS = {"0.99": {"triplets": 0.5, "longer": 0.5}}


def package(folder: Path, name: str = "mine", feature: str = "n_hits", least: float = 4, description: str = "") -> Path:
    """A folder with a model that cuts on a feature."""
    content = Cuts((Cut(feature=feature, min=least),))
    place = folder / f"{name}-{feature}-{least}"
    save(
        place,
        content,
        name=name,
        version=1,
        target="track",
        features=(feature,),
        working_points=POINTS,
        default_working_point="0.99",
        description=description,
        overwrite=True,
    )
    return place


def zipped(
    files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None, method: int = zipfile.ZIP_DEFLATED
) -> io.BytesIO:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            change(info)
            archive.writestr(info, data)
    body.seek(0)
    return body


def files(folder: Path, inside: str = "") -> dict[str, bytes]:
    return {f"{inside}{file.name}": file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def left(store: ModelStore) -> list[str]:
    """Everything below the store's folder."""
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*")) if store.folder.exists() else []


@pytest.mark.parametrize("inside", ["", "mine/", "mine-1.0/"])
def test_a_package_is_kept_under_name_and_hash(inside: str, store: ModelStore, tmp_path: Path) -> None:
    source = package(tmp_path)
    described, folder, size = store.add(zipped(files(source, inside)))
    assert folder == store.folder / "mine" / load(source).hash
    assert load(folder).hash == described.hash
    assert size == sum(file.stat().st_size for file in source.iterdir())
    before = left(store)
    assert store.add(zipped(files(source))) == (described, folder, size)
    assert left(store) == before
    store.remove("mine", described.hash)
    store.remove("mine", described.hash)
    assert left(store) == ["mine"]


def test_models_with_weights_are_kept(store: ModelStore, tmp_path: Path) -> None:
    source = files(shipped()["track-mlp"])
    with pytest.raises(ConfigError, match="'track-mlp' is the name of a shipped model"):
        store.add(zipped(source))
    source["model.json"] = source["model.json"].replace(b'"track-mlp"', b'"track-mine"')
    described, folder, _ = store.add(zipped(source))
    assert (described.name, sorted(file.name for file in folder.iterdir())) == ("track-mine", ["model.json", "weights.safetensors"])


def symlink(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"../evil": b""}, "entry '../evil'"),
        ({"/etc/model.pt2": b""}, "entry '/etc/model.pt2'"),
        ({"../model.pt2": b""}, "entry '../model.pt2'"),
        ({"a/b/model.pt2": b""}, "entry 'a/b/model.pt2'"),
        ({"..\\model.pt2": b""}, "entry '..\\\\\\\\model.pt2'"),
        ({"readme.txt": b""}, "entry 'readme.txt'"),
        ({"other/model.json": b"{}"}, "has model.json twice"),
        ({"other/model.pt2": b""}, "in 2 folders"),
        ({f"{i}/": b"" for i in range(20)}, "21 entries"),
    ],
)
def test_nothing_else_is_taken_out(extra: dict[str, bytes], said: str, store: ModelStore, tmp_path: Path) -> None:
    outside = sorted(path for path in tmp_path.rglob("*"))
    body = zipped({**files(package(tmp_path / "source")), **extra})
    with pytest.raises(ConfigError, match=said):
        store.add(body)
    assert left(store) == []
    assert [path for path in sorted(tmp_path.rglob("*")) if "source" not in path.parts and path not in outside] == [store.folder]


def test_uploads_that_are_no_package(store: ModelStore, tmp_path: Path) -> None:
    good = files(package(tmp_path))
    refusals = {
        "no zip of a model package": io.BytesIO(b"PK\x03\x04 not really"),
        "has no model.json": zipped({"weights.safetensors": b""}),
        "no regular file": zipped(good, symlink),
        "compressed in a way": zipped(good, method=zipfile.ZIP_LZMA),
        "model.json: ": zipped({"model.json": b"{"}),
        "at most": zipped({"model.json": b" " * ((1 << 20) + 1)}),
        "features: 'warp_factor' is unknown": zipped(files(package(tmp_path, feature="warp_factor"))),
    }
    for said, body in refusals.items():
        with pytest.raises(ConfigError, match=said) as caught:
            store.add(body)
        assert ".upload-" not in str(caught.value), "where it was unpacked concerns nobody"
    assert left(store) == []


def test_an_entry_that_announces_less_than_it_holds_is_refused(store: ModelStore) -> None:
    """A header that says 4 bytes before a mebibyte of blanks."""
    body = zipped({"model.json": b" " * (1 << 20)}).getvalue()
    at = body.index(b"PK\x01\x02")  # the directory, whose sizes count
    forged = body[: at + 24] + struct.pack("<I", 4) + body[at + 28 :]
    with pytest.raises(ConfigError):
        store.add(io.BytesIO(forged))
    assert left(store) == []


def test_a_directory_of_many_entries_is_refused_before_it_is_read(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the number of its entries, of 16 bits, says otherwise."""
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the directory was read"))
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, *[0] * 15)
    for count in (17, 1 << 16):
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(entry) * count, 0, 0)
        with pytest.raises(ConfigError, match=rf"{count & 0xFFFF} entries in {len(entry) * count:,} bytes"):
            store.add(io.BytesIO(entry * count + end))
    large = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0)
    with pytest.raises(ConfigError, match="zip64"):
        store.add(io.BytesIO(large))
    assert left(store) == []


def test_encrypted_entries_are_refused(store: ModelStore, tmp_path: Path) -> None:
    body = bytearray(zipped(files(package(tmp_path))).getvalue())
    body[6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ConfigError, match=r"no zip of a model package: .*encrypted"):
        store.add(io.BytesIO(bytes(body)))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be stored in .*/file/models"):
        ModelStore(tmp_path / "file" / "models").add(zipped(files(package(tmp_path))))
