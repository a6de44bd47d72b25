"""gsfs, the GlobalStore File System: many clouds mounted as one directory."""

__version__ = "0.1.0"
