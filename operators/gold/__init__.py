"""KPIs, kept by what changed."""
