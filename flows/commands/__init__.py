"""What `goldwax` does besides running a pipeline."""
