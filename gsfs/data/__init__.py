"""The local disk: the log that writes go to, and the cache that reads come from."""
