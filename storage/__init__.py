"""Everything durable: record logs, positions, Delta tables and their writers."""
