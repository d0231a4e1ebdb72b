"""The paper's ablations made anew on a model of one's own: methods, clips whose truth is known, tables, verdicts."""
