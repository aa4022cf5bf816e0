"""From configuration to a run: checking, building, running, recording."""
