"""Names, UIDs and shifts of dates made from a secret key: the same original always gives the same substitute,
and without the key nothing leads back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from dataclasses import dataclass
from datetime import date, timedelta

SHIFT = range(28, 28 + 5 * 365)  # days back: whole days, so that times of day and intervals stay


@dataclass(frozen=True)
class Keyed:
    key: bytes

    @classmethod
    def derived(cls, secret: str, purpose: str) -> Keyed:
        """A key for one purpose, from a secret that serves several."""
        return cls(hmac.digest(secret.encode(), f"readroom de-identification\x1f{purpose}".encode(), hashlib.sha256))

    def _digest(self, kind: str, *parts: str) -> bytes:
        return hmac.digest(self.key, "\x1f".join((kind, *parts)).encode(), hashlib.sha256)

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """`RR-` and 13 letters or digits (65 bits)."""
        return "RR-" + base64.b32encode(self._digest("patient", patient_id, issuer)).decode()[:13]

    def uid(self, original: str) -> str:
        """A UID below 2.25 (PS3.5 B.2)."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=4).int}"

    def label(self, original_uid: str) -> str:
        """Eight hexadecimal digits for a name of a file or folder."""
        return self._digest("label", original_uid).hex()[:8]

    def shift(self, patient_id: str, issuer: str = "") -> timedelta:
        """By how much all dates of a patient move back."""
        number = int.from_bytes(self._digest("shift", patient_id, issuer)[:8], "big")
        return timedelta(days=-SHIFT[number % len(SHIFT)])


def shifted(value: str, by: timedelta) -> str:
    """A DA or DT value moved by whole days; "" where it is no full date."""
    text = value.strip()
    digits = text.replace(".", "", 2) if text[4:5] == "." else text
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) + by
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}" + digits[8:]
