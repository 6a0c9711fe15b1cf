"""How much a clause looks like something to remember, against small talk: what lasts, is one's own or has a value.

Words and phrases of everyday English by the kind of thing that they tell, properties of the language and not of a
topic. Of another language, numbers, names and the marks around it remain.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from chatlab.messages import Role

# Log odds of each kind: a logistic regression over data/notes_dev.jsonl, sentences of our own and Multi-Session Chat
# (a clause counts if a line of the speakers' personas has its words), rounded.
BIAS = -3.0
WEIGHTS: Mapping[str, float] = {
    # What somebody is, has, likes, does.
    "first": 0.5,
    "lasting": 0.4,
    "own_matter": 0.6,
    "identity": 0.3,
    "called": 0.3,
    "health": 1.6,
    "taste": 1.3,
    "prefer": 0.4,
    "request": 0.8,
    "work": 1.1,
    "skill": 0.5,
    "reside": 1.2,
    "since": 0.9,
    "plan": 0.4,
    "intent": 0.2,
    "change": 0.7,
    "current": 0.6,
    # That something is so, and with which value.
    "attribute": 1.0,
    "whereabouts": 0.9,
    "credential": 0.8,
    "value": 0.7,
    "names": 0.6,
    "digits": 0.5,
    "coded": 0.4,
    "not_own_value": 0.4,
    "user_figure": 1.1,
    "time": -1.0,  # a day alone dates small talk as well; with it come `value` and `user_figure`
    # Small talk, and what cannot stand alone.
    "past": -0.2,
    "weather": -0.3,
    "fleeting": -0.3,
    "like": -0.4,
    "mood": -0.4,
    "vague": -0.4,
    "hedge": -0.6,
    "expletive": -0.1,
    "dependent": -0.4,
    "pronoun": -0.5,
    "short": -0.5,
    "impersonal": -0.6,
    "second": -0.9,
    "asking": -0.8,
    # What stands around it.
    "asked": -1.0,
    "marked": 2.6,
    "acknowledged": 0.6,
    # What an assistant says: of the world, out of politeness, or about the user's matter.
    "assistant": -0.7,
    "assistant_impersonal": -1.3,
    "assistant_service": -1.1,
    "assistant_advice": 1.6,
    "answers_own": 0.4,
    "answers_own_figure": 0.9,
    "your_value": 1.3,
}

# Kind of word -> the words.
VOCABULARY: Mapping[str, str] = {
    "first": "i i'm i've i'd i'll im ive my mine me myself we we're we've we'd we'll our ours us",
    "second": "you your yours you're you've you'll you'd",
    "kin": """wife husband partner spouse fiance fiancee girlfriend boyfriend ex mother mom mum mommy father dad
        parents parent
        son daughter sons daughters child kid kids children baby twins sister brother sisters brothers sibling
        siblings
        cousin cousins aunt uncle niece nephew nieces nephews grandma grandpa grandmother grandfather grandparents
        grandson
        granddaughter grandchildren grandkids godson goddaughter godmother godfather stepmother stepfather stepson
        stepdaughter half-sister half-brother mother-in-law father-in-law brother-in-law sister-in-law in-laws fiancé
        fiancée aunt great-aunt great-uncle step foster roommate flatmate housemate bestie family""",
    "role": """boss manager supervisor landlord landlady doctor dentist therapist vet lawyer accountant teacher
        tutor coach
        mentor advisor adviser apprentice trainee assistant intern colleague coworker teammate client nurse plumber
        electrician mechanic nanny babysitter neighbor neighbour tenant professor optician physio physiotherapist
        pediatrician surgeon contractor realtor agent hairdresser barber schoolfriend friend secretary principal""",
    "pet": """dog cat puppy kitten parrot tortoise turtle hamster rabbit horse pony donkey goldfish pets pet bunny
        retriever terrier poodle labrador budgie canary ferret lizard snake guinea""",
    "health": """allergic allergy allergies intolerant intolerance diabetic diabetes asthma asthmatic celiac
        coeliac diagnosed
        diagnosis medication medicine medicines tablets tablet pills pill dose dosage mg milligrams insulin rash
        surgery
        operation pregnant disabled disability wheelchair deaf blind hearing sighted vision vegetarian vegan
        pescatarian
        halal kosher gluten lactose migraine migraines arthritis epilepsy adhd autism autistic dyslexic dyslexia
        depression anxiety cancer injured injury injuries aching aches ache hurts pain x-ray prescription prescribed
        epipen inhaler chronic condition symptoms blood anemia anaemia colour-blind color-blind colorblind sober
        clinic therapy treatment doctors sprained broken fractured swollen""",
    "prefer": """prefer prefers preferred favorite favourite favorites favourites love loves hate hates dislike dislikes
        loathe detest adore fond enjoy enjoys rather likes fan passionate""",
    "habit": """always usually every weekly daily monthly yearly mostly never only regularly often twice mainly most
        mondays tuesdays wednesdays thursdays fridays saturdays sundays weekends evenings mornings""",
    "work": """work works working worked job jobs employed employer employee boss shift shifts wages salary
        paycheck living
        contract company firm office career profession hired promoted promotion apprentice trainee charge team client
        clients project projects retired retire freelance freelancer self-employed internship degree major majoring
        studying study student university college school graduate graduated graduating phd thesis exam exams engineer
        nurse teacher lawyer developer designer manager analyst chef accountant business employees colleague
        colleagues
        trade notice occupation shop store restaurant""",
    "plan": """plan plans planning planned going want wants hope hopes intend intends decided deciding booked book
        scheduled schedule appointment reserved reservation deadline due promised arranged signed enrolled registered
        saving moving visiting travelling traveling flying expecting expect begins starts start starting leave leaves
        holiday holidays vacation trip wedding marrying married birthday anniversary honeymoon engaged party
        launch interview flight conference ceremony""",
    "skill": "learn learning learned play plays speak speaks fluent teach teaches train training run runs",
    "reside": """live lives lived living moved moving born raised grew hometown stay stays settled relocated based
        address located situated staying""",
    "called": "called named name names nickname call calls known",
    "credential": """code password passcode pin number id username login reference serial account plate extension key
        keys wifi phone mobile email locker combination size model version booking ticket confirmation zip
        postcode license licence passport iban badge door gate platform chapter page room seat row floor flat""",
    "time": """monday tuesday wednesday thursday friday saturday sunday january february march april june july august
        september october november december noon midnight o'clock am pm half quarter jan feb mar apr jun jul aug
        sept sep oct nov dec spring summer autumn winter christmas easter""",
    "change": """now switched switch changed change instead longer anymore moved sold replaced replace new turns
        rather
        actually gave quit dropped scrap cancelled canceled postponed pushed shifted swapped traded updated correction
        former formerly nowadays currently became begun started stopped""",
    "past": """was were went came saw said told made took found lost left ran sat stood ate drank slept woke fell
        broke
        heard felt thought forgot caught threw wore sang spent stayed tried looked walked watched talked laughed
        cried played cooked burnt burned dropped spilled smelled knocked bumped wanted asked happened kept did spelled
        argued nearly bought brought rained sent stopped ended barked got stuck waved binged""",
    "weather": """rain rains raining rained rainy snow snowing snowed sun sunny sunshine wind windy fog foggy storm
        cloud clouds cloudy sleet hail drizzle thunder lightning gale humid freezing chilly weather sky sunset breeze
        frost icy mild""",
    "mood": """feel feels feeling felt tired bored sleepy exhausted happy sad lovely gorgeous funny hilarious joke
        jokes
        laugh laughed nice weird strange odd silly fun luck lucky lazy grumpy cozy cosy amazing awesome awful
        wonderful beautiful pretty perfect perfectly wish glad delightful annoying ridiculous crazy smell smells
        nostalgic pleasant peaceful quiet loud chilling meh ugh lol haha hahaha yay yikes wow cute""",
    "fleeting": """today yesterday tonight earlier again already just lately moment minute hour suddenly finally
        almost nearly still later someday soon""",
    "hedge": "maybe perhaps probably guess suppose somehow seems seem kinda sorta apparently think wonder might",
    "vague": """somebody someone something anybody anyone everyone everybody everything nobody nothing thing things
        stuff
        guy guys people whatever anything kind sort""",
}
# Kind of phrase -> what it looks like in lower case.
PHRASES: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "identity": r"\b(?:i am|i'm|im|i was|he is|she is|he's|she's|we are|we're) (?:(?:also|still|now|"
        r"currently) )?(?:an?|the|from|in|on|with|into|at)\b"
        r"|\bas an? \w+|\bbeing an?\b|\bmy \w+(?: \w+)? is (?:an?|in|at|from)\b",
        "attribute": r"\b(?:my|our) (?:[\w'’-]+ ){1,4}?(?:is|are|has|have|starts?|begins?|lives?|works?|runs?|"
        r"comes? to|costs?|ends?|expires?)\b"
        r"|\bthe (?:[\w'’-]+ ){1,6}?(?:is|are|will be|starts|begins|comes to|opens|meets|leaves|runs|costs|"
        r"expires|ends)\b",
        "current": r"\b(?:these days|from now on|as from|as of|no longer|any ?more|by now|for now on|after all|"
        r"turns out|"
        r"used to|instead of|in its place|until further notice|not [\w .:-]{1,30} but|taken over|gone (?:up|down|"
        r"off)|given up|"
        r"change of plans?)\b",
        "intent": r"\b(?:going to|plan(?:ning)? to|want(?:s|ed)? to|would like to|i'?d like|hop(?:e|ing) to|"
        r"hav(?:e|ing) to|has to|need to|"
        r"thinking (?:of|about)|looking for|looking to|made up (?:my|our)|next (?:week|month|year|summer|spring|"
        r"fall|autumn|winter|term|\w+day)|"
        r"by (?:next|the end|\w+day)|before (?:next|the|\w+day)|this (?:summer|fall|autumn|winter|spring)|"
        r"for the holidays?|will be|signed up|working on)\b",
        "taste": r"\b(?:(?:not|never) (?:a fan|keen|my thing|much of)|keen on|partial to|soft spot|sucker for|"
        r"obsessed with|sick of|"
        r"my thing|my go-to|no [\w-]+ for me|for me\b|any day|prefer\w*|can'?t (?:do|live) without|can'?t bear|"
        r"couldn'?t bear|"
        r"(?:works?|is|are|suits?) (?:best|better)|suits? me|drives? me|makes? me|gives? me|tend to|could eat|"
        r"would never|can'?t stand|can'?t eat|can'?t have|don'?t (?:eat|drink|like|do|have|use)|do not (?:eat|"
        r"drink|like)|would rather|i'?d rather|big fan|(?:i'm|i am|really) into|leave out|without any|swear by|avoid|"
        r"nothing beats|never (?:eat|drink|had|been)|could live on|i (?:really |do |only |mostly |usually |also |"
        r"absolutely )?(?:like|love|drink|eat|read|watch|use|wear|listen))\b",
        "whereabouts": r"\b(?:is|are|it'?s|live|lives|keep|kept|put|hidden|hid|stored?|moved|"
        r"park) (?:[\w'’-]+ ){0,6}?(?:in|under|behind|inside|on|at|near|above|next to|opposite|beside|between) \w+",
        "request": r"^(?:keep|call|use|answer|reply|write|speak|skip|avoid|stop|spare|stick|go easy|"
        r"leave)\b.*\b(?:me|it|things|answers|your|any|the|to|in)\b"
        r"|\b(?:please|always|don'?t|do not|never) (?:use|write|call|answer|keep|leave|explain|give|"
        r"speak|avoid|include|make|reply|be|stick|address)\b|\b(?:with|for) me\b",
        "since": r"\b(?:ever since|since (?:i|my|we|last|\d+)|for (?:\w+ )?(?:years|ages|months|decades)|"
        r"years? (?:ago|old)|ages)\b",
        "like": r"\b(?:like an?|as if|as though|like it|like they|of all things|of course|you know how|for once|"
        r"one of those|not gonna lie|can'?t believe|no idea)\b",
        "expletive": r"^(?:it|there|that|this)(?:'s| is| was| are| were| has| had| really| smells| feels| looks|"
        r" sounds)\b",
        "service": r"\b(?:i can (?:help|imagine|see|remind|also|draft|do|look)|i (?:will|would be|am|'m) (?:happy|"
        r"glad|sorry|here|remember|bear|take|keep|not)|i'll|i hope|i see|i understand|i appreciate|"
        r"let me know|tell me|would you|do you|thank|thanks|noted|got it|you(?:'re| are) welcome|sounds (?:like|"
        r"good|as|great)|it sounds|that sounds|you(?:'ll| will) (?:do|be) (?:fine|great))\b",
        "advice": r"\b(?:i(?:'d| would) (?:\w+ )?(?:go|say|try|start|use|aim|get|plan|budget|bring|order|book|"
        r"keep|wait|stick|lean|opt|make)|"
        r"(?:comes?|works?|adds?|amounts?) (?:up |out )?(?:to|at)|that (?:makes|leaves|gives)|let's (?:say|call|"
        r"go|use|put)|my (?:tip|bet|vote)|i(?:'d| would| will|'ll)? (?:\w+ )?(?:recommend|suggest|set|choose|"
        r"go with|pick|propose|"
        r"advise|call|name|take|put)|my (?:suggestion|recommendation|advice|pick|choice|guess|proposal)|"
        r"you (?:will |'ll |should |can |would |could )?(?:need|leave|take|pay|owe|get|want)|"
        r"your [\w'-]+(?: [\w'-]+){0,4} (?:is|are|comes|starts|leaves|was|has|will|arrives)|(?:for|of|in|on) your|"
        r"how about)\b",
        "digits": r"(?<![\w.])[#€$£]?\d[\w.,:/%-]*",
        "coded": r"\b(?=[\w-]{0,20}\d)(?=[\w-]{0,20}[a-z])[a-z0-9][\w-]{2,30}\b|\b\w{4,30}\d\b|\S@\w|https?://",
        "clock": r"\b\d{1,2}:\d\d\b|\b\d{1,2} ?[ap]\.?m\b|\b(?:half|quarter) (?:past|to)\b|\bo'clock\b",
        "asking": r"^(?:can|could|would|will|do|does|did|is|are|was|were|what|when|where|who|why|how|which|have|"
        r"has|should|tell|explain|give|show|help|list|translate|summari[sz]e|describe|compare|suggest|let|try|"
        r"make)\b|[?？]$",
        "dependent": r"^(?:if|when|while|because|which|who|whose|so|although|since|and|but|or|not|then|than|as|"
        r"with|without|cannot|can't|of|to|that)\b",
        "pronoun": r"^(?:it|he|she|they|that|this|those|these|one)\b",
    }.items()
}

NAME = re.compile(r"(?<=[^.!?:\"“”'\s] )(?!I\b)[^\W\d_a-zß-öø-ÿ][\w’'-]+")
REGULAR_PAST = re.compile(r"\b[a-z]{3,12}ed\b")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
SHORT_WORDS = 5

KINDS: Mapping[str, tuple[str, ...]] = {
    word: tuple(kind for kind, words in VOCABULARY.items() if word in words.split())
    for word in {word for words in VOCABULARY.values() for word in words.split()}
}
FIGURES = frozenset({"digits", "coded", "clock", "time"})
FLEETING = frozenset({"past", "fleeting", "mood", "hedge", "weather", "vague", "like"})
ADDRESSED = frozenset({"first", "second", "identity", "request"})
OWN = re.compile(r"\b(?:my|our)\b")


@lru_cache(4096)
def log_odds(role: Role, text: str, context: frozenset[str]) -> float:
    """That a clause is worth remembering.

    Args:
        role: Who said it.
        text: The clause.
        context: What stands around it: `marked`, `acknowledged`, `asked`, `answers_own`.
    """
    found = kinds_of(text)
    if role == "user":
        kinds = {*found, *context} - {"advice", "service"}
        if kinds & FIGURES and "asked" not in kinds:
            kinds.add("user_figure")
    else:
        kinds = {f"assistant_{kind}" if kind in {"impersonal", "advice", "service"} else kind for kind in found}
        kinds |= {"assistant", *context} | found.keys() & {"impersonal"}
        if "answers_own" in kinds and kinds & FIGURES:
            kinds.add("answers_own_figure")
        if "second" in kinds and "value" in kinds:
            kinds.add("your_value")
    return BIAS + sum(WEIGHTS.get(kind, 0.0) * math.sqrt(min(2, found.get(kind, 1))) for kind in kinds)


def kinds_of(text: str) -> Counter[str]:
    """What a clause has of each kind, and how often."""
    lower = text.lower().replace("’", "'")
    words = WORD.findall(lower)
    found = Counter(kind for word in words for kind in KINDS.get(word, ()))
    found.update({kind: hits for kind, pattern in PHRASES.items() if (hits := len(pattern.findall(lower)))})
    found.update(
        {"names": len(NAME.findall(text)), "past": bool(REGULAR_PAST.search(lower)), "short": len(words) < SHORT_WORDS}
    )
    found = +found
    if found.keys() & (FIGURES | {"names"}):
        found["value"] = 1
        if not found["first"]:
            found["not_own_value"] = 1
    if OWN.search(lower) and found.keys() & {"kin", "role", "pet", "credential", "health"}:
        found["own_matter"] = 1
    if found["first"] and not found.keys() & FLEETING:
        found["lasting"] = 1
    if not found.keys() & ADDRESSED:
        found["impersonal"] = 1
    return +found
