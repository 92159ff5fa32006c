#!/usr/bin/env python3
"""How much memory a running portal takes for large objects: one of 2 GB in and out, and a series of 1,000 slices.

    manage.py up                                            (in another terminal; its process id is PID)
    python benchmarks/memory_dicomweb.py --base http://127.0.0.1:8000/dicomweb/projects/SLUG --token TOKEN --pid PID

Both are made on the fly, sent and received in pieces, and what comes back is compared with what was sent. For every
step the peak of resident memory (VmHWM) of each process of the web server is set back, and its growth is given in MB.
Needs Linux, and the right to write to /proc/PID/clear_refs: run it as the user of the portal. The objects stay in the
project; use one that can be thrown away.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MARK = b"readroom-memory-benchmark"
PIECE = 1 << 20
SIDE = 512
FRAME = SIDE * SIDE * 2
ALLOWED_MB = 200
MULTIPART = 'multipart/related; type="application/{}"; transfer-syntax=*'


def header(uid: str, study: str, series: str, *, frames: int = 0, number: int = 1) -> bytes:
    """Everything of an object before the values of its pixel data, which must follow."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3" if frames else "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, study, series
    dataset.PatientID, dataset.PatientName, dataset.Modality = "MEMORY", "Synthetic^Memory", "OT" if frames else "CT"
    dataset.SyntheticData = "YES"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    if frames:
        dataset.NumberOfFrames = frames
    dataset.add_new(0x7FE00010, "OW", b"")
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()[:-4] + (max(frames, 1) * FRAME).to_bytes(4, "little")


def pixels(seed: int, frames: int) -> Iterator[bytes]:
    """The frames of an object. Noise cannot be compressed, and no two frames are alike."""
    noise = random.Random(seed).randbytes(FRAME)
    for k in range(frames):
        yield k.to_bytes(8, "little") + noise[8:]


