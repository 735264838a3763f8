"""Latency and memory of a bundle on this machine, stage by stage."""
