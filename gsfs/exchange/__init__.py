"""Plain objects beside the file system: what is imported from others, what is exported for them, kept current."""
