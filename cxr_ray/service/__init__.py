"""The HTTP side of the prediction service. It runs no model and knows no Ray."""
