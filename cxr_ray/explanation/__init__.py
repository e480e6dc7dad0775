"""Explanations of a model's decisions: methods, certificates, scores against annotations, and an audit for shortcuts."""
