"""From raw records to change events: the formats, and what becomes of what does not fit."""
