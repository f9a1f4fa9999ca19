"""The stages of a pipeline, each of which keeps its tables."""
