"""Locations: one contract, one implementation for each provider, wrappers around any of them."""
