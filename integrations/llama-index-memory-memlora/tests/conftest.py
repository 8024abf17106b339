from scripted_llm import brain, made, searches, spans, told_events
from two_people import backend, memory, store, told

__all__ = ["backend", "brain", "made", "memory", "searches", "spans", "store", "told", "told_events"]
