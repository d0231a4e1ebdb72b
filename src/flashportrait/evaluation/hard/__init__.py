"""A set of hard performances whose right answer is known: how it is made, drawn, written and checked."""
