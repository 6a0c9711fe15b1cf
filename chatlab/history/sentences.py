"""Messages taken apart: sentences and clauses, word for word, without what only leads up to them or comments on them.

Rules of English, by its function words; of other languages the marks of punctuation remain. Any text goes in. No
pattern goes back over what it has read more than a bounded number of times.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MIN_CHARS, MAX_CHARS = 6, 320  # of a clause
LONG_LINE = 20_000  # characters; what a person writes has line breaks or is shorter

FENCE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
BULLET = re.compile(r"[ \t]{0,12}(?:[-*+•>–]|\d{1,3}[.)]|#{1,6})[ \t]{1,8}(?=\S)")
EMPHASIS = "*_`~ \t"
END = re.compile(r"(?<=[.!?…])[\"'”’)]{0,3}\s+(?=\S)|(?<=[。！？])")
ABBREVIATION = re.compile(
    r"(?<!['’])\b(?:mr|mrs|ms|dr|prof|st|vs|etc|approx|dept|jr|sr|inc|ltd|e\.g|i\.e|[A-Z]|[ap]\.m)\.$|\bNo\.$",
    re.IGNORECASE,
)

PRONOUN = r"(?:it|he|she|they|that|this|there|those|these|one|so)(?:'s|'re|'d|'ll)?\b"
# Where another statement begins, which can stand for itself: not by a pronoun that means something said before.
CLAUSE = re.compile(
    r"\s?;\s*|\s(?:[–—]|-{1,2})\s(?!\d)"
    r"|,?\s(?:and|but|plus|also|while|whereas|although|though)\s(?=(?:i|i'm|i've|i'd|i'll|we|we're|we've|my|our)\s)"
    r"|,\s(?:and|but|yet|plus|also|while|whereas|although|though|or|then)\s"
    rf"(?!{PRONOUN}|(?:not|then|cannot|can't|have|has|had|is|are|am|do|does|did|was|were|who|which|[a-z]+ed)\b)(?=\S+\s\S+\s\S)"
    r"|,\s(?=(?:i|i'm|i've|i'd|we|we're|we've|my|our)\s\S+\s\S)",
    re.IGNORECASE,
)
QUESTION = re.compile(
    r",\s(?=(?:what|how|when|where|why|who|which|can|could|should|would|will|do|does|did|is|are|any)\s\S+\s\S)",
    re.IGNORECASE,
)
# What is given up, which belongs to what takes its place.
GIVEN_UP = re.compile(
    r"\b(?:used to|sold|traded|swapped|gave|given|dropped|left|quit|stopped|switched|not|no longer|n't)\b|n't\b",
    re.IGNORECASE,
)
# Where a comment on what was said may begin.
COMMENT = re.compile(
    r",?\s(?:because(?! of)|although|though|as if|as though|even though)\s"
    r"|,\s(?:so|which|who|whom|whose|as|since|of course|if|unless|while|where|when|and|but|not even|or|first|"
    r"whatever|without|with|no)\s"
    r"|\sand\s(?=(?:have|has|had|cannot|can't|could|won't|never|always|still|even|only|[a-z]{3,}s (?:only|when|if|"
    r"as|like|so))\s)"
    r"|,\s(?=[a-z]+ (?:if|when|to|on|of|in)\s)|\sso that\s|\sthat\s(?=[a-z]{4,}s\s)",
    re.IGNORECASE,
)
LEAD = re.compile(
    r"(?:oh|ah|uh|um|hmm|well|so|ok|okay|yes|yeah|yep|nope|nah|hey|hi|hello|haha|lol|ha|wow|ugh|anyway|anyways|"
    r"also|and|but|plus|or|then|besides|honestly|basically|you know(?=,)|i mean(?=,)|speaking of which|unrelated|"
    r"two things|good (?:morning|afternoon|evening)|thanks|thank you|sorry|off topic|on another note|"
    r"on a different note|on top of that|by contrast|in short|for now|p\.?s\.?|"
    r"(?:no|right|sure|next|finally|lastly|first(?:ly| of all)?|second(?:ly)?|third(?:ly)?)(?=[,.!:…]))"
    r"(?:[,.!:…]+ ?(?:but )?|\s)(?=\S)",
    re.IGNORECASE,
)
# Words that say that what follows is to be remembered.
MARK = re.compile(
    r"(?:(?:please |do |and |just )*(?:note|remember|keep in mind|bear in mind|don't forget|do not forget|"
    r"be aware|write down|"
    r"make a note)(?: down)?(?: of this| this)?(?: that|[:,])"
    r"|(?:please )?remember|did i (?:mention|tell you|say)(?: already)?(?: that)?"
    r"|have i (?:mentioned|told you|said)(?: already)?(?: that)?"
    r"|(?:just )?so (?:that )?you know|for (?:the|your|future) (?:record|information|reference)|fyi|btw|by the way"
    r"|(?:and |oh )*before i forget(?: it)?|while (?:i|we)(?:'m| have| am| remember| think|'re|"
    r" are)[^,.:;]{0,30}(?=,)"
    r"|(?:it|this|that) (?:had |has )?(?:just )?(?:slipped|came to|crossed) my mind[^,.:;]{0,15}"
    r"|i (?:should|must|may|might|ought to|forgot to|wanted to|want to|need to|have to|meant to|would like to|"
    r"'?d like to|can)"
    r"(?: also| just| perhaps| probably)? (?:say|mention|tell you|add|point out|note|let you know)(?: that)?"
    r"|you (?:should|ought to|need to|may want to|might want to|must) know(?: that)?|let me (?:tell you|add|"
    r"mention|note)(?: that)?"
    r"|i have to plan around it|(?:quick |just a |a )*(?:heads[- ]up|reminder|news|note|side note|important)"
    r"|important(?:ly)?|between (?:us|you and me)|to be clear|it(?:'s| is) (?:important|worth (?:knowing|noting|"
    r"mentioning))(?: that)?"
    r"|(?:here(?:'s| is) |first )?(?:a|one|some|another) (?:more |other |last |little |small |quick )*"
    r"(?:thing|piece of news|fact|detail|point|note)s?[^,.:;]{0,24}(?=:))"
    r"(?:[,:…–-]+ ?|\s)(?:but |because |since |that )?(?=\S)",
    re.IGNORECASE,
)
# Where an aside may begin in what already has a figure.
ASIDE = re.compile(r"\s(?:when (?:i|we|you)|while|once|as far as|just (?:like|as))\s", re.IGNORECASE)
AND = re.compile(
    r",?\s(?:and|but|so)\s|,\s(?=(?:for|if|just|only|or|like|as|in|with|without|not|don't|who|who's|you)\s)",
    re.IGNORECASE,
)
MARK_AFTER = re.compile(
    r"[,;–-]? (?:(?:just )?so (?:that )?you know|for (?:the|your) (?:record|information|reference)|fyi|btw|"
    r"by the way|"
    r"(?:just )?in case (?:it|you|any|some)[^,.;]{1,30}|please (?:remember|note)(?: that| it)?|(?:don't|"
    r"do not) forget(?: that| it)?)[.!?]*$",
    re.IGNORECASE,
)
# Phrases that only say that something is said: "as I may have told you", "small update from my side", "if that helps".
_SAYING = (
    "said say saying told tell mention mentioned know knew sure ask asked asking asks help helps matter matters honest "
    "fair worth update context note background reminder recap heads-up info news wondering wonder point believe useful "
    "relevant"
)
_AROUND = (
    "a an the this that it it's its i i'm i've i'd i'll im ive me my we we've you you'll you've you're your to of for "
    "from in on at by and or but so as if when whether what why how may might must should could would will can want "
    "need have had has be been being is was do did does don't didn't not never ever no yes just also too still again "
    "already earlier before later once now then ok okay oh well yeah right quick quickly small little short tiny brief "
    "some any one more other another first last thing things fact case side end part time far anything anyone "
    "everyone all think thought guess suppose maybe perhaps probably clear completely totally honestly actually here "
    "there's there"
)
SAYING = frozenset(_SAYING.split())
FRAME = SAYING | frozenset(_AROUND.split())
FRAME_BEFORE = re.compile(
    r"((?:[a-z'’-]{1,12} ){0,8}?[a-z'’-]{1,12})(?::|,(?: but| that| and)?| [–—-]) (?=\S)", re.IGNORECASE
)
FRAME_AFTER = re.compile(r"(?:,| [–—-]) ([a-z'’, -]{2,48})[.!]*$", re.IGNORECASE)
# A word at the end that only says how its speaker feels about it.
INTERJECTION = re.compile(
    r",? (?:ouch|ugh|lol|haha+|yay|phew|sadly|luckily|thankfully|fortunately|unfortunately|apparently|somehow|"
    r"obviously|honestly|of course|please|thanks|thank you|sorry|believe it or not|lucky me|i guess|i suppose|you know|"
    r"right|though|no joke|not gonna lie)[.!]*$",
    re.IGNORECASE,
)
# A heading whose items are worth noting, and one after which something is asked.
HEADING = re.compile(
    r"\b(?:remember|note|notes|know|record|forget|mind|about me|facts?|important|my|our|preferences|reminders?|"
    r"things|list)\b",
    re.IGNORECASE,
)
ASKED = re.compile(
    r"(?:but |so |and |now )*(?:anyway|what i (?:really |actually )?(?:wanted|want|meant|came) to ask(?: is| was)?|"
    r"(?:here(?:'s| is) )?(?:my|a|one|another|the|then a|quick|now to my)? ?(?:\w+ )?question)\s?[:,.?]\s*",
    re.IGNORECASE,
)
VALUE = re.compile(r"\d|[^\W\d_]'s\b|\b(?:my|our|mine|ours|now|instead|new|will)\b|(?<=\s)[A-Z][a-z]")
DIGIT = re.compile(r"\d")
BRACKETS = {"(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a message; `marked` if its speaker asked to note it, `asked` if it is a question."""

    text: str
    marked: bool = False
    asked: bool = False


