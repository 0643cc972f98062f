"""PyTorch's own DDP hooks, and SlimCCL's, beside bench/network.c: under mpirun, one rank a host, over gloo.

    network_torch.py --rate LABEL --csv FILE [--mib 1,16,100]     adds rows to FILE

A bucket is one square matrix, given to the hook as DDP gives it; what DDP does besides is left out."""
import argparse
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import slimccl.torch

RANK, RANKS = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
POWER_RANK = 2


class Bucket:
    """dist.GradBucket, which Python cannot make."""

    def __init__(self, parameter, gradient):
        self._parameter, self._gradient = parameter, gradient

    def index(self):
        return 0

    def is_last(self):
        return True

    def buffer(self):
        return self._gradient.view(-1)

    def gradients(self):
        return [self._gradient]

    def parameters(self):
        return [self._parameter]


def timed(call):
    """Seconds of one call, of the slowest rank; the median of calls, which go on for some two seconds."""
    seconds = []
    while len(seconds) < 3 or (len(seconds) < 25 and sum(seconds) < 2):
        dist.barrier()
        start = time.monotonic()
        call()
        took = torch.tensor(time.monotonic() - start)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        seconds.append(float(took))
    return sorted(seconds)[len(seconds) // 2]


def methods(model, side):
    """name, hook(bucket), ratio."""
    yield "torch fp32", lambda bucket: default_hooks.allreduce_hook(None, bucket), lambda: 1
    yield "torch fp16", lambda bucket: default_hooks.fp16_compress_hook(None, bucket), lambda: 2
    power = powerSGD_hook.PowerSGDState(None, POWER_RANK, start_powerSGD_iter=2)
    yield (f"torch PowerSGD, rank {POWER_RANK}", lambda bucket: powerSGD_hook.powerSGD_hook(power, bucket),
           lambda: side / (2 * POWER_RANK))
    hook = slimccl.torch.register_hook(model, "ef(qsgd(bits=4))")

    def ratio():
        stats = hook.stats()[0]
        return stats["plain_bytes"] / stats["wire_bytes"]

    yield "slimccl.torch ef(qsgd(bits=4))", lambda bucket: hook(None, bucket), ratio


def measure(rate, path, mib):
    side = round((mib << 18)**0.5)
    model = DistributedDataParallel(torch.nn.Linear(side, side, bias=False))
    generator = torch.Generator().manual_seed(RANK + 1)
    x = torch.rand(side, side, generator=generator) + torch.rand(side, side, generator=generator) - 1
    mean = x / RANKS
    dist.all_reduce(mean)
    for name, hook, ratio in methods(model, side):
        gradient, errors = torch.empty_like(x), []
        bucket = Bucket(model.module.weight, gradient)
        for _ in range(3):  # connections, buffers; PowerSGD's first two steps are plain
            gradient.copy_(x)
            hook(bucket).wait()
            errors.append(float((gradient - mean).norm() / mean.norm()))
        error = next((e for e in errors if e > 1e-6), 0)  # of the first step that loses something
        seconds = timed(lambda: hook(bucket).wait())  # pylint: disable=cell-var-from-loop
        if RANK == 0:
            with open(path, "a", encoding="utf-8") as csv:
                csv.write(f'{rate},{RANKS},{mib},"{name}",{seconds:.6g},{ratio():.4g},{error:.4g}\n')
            print(f"{rate}, {mib} MiB, {name}: {1e3 * seconds:.1f} ms", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", required=True)
    parser.add_argument("--csv", required=True)
    parser.add_argument("--mib", default="1,16,100", type=lambda text: [int(mib) for mib in text.split(",")])
    options = parser.parse_args()
    torch.set_num_threads(1)  # more get in each other's way, where hosts share cores
    dist.init_process_group("gloo", init_method=f"file://{options.csv}.meet", rank=RANK, world_size=RANKS)
    for mib in options.mib:
        measure(options.rate, options.csv, mib)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
