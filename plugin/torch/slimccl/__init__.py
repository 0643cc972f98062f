"""SlimCCL: compressed collectives for distributed training.

slimccl.torch.register_hook(ddp_model, "ef(topk(ratio=0.01))") compresses the gradients of a DistributedDataParallel
model. slimccl.core is the C API by ctypes.
"""
from slimccl.core import Error, version  # noqa: F401
