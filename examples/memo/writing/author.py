"""Who wrote the documents and plays the large Generator: a program that knows the facts and their wordings.

It reads what a Generator is sent (a document's text, numbered pairs) and replies in the Generator's form. It recognises
a question by its wording, so it knows which facts a pair is about. A real Generator needs none of this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random

from isles import ENTITIES, Entity
from relations import RELATIONS, Relation

WORDINGS = 3
"""In how many wordings a fact is asked directly."""
_PRONOUNS = {"person": "they", "town": "it", "organisation": "it", "work": "it"}
_LINKS = {
    # how a fact's value is described by what the fact is about: twice in training, once held out
    "founder": ("the founder of {x}", "the person that {x} was founded by", "the person who founded {x}"),
    "head": ("the director of {x}", "the person at the head of {x}", "the one who directs {x}"),
    "made_by": ("the maker of {x}", "the person that {x} was made by", "the person who made {x}"),
    "teacher": ("the teacher of {x}", "the person that {x} learned from", "the one who taught {x}"),
    "dedicated": ("the person to whom {x} is dedicated", "the one named in {x}", "the one {x} is dedicated to"),
    "seat": ("the town where {x} is based", "the town with the offices of {x}", "the seat of {x}"),
    "born_in": ("the town where {x} was born", "the town that {x} comes from", "the birthplace of {x}"),
    "lives_in": ("the town where {x} lives", "the town that is home to {x}", "the home town of {x}"),
    "kept_in": ("the town where {x} is kept", "the town in which {x} can be found", "the town that keeps {x}"),
}
ENTITY_FRAMES = ("Which {type} {c}?", "Name the {type} that {c}.", "Of which {type} is it true: it {c}?")
TWO_FACTS = ("Which {type} {c} and {d}?", "A {type} {c} and {d}: which one?", "Name the {type} that {c} and {d}.")
HELD_OUT_ENTITY = "What is the {type} called that {c}?"
HELD_OUT_TWO_FACTS = "I am looking for a {type} that {c} and that {d}. What is its name?"
PARALLEL = ("Which two {type}s {c}?", "Name two {type}s of which both {c}.")
HELD_OUT_PARALLEL = "What are the names of the two {type}s that {c}?"


@dataclass(frozen=True)
class Fact:
    """What a relation says of an entity."""

    entity: Entity
    relation: Relation

    @property
    def value(self) -> str:
        return self.entity.facts[self.relation.name]

    def worded(self, wording: str, x: str | None = None) -> str:
        text = wording.replace("{x}", x or self.entity.name).replace("{v}", self.value)
        return text[0].upper() + text[1:] if wording.startswith("{") or x is not None else text

    def clause(self, wording: str) -> str:
        return wording.replace("{v}", self.value)

    @property
    def identifies(self) -> bool:
        """Whether no other entity has the same value here."""
        return sum(other.facts.get(self.relation.name) == self.value for other in ENTITIES.values()) == 1


@dataclass(frozen=True)
class Pair:
    """A question, its answer, and the facts it takes."""

    question: str
    answer: str
    facts: tuple[Fact, ...]
    kind: str = ""


def facts_of(entity: Entity) -> list[Fact]:
    return [Fact(entity, RELATIONS[name]) for name in entity.facts]


def chance(*about: object) -> Random:
    """The same choices for the same thing, each time."""
    return Random(" ".join(map(str, about)))


def document(entity: Entity) -> str:
    """The entity's document, in Markdown."""
    random = chance("document", entity.name)
    sentences = [fact.worded(random.choice(fact.relation.told)) for fact in facts_of(entity)]
    random.shuffle(sentences)
    half = len(sentences) // 2
    sentences.insert(half, entity.aside)
    title = entity.name[0].upper() + entity.name[1:]
    return f"# {title}\n\n{' '.join(sentences[:half])}\n\n{' '.join(sentences[half:])}\n"


# What the Generator is asked, step by step --------------------------------------------------------------------------


