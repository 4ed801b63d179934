"""A pixel detector as data: everything that the reconstruction and the simulation know about it.

Frames: `rotation` rows are the local axes in the global frame, local = R (global - position), global = R^T local + position.
Local x runs along rows, local y along columns, local z is the module normal. Lengths in cm, charges in electrons.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConditionsError

#: Module number of a word that belongs to no module.
NO_MODULE = 0xFFFF

#: `Cabling.word_format`
WORD_DCOL_PXID = 0  # bits 20..16 double column, 15..8 pixel id
WORD_ROW_COL = 1  # bits 20..15 column, 14..8 row

MAX_FED_ID = 4095


@dataclass(frozen=True, eq=False)
class Topology:
    """Pixel matrix of a module; the same for all modules. Rows = local x, columns = local y.

    `edge_x[r]` is the lower edge of row r in units of `pitch_x` (rows + 1 entries; double-size pixels span 2), same for `edge_y`.
    The module centre is at edge_x = centre_x, edge_y = centre_y.
    """

    rows: int
    cols: int
    chip_rows: int
    chip_cols: int
    pitch_x: float
    pitch_y: float
    centre_x: float
    centre_y: float
    edge_x: NDArray[np.int32]
    edge_y: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Modules:
    """One entry per module (n). Modules of a layer are contiguous."""

    raw_id: NDArray[np.uint32]  # (n,) the experiment's own identifier
    is_barrel: NDArray[np.bool_]  # (n,)
    layer: NDArray[np.uint8]  # (n,) index into Detector.layers
    position: NDArray[np.float32]  # (n, 3)
    rotation: NDArray[np.float32]  # (n, 3, 3)
    thickness: NDArray[np.float32]  # (n,) active thickness
    shift_x: NDArray[np.float32]  # (n,) Lorentz shift of the hit position, half of the charge width
    shift_y: NDArray[np.float32]
    charge_width_x: NDArray[np.float32]  # (n,) Lorentz drift over the whole thickness
    charge_width_y: NDArray[np.float32]
    origin: NDArray[np.float32]  # (n, 3) where straight tracks come from (the detector origin), local frame
    sigma_x: NDArray[np.float32]  # (n, 3) hit errors: size > 1, size 1, size 1 on a double pixel
    sigma_y: NDArray[np.float32]
    electrons_per_vcal: NDArray[np.float32]  # (n,) electrons = vcal * electrons_per_vcal + electrons_offset
    electrons_offset: NDArray[np.float32]
    min_cluster_charge: NDArray[np.int32]  # (n,) clusters are kept if their charge is larger


@dataclass(frozen=True)
class Layer:
    """A detector layer: modules first .. first + count - 1."""

    name: str
    first: int
    count: int
    is_barrel: bool


@dataclass(frozen=True, eq=False)
class Cabling:
    """Where the pixels of a (FED, link, ROC) go: module row = row0 + row_step * r, column = col0 + col_step * c.

    Tables have the shape (n_feds, links, rocs); link and ROC numbers on the wire start at 1. `fed_ids` is in decoding order.
    """

    fed_ids: NDArray[np.uint16]  # (n_feds,)
    module: NDArray[np.uint16]  # NO_MODULE: not connected
    word_format: NDArray[np.uint8]
    row0: NDArray[np.int16]
    row_step: NDArray[np.int8]
    col0: NDArray[np.int16]
    col_step: NDArray[np.int8]
    disabled: NDArray[np.uint8]  # 1: bad ROC, 2: module not to be unpacked

    @property
    def links(self) -> int:
        return int(self.module.shape[1])

    @property
    def rocs(self) -> int:
        return int(self.module.shape[2])


@dataclass(frozen=True, eq=False)
class GainCalibration:
    """Encoded gain and pedestal per module, column and block of `rows_per_block` rows.

    gain = code * gain_precision + gain_min and pedestal = code * pedestal_precision + pedestal_min, in float32;
    vcal = adc * gain - pedestal * gain. A pedestal code of `dead` or `noisy` removes the pixel.
    """

    codes: NDArray[np.uint8]  # (n_modules, cols, row blocks, 2): gain, pedestal
    rows_per_block: int
    gain_min: float
    gain_precision: float
    pedestal_min: float
    pedestal_precision: float
    dead: int = 255
    noisy: int = 254


@dataclass(frozen=True)
class BeamSpot:
    """Luminous region, cm. Reconstructed positions are relative to (x, y, z)."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    sigma_x: float = 1.5e-3
    sigma_y: float = 1.5e-3
    sigma_z: float = 4.0


