"""Tab completion: `candidates.py` completes a command line, `main.py` talks to the shells, whose scripts are alongside."""
