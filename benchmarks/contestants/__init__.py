"""Who is measured in benchmarks/model.py: each in a process of its own, in whatever Python it lives in.

A peer's environment need not have internvl_rt installed. What a peer imports of it, ``internvl_rt.openvino``
and the names of the graphs' ports, needs none of its dependencies and is found in this repository.
"""