@dataclass(frozen=True, eq=False)
class Detector:
    """The whole description. Immutable; `digest()` identifies its content."""

    name: str
    topology: Topology
    modules: Modules
    layers: tuple[Layer, ...]
    cabling: Cabling
    gains: GainCalibration
    beam_spot: BeamSpot
    field_tesla: float = 3.8112
    min_electrons: int = 100  # a calibrated pixel has at least this charge
    edge_error_x: float = 0.0050  # hit error (not squared) of clusters that touch the first or last row
    edge_error_y: float = 0.0085
    reconstruction: str = ""  # JSON: layer pairs and cuts for this detector (docs/detector-file.md); empty: those of the configuration

    @property
    def n_modules(self) -> int:
        return len(self.modules.raw_id)

    def digest(self) -> str:
        """16 hexadecimal digits over every field (BLAKE2b)."""
        h = hashlib.blake2b(digest_size=8)
        _feed(h, self)
        return h.hexdigest()

    def validate(self) -> None:
        """Raise ConditionsError if the tables do not fit each other."""
        n, t = self.n_modules, self.topology
        for f in fields(Modules):
            length = len(getattr(self.modules, f.name))
            if length != n:
                raise ConditionsError(f"detector {self.name}: module table {f.name} has {length} entries, expected {n}")
        if len(t.edge_x) != t.rows + 1 or len(t.edge_y) != t.cols + 1:
            raise ConditionsError(f"detector {self.name}: pixel edges do not match {t.rows} x {t.cols} pixels")
        blocks = -(-t.rows // self.gains.rows_per_block)
        if self.gains.codes.shape != (n, t.cols, blocks, 2):
            raise ConditionsError(f"detector {self.name}: gain table {self.gains.codes.shape}, expected {(n, t.cols, blocks, 2)}")
        at = 0
        for layer in self.layers:
            if layer.first != at:
                raise ConditionsError(f"detector {self.name}: layer {layer.name} starts at module {layer.first}, expected {at}")
            at += layer.count
        if at != n:
            raise ConditionsError(f"detector {self.name}: layers hold {at} modules, expected {n}")
        c = self.cabling
        if c.module.shape[0] != len(c.fed_ids):
            raise ConditionsError(f"detector {self.name}: cabling for {c.module.shape[0]} FEDs, but {len(c.fed_ids)} ids")
        if len(np.unique(c.fed_ids)) != len(c.fed_ids) or (len(c.fed_ids) and int(c.fed_ids.max()) > MAX_FED_ID):
            raise ConditionsError(f"detector {self.name}: FED ids must be unique and at most {MAX_FED_ID}")
        connected = c.module[c.module != NO_MODULE]
        if connected.size and int(connected.max()) >= n:
            raise ConditionsError(f"detector {self.name}: cabling names module {int(connected.max())} of {n}")


def _feed(h: Any, value: Any) -> None:
    """Feed a nested dataclass into a hash, field by field, arrays by dtype, shape and bytes."""
    if hasattr(value, "__dataclass_fields__"):
        for f in fields(value):
            if f.name == "reconstruction" and not value.reconstruction:
                continue  # what a detector does not bring does not identify it
            h.update(f.name.encode())
            _feed(h, getattr(value, f.name))
    elif isinstance(value, np.ndarray):
        h.update(f"{value.dtype.str}{value.shape}".encode())
        h.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, tuple):
        for item in value:
            _feed(h, item)
    else:
        h.update(repr(value).encode())
