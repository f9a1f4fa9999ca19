"""`goldwax demo`: a year of real flights becomes fresh Silver and Gold tables."""
