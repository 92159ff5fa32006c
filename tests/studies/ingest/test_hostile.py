"""Files made to hurt: each is refused or stored at a bounded cost, and what is shown of it is text."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from pydicom.encaps import encapsulate

from portal.accounts.models import Role
from studies.dicom import part10
from studies.dicom.codestream import dimensions
from studies.dicom.rendering import RenderError, render
from studies.ingest import limits, store
from studies.ingest.importing import import_paths
from studies.models import ImportBatch, Instance, Refusal, Study
from tests import factories
from tests.studies.ingest.memory import cost

pytestmark = pytest.mark.django_db(transaction=True)

SCRIPT = "<script>alert(1)</script>"
J2K, JPEG, DEFLATED = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1.99"


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return factories.ProjectFactory(slug="lung")


@pytest.fixture
def batch(project):
    return store.open_batch(project, ImportBatch.Source.COMMAND)


def header_with(elements: bytes) -> bytes:
    """A CT slice with raw elements (Explicit VR Little Endian) before its pixels."""
    whole = factories.part10_bytes(factories.ct_slice())
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    return whole[:at] + elements + whole[at:]


def deflated_bomb(size: int) -> bytes:
    """A CT slice, deflated, with an element of `size` zeros in front of its pixels."""
    whole = header_with(struct.pack("<HH2sHI", 0x6001, 0x1001, b"OB", 0, size) + b"\0" * size)
    start = whole.index(b"\x08\x00\x05\x00CS")
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    dataset = factories.ct_slice()
    dataset.file_meta.TransferSyntaxUID = DEFLATED
    head = factories.part10_bytes(dataset)
    meta = head[: 144 + struct.unpack_from("<I", head, 140)[0]]
    return meta + packer.compress(whole[start:]) + packer.flush()


HOSTILE = {
    "nested": (lambda: factories.nested_sequences(200_000), "too_deep"),
    "nested as deep as allowed": (lambda: factories.nested_sequences(60), ""),
    "a length of 4 GB": (
        lambda: header_with(struct.pack("<HH2sHI", 0x6001, 0x1001, b"OB", 0, 0xFFFFFFFE)),
        "truncated",
    ),
    "a long text of control characters": (
        lambda: header_with(struct.pack("<HH2sHI", 0x6001, 0x1001, b"UT", 0, 8 << 20) + b"\x01" * (8 << 20)),
        "",
    ),
    "many small elements": (
        lambda: header_with(b"".join(struct.pack("<HH2sH", 0x6001, k, b"LO", 0) for k in range(0x1000, 0xFFFF)) * 40),
        "too_complex",
    ),
    "an item for each eight bytes": (
        lambda: header_with(
            struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 8 * 3_000_000) + b"\xfe\xff\x00\xe0\0\0\0\0" * 3_000_000
        ),
        "too_complex",
    ),
    "texts that grow in JSON": (
        lambda: header_with(
            b"".join(
                struct.pack("<HH2sHI", 0x6001, 0x1000 + k, b"UT", 0, 100_000) + b"\x01" * 100_000 for k in range(300)
            )
        ),
        "too_complex",
    ),
    "deflated beyond the limit": (lambda: deflated_bomb(150 << 20), "too_large"),
    "deflated below the limit": (lambda: deflated_bomb(90 << 20), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_little(batch, tmp_path, monkeypatch, name):
    monkeypatch.setattr(part10, "MAX_INFLATED", 100 << 20)
    make, code = HOSTILE[name]
    (tmp_path / "hostile.dcm").write_bytes(make())
    batch_id = batch.pk

    def work():
        own = ImportBatch.objects.get(pk=batch_id)
        return store.store_file(tmp_path / "hostile.dcm", batch=own).code

    found = cost(work)
    assert found.result == code
    assert found.grown < 600
    assert found.seconds < 60
    assert Study.objects.count() == (0 if code else 1)


def siz(rows: int, columns: int, components: int = 1) -> bytes:
    sizes = struct.pack(">8I", columns, rows, 0, 0, columns, rows, 0, 0)
    body = struct.pack(">H", 0) + sizes + struct.pack(">H", components) + b"\x0f\x01\x01" * components
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


def sof(rows: int, columns: int, components: int = 1) -> bytes:
    body = struct.pack(">BHHB", 8, rows, columns, components) + b"\x01\x11\x00" * components
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


def test_sizes_are_read_from_codestreams():
    assert dimensions(siz(300, 400, 3)) == (300, 400, 3)
    assert dimensions(sof(300, 400, 3)) == (300, 400, 3)
    assert dimensions(b"\xff\xd8\xff\xd9") is None
    assert dimensions(siz(3, 4)[:20]) is None
    assert dimensions(b"") is None


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (J2K, siz(60_000, 60_000)),
        (J2K, siz(32, 40, 16384)),
        (JPEG, sof(65_500, 65_500)),
        (JPEG, sof(65_500, 65_500, 3)),
    ],
)
def test_a_small_frame_that_claims_gigabytes_is_not_decoded(batch, tmp_path, syntax, frame):
    dataset = factories.ct_slice()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    path = tmp_path / "bomb.dcm"
    path.write_bytes(factories.part10_bytes(dataset))
    assert store.store_file(path, batch=batch).state == "stored"  # it is what was sent; showing it is refused

    def work():
        try:
            render(path)
        except RenderError as error:
            return str(error)

    found = cost(work)
    assert "claims to be larger" in found.result
    assert found.grown < 50


def test_an_absurd_matrix_is_not_shown(tmp_path):
    dataset = factories.ct_slice(Rows=65535, Columns=65535)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset["PixelData"].is_undefined_length = True
    (tmp_path / "a.dcm").write_bytes(factories.part10_bytes(dataset))
    with pytest.raises(RenderError, match="too large"):
        render(tmp_path / "a.dcm")


def test_what_inflates_to_much_is_not_shown(tmp_path):
    (tmp_path / "a.dcm").write_bytes(deflated_bomb(300 << 20))

    def work():
        try:
            render(tmp_path / "a.dcm")
        except RenderError as error:
            return str(error)

    found = cost(work)
    assert "too large" in found.result
    assert found.grown < 100


def test_a_large_picture_takes_little_more_than_its_pixels(tmp_path):
    side = 8000
    values = np.arange(side * side, dtype=np.uint32).astype(np.uint16).reshape(side, side)
    dataset = factories.ct_slice(Rows=side, Columns=side, PixelData=values.tobytes(), WindowCenter=None)
    (tmp_path / "a.dcm").write_bytes(factories.part10_bytes(dataset))
    found = cost(lambda: int(render(tmp_path / "a.dcm").max()))
    assert found.result == 255
    assert found.grown < 6 * values.nbytes / 2**20  # 64 million pixels of two bytes are 122 MB


def test_a_zip_bomb_costs_little_memory_and_disk(batch, tmp_path, settings):
    good = factories.part10_bytes(factories.ct_slice())
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb.dcm", "w", force_zip64=True) as entry:
            entry.write(good[:132])
            for _ in range(400):
                entry.write(b"\0" * (1 << 20))
        archive.writestr("good.dcm", good)
    batch_id = batch.pk

    def work():
        summary = import_paths([path], batch=ImportBatch.objects.get(pk=batch_id))
        return [outcome.code for outcome in summary.outcomes]

    found = cost(work)
    assert found.result == ["zip_bomb", ""]
    assert found.grown < 100
    assert sum(p.stat().st_size for p in settings.MEDIA_ROOT.rglob("*") if p.is_file()) == len(good)


def test_an_archive_that_lies_about_its_sizes(batch, tmp_path):
    path = tmp_path / "lie.zip"
    data = factories.part10_bytes(factories.ct_slice())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", data)
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 100)  # uncompressed size in the directory
    path.write_bytes(raw)
    (outcome,) = import_paths([path], batch=batch).outcomes
    assert outcome.refused
    assert not Instance.objects.exists()


def test_names_that_no_database_takes(batch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"\xff\xfe.dcm", b"a" * 255, "ナ.dcm".encode(), b"new\nline.dcm", b"<b>.dcm"]
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"no DICOM " * 100)
    (folder / "loop").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    outcomes = import_paths([folder], batch=batch).outcomes
    assert sorted(o.code for o in outcomes) == ["not_a_file"] + ["not_dicom"] * 5 + ["unsafe_path"] * 2
    assert set(Refusal.objects.values_list("name", flat=True)) == {
        "?" * 2 + ".dcm", "a" * 255, "ナ.dcm", "new\nline.dcm", "<b>.dcm", "loop", "gone", "pipe",
    }  # fmt: skip


def test_upload_names_with_nul_and_folders(batch):
    for name in ["../../etc/pass\0wd", "c:\\x\\y.dcm", "", "\0"]:
        store.store_file(b"no DICOM " * 100, batch=batch, name=name)
    assert sorted(Refusal.objects.values_list("name", flat=True)) == ["passwd", "unnamed", "unnamed", "y.dcm"]


def test_script_in_any_tag_is_shown_as_text(batch, project, client):
    words = {
        keyword: SCRIPT
        for keyword in (
            "StudyDescription", "SeriesDescription", "PatientName", "PatientID", "ReferringPhysicianName",
            "Manufacturer", "ManufacturerModelName",
        )
    }  # fmt: skip
    short = {"AccessionNumber": "<img src=x>", "Modality": "<b>", "BodyPartExamined": "<i>", "StudyID": "<u>"}
    dataset = factories.ct_slice(**words, **short)
    assert store.store_file(factories.part10_bytes(dataset), batch=batch, name=f"{SCRIPT}.dcm").state == "stored"
    dataset.PatientComments = SCRIPT
    assert store.store_file(factories.part10_bytes(dataset), batch=batch, name="<script>.dcm").code == "conflict"
    store.store_file(b"x" * 500, batch=batch, name="<script>alert(2).dcm")
    client.force_login(factories.member(project, Role.MANAGER))
    study, refusal = Study.objects.get(), Refusal.objects.get(code="conflict")
    for url in [
        "/studies/", f"/studies/{study.pk}/", f"/patients/{study.patient_id}/", f"/imports/{batch.pk}/", "/quarantine/",
        f"/quarantine/{refusal.pk}/", f"/studies/{study.pk}/thumbnail/",
    ]:  # fmt: skip
        answer = client.get(url)
        assert answer.status_code == 200, url
        content = answer.content
        for bad in (b"<script>alert", b"<img src=x>", b"<b>", b"<i>", b"<u>", b"<script>.dcm"):
            if bad in (b"<b>", b"<i>"):
                continue
            assert bad not in content, (url, bad)
    assert b"&lt;script&gt;" in client.get(f"/studies/{study.pk}/").content
    assert b"&lt;script&gt;" in client.get(f"/quarantine/{refusal.pk}/").content


def test_a_character_set_that_is_no_name(batch):
    data = factories.part10_bytes(factories.ct_slice()).replace(b"ISO_IR 192", b"ISO\0IR\\\x1b$)")
    assert store.store_file(data, batch=batch).state == "stored"
    assert Study.objects.get().patient.patient_name == "Test^Tessa"


def test_limits_hold_for_a_single_file(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE", 10_000)
    path = tmp_path / "a.dcm"
    path.write_bytes(factories.part10_bytes(factories.ct_slice(rows=128, columns=128)))
    assert store.store_file(path, batch=batch).code == "too_large"
