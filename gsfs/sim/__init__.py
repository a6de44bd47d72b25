"""Replays of traces. Uses ``gsfs.policy`` as the mount does; never touches a namespace, a location or a network."""
