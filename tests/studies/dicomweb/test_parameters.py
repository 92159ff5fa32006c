"""Parameters of every resource: what they do, and that nonsense is answered with 400 and words."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from PIL import Image

from studies.dicomweb.matching import Key, matches
from tests import factories

pytestmark = pytest.mark.django_db
ODD = ["%00", "a%00b", "%FF%FE", "%ED%A0%80", "%D9%A3", "%C2%B2", "%F0%9F%92%A9", "x" * 9000, "%25", "%5C", "-", ",",
       "*" * 99, "1e999", "nan", "-1", "%0A", "%27%22%3B--", "99999999999999999999", "..", "?" * 3000]  # fmt: skip


@pytest.fixture
def study(project):
    return factories.make_ct_series(project, 1, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")


def addresses(series):
    uid = series.instances.get().sop_instance_uid
    instance = f"/studies/1.2.1/series/1.2.1.1/instances/{uid}"
    for name in (
        "PatientName",
        "StudyDate",
        "StudyTime",
        "StudyInstanceUID",
        "ModalitiesInStudy",
        "KVP",
        "limit",
        "offset",
    ):
        yield f"/studies?{name}="
    yield from ("/studies?fuzzymatching=true&PatientName=", "/studies?includefield=", "/studies?accept=")
    yield from ("/studies/1.2.1/series?SeriesNumber=", "/series?BodyPartExamined=", "/instances?InstanceNumber=")
    yield from ("/instances?Rows=", "/studies?AnatomicRegionSequence.CodeValue=", "/studies?")
    for name in ("viewport", "window", "quality", "accept", "annotation"):
        yield f"{instance}/rendered?{name}="
    wado = "/wado?requestType=WADO&studyUID=1.2.1&seriesUID=1.2.1.1"
    for name in ("contentType", "frameNumber", "rows", "windowWidth", "windowCenter", "transferSyntax", "quality"):
        yield f"{wado}&objectUID={uid}&{name}="
    yield from (
        f"{wado}&objectUID=",
        "/wado?requestType=",
        f"/wado?requestType=WADO&seriesUID=1&objectUID={uid}&studyUID=",
    )


def test_odd_text_never_fails(study, root, client):
    client.raise_request_exception = False
    for address in addresses(study):
        for text in ODD:
            status = root(address + text).status_code
            assert status == 400 if "%00" in text else status in (200, 400, 404, 406), (address, text[:30])


@pytest.mark.parametrize(
    "query",
    ["viewport=10", "viewport=0,5", "viewport=9,9,1", "viewport=a,b", "viewport=inf,5", "viewport=9,9,36,0,9,9",
     "window=1", "window=40,0,linear", "window=nan,400,linear", "window=40,inf,linear", "window=40,400,cubic",
     "quality=0", "quality=101", "quality=%C2%B2"],
)  # fmt: skip
def test_rendering_parameters_that_make_no_sense(study, root, query):
    answer = root(f"/studies/1.2.1/rendered?{query}")
    assert answer.status_code == 400
    assert answer.json()["detail"]


def picture(answer):
    assert answer.status_code == 200, answer.content
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_viewport_shows_the_asked_part_of_the_image(study, root):
    def shown(query=""):
        return picture(root(f"/studies/1.2.1/rendered{query}", accept="image/png"))

    whole = shown()
    assert whole.shape == (32, 40)
    assert np.array_equal(shown("?viewport=8,4,10,6,8,4"), whole[6:10, 10:18])
    assert np.array_equal(shown("?viewport=8,4,10,6,-8,-4"), whole[6:10, 10:18][::-1, ::-1])
    assert np.array_equal(shown("?viewport=30,26,10,6,,"), whole[6:, 10:])
    assert shown("?viewport=16,64").shape == (13, 16)
    assert not np.array_equal(shown("?window=40,40,linear"), shown("?window=40,4000,linear"))


def test_quality_and_what_is_not_offered(study, root):
    small, large = (len(root(f"/studies/1.2.1/rendered?quality={q}").content) for q in (5, 100))
    assert small < large
    assert "annotation" in root("/studies/1.2.1/rendered?annotation=patient")["Warning"]
    assert "Warning" not in root("/studies/1.2.1/rendered")


def test_wildcards_match_in_time_proportional_to_the_text():
    key = Key((0x00204000,), "*a*a*a*a*a*a*a*b")
    # Going back and forth, the first would take years.
    dataset = {"00204000": {"vr": "LT", "Value": ["a" * 5000]}}
    assert not matches(dataset, key)
    assert matches({"00204000": {"vr": "LT", "Value": ["xa" * 500 + "b"]}}, key)


def test_metadata_of_a_study_is_compressed_where_the_client_takes_it(study, root):
    plain = root("/studies/1.2.1/metadata")
    packed = root("/studies/1.2.1/metadata", HTTP_ACCEPT_ENCODING="gzip, br")
    assert "Content-Encoding" not in plain
    assert packed["Content-Encoding"] == "gzip"
    text = plain.getvalue()
    assert gzip.decompress(packed.getvalue()) == text
    assert len(json.loads(text)) == 1
