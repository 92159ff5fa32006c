"""Django's test client, through the front as in the web process."""

from __future__ import annotations

from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import Client
from django.test.client import ClientHandler

from portal.runtime.middleware import record
from studies.dicomweb.front import Front


class _Handler(ClientHandler):
    def __init__(self, front: Front, answered: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.front = front
        self.answered = answered

    def __call__(self, environ: dict[str, Any]) -> Any:
        answer = self.front.answer(dict(environ))
        if answer is None:
            return super().__call__(environ)
        status, headers, body = answer
        self.answered.append(environ["PATH_INFO"])
        response = HttpResponse(b"".join(body), status=int(status.split()[0]))
        del response.headers["Content-Type"]
        for name, value in headers:
            response[name] = value
        response.wsgi_request = WSGIRequest(environ)
        return response


class FrontClient(Client):
    """`answered` lists the paths that the front did not leave to Django."""

    def __init__(self, front: Front, **options: Any) -> None:
        super().__init__(**options)
        self.answered: list[str] = []
        self.handler = _Handler(front, self.answered, enforce_csrf_checks=False)


def new_front(seconds: float) -> Front:
    def nothing_behind(*_: Any) -> Any:
        raise AssertionError("the test's client asks Django itself")

    return Front(nothing_behind, record=record, seconds=seconds)
