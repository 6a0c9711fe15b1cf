"""Short-lived permits to move files of one user's chats: a link cannot carry what the browser keeps of who it is."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

SECONDS = 120
NONCE_BYTES = 8


class Tickets:
    """Makes and checks tickets.

    Args:
        secret_key: Signs.
        now: Seconds since 1970.
    """

    def __init__(self, secret_key: str, now: Callable[[], float] = time.time) -> None:
        self._key = secret_key.encode()
        self._now = now

    def new(self, user_id: str) -> str:
        """A ticket for a user, good for two minutes."""
        said = f"{user_id}|{int(self._now()) + SECONDS}|{secrets.token_hex(NONCE_BYTES)}"
        return f"{said}|{self._signature(said)}"

    def user_id(self, ticket: str) -> str | None:
        """The user that a ticket is for; None when it is none of ours or too old."""
        said, _, signature = ticket.rpartition("|")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._signature(said).encode()):
            return None
        user_id, until, _ = said.rsplit("|", 2)
        return user_id if self._now() <= int(until) else None

    def _signature(self, said: str) -> str:
        return hmac.new(self._key, b"files:" + said.encode(errors="replace"), hashlib.sha256).hexdigest()
