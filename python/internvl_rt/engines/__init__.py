"""Engines: three ways to compute the same model, behind one interface."""
