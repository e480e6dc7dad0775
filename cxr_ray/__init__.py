"""cxr_ray trains chest X-ray classifiers on Ray. Importing it imports neither torch nor ray."""

__version__ = "0.1.0"
