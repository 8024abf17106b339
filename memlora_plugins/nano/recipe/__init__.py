"""What nano is made of and how: a generator of dialogues, a blank model, and the training that fills it."""
