"""Train chest X-ray classifiers on Ray. Importing this package loads neither torch nor ray."""

__version__ = "0.1.0"
