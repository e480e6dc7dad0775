"""The process that a training runs in: context, ranks, precision, memory, polling, signals, threads. Knows no model and no data."""
