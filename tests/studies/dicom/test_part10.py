"""The header walk against pydicom, over pydicom's own test files and, where present, the development data."""

from __future__ import annotations

import base64
import json
import math
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from django.conf import settings
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.tag import Tag

from studies.dicom import part10, preamble, vr
from studies.dicom.dicom_json import dicom_json
from studies.dicom.frame_table import frame_table, number_of_frames
from tests import factories

SHARED = Path(settings.BASE_DIR).parent / "shared" / "data" / "dicom"
NUMERIC = {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"}


def shipped() -> list[Path]:
    """DICOM files that come with pydicom; asking for them never goes to the network."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".dcm", ""))


def shared() -> list[Path]:
    return sorted(path for path in SHARED.rglob("*") if path.is_file() and path.suffix != ".csv")


def walked(path: Path) -> tuple[part10.Part10, dict]:
    data = path.read_bytes()
    file = part10.walk(data)
    return file, json.loads(dicom_json(file), parse_int=str, parse_float=str)


def judge(path: Path) -> Dataset | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path)
        dataset.decode()
    return dataset


def texts(element: pydicom.DataElement) -> list:
    """pydicom's value as the strings and numbers that DICOM JSON holds."""
    value = element.value
    if value is None or element.is_empty:
        return []
    many = list(value) if element.VM > 1 or isinstance(value, list | pydicom.multival.MultiValue) else [value]
    if element.VR == "PN":
        groups = ("Alphabetic", "Ideographic", "Phonetic")
        return [{k: g for k, g in zip(groups, str(one).split("="), strict=False) if g} or None for one in many]
    if element.VR == "AT":
        return [f"{int(one):08X}" for one in many]
    if element.VR in NUMERIC or element.VR in ("DS", "IS"):
        return [_number(one) for one in many]
    return [str(one).rstrip(" \0") or None for one in many]


def _number(value):
    """A finite number as float; what is no number, as it is; None for nothing and for infinities."""
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return value or None


def compare(found: dict, expected: Dataset, where: str) -> int:
    """Assert that both hold the same elements and values; returns how many were compared."""
    tags = {f"{int(tag):08X}" for tag in list(expected.keys()) if tag.element != 0 and tag.group > 2}
    assert set(found) == tags, where
    count = 0
    for tag in sorted(tags):
        element, ours = expected[Tag(int(tag, 16))], found[tag]
        at = f"{where}/{tag}"
        if "BulkDataURI" in ours:
            assert ours["BulkDataURI"].endswith(tag), at
            continue
        if ours["vr"] == "UN" and element.VR != "UN":
            assert "InlineBinary" in ours or not element.value, at
            continue
        assert ours["vr"] == element.VR, at
        count += 1
        if element.VR == "SQ":
            items = ours.get("Value", [])
            assert len(items) == len(element.value), at
            for k, (mine, theirs) in enumerate(zip(items, element.value, strict=True)):
                count += compare(mine, theirs, f"{at}[{k}]")
        elif "InlineBinary" in ours:
            assert base64.b64decode(ours["InlineBinary"]) == bytes(element.value), at
        elif tag == "00080005":
            assert ours.get("Value", ["ISO_IR 192"]) == ["ISO_IR 192"], at
        else:
            values, theirs = ours.get("Value", []), texts(element)
            if element.VR in NUMERIC or element.VR in ("DS", "IS"):
                assert [_number(value) for value in values] == theirs, at
            elif theirs or any(values):
                assert values == theirs, at
    return count


def check(path: Path) -> int | None:
    """Compare one file; None where both refuse it."""
    try:
        file, found = walked(path)
    except part10.Part10Error as error:
        if error.code not in ("not_dicom", "truncated"):
            raise
        return None
    expected = judge(path)
    assert expected is not None
    count = compare(found, expected, path.name)
    if "PixelData" in expected and file.encapsulated:
        table = frame_table(file)
        n = number_of_frames(file)
        frames = list(generate_frames(expected.PixelData, number_of_frames=n, extended_offsets=_offsets(expected)))
        mine = [b"".join(file.buffer[o : o + k] for o, k in zip(one[::2], one[1::2], strict=True)) for one in table]
        assert mine == frames, path.name
    elif "PixelData" in expected:
        element = file.pixel_element
        assert element is not None
        assert file.raw(element) == expected.PixelData, path.name
    return count


def check_all(paths: list[Path]) -> dict[Path, int | None]:
    """Check every file before failing, so that one run shows all that differ."""
    results, wrong = {}, []
    for path in paths:
        try:
            results[path] = check(path)
        except AssertionError as error:
            wrong.append(str(error).split("\n")[0][:300] + f" ({path.name})")
    assert wrong == []
    return results


def _offsets(dataset: Dataset):
    if "ExtendedOffsetTable" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


@pytest.fixture(autouse=True)
def lenient():
    """pydicom reads what it can, as the walk does."""
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    yield
    config.settings.reading_validation_mode = before


def test_equal_to_pydicom_over_its_own_files():
    results = check_all(shipped())
    compared = [count for count in results.values() if count is not None]
    assert len(compared) > 60
    assert sum(compared) > 3000


@pytest.mark.shared
def test_equal_to_pydicom_over_the_development_data():
    if not SHARED.exists():
        pytest.skip("the development data is not beside the checkout")
    results = check_all(shared())
    compared = [count for count in results.values() if count is not None]
    assert len(compared) > 250


def with_element(extra: bytes) -> bytes:
    data = factories.part10_bytes(factories.ct_slice())
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + extra + data[at:]


def element(tag: int, code: bytes, value: bytes) -> bytes:

    if code in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, code, 0, len(value)) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, code, len(value)) + value


