"""What beat runs for routing: rules are asked, results noted, and sent to where their rules say."""

from __future__ import annotations

from inference.jobs.task import periodic
from inference.routing import pushes, services
from portal.pacs import transfers


@periodic("portal.routing.route")
def route() -> None:
    turn()


def turn() -> None:
    """One look at everything that waits. Cut short, the next one goes on."""
    services.route_settled()
    services.note_results()
    pushes.advance(transfers.send_series)
