"""Receiving multipart bodies: what was sent arrives, however the network cuts it, and what is malformed is refused."""

from __future__ import annotations

import hashlib
import io
import random

import pytest

from studies.dicomweb import multipart
from studies.dicomweb.problems import Problem
from studies.ingest import limits

BOUNDARY = b"--=_cut"


class Trickle:
    """A stream that gives pieces of odd sizes."""

    def __init__(self, data: bytes, seed: int, most: int) -> None:
        self.stream, self.random, self.most = io.BytesIO(data), random.Random(seed), most

    def read(self, size: int) -> bytes:
        return self.stream.read(self.random.randint(1, min(size, self.most)))


def body_of(objects, head=b"Content-Type: application/dicom\r\n"):
    return b"".join(b"--" + BOUNDARY + b"\r\n" + head + b"\r\n" + one + b"\r\n" for one in objects) + (
        b"--" + BOUNDARY + b"--\r\n"
    )


@pytest.fixture
def receive(tmp_path):
    paths = iter(tmp_path / str(k) for k in range(10**6))
    return lambda stream: list(multipart.receive(stream, BOUNDARY, lambda: next(paths)))


OBJECTS = [
    b"",
    b"one",
    b"\r\n",
    b"\r\n--",
    b"\r\n--" + BOUNDARY[:-1],
    b"a--" + BOUNDARY + b"--",  # a boundary starts a line
    b"\r\n--\r\n--\r\r\n",
    random.Random(3).randbytes(70_000),
]


@pytest.mark.parametrize("most", [1, 7, 100, 1 << 20])
def test_parts_arrive_as_they_were_sent_however_the_network_cuts_them(receive, most):
    objects = OBJECTS if most > 1 else OBJECTS[:-1]
    for seed in range(3):
        found = receive(Trickle(b"preamble\r\n" + body_of(objects) + b"epilogue", seed, most))
        assert [part.path.read_bytes() for part in found] == objects
        assert [(part.size, part.sha256) for part in found] == [
            (len(one), hashlib.sha256(one).hexdigest()) for one in objects
        ]
        assert {part.kind for part in found} == {"application/dicom"}


@pytest.mark.parametrize("end", [5, 9, 30, 60, 200])
def test_a_body_that_is_cut_leaves_no_unfinished_file(receive, tmp_path, end):
    whole = body_of([b"x" * 1000])
    with pytest.raises(Problem) as problem:
        receive(io.BytesIO(whole[:-end] if end < 100 else whole[:end]))
    assert problem.value.status == 400
    assert list(tmp_path.iterdir()) == []


class Endless:
    """A body that never ends, and counts what was taken of it."""

    def __init__(self, start: bytes, forever: bytes) -> None:
        self.start, self.forever, self.given = start, forever, 0

    def read(self, size: int) -> bytes:
        piece = (self.start + self.forever * (size // len(self.forever) + 1))[:size]
        self.start, self.given = b"", self.given + len(piece)
        return piece


def test_a_part_header_without_end_is_given_up_early(receive, tmp_path):
    stream = Endless(b"--" + BOUNDARY + b"\r\n", b"X-Header: 1\r\n")
    with pytest.raises(Problem) as problem:
        receive(stream)
    assert (problem.value.status, stream.given < 1 << 20) == (400, True)
    assert list(tmp_path.iterdir()) == []


def test_a_part_without_end_stops_at_the_limit(receive, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE", 3 << 20)
    stream = Endless(body_of([b""])[: len(BOUNDARY) + 40] + b"\r\n\r\n", b"z" * 1000)
    with pytest.raises(Problem) as problem:
        receive(stream)
    assert (problem.value.status, stream.given < 5 << 20) == (413, True)
    assert list(tmp_path.iterdir()) == []
