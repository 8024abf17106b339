from two_people import backend, memory, store, told

__all__ = ["backend", "memory", "store", "told"]
