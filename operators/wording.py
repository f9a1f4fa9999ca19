"""Values in messages."""


def clip(text: str, limit: int = 200) -> str:
    """Return `text`, cut to `limit` characters with a mark where it was cut; lone surrogates are escaped."""
    whole = text[:limit].encode(errors="backslashreplace").decode()
    return whole if len(text) <= limit else f"{whole}…"
