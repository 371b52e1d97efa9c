"""Tasks: model, data and metric."""
