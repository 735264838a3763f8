"""Reading checkpoint folders: configuration and tensors, one tensor at a time, without torch."""

from internvl_rt.export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from internvl_rt.export.checkpoint.tensor import CheckpointTensor

__all__ = ["Checkpoint", "CheckpointTensor", "open_checkpoint"]
