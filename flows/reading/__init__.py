"""The sources of a pipeline: what is read, from where, and how far ahead."""
