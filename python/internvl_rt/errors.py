"""The typed errors. Each message says what was wrong, what was expected, and what to do."""


class InternVLError(Exception):
    """The base of every error that this package raises on purpose."""


class CheckpointError(InternVLError):
    """A checkpoint folder that cannot be read, or holds an architecture that is not supported."""


class BundleError(InternVLError):
    """A bundle that is incomplete, truncated, altered, or of another format version."""


class ImageError(InternVLError):
    """A picture that cannot be decoded, or whose size, type or layout is not taken."""


class PromptError(InternVLError):
    """A prompt that does not fit the model: image marks, length, template or arguments."""


class DeviceError(InternVLError):
    """A device, engine or instruction set that this machine does not have."""


class CacheFullError(InternVLError):
    """The KV cache has no free block left. Sequences that are running keep running."""


class BusyError(InternVLError):
    """So many requests wait for the model that it takes no further one now."""


class ClosedError(InternVLError):
    """A call to a model that was closed."""
