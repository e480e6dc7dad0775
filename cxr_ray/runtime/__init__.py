"""The process a training runs in: rank and device, precision, memory, signals, threads."""
