from tests.studies.dimse.conftest import (  # noqa: F401
    dcmtk,
    files,
    filled,
    listener_port,
    pacs,
    pacs_node,
    project,
    start,
)
