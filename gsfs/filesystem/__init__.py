"""POSIX semantics over the namespace and the log. Knows nothing of FUSE and nothing of SQL."""
