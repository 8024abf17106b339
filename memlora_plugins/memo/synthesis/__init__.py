"""From a corpus to reflections: what is asked of the Generator, in which order, and what is made of its replies."""

from .options import SynthesisOptions
from .report import SynthesisReport
from .run import SynthesisEvent, asynthesize, synthesize

__all__ = ["SynthesisEvent", "SynthesisOptions", "SynthesisReport", "asynthesize", "synthesize"]
