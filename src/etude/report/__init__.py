"""Reports of runs and sweeps: self-contained HTML pages, and a short summary in the terminal."""
