"""The background movers: commits, uploads, fetches, garbage."""
