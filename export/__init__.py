"""The exporter: checkpoint readers, graph builders and quantisation."""
