"""Whether a text is about somebody: what may not be shared with others. Rather too often than too seldom.

Patterns with checksums where there are any, names beside private matters, first-person words; Presidio, too, where it
is installed (`pip install presidio-analyzer` and its model).
"""

import ipaddress
import re
from functools import cache
from typing import Any

from chatlab.cache.reading import word_set

_CAPITALISED = r"[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’-]+"
_PATTERNS = {
    "an email address": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}\s?@\s?[\w-]{1,255}\.[\w.]"),
    "a phone number": re.compile(r"(?<![\w.])(?:\+|00)?(?:\(?\d[\s()./-]{0,2}){8,15}(?!\w)"),
    "an account number": re.compile(r"(?<!\w)(?=\w{0,40}\d\w{0,40}\d\w{0,40}\d)[A-Z0-9][A-Z0-9-]{7,60}(?!\w)"),
    "a long number": re.compile(r"(?<![\w.,])\d{6,}(?![\w,])"),
    "a date": re.compile(
        r"\b(?:\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}-\d{2}-\d{2}|born (?:on|in)|date of birth|dob)\b", re.IGNORECASE
    ),
    "an address": re.compile(
        r"\b\d{1,5}[a-z]?,? (?:[A-Z][\w'-]+ ){1,3}(?:street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|square|way|"
        r"boulevard|blvd|place|terrace|close)\b|\b[A-Z]\w+(?:stra(?:ß|ss)e|weg|gasse|platz) \d+",
        re.IGNORECASE,
    ),
    "a secret": re.compile(
        r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA|eyJ)[-_A-Za-z0-9]{8,}|\b(?:password|passcode|pin)\b.{0,12}\S*\d"
    ),
    "a person with a title": re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau)\.? {_CAPITALISED}"),
}  # fmt: skip
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<!\d)(?:\d[ -]?){13,19}(?!\d)")
_ADDRESS_V4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_NAME = re.compile(rf"\b{_CAPITALISED} (?:[A-Z]\. )?{_CAPITALISED}")
_PERSON = re.compile(
    r"\b(?:i|i'm|i've|i'd|i'll|me|my|mine|myself|we|we're|we've|us|our|ours|ourselves)\b", re.IGNORECASE
)
# "How do I", "can I", "should we": anybody's.
_ANYBODY = re.compile(
    r"\b(?:how|what|when|where|why|which|can|could|should|do|does|may|must|would|will|if|what's the best way)\b"
    r"(?: \w+){0,3}? (?:i|we)\b|\b(?:help|tell|give|show|teach|explain to|recommend|write|remind|let) (?:me|us)\b",
    re.IGNORECASE,
)
_PRIVATE = word_set(
    "lives living born address phone number email account password salary income patient diagnosed diagnosis disease "
    "ssn passport license licence employee colleague neighbour neighbor boss manager daughter son wife husband "
    "girlfriend boyfriend mother father brother sister invoice order booking reservation policy card balance debt loan "
    "medication prescription pregnant divorced hired fired customer client tenant contact"
)


def personal_data(text: str) -> str | None:
    """What makes a text personal, in words; None if nothing is seen."""
    for kind, pattern in _PATTERNS.items():
        if pattern.search(text):
            return kind
    if any(_valid_iban(match.group()) for match in _IBAN.finditer(text.upper())):
        return "an account number"
    if any(_valid_card(match.group()) for match in _CARD.finditer(text)):
        return "a card number"
    if any(_valid_address(match.group()) for match in _ADDRESS_V4.finditer(text)):
        return "a network address"
    words = set(re.findall(r"[a-z]+", text.lower()))
    named = _NAME.search(text) is not None
    if named and (words & _PRIVATE or _PERSON.search(_ANYBODY.sub(" ", text))):
        return "a person's name beside private matters"
    if _PERSON.search(_ANYBODY.sub(" ", text)):
        return "first-person words"
    return _by_presidio(text)


def _valid_iban(text: str) -> bool:
    """ISO 13616: the number, its first four characters moved to the end, is 1 modulo 97."""
    compact = text.replace(" ", "")
    digits = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return len(compact) >= 15 and int(digits) % 97 == 1


def _valid_card(text: str) -> bool:
    """ISO/IEC 7812: the sum of digits, every second from the right doubled, is a multiple of 10."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) if i % 2 else digit for i, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _valid_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _by_presidio(text: str) -> str | None:
    if (analyzer := _presidio()) is None:
        return None
    found = [each.entity_type for each in analyzer.analyze(text=text, language="en") if each.entity_type != "DATE_TIME"]
    return found[0].lower().replace("_", " ") if found else None


@cache
def _presidio() -> Any:
    """The analyzer; None where it, or its language model, is not installed."""
    try:
        from presidio_analyzer import AnalyzerEngine  # pyright: ignore[reportMissingImports]

        return AnalyzerEngine()
    except (ImportError, OSError, ValueError, SystemExit):  # it fetches its model, and exits where it cannot
        return None
