"""Models that transformers computes, behind the interfaces of etude's own models."""