@pytest.mark.parametrize(
    ("code", "raw", "json_text"),
    [
        (b"DS", b"1.50\\-0.0\\+2\\.5\\3. ", '{"vr":"DS","Value":[1.50,-0.0,2,0.5,3.0]}'),
        (b"DS", b"abc\\1e400 ", '{"vr":"DS","Value":["abc","1e400"]}'),
        (b"IS", b"007\\-3\\\\x ", '{"vr":"IS","Value":[7,-3,null,"x"]}'),
        (b"FD", b"\0\0\0\0\0\0\xf8\x7f", '{"vr":"FD","Value":[null]}'),
        (b"FD", b"\0\0\0\0\0\0\xf0\x7f", '{"vr":"FD","Value":[null]}'),
        (b"US", b"\1\2\3", '{"vr":"UN","InlineBinary":"AQID"}'),
        (b"LO", b'<script>"\\\n\xff ', '{"vr":"LO","Value":["<script>\\"","\\n\ufffd"]}'),
        (b"PN", b"A^B=\\=\\C ", '{"vr":"PN","Value":[{"Alphabetic":"A^B"},null,{"Alphabetic":"C"}]}'),
        (b"AT", b"\x08\0\x20\0", '{"vr":"AT","Value":["00080020"]}'),
        (b"UN", b"\0\1", '{"vr":"UN","InlineBinary":"AAE="}'),
    ],
)
def test_odd_values_never_crash(code, raw, json_text):
    file = part10.walk(with_element(element(0x00411001, code, raw)))
    assert f'"00411001":{json_text}' in dicom_json(file)
    json.loads(dicom_json(file))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (with_element(b"\x41\x00\x10\x00OB\0\0\xf0\xff\xff\xff"), "truncated"),
        (with_element(b"\x41\x00\x10\x00SQ\0\0\xff\xff\xff\xff" + b"A" * 8), "malformed"),
        (factories.nested_sequences(65), "too_deep"),
        (factories.nested_sequences(10_000), "too_deep"),
        (b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0", "truncated"),
    ],
)
def test_hostile_structures_are_refused(data, code):
    with pytest.raises(part10.Part10Error) as caught:
        part10.walk(data)
    assert caught.value.code == code


def test_deep_but_allowed_nesting_is_kept():
    header = json.loads(dicom_json(part10.walk(factories.nested_sequences(60))))
    depth = 0
    while "0040A730" in header:
        header, depth = header["0040A730"]["Value"][0], depth + 1
    assert depth == 60


def test_a_deflate_bomb_stops_early(monkeypatch):

    monkeypatch.setattr(part10, "MAX_INFLATED", 1 << 20)
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = engine.compress(b"\0" * (64 << 20)) + engine.flush()
    data = preamble.meta_header(vr.DEFLATED_LE, "1.2", "1.3") + packed
    with pytest.raises(part10.Part10Error) as caught:
        part10.walk(data)
    assert caught.value.code == "too_large"
