"""What can go wrong with the demo."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do. What was committed stays, a new run goes on."""
