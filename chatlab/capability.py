"""Whether a model can write notes: small conversations with known facts, summarised, checked and counted.

Measured once a model, while nothing is asked of it. Small models fail: their summaries leave out most of what was said,
where statements taken word for word keep it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from chatlab.engines.base import Engine
from chatlab.messages import UNKNOWN_TIME, Turn
from chatlab.summarizer import summarize

MIN_SOUND = 0.75  # of the summaries must be
MIN_KEPT = 0.6  # of the facts must be in them
TOKENS = 105  # of a summary
USER_ID = "chatlab"

PROBES: Sequence[tuple[Sequence[tuple[str, str]], Sequence[str]]] = (
    (
        (
            ("Hi! I'm Marta, and I look after 14 beehives near Zagreb.", "That must keep you busy all summer."),
            ("It does. My brother Ivo helps me every Friday.", "It is good to have help with the heavy boxes."),
            ("I'm allergic to penicillin, so I was careful when one stung me.", "Was it a bad sting?"),
            ("No. The honey market is on 6 September, I need 80 jars by then.", "Then the labels should be ordered."),
        ),
        ("Marta", "14", "Zagreb", "Ivo", "penicillin", "6 September", "80"),
    ),
    (
        (
            ("We are planning a trip to Lisbon in May, the four of us.", "Lisbon is lovely in May."),
            ("The budget is 2,400 euros, and my daughter Nele wants to see the aquarium.", "It is worth half a day."),
            ("We decided against a car and will take the train from Madrid.", "A good choice, parking is scarce."),
            ("The hotel is called Casa Azul, room 31.", "I will remember it as Casa Azul."),
        ),
        ("Lisbon", "May", "2,400", "Nele", "aquarium", "Madrid", "Casa Azul"),
    ),
    (
        (
            ("My thesis is about lichens, and my supervisor is Professor Okafor.", "Lichens are patient subjects."),
            ("The draft is due on 3 March, at 9 in the morning.", "Is the literature chapter done?"),
            ("Not yet. I read 45 papers, but I write best at night, with tea.", "Then an evening plan fits you."),
            ("I moved to Tromso in January because of the field sites.", "The light there changes a lot."),
        ),
        ("lichens", "Okafor", "3 March", "45", "tea", "Tromso"),
    ),
    (
        (
            ("I run a small bakery with my wife Lena, we open at 5.", "Early hours, but fresh bread."),
            ("The oven broke on Monday, the repair costs 1,150 pounds.", "Can you get a second offer?"),
            ("I did, the other firm is called Harkin and wants 900.", "That is a clear difference."),
            ("Then we take Harkin. By the way, I don't eat walnuts.", "I will leave walnuts out of recipes."),
        ),
        ("bakery", "Lena", "1,150", "Harkin", "900", "walnuts"),
    ),
)


@dataclass(frozen=True, slots=True)
class Capability:
    """What a model's summaries were worth.

    Attributes:
        summaries: Asked for.
        sound: That could be used.
        facts: In the conversations.
        kept: In the sound summaries.
    """

    summaries: int
    sound: int
    facts: int
    kept: int

    @property
    def passed(self) -> bool:
        """Whether it may write notes."""
        return self.sound >= MIN_SOUND * self.summaries and self.kept >= MIN_KEPT * self.facts

    def as_json(self) -> str:
        """To be stored."""
        return json.dumps({"summaries": self.summaries, "sound": self.sound, "facts": self.facts, "kept": self.kept})


async def measure(engine: Engine) -> Capability:
    """Ask a model for summaries of the probes, while nobody else is answered.

    Raises:
        ChatlabError: The engine failed.
    """
    sound = kept = 0
    for said, facts in PROBES:
        turns = [
            Turn(str(i), "", USER_ID, None, user, UNKNOWN_TIME, assistant_message=assistant, status="done")
            for i, (user, assistant) in enumerate(said)
        ]
        summary = await summarize(engine, turns, TOKENS, USER_ID)
        if summary.flaw is None:
            sound += 1
            kept += sum(fact.lower() in summary.text.lower() for fact in facts)
    return Capability(len(PROBES), sound, sum(len(facts) for _, facts in PROBES), kept)
