"""Numbers from predictions: intervals, baselines, subgroups, comparisons. Nothing is rendered here."""
