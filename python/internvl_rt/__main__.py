"""``python -m internvl_rt``: the command line."""

import sys

if __name__ == "__main__":
    # With -m, Python looks for modules in the folder that the user is in, first of all. A numpy.py or a
    # random.py that lies there is the user's, and is not run.
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]

    from internvl_rt.cli import main

    main()
