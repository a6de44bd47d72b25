"""The namespace store: who is called what, which bytes are where. The only place that knows SQL."""
