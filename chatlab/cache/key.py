"""What must be equal for a stored answer to be looked at: prefilter columns, never text in the embedding."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from chatlab.cache.reading import normalised
from chatlab.messages import Message

CALIBRATION_VERSION = 2  # of guards, verifier and threshold: entries of another one are not comparable


def digest(*parts: Any) -> str:
    """Of values that JSON can hold; different ones never have the same."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def history_key(messages: Sequence[Message]) -> str:
    """Of a conversation's words, as they are compared; empty without any."""
    return digest(*([each["role"], normalised(each["content"])] for each in messages)) if messages else ""
