"""Settings: what `Memory.open` needs, from explicit arguments first, then `MEMLORA_*` environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableEnvironment

from . import nano
from .addresses import checked_address
from .errors import SettingsError
from .store.ranking import DEFAULT, Ranking, as_ranking

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NO_MODEL = "none"
"""The `model` of a memory that only keeps and finds what was said."""
SECRETS = frozenset({"api_key", "qdrant_api_key", "embedder_api_key"})


class _Environment(EnvSettingsSource):
    """The variables of what is not explicit: pydantic would mix the environment's adapters with explicit ones."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name not in self.current_state}


class Settings(BaseSettings):
    """Every knob, with its default.

    Each field can be set as an environment variable: `MEMLORA_BASE_URL`, `MEMLORA_MODEL`, … (`MEMLORA_ADAPTERS` and
    `MEMLORA_RANKING` as JSON objects). Secrets are best set there; they are never printed, logged or serialized.

    Raises:
        pydantic.ValidationError: a value of the wrong type or range (`Memory.open` turns it into `SettingsError`).
    """

    model_config = SettingsConfigDict(env_prefix="MEMLORA_", extra="forbid", frozen=True)

    path: Path = Path(".memlora")
    """Folder of the embedded store. Ignored when `qdrant_url` is set."""
    qdrant_url: str | None = None
    """A Qdrant server instead of the embedded store."""
    qdrant_api_key: SecretStr | None = None
    collection: str = "memlora"
    """Name of the collection on a Qdrant server."""
    ranking: Annotated[Ranking, BeforeValidator(as_ranking)] = DEFAULT
    """How what is found is ranked: a `Ranking`, or a table of its fields. It is about searching only: what is stored is
    the same, and memories of one folder or collection may each have their own. A store that is passed ready-made has
    its own, too."""

    base_url: str | None = None
    """The model server, e.g. `http://127.0.0.1:8000`. Without it, the model runs in process."""
    api: Literal["vllm", "openai"] = "vllm"
    """What speaks at `base_url`: vLLM with LoRA adapters, or any OpenAI-compatible endpoint."""
    model: str | None = None
    """Name of the base model on the server, or its folder when it runs in process. None: nano, the small model of
    this package, where its weights are there; `"none"`: no model, so that turns are kept and searched, and distilled
    some other day."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Expert name to adapter: a folder, or the name of one that the server already serves."""
    api_key: SecretStr | None = None
    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds to reach the model server."""
    read_timeout: float = Field(default=120.0, gt=0)
    """Seconds without an answer from the model server."""

    embedder: str = "all-MiniLM-L6-v2"
    """A sentence-transformers name or folder, or the model name at `embedder_url`."""
    embedder_url: str | None = None
    """An OpenAI-compatible `/v1/embeddings` server instead of a model in process."""
    embedder_api_key: SecretStr | None = None

    neighbours_per_fact: int = Field(default=5, ge=1, le=50)
    """How many old facts the update expert sees for each new one (the paper's pipeline uses 5)."""
    facts_per_update: int = Field(default=12, ge=1, le=100)
    """How many new facts the update expert is asked about at once; the rest of a long message is asked about beside
    them. Small models decide best about one at a time."""
    similarity_threshold: float = Field(default=0.35, ge=-1, le=1)
    """Cosine below which an old fact is no neighbour; a new fact without neighbours is added without a model call."""
    exchange_chars: int = Field(default=4000, ge=200)
    """Longest piece of one message that one extraction sees; longer messages are distilled piece by piece."""
    quoted_facts: bool = False
    """The extraction expert notes facts in the person's own words: they are kept with who said them, `Ana: I moved to
    Porto.`, and never changed into other words or because of what somebody else said. The reply is held to the clauses
    of the message where the server takes a JSON schema, and slips are put right from it; what nobody said is left out,
    and `AddResult.errors` tells it (`UnsaidError`). The update expert's reply is held to the texts that it is asked
    about. Set where nano is the model or its adapter the extraction expert; say it yourself where a server knows that
    adapter by a name only."""
    quoted_answers: bool = False
    """The generation expert answers with words of a memory, or says that it does not know: its reply is held to that
    where the model runs in process or on vLLM. Set where nano is the model or its adapter the generation expert; say it
    yourself where a server knows that adapter by a name only."""
    token_budget: int = Field(default=800, ge=16)
    """Default size of a context, in estimated tokens."""
    answer_budget: int | None = Field(default=None, ge=16)
    """Size of the context that the generation expert answers from, in estimated tokens. None: `token_budget`."""
    memories_per_answer: int | None = Field(default=None, ge=1)
    """How many memories the generation expert answers from: the facts that are nearest to the question. Small models
    answer best from one. What was said and is not distilled yet is not among them, unless there is no fact at all.
    None: as many memories as `answer_budget` has room for, facts and turns."""
    answer_threshold: float = Field(default=0.3, ge=-1, le=1)
    """Cosine below which a fact is not near to a question, where `memories_per_answer` says how many are wanted."""
    workers: int = Field(default=4, ge=1, le=64)
    """Background threads that distil what `add(wait=False)` left."""
    resume: bool = True
    """Distil in the background what an earlier process left pending."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.base_url and not self.model:
            raise ValueError("base_url is set but model is not: name the base model that the server serves")
        if self.adapters and not self.model:
            raise ValueError("adapters are set but model is not: name the base model they belong to")
        if self.api == "openai" and not self.base_url:
            raise ValueError("api='openai' needs base_url")
        if self.qdrant_url is not None:
            checked_address("qdrant_url", self.qdrant_url, key="qdrant_api_key")
        return self

    @property
    def has_model(self) -> bool:
        """False where `model="none"` asks for none, or none is named and nano's weights are not there."""
        if self.base_url is not None:
            return True
        return nano.shipped() if self.model is None else self.model != NO_MODEL

    def portable(self) -> dict[str, Any]:
        """The settings as plain values, without secrets: what serialization stores. The embedded store's folder is
        absolute: whoever reopens it may work in another one.
        """
        values = self.model_dump(exclude=set(SECRETS), exclude_unset=True)
        if self.qdrant_url is None:
            values["path"] = self.path.absolute()
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def load_settings(**explicit: Any) -> Settings:
    """`Settings` from explicit values and the environment.

    Raises:
        SettingsError: a value is unusable, unknown, or contradicts another; the message says which.
    """
    try:
        return Settings(**{name: value for name, value in explicit.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(_problem(found) for found in error.errors(include_input=False, include_url=False))
        raise SettingsError(f"Unusable settings. {problems}.") from None
    except UnreadableEnvironment as error:  # adapters and ranking are the settings that are JSON there
        name = "ranking" if "ranking" in str(error) else "adapters"
        example = '{"named": 0.4}' if name == "ranking" else '{"extraction": "FOLDER", "update": "FOLDER"}'
        raise SettingsError(f"Unusable settings. MEMLORA_{name.upper()} is not JSON; write {example}.") from None


def _problem(found: ErrorDetails) -> str:
    where = ".".join(str(part) for part in found["loc"])
    said = found["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{where}: {said}" if where else said
