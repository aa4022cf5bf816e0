"""Dashboards of runs in W&B, from files in `conf/dashboard/`."""
