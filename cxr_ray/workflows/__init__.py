"""What needs evaluation and report together: evaluate a run, external data, the winner of a sweep."""
