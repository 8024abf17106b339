"""How much of the evidence a search finds, in every store and with every fusion setting, without a language model."""
