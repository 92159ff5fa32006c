"""Security headers of the portal's own pages.

The viewer under /viewer/ needs rules of its own (web assembly, inline start-up code) and sets them itself.
"""

from __future__ import annotations

# Style attributes carry values (`--v:62` of a progress bar) and Plotly writes style rules, hence 'unsafe-inline' there.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    ]
)


class SecurityHeaders:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        if not request.path.startswith("/viewer/"):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            # Pages name patients: no shared or disk cache keeps them.
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response
