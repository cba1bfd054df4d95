from contextlib import suppress

import torch

# On import it configures logging anew and so closes all handlers. Those of absl close the stream that pytest captures.
with suppress(ImportError):
    import submitit  # noqa: F401

torch.set_num_threads(1)
