"""``python -m internvl_rt``: the command line."""

from internvl_rt.cli import main

if __name__ == "__main__":
    main()
