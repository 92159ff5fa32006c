"""A small OpenID provider on the loopback address; oauthlib checks what it is asked, PyJWT signs what it answers."""

from __future__ import annotations

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from oauthlib.openid import RequestValidator, Server

CLIENT, SECRET = "readroom", "the client's secret"


class Provider(RequestValidator):
    """Everybody who comes is `claims`, signed in already. `refuses`: the person says no."""

    def __init__(self, redirect_uri: str) -> None:
        self.redirect_uri = redirect_uri
        self.claims: dict[str, Any] = {"sub": "4711", "preferred_username": "rita", "given_name": "Rita"}
        self.claims |= {"family_name": "Reader", "email": "rita@example.org"}
        self.refuses = False
        self.audience = CLIENT
        self.codes: dict[str, dict[str, Any]] = {}
        self.tokens: set[str] = set()
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.endpoint = Server(self)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    # What is asked, checked by oauthlib with these answers.
    def validate_client_id(self, client_id, request, *args, **kwargs):
        return client_id == CLIENT

    def validate_redirect_uri(self, client_id, redirect_uri, request, *args, **kwargs):
        return redirect_uri == self.redirect_uri

    def validate_scopes(self, client_id, scopes, client, request, *args, **kwargs):
        return "openid" in scopes

    def validate_response_type(self, client_id, response_type, client, request, *args, **kwargs):
        return response_type == "code"

    def validate_user_match(self, id_token_hint, scopes, claims, request):
        return True

    def is_pkce_required(self, client_id, request):
        return True

    def save_authorization_code(self, client_id, code, request, *args, **kwargs):
        self.codes[code["code"]] = {
            "challenge": request.code_challenge,
            "method": request.code_challenge_method,
            "redirect_uri": request.redirect_uri,
            "scopes": request.scopes,
            "nonce": getattr(request, "nonce", None),
        }

    def authenticate_client(self, request, *args, **kwargs):
        request.client = SimpleNamespace(client_id=CLIENT)
        return request.client_id == CLIENT and request.client_secret == SECRET

    def validate_code(self, client_id, code, client, request, *args, **kwargs):
        found = self.codes.get(code)
        if found is not None:
            request.scopes, request.user = found["scopes"], "somebody"
        return found is not None

    def get_code_challenge(self, code, request):
        return self.codes[code]["challenge"]

    def get_code_challenge_method(self, code, request):
        return self.codes[code]["method"]

    def get_authorization_code_scopes(self, client_id, code, redirect_uri, request):
        return self.codes[code]["scopes"]

    def get_authorization_code_nonce(self, client_id, code, redirect_uri, request):
        return self.codes[code]["nonce"]

    def confirm_redirect_uri(self, client_id, code, redirect_uri, client, request, *args, **kwargs):
        return self.codes[code]["redirect_uri"] == redirect_uri

    def validate_grant_type(self, client_id, grant_type, client, request, *args, **kwargs):
        return grant_type == "authorization_code"

    def save_bearer_token(self, token, request, *args, **kwargs):
        self.tokens.add(token["access_token"])

    def invalidate_authorization_code(self, client_id, code, request, *args, **kwargs):
        del self.codes[code]

    def finalize_id_token(self, id_token, token, token_handler, request):
        now = int(time.time())
        claims = {**self.claims, "iss": self.issuer, "aud": self.audience, "iat": now, "exp": now + 60}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "1"})

    # What is asked over HTTP.
    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer("")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

            def _answer(self, body: str) -> None:
                headers, text, status = provider.answer(self.command, self.path, body, dict(self.headers))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        return Handler

    def answer(self, method: str, path: str, body: str, headers: dict[str, str]) -> tuple[dict[str, str], str, int]:
        where = urlsplit(path).path
        if where == "/.well-known/openid-configuration":
            return self._json(
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "userinfo_endpoint": f"{self.issuer}/userinfo",
                    "jwks_uri": f"{self.issuer}/keys",
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                }
            )
        if where == "/keys":
            return self._json({"keys": [json.loads(RSAAlgorithm.to_jwk(self.key.public_key())) | {"kid": "1"}]})
        if where == "/userinfo":
            known = headers.get("Authorization", "").removeprefix("Bearer ") in self.tokens
            return self._json(self.claims) if known else ({}, "", 401)
        uri = f"{self.issuer}{path}"
        if where == "/authorize":
            if self.refuses:
                state = dict(parse_qsl(urlsplit(path).query))["state"]
                return {"Location": f"{self.redirect_uri}?error=access_denied&state={state}"}, "", 302
            scopes, credentials = self.endpoint.validate_authorization_request(uri, method, body, headers)
            made, text, status = self.endpoint.create_authorization_response(
                uri, method, body, headers, scopes, {**credentials, "user": secrets.token_hex(4)}
            )
            return made, text or "", status
        made, text, status = self.endpoint.create_token_response(uri, method, body, headers)
        return made, text or "", status

    def _json(self, value: Any) -> tuple[dict[str, str], str, int]:
        return {"Content-Type": "application/json"}, json.dumps(value), 200
