"""The npm package dicomweb-client, which OHIF uses, in a browser against the running portal: all calls that it has."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile

import pytest

from portal.accounts.models import Role
from portal.accounts.services import issue_token
from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PACKAGE = "dicomweb-client@0.11.3"
MEMBER = "package/build/dicomweb-client.js"

CALLS = """async ([token, files, uids]) => {
  const client = new DICOMwebClient.api.DICOMwebClient({
    url: location.origin + "/dicomweb", headers: { Authorization: "Token " + token },
  });
  const byUri = new DICOMwebClient.api.DICOMwebClient({ url: location.origin + "/dicomweb", wadoURLPrefix: "wado" });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const hex = async (data) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", data))]
    .map((b) => b.toString(16).padStart(2, "0")).join("");
  const hashes = (list) => Promise.all([...list].map(hex));
  const [studyInstanceUID, seriesInstanceUID, sopInstanceUID] = uids;
  const study = { studyInstanceUID }, series = { ...study, seriesInstanceUID }, one = { ...series, sopInstanceUID };
  const png = [{ mediaType: "image/png" }], jpeg = [{ mediaType: "image/jpeg" }];
  await client.storeInstances({ datasets: files.map(bytes) });
  const metadata = [].concat(await client.retrieveInstanceMetadata(one))[0];
  return {
    studies: await client.searchForStudies({ queryParams: { PatientID: "P1", limit: 5 } }),
    none: await client.searchForStudies({ queryParams: { PatientID: "P2" } }),
    series: await client.searchForSeries({ ...study, queryParams: { Modality: "CT" } }),
    instances: await client.searchForInstances(series),
    ofStudy: (await client.retrieveStudyMetadata(study)).length,
    ofSeries: (await client.retrieveSeriesMetadata(series)).length,
    metadata,
    file: await hex(await client.retrieveInstance(one)),
    filesOfSeries: await hashes(await client.retrieveSeries(series)),
    filesOfStudy: await hashes(await client.retrieveStudy(study)),
    frames: await hashes(await client.retrieveInstanceFrames({ ...one, frameNumbers: [1] })),
    octets: await hashes(await client.retrieveInstanceFrames({ ...one, frameNumbers: [1],
      mediaTypes: [{ mediaType: "application/octet-stream", transferSyntaxUID: "*" }] })),
    bulk: await hashes(await client.retrieveBulkData({ BulkDataURI: metadata["7FE00010"].BulkDataURI })),
    pictures: await Promise.all((await Promise.all([
      client.retrieveInstanceRendered({ ...one, mediaTypes: png }),
      client.retrieveInstanceRendered({ ...one, mediaTypes: jpeg, queryParams: { quality: 50 } }),
      client.retrieveInstanceThumbnail({ ...one, mediaTypes: jpeg, queryParams: { viewport: "64,64" } }),
      client.retrieveInstanceFramesRendered({ ...one, frameNumbers: [1], mediaTypes: jpeg }),
      client.retrieveInstanceFramesThumbnail({ ...one, frameNumbers: [1], mediaTypes: jpeg }),
    ])).map(async (data) => [...new Uint8Array(await new Response([].concat(data)[0]).arrayBuffer()).slice(0, 4)])),
    uri: await fetch(byUri.buildInstanceWadoURIUrl({ ...one, contentType: "application/dicom" }))
      .then((answer) => answer.arrayBuffer()).then(hex),
  };
}"""


@pytest.fixture(scope="session")
def script(tmp_path_factory) -> str:
    """The package's build for browsers; without npm, or where it cannot be fetched, the test is skipped."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode or not packed:
        pytest.skip(f"npm could not fetch {PACKAGE}")
    with tarfile.open(packed[0]) as archive:
        found = archive.extractfile(MEMBER)
        assert found is not None
        return found.read().decode()


def test_every_call_of_the_npm_client(script, sign_in):
    alice = factories.member(factories.ProjectFactory(slug="lung"), Role.ENGINEER)
    slices = factories.ct_datasets(3, PatientName="Müller^Jürgen")
    files = [factories.part10_bytes(one) for one in slices]
    uids = [slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, slices[1].SOPInstanceUID]
    page = sign_in(alice, bypass_csp=True)
    page.goto("/")
    page.add_script_tag(content=script)
    got = page.evaluate(CALLS, [issue_token(user=alice), [base64.b64encode(file).decode() for file in files], uids])

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    (study,), (series,) = got["studies"], got["series"]
    assert study["00100010"]["Value"] == [{"Alphabetic": "Müller^Jürgen"}]
    assert (study["00080061"]["Value"], study["00201208"]["Value"]) == (["CT"], [3])
    assert got["none"] == []
    assert series["0020000E"]["Value"] == [uids[1]]
    assert [one["00080018"]["Value"][0] for one in got["instances"]] == [one.SOPInstanceUID for one in slices]
    assert (got["ofStudy"], got["ofSeries"]) == (3, 3)
    assert got["metadata"]["00080018"]["Value"] == [uids[2]]
    assert got["file"] == got["uri"] == digest(files[1])
    assert got["filesOfSeries"] == got["filesOfStudy"] == [digest(file) for file in files]
    assert got["frames"] == got["octets"] == got["bulk"] == [digest(slices[1].PixelData)]
    assert [bytes(head)[:2] for head in got["pictures"]] == [b"\x89P"] + [b"\xff\xd8"] * 4
