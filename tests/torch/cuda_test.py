"""The DDP hook with gradients on CUDA devices, over NCCL: all that hook_test.py wants, the CPU's bits, and no waiting.

Ranks are processes; where there are fewer devices than ranks they share them.
"""
import os
import tempfile
import unittest

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import hook_test
import slimccl.torch

SHAPES = [(300, 400), (1000,), (200, 500), (64,), (777, 999)]


class Given(torch.nn.Module):
    """Its gradients are what it is given, to the bit."""

    def __init__(self, dtype, device):
        super().__init__()
        self.weights = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device=device)) for shape in SHAPES])

    def forward(self, gradients):
        return sum((weight * gradient).sum() for weight, gradient in zip(self.weights, gradients))


class Run:
    """Steps of a hooked model on a device."""

    def __init__(self, spec, device, dtype=torch.float32, **options):
        self._rank, self._dtype, self.device = torch.distributed.get_rank(), dtype, device
        self.model = DistributedDataParallel(Given(dtype, device), bucket_cap_mb=0.5)
        self.hook = slimccl.torch.register_hook(self.model, spec, **options)

    def loss(self, step):
        generator = torch.Generator().manual_seed(1000 * step + self._rank)
        given = [torch.randn(shape, generator=generator).to(self._dtype).to(self.device) for shape in SHAPES]
        self.model.zero_grad()
        return self.model(given)

    def gradients(self):
        return [weight.grad.cpu() for weight in self.model.module.weights]

    def step(self, number):
        self.loss(number).backward()
        return self.gradients()


def same_bits(a, b, ranks):
    """Matrices are compressed; vectors are summed by NCCL, whose order is its own."""
    return all(torch.equal(x, y) if x.dim() > 1 or ranks <= 2 else torch.allclose(x, y, 1e-3, 1e-3)
               for x, y in zip(a, b))


def check_bits_of_the_cpu(rank, ranks):
    for spec, dtype in (("ef(qsgd(bits=4))", torch.float32), ("ef(topk(ratio=0.01))", torch.float32),
                        ("diana(qsgd(bits=8))", torch.float32), ("ef(rotate(onebit), memory=bf16)", torch.float32),
                        ("ef(qsgd(bits=4))", torch.float16)):
        device, host = Run(spec, hook_test.DEVICE, dtype), Run(spec, torch.device("cpu"), dtype)
        for step in range(4):
            assert same_bits(device.step(step), host.step(step), ranks), (spec, dtype, step)
        there, here = ([(row["parameters"], row["calls"], row["state_bytes"]) for row in run.hook.stats()]
                       for run in (device, host))
        assert there == here and len(here) > 1, (there, here)
        # The memory of one goes on on the other.
        for step in range(4, 6):
            device.step(step)
        host.hook.load_state_dict(device.hook.state_dict())
        assert same_bits(device.step(6), host.step(6), ranks), (spec, dtype, "from the device to the CPU")
        for step in range(7, 9):
            host.step(step)
        device.hook.load_state_dict(host.hook.state_dict())
        assert same_bits(device.step(9), host.step(9), ranks), (spec, dtype, "from the CPU to the device")
        device.hook.close()
        host.hook.close()


# The host runs ahead of a device that is kept busy, and streams keep the order: the hook's behind the backward pass's,
# and what follows behind the hook's.
def check_streams(rank, ranks):
    run, twin = Run("ef(qsgd(bits=4))", hook_test.DEVICE), Run("ef(qsgd(bits=4))", hook_test.DEVICE)
    for step in range(12):  # past what DDP itself measures, and waits for
        run.step(step)
        twin.step(step)
    for step, slow in ((12, torch.cuda.current_stream()), (13, run.hook._place._side)):
        expected = twin.step(step)
        loss = run.loss(step)
        torch.cuda.synchronize()
        with torch.cuda.stream(slow):
            torch.cuda._sleep(1_000_000_000)  # cycles: half a second
        loss.backward()
        assert not slow.query(), "the backward pass waited for the device"
        assert not torch.cuda.current_stream().query(), "what follows is not ordered behind the hook"
        assert all(torch.equal(a, b) for a, b in zip(run.gradients(), expected)), step
    run.hook.close()
    twin.hook.close()


def check_memory_of_the_device(rank, ranks):
    run = Run("ef(topk(ratio=0.1))", hook_test.DEVICE)
    for step in range(5):
        run.step(step)
    before = torch.cuda.memory_allocated()
    for step in range(5, 15):
        run.step(step)
    assert torch.cuda.memory_allocated() == before
    run.hook.close()
    small = Run("ef(topk(ratio=0.1))", hook_test.DEVICE, device_bytes=1 << 20)
    try:
        small.step(0)
        assert False, "there is no room for this"
    except RuntimeError as error:
        assert "deviceBytes" in str(error), error
    small.hook.close()


OWN = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def run_rank(rank, ranks, folder):
    os.environ["NCCL_HOSTID"] = f"rank{rank}"  # NCCL refuses two ranks on one device of one host
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same bits in each run
    hook_test.DEVICE = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(hook_test.DEVICE)
    hook_test.run(rank, ranks, folder, "cpu:gloo,cuda:nccl", hook_test.CHECKS + OWN)


@unittest.skipUnless(torch.cuda.is_available(), "this PyTorch finds no CUDA device")
class CudaTest(unittest.TestCase):

    def launch(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(run_rank, (ranks, folder), ranks)

    def test_1_rank(self):
        self.launch(1)

    def test_2_ranks(self):
        self.launch(2)

    def test_4_ranks(self):
        self.launch(4)


if __name__ == "__main__":
    unittest.main()
