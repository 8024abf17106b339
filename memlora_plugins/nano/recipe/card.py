"""nano's card: what it was made of, how well it does, what it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...evaluation.report import Table, pipeline_tables
from .dialogues import SHA256
from .measure import DEFAULTS

if TYPE_CHECKING:
    from .make import NanoScores, Recipe, TaskScores

_HEAD = """\
# nano

A language model of {base:.1f} million parameters and three LoRA experts over it ({experts:.1f} million together), in
{megabytes:.1f} MB. It reads what a person says in English and notes facts (extraction), brings them together with
older ones (update), and answers questions from them (generation). `Memory.open()` runs it where no other model is
configured.

Made by `make nano`; this card and `scores.json` are written by the same command.

## What it is made of

- Architecture: Qwen2, 4 layers of 256, vocabulary of 4,096 (byte-level BPE of its own), context 4,096; it begins with
  an induction head (`recipe/blank.py`). The experts have rank {rank} on all linear layers. Weights in float16.
- Text: a generator written for this project: {relations} kinds of facts, at least six sentences for each in training,
  names and nouns from open pools, half of the names invented; in training one value in twenty comes from a pool where
  it does not belong. What is noted is the person's own sentence, with dates for days; a short answer to a question is
  noted as a sentence of its kind.
- Base: {copy_samples:,} rows of random words to copy and {compare_samples:,} to compare; {first_samples:,} samples of
  the tasks in short form; then {base_samples:,} samples of all: short forms, the three tasks (some with the short
  prompts, the others without), a few full prompts and chats. Experts: {extraction:,} extraction, {update:,} update and
  {generation:,} generation samples with the short prompts, as they are served.
- Chats of the base, besides the generator's: the validation part of Synthetic-Persona-Chat (Jandaghi et al., 2023,
  CC BY 4.0; sha256 {sha}…). No LoCoMo, no other data.
- Seed {seed}. Base: Muon for the matrices, AdamW for the rest, learning rate {base_rate:g} ({embedding_rate:g} times
  that for the embeddings and the output layer), one pass each; experts: {expert_rate:g}, one pass.

## What it cannot do

It does not put things in its own words: a memory is a quote with who said it ("Ana: I moved to Porto."). It knows the
{relations} kinds of facts it was taught, in plain English, and what is worded much like them. Other statements it may
leave out, or note in part. It does not reason, count, translate or chat. A day becomes a date where it is told from
today ("last night", "two days ago"); "last Friday" stays as it was said. Text it was not made for can make it note
wrong facts, and a new fact can be taken for the change of another one (which stays in the history). It answers with a
few words of one fact, now and then the wrong ones, and hardly from who is asked about: ask as the person does ("Where
do I live?"). Where that matters, use a student of a billion parameters or more, trained by the same code.

## Held-out scores

Text that is not in the training data. *Unseen values*: names and nouns that fill no slot in training. *Unseen
phrasings*: sentences that are not in training. A fact counts if it is the wanted words (case and spacing aside). The
replies are held to the clauses of the message, those about memories to the texts of the prompt, as a memory does it
(`Settings.quoted_facts`). The base is asked with the full prompts, the experts with the short ones. The update expert
is asked as by a memory with nano's settings: about one new fact and the nearest of up to 13 memories, found by
{embedder} (cosine of at least {near:g}, names aside); a fact with none so near is added unasked, and one
whose right memory is not the nearest counts as wrong. The generation expert is asked a question with the nearest of up
to 14 facts (at least {answers:g}), or with none, and its reply is held to words of that fact
(`Settings.quoted_answers`); where another one would answer, to say that this one does not
counts as wrong. The shared adapter has the rank of one expert and was trained on a tenth of the samples of each.
"""


def card(scores: NanoScores, recipe: Recipe, relations: int) -> str:
    """The card in Markdown."""
    experts = sum(count for name, count in scores.parameters.items() if name != "base")
    head = _HEAD.format(
        base=scores.parameters["base"] / 1e6,
        experts=experts / 1e6,
        megabytes=scores.megabytes,
        embedder=DEFAULTS["embedder"],
        near=DEFAULTS["similarity_threshold"],
        answers=DEFAULTS["answer_threshold"],
        rank=recipe.expert.rank,
        relations=relations,
        copy_samples=recipe.copy_samples,
        compare_samples=recipe.compare_samples,
        first_samples=recipe.first_samples,
        base_samples=recipe.base_samples,
        extraction=recipe.expert_samples["extraction"],
        update=recipe.expert_samples["update"],
        generation=recipe.expert_samples["generation"],
        sha=SHA256[:12],
        seed=recipe.seed,
        base_rate=recipe.base.learning_rate,
        embedding_rate=recipe.base.embedding_rate,
        expert_rate=recipe.expert.learning_rate,
    )
    tables = [_extraction(scores.tasks), _update(scores.tasks), _generation(scores.tasks)]
    tables += pipeline_tables(scores.pipeline)
    tables.append(_training(scores))
    return head + "\n" + "\n".join(table.markdown() for table in tables)


def _extraction(tasks: dict[str, TaskScores]) -> Table:
    rows = []
    for label, task in tasks.items():
        for kind, found in (
            ("unseen values", task.extraction_values),
            ("unseen phrasings", task.extraction_phrasings),
        ):
            numbers = (found.exact, found.precision, found.recall, found.f1)
            rows.append((label, kind, *(f"{number:.3f}" for number in numbers), str(found.unreadable)))
    columns = ("", "text", "exact match", "precision", "recall", "F1", "unreadable")
    return Table(f"Extraction ({_samples(tasks)} exchanges each)", columns, tuple(rows))


def _update(tasks: dict[str, TaskScores]) -> Table:
    operations = ("ADD", "UPDATE", "DELETE", "NONE")
    rows = tuple(
        (
            label,
            f"{task.update.accuracy:.3f}",
            *(f"{task.update.by_operation.get(operation, 0.0):.3f}" for operation in operations),
            str(task.update.unreadable),
        )
        for label, task in tasks.items()
    )
    return Table("Update: right operation on the right memory", ("", "all", *operations, "unreadable"), rows)


def _generation(tasks: dict[str, TaskScores]) -> Table:
    rows = []
    for label, task in tasks.items():
        for kind, found in (("unseen values", task.generation), ("unseen questions", task.generation_phrasings)):
            by_kind = (f"{found.by_kind.get(name, 0.0):.3f}" for name in ("known", "unknown", "remark"))
            rows.append((label, kind, f"{found.accuracy:.3f}", *by_kind))
    columns = ("", "text", "all", "answer is there", "it is not there", "no question")
    return Table("Generation: the wanted words", columns, tuple(rows))


def _training(scores: NanoScores) -> Table:
    rows = tuple(
        (
            step,
            f"{figures['samples']:.0f}",
            f"{figures['validation_loss']:.4f}",
            f"{figures['tokens_per_second']:.0f}",
            f"{figures['seconds'] / 60:.1f}",
        )
        for step, figures in scores.training.items()
    )
    return Table("Training", ("step", "samples", "validation loss", "tokens/s", "minutes"), rows)


def _samples(tasks: dict[str, TaskScores]) -> int:
    return next(iter(tasks.values())).extraction_values.samples