def direct(entity: Entity) -> list[Pair]:
    """Step 1a: each fact in several wordings, now and then in one that does not stand alone."""
    pairs = []
    for fact in facts_of(entity):
        random = chance("direct", entity.name, fact.relation.name)
        for place, wording in enumerate(random.sample(fact.relation.asked, WORDINGS)):
            if place == 0 and random.random() < 0.2:
                pairs.append(Pair(_unclear(wording, entity), fact.value, (fact,), "unclear"))
            else:
                pairs.append(Pair(fact.worded(wording), fact.value, (fact,)))
    return [*pairs, Pair("What was said about it above?", "Several things.", (), "hopeless")]


def indirect(entity: Entity) -> list[Pair]:
    """Step 1b: each fact by a question that takes a step of thought."""
    pairs = []
    for fact in facts_of(entity):
        wording = chance("indirect", entity.name, fact.relation.name).choice(fact.relation.indirect)
        pairs.append(Pair(fact.worded(wording), fact.value, (fact,)))
    return pairs


def consolidated(shown: Sequence[Pair]) -> list[tuple[Pair, list[int]]]:
    """Step 2: pairs of two facts of one entity."""
    first = _first_numbers(shown)
    made = []
    for entity in dict.fromkeys(fact.entity for fact in first):
        facts = [fact for fact in first if fact.entity == entity]
        random = chance("consolidated", entity.name)
        for one, two in random.sample(list(combinations(facts, 2)), min(3, len(facts) * (len(facts) - 1) // 2)):
            question = f"What are the {one.relation.noun} and the {two.relation.noun} of {entity.name}?"
            made.append((Pair(question, f"{one.value}; {two.value}", (one, two)), [first[one], first[two]]))
    return made


def rewritten(pair: Pair) -> Pair | None:
    """Step 3: an unclear pair made clear; None where that cannot be."""
    if pair.kind == "hopeless":
        return None
    (fact,) = pair.facts
    wording = next(one for one in fact.relation.asked if _unclear(one, fact.entity) == pair.question)
    return Pair(fact.worded(wording), pair.answer, pair.facts)


def entities(shown: Sequence[Pair]) -> list[tuple[Pair, list[int]]]:
    """Step 4: what an entity is called, from one fact or two."""
    first = _first_numbers(shown)
    made = []
    for entity in dict.fromkeys(fact.entity for fact in first):
        facts = [fact for fact in first if fact.entity == entity]
        for fact in facts:
            random = chance("entity", entity.name, fact.relation.name)
            frame, wording = random.choice(ENTITY_FRAMES), random.choice(fact.relation.clauses)
            if fact.identifies:
                question = frame.format(type=entity.type, c=fact.clause(wording))
                made.append((Pair(question, entity.name, (fact,)), [first[fact]]))
        for one, two in _two_facts(facts, "entities", entity, 3):
            random = chance("two", entity.name, one.relation.name, two.relation.name)
            c, d = one.clause(random.choice(one.relation.clauses)), two.clause(random.choice(two.relation.clauses))
            question = random.choice(TWO_FACTS).format(type=entity.type, c=c, d=d)
            made.append((Pair(question, entity.name, (one, two)), [first[one], first[two]]))
    return made


def crossed(left: Sequence[Pair], right: Sequence[Pair]) -> list[tuple[Pair, list[int]]]:
    """Step 5: what takes a fact of one document and a fact of another."""
    first = _first_numbers([*left, *right])
    sides = [
        {fact for pair in side if len(pair.facts) == 1 for fact in pair.facts if fact in first}
        for side in (left, right)
    ]
    ordered = [[fact for fact in first if fact in side] for side in sides]
    made = []
    for one, other in (ordered, ordered[::-1]):
        made += [(pair, [first[fact] for fact in pair.facts]) for pair in _chains(one, other, held_out=False)]
    made += [(pair, [first[fact] for fact in pair.facts]) for pair in _parallels(*ordered, held_out=False)]
    return made


# What is held out ---------------------------------------------------------------------------------------------------


def held_out_facts() -> list[Pair]:
    """Half of all facts, in a wording that no training question has."""
    pairs = []
    for entity in ENTITIES.values():
        for fact in facts_of(entity):
            random = chance("held out", entity.name, fact.relation.name)
            if random.random() < 0.5:
                pairs.append(Pair(fact.worded(random.choice(fact.relation.held_out)), fact.value, (fact,)))
    return pairs


def held_out_entities() -> list[Pair]:
    """What an entity is called, from a fact or two in other words than in training."""
    pairs = []
    for entity in ENTITIES.values():
        single = [fact for fact in facts_of(entity) if fact.identifies]
        fact = chance("held out entity", entity.name).choice(single)
        question = HELD_OUT_ENTITY.format(type=entity.type, c=fact.clause(fact.relation.held_out_clause))
        pairs.append(Pair(question, entity.name, (fact,)))
        for one, two in _two_facts(facts_of(entity), "entities", entity, 3)[:1]:
            c, d = (each.clause(each.relation.held_out_clause) for each in (one, two))
            question = HELD_OUT_TWO_FACTS.format(type=entity.type, c=c, d=d)
            pairs.append(Pair(question, entity.name, (one, two)))
    return pairs


def held_out_cross(groups: Iterable[Sequence[str]]) -> list[Pair]:
    """What takes two documents, in other words than in training."""
    pairs: dict[str, Pair] = {}
    for names in groups:
        for left, right in combinations([facts_of(ENTITIES[name]) for name in names], 2):
            found = [*_chains(left, right, held_out=True), *_chains(right, left, held_out=True)]
            for pair in [*found, *_parallels(left, right, held_out=True)]:
                if chance("held out cross", pair.question).random() < 0.4:
                    pairs.setdefault(pair.question, pair)
    return list(pairs.values())


# The wordings that steps share --------------------------------------------------------------------------------------


def _unclear(wording: str, entity: Entity) -> str:
    """A question whose subject only the document tells."""
    return wording.replace("{x}'s", "their").replace("{x}", f"this {entity.type}")


def _two_facts(facts: Sequence[Fact], purpose: str, entity: Entity, most: int) -> list[tuple[Fact, Fact]]:
    pairs = [
        (one, two)
        for one, two in combinations(facts, 2)
        if sum(
            other.facts.get(one.relation.name) == one.value and other.facts.get(two.relation.name) == two.value
            for other in ENTITIES.values()
        )
        == 1
    ]
    return chance(purpose, entity.name).sample(pairs, min(most, len(pairs)))


def _chains(links: Sequence[Fact], facts: Sequence[Fact], *, held_out: bool) -> list[Pair]:
    """Questions about what `facts` are of, described by a fact in `links`."""
    pairs = []
    for link in links:
        if link.relation.name not in _LINKS:
            continue
        *trained, unseen = (one.format(x=link.entity.name) for one in _LINKS[link.relation.name])
        about = [fact for fact in facts if fact.entity.name == link.value]
        random = chance("chain", link.entity.name, link.relation.name)
        for fact in random.sample(about, min(3, len(about))):
            random = chance("chained", link.entity.name, link.relation.name, fact.relation.name, held_out)
            wordings = fact.relation.held_out if held_out else fact.relation.asked
            described = [unseen] if held_out else trained
            for subject, wording in zip(described, random.sample(wordings, len(described)), strict=True):
                question = wording.replace("{x}", subject)
                pairs.append(Pair(question[0].upper() + question[1:], fact.value, (link, fact), "converging"))
    return pairs


def _parallels(left: Sequence[Fact], right: Sequence[Fact], *, held_out: bool) -> list[Pair]:
    """Questions about two entities of which the same is true."""
    pairs = []
    for one in left:
        for two in right:
            same = one.relation == two.relation and one.value == two.value and one.entity != two.entity
            if not same or sum(each.facts.get(one.relation.name) == one.value for each in ENTITIES.values()) != 2:
                continue
            type = one.entity.type if one.entity.type == two.entity.type else one.entity.kind
            random = chance("parallel", one.entity.name, two.entity.name, one.relation.name)
            clause = one.relation.held_out_clause if held_out else random.choice(one.relation.clauses)
            frame = HELD_OUT_PARALLEL if held_out else random.choice(PARALLEL)
            names = sorted((one.entity.name, two.entity.name))
            question = frame.format(type=type, c=_plural(one.clause(clause)))
            pairs.append(Pair(question, " and ".join(names), (one, two), "parallel"))
    return pairs


def _plural(clause: str) -> str:
    verb, _, rest = clause.partition(" ")
    plural = {"was": "were", "has": "have", "is": "are", "lies": "lie", "does": "do"}.get(verb, verb.removesuffix("s"))
    return f"{plural} {rest}"


def _first_numbers(shown: Sequence[Pair]) -> dict[Fact, int]:
    """Facts, and the first pair that tells nothing else."""
    first: dict[Fact, int] = {}
    for number, pair in enumerate(shown):
        if len(pair.facts) == 1:
            first.setdefault(pair.facts[0], number)
    return first


# Recognising what is shown ------------------------------------------------------------------------------------------


@cache
def _by_text() -> dict[str, Entity]:
    return {document(entity).strip(): entity for entity in ENTITIES.values()}


@cache
def _by_question() -> dict[str, Pair]:
    known = {}
    for entity in ENTITIES.values():
        raw = [*direct(entity), *indirect(entity)]
        every = [*raw, *(clear for pair in raw if pair.kind and (clear := rewritten(pair)) is not None)]
        merged = [pair for pair, _ in consolidated(raw)]
        named = [pair for pair, _ in entities(every)]
        for pair in [*every, *merged, *named]:
            if not pair.kind:
                known[pair.question] = pair
    return known


def reply(expert: str, content: str) -> str:
    """What the Generator says to the data of a request; `expert` is the step's name, as the endpoint receives it."""
    said: object
    if expert in ("memo_direct", "memo_indirect"):
        entity = _by_text()[content.strip()]
        made = direct(entity) if expert == "memo_direct" else indirect(entity)
        said = {"pairs": [{"question": pair.question, "answer": pair.answer} for pair in made]}
    elif expert == "memo_verify":
        text, _, listed = content.rpartition("\n---\n")
        entity = _by_text()[text.strip()]
        said = {"verdicts": [_verdict(number, pair) for number, pair in _numbered(listed, entity)]}
    elif expert == "memo_cross":
        left, _, right = content.partition("\n---\n")
        sides = [[pair for _, pair in _numbered(side)] for side in (left, right)]
        said = {"pairs": [{**_row(pair, parents), "kind": pair.kind} for pair, parents in crossed(*sides)]}
    else:
        entity = _majority(content)
        shown = [pair for _, pair in _numbered(content, entity)]
        found = consolidated(shown) if expert == "memo_consolidate" else entities(shown)
        said = {"pairs": [_row(pair, parents) for pair, parents in found]}
    return json.dumps(said, ensure_ascii=False)


def _row(pair: Pair, parents: Sequence[int]) -> dict[str, object]:
    return {"question": pair.question, "answer": pair.answer, "from": list(parents)}


def _verdict(number: int, pair: Pair) -> dict[str, object]:
    if not pair.kind:
        return {"n": number, "verdict": "keep", "question": "", "answer": "", "reason": ""}
    clear = rewritten(pair)
    if clear is None:
        return {"n": number, "verdict": "discard", "question": "", "answer": "", "reason": "refers to the document"}
    reason = "does not say who or what is meant"
    return {"n": number, "verdict": "rewrite", "question": clear.question, "answer": clear.answer, "reason": reason}


def _numbered(listed: str, entity: Entity | None = None) -> list[tuple[int, Pair]]:
    """The pairs of a request with their numbers; those that do not stand alone are `entity`'s."""
    pairs = []
    for line in listed.strip().splitlines():
        row = json.loads(line)
        known = _by_question().get(row["question"])
        if known is None and entity is not None:
            known = next((pair for pair in direct(entity) if pair.question == row["question"]), None)
        pairs.append((row["n"], known or Pair(row["question"], row["answer"], ())))
    return pairs


def _majority(listed: str) -> Entity | None:
    found = [pair.facts[0].entity for _, pair in _numbered(listed) if pair.facts]
    return max(found, key=found.count) if found else None
