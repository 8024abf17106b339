"""What each expert is asked, and how its reply is read. No I/O."""

from .wording import MEMORY_BEGIN, MEMORY_END, mark_injected, strip_injected

__all__ = ["MEMORY_BEGIN", "MEMORY_END", "mark_injected", "strip_injected"]
