"""Remembering conversations with a teacher as the model, and what is learned from each on the way."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EmbeddingError, InvalidInputError
from ..evaluation.harness.scratch import scratch_memory, together
from ..experts import generation
from ..serving.base import Expert, PromptStyle
from ..types import clean_text
from .calls import CallLog
from .cleaning import Dropped, Target, answer_of
from .dataset import ChatLine, Sample
from .recorded import RecordedModel
from .recording import Asked, Recorder

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..evaluation.conversations import Conversation, Question
    from ..memory import AsyncMemory
    from ..settings import Settings
    from ..types import AddResult

Progress = Callable[[int, int], None]
"""(messages and questions done, of how many)."""


class Lessons:
    """Remembers conversations with the teacher, and keeps what is to be learned from each.

    `facts` current at the end, messages left `undistilled`, and `failures` by stage and error are counted over all.
    """

    def __init__(
        self,
        teacher: RecordedModel | None,
        log: CallLog,
        embedder: Embedder,
        settings: Settings,
        *,
        experts: frozenset[Expert],
        style: PromptStyle,
        observed: bool,
        unanswerable: bool,
        progress: Bar,
    ) -> None:
        self.teacher = teacher
        self._log = log
        self._embedder = embedder
        self._settings = settings
        self._experts = experts
        self._style = style
        self._observed = observed
        self._unanswerable = unanswerable
        self._progress = progress
        self._lessons: dict[str, list[Asked]] = {}
        self._dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.facts = 0
        self.undistilled = 0
        self.failures: Counter[str] = Counter()

    async def conversations(self, talks: Sequence[Conversation], folder: Path, *, at_once: int) -> None:
        gate = asyncio.Semaphore(at_once)

        async def one(place: int, talk: Conversation) -> None:
            async with gate:
                await self._conversation(talk, folder / str(place))

        self._lessons = {talk.id: [] for talk in talks}
        await together(one(place, talk) for place, talk in enumerate(talks))

    async def _conversation(self, talk: Conversation, folder: Path) -> None:
        heard = self._progress.of(len(talk.messages))
        recorder = Recorder(
            self.teacher, style=self._style, update=bool(self._experts & {"update", "generation"}), on_extraction=heard
        )
        async with scratch_memory(recorder, folder, self._embedder, self._settings) as memory:
            if self._observed:
                await self._remember_observed(memory, recorder, talk)
            else:
                for scope, messages in talk.sessions(undated=self._log.began):
                    self._note(await memory.add(messages, scope=scope))
            counts = await memory.count(scope=talk.scope)
            self.facts += counts["facts"]
            self.undistilled += counts["pending"]
            self._progress.rest(heard)
            self._lessons[talk.id] += recorder.asked
            for expert, repeated in recorder.repeated.items():
                self._dropped[expert]["duplicate"] += repeated
            if "generation" in self._experts:
                for question in talk.questions:
                    self._lessons[talk.id].append(await self._question(memory, talk, question))
                    self._progress.step(1)

    async def _remember_observed(self, memory: AsyncMemory, recorder: Recorder, talk: Conversation) -> None:
        """Message by message, so that each extraction is known to be of that message."""
        places = {said.id: place for place, (_, said) in enumerate(talk.messages)}
        facts: defaultdict[str, list[str]] = defaultdict(list)
        for fact in talk.facts:
            sources = [id for id in fact.message_ids if id in places]
            if sources and (text := " ".join(clean_text(fact.text).split())):
                facts[max(sources, key=places.__getitem__)].append(text)  # not told in full before
            else:
                self._dropped["extraction"]["fact without a message"] += 1
        for scope, messages in talk.sessions(undated=self._log.began):
            for said in messages:
                long = len(said.text) > self._settings.exchange_chars
                recorder.tell(facts[said.id], dropped="piece of a long message" if long else None)
                self._note(await memory.add([said], scope=scope))

    async def _question(self, memory: AsyncMemory, talk: Conversation, question: Question) -> Asked:
        asked = Asked("generation", (), self._answer(question))
        if isinstance(asked.lesson, Dropped):
            return asked
        text = clean_text(question.text)
        try:
            hits = (await memory.answer(text, scope=talk.scope)).hits
        except (InvalidInputError, EmbeddingError) as error:
            self.failures[f"recall: {type(error).__name__}"] += 1
            asked.lesson = Dropped("recall failed")
            return asked
        if not hits:
            asked.lesson = Dropped("nothing recalled")
        asked.messages = generation.messages(text, hits, "short", now=talk.ended or self._log.began)
        return asked

    def _answer(self, question: Question) -> Target | Dropped:
        if question.answerable:
            return answer_of(question.answer or "")
        if self._unanswerable:
            return Target(generation.UNKNOWN)
        return Dropped("answer missing" if question.answer is None else "unanswerable")

    def _note(self, result: AddResult) -> None:
        """Count what failed; stop when the teacher cannot be asked any more."""
        for failure in result.errors:
            self.failures[f"{failure.stage}: {type(failure.error).__name__}"] += 1
        if self.teacher is not None:
            self.teacher.check()

    def samples(self, expert: Expert, empty_share: float, seed: int) -> list[Sample]:
        """The samples of one expert, conversation by conversation; what makes none is counted."""
        found: list[tuple[Sample, bool]] = []
        seen: set[str] = set()
        dropped = self._dropped[expert]
        for conversation, lessons in self._lessons.items():
            for asked in lessons:
                if asked.expert != expert:
                    continue
                if isinstance(asked.lesson, Dropped):
                    dropped[asked.lesson.reason] += 1
                    continue
                messages = tuple(ChatLine(**message) for message in asked.messages)
                digest = sha256("\x1f".join(line.content for line in messages).encode()).hexdigest()[:16]
                if digest in seen:
                    dropped["duplicate"] += 1
                    continue
                seen.add(digest)
                sample = Sample(
                    id=f"{conversation}/{digest}",
                    expert=expert,
                    conversation=conversation,
                    messages=messages,
                    reply=asked.lesson.reply,
                )
                found.append((sample, asked.lesson.empty))
        kept = _thinned([empty for _, empty in found], empty_share, seed)
        dropped["empty list"] += len(found) - len(kept)
        return [found[place][0] for place in kept]

    def dropped(self, expert: Expert) -> dict[str, int]:
        """How many were dropped, by reason, the commonest first; after `samples`."""
        return {reason: count for reason, count in self._dropped[expert].most_common() if count}


class Bar:
    """How far all conversations are. Messages count once they are asked about, or when their conversation is over."""

    def __init__(self, talks: Sequence[Conversation], progress: Progress | None, *, questions: bool) -> None:
        self._total = sum(len(talk.messages) + questions * len(talk.questions) for talk in talks)
        self._done = 0
        self._progress = progress
        self.step(0)

    def step(self, items: int) -> None:
        self._done += items
        if self._progress is not None:
            self._progress(self._done, self._total)

    def of(self, messages: int) -> _Heard:
        return _Heard(self, messages)

    def rest(self, heard: _Heard) -> None:
        self.step(heard.left)


class _Heard:
    """Called for each message of one conversation; several pieces of a long one may call it too often."""

    def __init__(self, bar: Bar, messages: int) -> None:
        self._bar = bar
        self.left = messages

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            self._bar.step(1)


def _thinned(empty: Sequence[bool], share: float, seed: int) -> list[int]:
    """The places to keep so that at most `share` of them are empty."""
    empties = [place for place, is_empty in enumerate(empty) if is_empty]
    if share < 1:
        most = int((len(empty) - len(empties)) * share / (1 - share))
        empties = random.Random(seed).sample(empties, min(most, len(empties)))
    wanted = set(empties)
    return [place for place, is_empty in enumerate(empty) if not is_empty or place in wanted]
