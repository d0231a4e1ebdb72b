"""The studio: a page in the browser over :mod:`flashportrait.job`, with a queue and a history on disk."""