class Portal:
    def __init__(self, base: str, token: str, pid: int) -> None:
        self.address = urlsplit(base)
        self.token = token
        found = [p for p in psutil.Process(pid).children(recursive=True) if "granian" in " ".join(p.cmdline())]
        self.processes = [p.pid for p in found] or [pid]
        self.worst = 0.0

    def request(self, method: str, path: str, body: Iterator[bytes] | None = None, **headers: str) -> Iterator[bytes]:
        connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=900)
        sent = {"Authorization": f"Token {self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, self.address.path + path, body=body, headers=sent, encode_chunked=body is not None)
        response = connection.getresponse()
        if response.status != 200:
            sys.exit(f"{method} {path}: HTTP {response.status}: {response.read(2000)!r}")
        while piece := response.read(PIECE):
            yield piece
        connection.close()

    def store(self, objects: Iterator[Iterator[bytes]]) -> list[dict[str, object]]:
        def body() -> Iterator[bytes]:
            for pieces in objects:
                yield b"--" + MARK + b"\r\nContent-Type: application/dicom\r\n\r\n"
                yield from pieces
                yield b"\r\n"
            yield b"--" + MARK + b"--\r\n"

        kind = f'multipart/related; type="application/dicom"; boundary={MARK.decode()}'
        answer = self.request("POST", "/studies", body(), Content_Type=kind, Transfer_Encoding="chunked")
        stored: list[dict[str, object]] = json.loads(b"".join(answer))["00081199"]["Value"]
        return stored

    def measure(self, what: str, work, expected: object) -> None:
        """Run `work`, compare what it returns, print by how much each process grew at its peak."""
        before = {}
        for pid in self.processes:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            before[pid] = memory(pid, "VmRSS")
        began = time.monotonic()
        result = work()
        seconds = time.monotonic() - began
        if result != expected:
            sys.exit(f"{what}: what came back differs from what was sent")
        grown = max(memory(pid, "VmHWM") - before[pid] for pid in self.processes)
        self.worst = max(self.worst, grown)
        print(f"{what:44s}{grown:8.0f} MB {seconds:8.1f} s", flush=True)


def memory(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def parts(pieces: Iterator[bytes]) -> list[str]:
    """SHA-256 of each part of a multipart answer, whose heads say how long it is."""
    found, buffer = [], b""
    while True:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            piece = next(pieces, b"")
            if not piece:
                return found
            buffer += piece
        head = buffer[:end].lower()
        left = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        buffer, part = buffer[end + 4 :], hashlib.sha256()
        while left:
            buffer = buffer or next(pieces)
            part.update(buffer[:left])
            left, buffer = left - min(left, len(buffer)), buffer[left:]
        found.append(part.hexdigest())


def late(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """As a client on a slow line: nothing is taken for a while, and the server must not put all of it aside."""
    yield next(pieces)
    time.sleep(10)
    yield from pieces


def digest(pieces: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def large_object(portal: Portal, root: str, gigabytes: float) -> None:
    frames = int(gigabytes * (1 << 30)) // FRAME
    head = header(f"{root}.1.1.1", f"{root}.1", f"{root}.1.1", frames=frames)

    def whole() -> Iterator[bytes]:
        yield head
        yield from pixels(1, frames)

    size = len(head) + frames * FRAME
    expected = digest(whole())
    print(f"one object of {size / 1e9:.2f} GB, {frames} frames")
    portal.measure("stored by STOW-RS", lambda: len(portal.store(iter([whole()]))), 1)
    path = f"/studies/{root}.1/series/{root}.1.1/instances/{root}.1.1.1"
    multipart, single = MULTIPART.format("dicom"), "application/dicom; transfer-syntax=*"
    get = portal.request
    portal.measure("the whole object", lambda: parts(get("GET", path, Accept=multipart)), [expected])
    portal.measure("the whole object, single part", lambda: digest(get("GET", path, Accept=single)), expected)
    portal.measure(
        "the whole object, to a slow client", lambda: digest(late(get("GET", path, Accept=single))), expected
    )
    portal.measure("the whole study", lambda: parts(get("GET", f"/studies/{root}.1", Accept=multipart)), [expected])
    octets, one, many = MULTIPART.format("octet-stream"), frames // 2, min(frames, 400)
    every = [hashlib.sha256(frame).hexdigest() for frame in pixels(1, frames)]
    portal.measure("one frame", lambda: parts(get("GET", f"{path}/frames/{one}", Accept=octets)), every[one - 1 : one])
    listed = ",".join(str(k + 1) for k in range(many))
    portal.measure(
        f"{many} frames in one request",
        lambda: parts(get("GET", f"{path}/frames/{listed}", Accept=octets)),
        every[:many],
    )
    portal.measure(
        "its pixel data as bulk data",
        lambda: parts(get("GET", f"{path}/bulkdata/7FE00010", Accept=octets)),
        [digest(pixels(1, frames))],
    )
    portal.measure("its metadata", lambda: len(json.loads(b"".join(get("GET", f"{path}/metadata")))), 1)


def long_series(portal: Portal, root: str, slices: int) -> None:
    study, series = f"{root}.2", f"{root}.2.1"
    uids = [f"{series}.{k}" for k in range(1, slices + 1)]
    heads = [header(uid, study, series, number=k) for k, uid in enumerate(uids, 1)]

    def one(k: int) -> Iterator[bytes]:
        yield heads[k]
        yield from pixels(k, 1)

    print(f"a series of {slices} slices, {slices * FRAME / 1e9:.2f} GB")
    portal.measure("stored by STOW-RS in one request", lambda: len(portal.store(one(k) for k in range(slices))), slices)
    path = f"/studies/{study}/series/{series}"
    get, octets = portal.request, MULTIPART.format("octet-stream")
    portal.measure("metadata", lambda: len(json.loads(b"".join(get("GET", f"{path}/metadata")))), slices)
    portal.measure(
        "the whole series",
        lambda: sorted(parts(get("GET", path, Accept=MULTIPART.format("dicom")))),
        sorted(digest(one(k)) for k in range(slices)),
    )
    portal.measure(
        "every frame, one request each",
        lambda: [part for uid in uids for part in parts(get("GET", f"{path}/instances/{uid}/frames/1", Accept=octets))],
        [digest(pixels(k, 1)) for k in range(slices)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the DICOMweb root of a project")
    parser.add_argument("--token", required=True)
    parser.add_argument("--pid", required=True, type=int, help="process id of `manage.py up` or of the web server")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--slices", type=int, default=1000)
    arguments = parser.parse_args()
    portal = Portal(arguments.base, arguments.token, arguments.pid)
    root = f"1.2.826.0.1.3680043.10.1471.8.{int(time.time())}"
    large_object(portal, root, arguments.gigabytes)
    long_series(portal, root, arguments.slices)
    print(f"largest growth {portal.worst:.0f} MB; {ALLOWED_MB} MB are allowed")
    sys.exit(portal.worst > ALLOWED_MB)


if __name__ == "__main__":
    main()