def clauses(message: str) -> Iterator[Clause]:
    """What a message says, in order, code left out."""
    heading = ""
    for line in FENCE.sub("\n", message).splitlines():
        bullet = BULLET.match(line)
        body = line[bullet.end() if bullet else 0 :][:LONG_LINE].strip(EMPHASIS)
        if not body:
            continue
        noted = bool(bullet and HEADING.search(heading))
        if not bullet and body.endswith(":"):
            heading = body[-200:]
            continue
        asked = False
        for sentence in (each for each in _sentences(body) if len(each) >= MIN_CHARS):
            yield from _of_sentence(sentence, noted, asked)
            asked = bool(ASKED.fullmatch(sentence.strip()))
        if not bullet:
            heading = ""


def _sentences(line: str) -> list[str]:
    """Parted at the end of each, but not after an abbreviation."""
    done: list[str] = []
    start = 0
    for end in END.finditer(line):
        if not ABBREVIATION.search(line[max(start, end.start() - 12) : end.start()]):
            done.append(line[start : end.start()])
            start = end.end()
    done.append(line[start:])
    return done


def _of_sentence(sentence: str, noted: bool, asked: bool) -> Iterator[Clause]:
    question = sentence.rstrip().endswith(("?", "？"))
    sentence, mark, follows = _bare(sentence)
    marked, asked = noted or mark, asked or follows
    if mark:
        sentence, question = sentence.rstrip("?？ "), False
    start, last = 0, len(sentence)
    breaks = [*CLAUSE.finditer(sentence), *(QUESTION.finditer(sentence) if question else ())]
    for end, after in [*sorted(each.span() for each in breaks), (last, last)]:
        piece = sentence[start : min(end, start + 2 * MAX_CHARS)]
        if end < last and (end < start or len(piece.split()) < 3 or GIVEN_UP.search(piece)):
            continue
        text, mark, follows = _bare(piece)
        text = _without_end(_without_comment(text))
        if MIN_CHARS <= len(text) <= MAX_CHARS and any(map(str.isalnum, text)):
            yield Clause(text, marked or mark, asked or follows or (question and end == last))
        start = after


