"""Whether an answer leaves its question open. English wordings: an answer in another language says something."""

from __future__ import annotations

import re

RULE = (
    "an answer leaves its question open if it has no word, or if its first sentence, taken as a whole or up to where "
    "it goes on, states in English that this is not known, not mentioned or cannot be told"
)
"""The rule in words, for a report."""

_NOT = r"(?:\s+not|\s+never|n't)"
_HOW = r"(?:\s+(?:been|be|explicitly|specifically|directly|clearly|actually|really|ever|yet))*"
_PLACE = (
    r"(?:\s+(?:about\s+(?:it|this|that)|anywhere|here|there|at\s+all|(?:by|in|from|to|for|with|on)\s+(?:me|us|"
    r"(?:(?:the|these|this|those|my|our|your|any|what)\s+)?(?:\w+\s+){0,2}"
    r"(?:memor(?:y|ies)|conversations?|context|information|text|records?|notes?|chat|dialogues?|messages?|remembered))))"
)
_END = rf"{_PLACE}?\s*(?:[.!?;:)\"'\]]|$)"
_ASKED = r"(?:\s+(?:who|whom|whose|what|which|when|where|why|how|whether|if)\b)"
_STOP = rf"(?:{_END}|{_PLACE}?{_ASKED})"
_COMMA = rf"(?:{_STOP}|{_PLACE}?\s*,)"
_SUBJECT = r"[^,.;:!?]{1,80}?"
_IMPERSONAL = r"(?:it|this|that|the\s+(?:answer|question|name|date|place|reason|number)|which)"
_SOURCE = (
    r"(?:(?:the|these|this|those|my|our|your|any)\s+)?(?:\w+\s+)?"
    r"(?:memor(?:y|ies)|conversations?|context|information|text|records?|notes?|chat|dialogues?|messages?)"
)
_STATED = r"(?:mentioned|stated|specified|discussed|recorded|indicated|known|remembered)"
_GIVEN = rf"(?:{_STATED}|clear|certain|available|possible|told|said|given|provided|described|revealed|disclosed)"
_FOUND = r"(?:determined|answered|known|told|said|inferred|established|derived|deduced|identified|found)"
_BE = r"(?:is|are|was|were|has|have|had)"
_DO = r"(?:do|does|did)"
_NEGLIGIBLE = r"(?:(?:such|specific|clear|relevant|direct|further|particular|explicit|more)\s+)?"

_OPEN = re.compile(
    # I do not know; I can't tell; I'm not sure; I have no idea
    rf"(?:i|we)(?:\s+(?:really|just|honestly|simply))?\s*(?:{_DO}{_NOT}|can(?:not|\s+not|'t)|could{_NOT})\s+"
    r"(?:know|tell|say|answer|remember|recall|determine|find|have\s+(?:any|that|this|enough|the))\b"
    rf"|(?:i\s+am|i'm|we\s+are|we're)\s+(?:not\s+(?:sure|certain|aware)|unsure|unable\s+to)\b"
    rf"|don't\s+know{_COMMA}|cannot\s+(?:tell|say|answer|know|determine){_COMMA}"
    # The memories do not say; Ana does not mention which
    rf"|{_SOURCE}\s*{_DO}{_NOT}{_HOW}\s+(?:say|tell|mention|specify|state|contain|provide|include|indicate|give|show)\b"
    rf"|{_SUBJECT}\s*\b{_DO}{_NOT}{_HOW}\s+(?:mention|specify|state|say)(?:\s+(?:it|this|that))?{_STOP}"
    # It is not mentioned, but …; her age is not known; it isn't clear which
    rf"|(?!nothing\b){_SUBJECT}\s*\b{_BE}{_NOT}{_HOW}\s+(?:mentioned|stated|specified){_COMMA}"
    rf"|(?!nothing\b){_SUBJECT}\s*\b{_BE}{_NOT}{_HOW}\s+{_STATED}{_STOP}"
    rf"|{_IMPERSONAL}(?:'s\s+not|\s*{_BE}{_NOT}){_HOW}\s+{_GIVEN}{_COMMA}"
    rf"|{_IMPERSONAL}(?:'s|\s+{_BE})\s+(?:unknown|unclear|unspecified){_COMMA}"
    rf"|{_SUBJECT}\s+{_BE}\s+(?:unknown|unspecified|undisclosed){_STOP}"
    # It cannot be determined
    rf"|{_IMPERSONAL}\s+(?:can(?:not|\s+not|'t)|could{_NOT})\s+be\s+{_FOUND}{_COMMA}"
    rf"|{_SUBJECT}\s+(?:can(?:not|\s+not|'t)|could{_NOT})\s+be\s+(?:determined|answered|inferred|known){_COMMA}"
    # Not mentioned; nothing is said about it; unknown
    rf"|(?:not|never|nowhere){_HOW}\s+(?:mentioned|stated|specified){_COMMA}"
    rf"|(?:not|never|nowhere){_HOW}\s+(?:{_GIVEN}|sure){_STOP}"
    rf"|nothing\s+(?:(?:is|was|has\s+been)\s+)?(?:{_STATED}|said|told)(?:\s+about\b|{_STOP})"
    rf"|(?:unknown|unanswerable|unspecified|undisclosed|unsure|unclear|undetermined|n/?a){_COMMA}"
    # There is no information about it; no idea
    rf"|(?:there\s+(?:is|was|are|were)|there's|i\s+(?:have|find|see)|we\s+have|i've)\s+no\s+{_NEGLIGIBLE}"
    r"(?:information|mention|answer|records?|memory|memories|idea|details?|knowledge)\b"
    rf"|no\s+{_NEGLIGIBLE}(?:information|mention|answer|records?|memory|memories|idea|details?)"
    rf"(?:{_COMMA}|\s+(?:about|of|on|regarding|that|is|was|available|provided|given|found)\b)",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:i\s+am\s+|i'm\s+)?sorry|unfortunately|hmm|well|(?:based\s+on|according\s+to|from|in|given)\s+[^,.;:!?]+)\s*,"
    r"\s*(?:but\s+)?",
    re.IGNORECASE,
)


def abstains(answer: str) -> bool:
    """Whether an answer leaves its question open, by `RULE`."""
    if not re.search(r"\w", answer):
        return True
    plain = " ".join(answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()).lstrip("\"'([*-\N{EM DASH} ")
    lead = _LEAD.match(plain)
    return any(_OPEN.match(told) is not None for told in (plain, plain[lead.end() :] if lead else plain))
