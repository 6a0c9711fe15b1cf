"""Who a browser is: an id that the server signed and the browser keeps.

Every handler is an endpoint that anyone can call, so the signature is checked on every call. `ui:` keeps these ids
apart from REST callers': a colon is not allowed in theirs.
"""

import hashlib
import hmac
import secrets

from chatlab.ui.refusal import Refused

# What a browser keeps: `token`.
Kept = dict[str, str]

PREFIX = "ui:"
ID_BYTES = 16


class Identities:
    """Makes and checks browser tokens.

    Args:
        secret_key: Signs; another key makes every browser a new user.
    """

    def __init__(self, secret_key: str) -> None:
        self._key = secret_key.encode()

    @property
    def storage_secret(self) -> str:
        """What Gradio scrambles the browser's storage with. Gradio sends it to every visitor, so it is not the key."""
        return hmac.new(self._key, b"browser storage", hashlib.sha256).hexdigest()

    def new(self) -> str:
        """A token for a browser that has none."""
        name = secrets.token_hex(ID_BYTES)
        return f"{name}.{self._signature(name)}"

    def keep(self, kept: Kept) -> Kept:
        """What the browser keeps from now on: what it had, or a new identity."""
        return kept if self.user_of(kept) is not None else {"token": self.new()}

    def require(self, kept: Kept) -> str:
        """The user whose browser keeps this.

        Raises:
            Refused: It is none of ours.
        """
        if (user_id := self.user_of(kept)) is None:
            raise Refused("This page's identity is no longer valid: reload the page.")
        return user_id

    def user_of(self, kept: object) -> str | None:
        """The user whose browser keeps this, which may be anything; None when it is none of ours."""
        match kept:
            case {"token": token}:
                return self.user_id(token)
            case _:
                return None

    def user_id(self, token: object) -> str | None:
        """The user that a token stands for; None when it is not ours."""
        if not isinstance(token, str):
            return None
        name, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._signature(name).encode()):
            return None
        return PREFIX + name

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, b"browser:" + name.encode(errors="replace"), hashlib.sha256).hexdigest()
