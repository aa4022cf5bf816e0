"""Configuration by Hydra: composed, typed at its root, and checked against constructors before anything is loaded."""