def _bare(piece: str) -> tuple[str, bool, bool]:
    """Without the words that lead up to it; whether they ask to note it, and whether they announce a question."""
    text, marked, asked = piece.strip(), False, False
    if text[:1] in BRACKETS and (text[-1:] == BRACKETS[text[0]] or BRACKETS[text[0]] not in text):
        text = text[1:].removesuffix(BRACKETS[text[0]])
    for _ in range(6):
        if found := MARK.match(text):
            marked = True
        elif found := ASKED.match(text):
            asked = True
        elif not ((found := LEAD.match(text)) or ((found := FRAME_BEFORE.match(text)) and _frames(found[1]))):
            break
        text = text[found.end() :]
    if after := MARK_AFTER.search(text):
        marked, text = True, text[: after.start()]
    return text, marked, asked


def _frames(phrase: str) -> bool:
    """Whether a phrase only says that something is said."""
    words = phrase.lower().replace("’", "'").replace(",", " ").split()
    return FRAME.issuperset(words) and not SAYING.isdisjoint(words)


def _without_end(text: str) -> str:
    """Without a remark on it at the end, and without the marks there that tell nothing."""
    for _ in range(2):
        if (found := FRAME_AFTER.search(text)) and _frames(found[1]):
            text = text[: found.start()]
        if (found := INTERJECTION.search(text)) and len(text[: found.start()].split()) >= 2:
            text = text[: found.start()]
    if text.endswith(("!", ".")) and not text.endswith("..") and not ABBREVIATION.search(text[-12:]):
        text = text[:-1]
    for opening, closing in BRACKETS.items():
        if text[:1] == opening and closing not in text:
            text = text[1:]
        elif text[-1:] == closing and opening not in text:
            text = text[:-1]
    return text


def _without_comment(text: str) -> str:
    """Cut where a comment begins that names nothing of its own."""
    for found in COMMENT.finditer(text):
        head, tail = text[: found.start()], text[found.end() :]
        if len(head.split()) >= 4 and not VALUE.search(tail):
            return head
    # Beside a figure nothing is worth it that has none.
    for found in AND.finditer(text):
        head = text[: found.start()]
        if len(head.split()) >= 4 and DIGIT.search(head) and not VALUE.search(text, found.end()):
            return head
    if (found := ASIDE.search(text)) and DIGIT.search(text, 0, found.start()) and not VALUE.search(text, found.end()):
        return text[: found.start()]
    return text
