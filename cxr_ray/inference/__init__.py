"""A trained run applied to images."""
