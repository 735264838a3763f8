"""The bundle's format: what the exporter writes and every engine reads."""
