from tests.studies.dimse.conftest import dcmtk, files, listener_port, pacs, pacs_node, project, start  # noqa: F401
