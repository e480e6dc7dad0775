"""Workflows that need evaluation and report together: evaluate a run, evaluate on external data, select the best trial of a sweep."""
