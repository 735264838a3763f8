"""internvl_rt: InternVL vision-language models on CPUs, Jetsons and desktop GPUs."""

__version__ = "0.1.0"
