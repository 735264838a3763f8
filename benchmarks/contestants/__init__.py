"""Who is measured in benchmarks/model.py: each in a process of its own, in whatever Python it lives in.

Nothing here may import internvl_rt at module level: a peer's environment need not have it.
"""
