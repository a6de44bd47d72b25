"""The command line: turns words into calls and errors into exit codes. Nothing else reads the environment."""
