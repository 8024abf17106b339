"""Questions about a corpus, answered by a Memory model with an Executive or from documents (MeMo, Section 5)."""
