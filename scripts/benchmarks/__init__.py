"""The benchmark behind scripts/bench. Owns what is measured and how; never imported by gsfs."""
