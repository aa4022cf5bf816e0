"""Preflight of runs: their errors, time and memory, before the first hour is spent."""
