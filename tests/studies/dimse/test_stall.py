"""A peer that stops in the middle is given up with a clear cause, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from studies.dimse import nodes, remote
from studies.dimse.errors import Unreachable
from studies.ingest import store
from studies.models import ImportBatch, Instance
from tests.factories import ct_datasets, make_ct_series, part10_bytes
from tests.studies.dimse.stalling import Relay, after, within
from tests.studies.dimse.test_remote import leftovers, uid_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def relay() -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*arguments, **options) -> Relay:
        made.append(Relay(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def _one_second(settings, monkeypatch) -> None:
    settings.DIMSE_TIMEOUT_SECONDS = 1.0
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)


def assert_nothing_stayed() -> None:
    assert Instance.objects.count() == 0
    assert ImportBatch.objects.count() == 0
    assert leftovers() == []
    assert list(Path(store.absolute_path("")).glob("retrieval-*")) == []


PIXEL_DATA = b"\xe0\x7f\x10\x00"


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (after(0), "no association came about"),  # takes the connection and says nothing
        (after(300), "no association came about"),  # in the middle of accepting the association
        (within(PIXEL_DATA, 3), "stopped answering after 2 objects"),  # in the pixels of the third of four
    ],
    ids=["at once", "in the association", "in an object"],
)
def test_retrieval_by_get(pacs_node, pacs, filled, relay, stop, words):
    through = relay(pacs.port, stop)
    nodes.change(pacs_node, port=through.port)
    with pytest.raises(Unreachable, match=words) as caught:
        remote.retrieve(pacs_node, uid_of(filled[0]))
    assert caught.value.next_step
    # Each attempt looks whether the port answers, then associates.
    assert through.connections == 2 * remote.ATTEMPTS
    assert_nothing_stayed()
    # The study is not blocked by what failed: through a sound line it comes whole.
    nodes.change(pacs_node, port=pacs.port)
    assert remote.retrieve(pacs_node, uid_of(filled[0])).stored == 4


def test_retrieval_by_move_whose_objects_came_and_whose_end_did_not(
    pacs_node, pacs, filled, relay, listen, listener_port
):
    listen(listener_port)
    through = relay(pacs.port, after(400))  # the association, and the first answers
    nodes.change(pacs_node, port=through.port, retrieve_by="move")
    with pytest.raises(Unreachable, match="stopped answering"):
        remote.retrieve(pacs_node, uid_of(filled[0]))
    assert_nothing_stayed()


def test_a_search(pacs_node, pacs, filled, relay):
    through = relay(pacs.port, after(250))
    nodes.change(pacs_node, port=through.port)
    with pytest.raises(Unreachable, match="stopped answering the search"):
        remote.find(pacs_node, remote.Wanted())


def test_sending_goes_on_where_it_stopped(project, pacs, pacs_node, relay):
    series = make_ct_series(project, 4)
    through = relay(pacs.port, after(700))  # of the answers: some objects are confirmed, the next one is not
    nodes.change(pacs_node, port=through.port)
    done = remote.send(pacs_node, Instance.objects.filter(series=series))
    assert (done.sent, done.failed) == (4, {})
    assert through.connections > 2  # a look whether the port answers, and one association, would be two
    assert len(pacs.files) == 4


def test_sending_is_given_up(project, pacs, pacs_node, relay):
    series = make_ct_series(project, 2)
    nodes.change(pacs_node, port=relay(pacs.port, after(250)).port)
    with pytest.raises(Unreachable, match="while objects were sent"):
        remote.send(pacs_node, Instance.objects.filter(series=series))


def test_a_caller_that_stops_in_the_middle_of_an_object_leaves_nothing(listen, node, files, dcmtk, relay):
    listener = listen(DIMSE_TIMEOUT_SECONDS="1")
    through = relay(listener.port, within(PIXEL_DATA, 1), stalls="requests")
    stuck = dcmtk(
        "storescu", "-to", "10", "-td", "10", "-ta", "10", "-aet", "DCMTK", "-aec", "READROOM", "127.0.0.1",
        through.port, *files(2),
    )  # fmt: skip
    assert stuck.returncode != 0
    assert_nothing_stayed()
    assert dcmtk("echoscu", *listener.address).returncode == 0


class HalfAnAnswer(BaseHTTPRequestHandler):
    """A DICOMweb service that sends one object of two, half of the second, and then nothing."""

    stop = Event()
    objects = [part10_bytes(dataset) for dataset in ct_datasets(2, StudyInstanceUID="1.2.3.4.5")]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
        self.end_headers()
        head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        first, second = self.objects
        self.wfile.write(head + first + b"\r\n" + head + second[: len(second) // 2])
        self.wfile.flush()
        self.stop.wait(30)

    def log_message(self, *args) -> None:
        pass


def test_retrieval_by_dicomweb(project, settings):
    HalfAnAnswer.stop.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), HalfAnAnswer)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        node = nodes.create(project, None, name="Web", kind="dicomweb", url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(Unreachable, match=r"stopped answering|cut short"):
            remote.retrieve(node, "1.2.3.4.5")
    finally:
        HalfAnAnswer.stop.set()
        server.shutdown()
        server.server_close()
    assert_nothing_stayed()
