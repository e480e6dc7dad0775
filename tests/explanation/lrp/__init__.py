"""Tests of layer-wise relevance propagation."""
