"""Synthetic chest X-rays: written to disk as a dataset, and read like any other dataset."""
