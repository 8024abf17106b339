"""What `memlora eval locomo` measures: students, and what their answers are embedded, judged and compared with."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..harness.candidates import Candidate
from ..harness.config_file import BesideName, BesidePath
from ..harness.endpoints import JudgeEndpoint
from ..pipeline import CONCURRENCY


class LocomoConfig(BaseModel):
    """One measurement, as TOML:

        embedder = "all-MiniLM-L6-v2"       # a name or folder; with embedder_url the name there
        wordnet = "wordnet"                 # for METEOR; see similarity.Similarity
        bertscore_model = "roberta-large"
        concurrency = 8                     # model calls under way at once

        [[student]]                         # see Candidate
        name = "Qwen2.5-1.5B"
        base = "Qwen/Qwen2.5-1.5B-Instruct"
        base_url = "http://127.0.0.1:8000"
        stages = true
        teacher = "teacher"                 # with stages: the student below, which first stands in at single stages
        adapters = { extraction = "experts/extraction", update = "experts/update", generation = "experts/generation" }

        [[student]]
        name = "teacher"
        base = "gemma-2-27b"
        base_url = "http://127.0.0.1:8001"
        api = "openai"
        api_key_env = "TEACHER_API_KEY"

        [judge]                             # its key is read from MEMLORA_JUDGE_API_KEY, or what api_key_env names
        base_url = "http://127.0.0.1:8002"
        model = "gpt-oss-120b"

    The rows of a student with `stages` and a `teacher` are those of the paper's Table 4: its base; the teacher's base
    at extraction; at extraction and update; at every stage; then its own experts, one after the other.

    Paths count from the folder of the file.

    Raises:
        pydantic.ValidationError: something is missing, unknown or contradicts another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    student: tuple[Candidate, ...] = Field(min_length=1)
    embedder: BesideName | None = None
    embedder_url: str | None = None
    judge: JudgeEndpoint | None = None
    bertscore_model: BesideName | None = None
    sentence_model: BesideName = "all-MiniLM-L6-v2"
    wordnet: BesidePath | None = None
    concurrency: int = Field(default=CONCURRENCY, ge=1)

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [student.name for student in self.student]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two students are called {twice[0]!r}; each needs a name of its own")
        return self

    @model_validator(mode="after")
    def _taught_here(self) -> Self:
        for student in self.student:
            others = [other.name for other in self.student if other is not student]
            if student.teacher is not None and student.teacher not in others:
                raise ValueError(
                    f"the teacher of {student.name!r}, {student.teacher!r}, is no other student of this file; "
                    "add a [[student]] of that name"
                )
        return self
