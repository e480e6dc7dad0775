"""Whole tasks, from settings to files and pages, for the commands and for Python: ingest, train, tune, evaluate, explain, predict, export, serve."""
