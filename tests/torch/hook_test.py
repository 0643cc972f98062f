"""The DDP hook: what it must keep, on 1, 2, 3, 4 and 8 ranks over gloo. (cuda_test.py: over NCCL.)"""
import copy
import os
import subprocess
import sys
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import slimccl.torch


DEVICE = torch.device("cpu")


def net():
    """Two buckets and more: 1.6 MB of weights, and vectors."""
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.LayerNorm(512), torch.nn.ReLU(),
                               torch.nn.Linear(512, 600), torch.nn.ReLU(), torch.nn.Linear(600, 16)).to(DEVICE)


def backward(model, rank, step, scale=1.0):
    """Gradients that depend on rank and step only."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(8, 64, generator=generator).to(DEVICE)
    model.zero_grad()
    (model(x).square().mean() * scale).backward()
    return {n: p.grad.clone() for n, p in model.module.named_parameters()}


def plain_mean(rank, ranks, step):
    model = net()
    sums = None
    for r in range(ranks):
        generator = torch.Generator().manual_seed(1000 * step + r)
        model.zero_grad()
        model(torch.randn(8, 64, generator=generator).to(DEVICE)).square().mean().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        sums = grads if sums is None else {n: sums[n] + g for n, g in grads.items()}
    return {n: s / ranks for n, s in sums.items()}


def ddp(spec, find_unused=False, **options):
    model = DistributedDataParallel(net(), bucket_cap_mb=0.5, find_unused_parameters=find_unused)
    return model, slimccl.torch.register_hook(model, spec, **options)


def close(a, b, tolerance=1e-6):
    return all((a[n] - b[n]).norm() <= tolerance * b[n].norm() + 1e-12 for n in b)


def equal(a, b):
    return all(torch.equal(a[n], b[n]) for n in b)


def everywhere(rank, grads):
    """All ranks hold the same bits."""
    for g in grads.values():
        root = g.clone()
        dist.broadcast(root, 0)
        assert torch.equal(root, g)


def check_uncompressed_is_exact(rank, ranks):
    model, hook = ddp("fp32")
    for step in range(4):
        assert close(backward(model, rank, step), plain_mean(rank, ranks, step)), step
    assert len(hook.stats()) > 1, "one bucket only: the test shows less than it should"
    hook.close()


def check_compressed_is_near_and_alike(rank, ranks):
    for spec, tolerance in (("qsgd(bits=8)", 0.05), ("ef(qsgd(bits=4))", 0.6)):
        model, hook = ddp(spec)
        for step in range(3):
            grads, mean = backward(model, rank, step), plain_mean(rank, ranks, step)
            assert close(grads, mean, tolerance), spec
            everywhere(rank, grads)
            for n, g in grads.items():
                if g.dim() == 1:
                    assert close({n: g}, {n: mean[n]}), f"{n} is exempt"
            if ranks > 1:
                assert not close(grads, mean, 1e-4), "nothing was compressed"
        hook.close()


# What error feedback holds back comes later: the mean over steps of a constant gradient becomes exact.
def check_memory_works(rank, ranks, option=""):
    model, hook = ddp(f"ef(topk(ratio=0.1){option})")
    mean = plain_mean(rank, ranks, 7)
    total, errors = None, {}
    for step in range(30):
        grads = backward(model, rank, 7)
        total = grads if total is None else {n: total[n] + g for n, g in grads.items()}
        errors[step] = max(float((total[n] / (step + 1) - m).norm() / m.norm()) for n, m in mean.items() if m.dim() > 1)
    if ranks > 1:
        assert errors[0] > 0.3, errors
    assert errors[29] < errors[1] / 3, errors
    bytes_ = sum(row["state_bytes"] for row in hook.stats())
    hook.close()
    return bytes_


def check_memory_in_half_the_bytes(rank, ranks):
    assert 2 * check_memory_works(rank, ranks, ", memory=bf16") == check_memory_works(rank, ranks)


def check_policy_by_name(rank, ranks):
    model, hook = ddp("ef(onebit)", policy={"3.*": False, "5.weight": "qsgd(bits=8)", "5.bias": True})
    grads, mean = backward(model, rank, 0), plain_mean(rank, ranks, 0)
    specs = {row["spec"].split(";")[0] for row in hook.stats()}
    assert specs == {"up=ef(onebit)", "up=qsgd(bits=8)"}, specs
    for n in ("3.weight", "3.bias", "1.weight"):
        assert close({n: grads[n]}, {n: mean[n]}), n
    assert close({"5.weight": grads["5.weight"]}, {"5.weight": mean["5.weight"]}, 0.05)
    if ranks > 1:
        for n in ("0.weight", "5.bias"):
            assert not close({n: grads[n]}, {n: mean[n]}, 0.01), n
    hook.close()


# A loss scale that doubles and halves is a power of two: with the memory converted, unscaled gradients keep their bits.
def check_loss_scale(rank, ranks):
    scales = [1.0, 1.0, 1.0, 4.0, 4.0, 2.0, 2.0, 0.5]
    now = [1.0]
    plain, plain_hook = ddp("ef(topk(ratio=0.05))")
    scaled, scaled_hook = ddp("ef(topk(ratio=0.05))", rescale=lambda: now[0])
    wrong, wrong_hook = ddp("ef(topk(ratio=0.05))")
    differ = False
    for step, now[0] in enumerate(scales):
        expected = backward(plain, rank, step)
        assert equal({n: g / now[0] for n, g in backward(scaled, rank, step, now[0]).items()}, expected), step
        differ |= not equal({n: g / now[0] for n, g in backward(wrong, rank, step, now[0]).items()}, expected)
    assert differ or ranks == 1, "without rescale= it should go wrong, or this test shows nothing"
    for hook in (plain_hook, scaled_hook, wrong_hook):
        hook.close()


def check_checkpoint(rank, ranks):
    # No new buckets here: a run that was saved and loaded has the bits of one that was never stopped.
    spec = "ef(topk(ratio=0.05))"
    model, hook = ddp(spec, find_unused=True)
    for step in range(3):
        backward(model, rank, step)
    saved = copy.deepcopy(hook.state_dict())
    expected = [backward(model, rank, step) for step in range(3, 6)]
    again, loaded = ddp(spec, find_unused=True)
    loaded.load_state_dict(saved)
    for step in range(3, 6):
        assert equal(backward(again, rank, step), expected[step - 3]), step
    fresh, empty = ddp(spec, find_unused=True)
    if ranks > 1:
        assert not equal(backward(fresh, rank, 3), expected[0]), "the memory made no difference"
    # Another spec, rank or number of ranks.
    other, refusing = ddp("ef(onebit)", find_unused=True)
    for bad, field in ((saved, "spec"), ({**saved, "spec": refusing._full_spec, "world_size": 77}, "world_size"),
                       ({**saved, "spec": refusing._full_spec, "rank": rank + 1}, "rank")):
        try:
            refusing.load_state_dict(bad)
            assert False, f"a state with another {field} was taken"
        except ValueError as error:
            assert field in str(error) and "reset=True" in str(error), error
        refusing.load_state_dict(bad, reset=True)
    backward(other, rank, 0)
    for h in (hook, loaded, empty, refusing):
        h.close()


# DDP forms its buckets anew after the first step: what was loaded waits for them.
def check_checkpoint_across_the_rebuild(rank, ranks):
    spec = "ef(topk(ratio=0.05))"
    model, hook = ddp(spec)
    for step in range(4):
        backward(model, rank, step)
    before = {row["parameters"]: row["calls"] for row in hook.stats()}
    saved = hook.state_dict()
    again, loaded = ddp(spec)
    loaded.load_state_dict(saved)
    for step in range(3):
        backward(again, rank, step)
    after = {row["parameters"] for row in loaded.stats()}
    assert set(before) <= after, (before, after)
    assert all(plan.met for plan in loaded._plans.values()), "memory that was loaded was not met again"
    parameters = [name for row in loaded.stats() for name in row["parameters"]]
    assert len(parameters) == len(set(parameters)), "the first buckets' memory is still there"
    hook.close()
    loaded.close()


def check_errors(rank, ranks):
    model = DistributedDataParallel(net())
    try:
        slimccl.torch.register_hook(model, "ef(top(k=1))")
        assert False, "a wrong spec was taken"
    except slimccl.Error as error:
        assert "spec:1:4" in str(error), error


# A mistake that shows in the backward pass only comes out of it.
def check_errors_of_a_step(rank, ranks):
    model, hook = ddp("ef(onebit)", policy={"3.weight": "ef(top(k=1))"})
    try:
        backward(model, rank, 0)
        assert False, "a wrong spec was taken"
    except RuntimeError as error:
        assert "spec:1:4" in str(error), error
    hook.close()


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


def run(rank, ranks, folder, backend="gloo", checks=CHECKS):
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    for check in checks:
        if rank == 0:
            print(f"{check.__name__}, {ranks} ranks", flush=True)
        try:
            check(rank, ranks)
        except BaseException as error:
            raise RuntimeError(f"{check.__name__} on rank {rank} of {ranks}") from error
    dist.barrier()
    dist.destroy_process_group()


class HookTest(unittest.TestCase):

    def launch(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(run, (ranks, folder), ranks)

    def test_1_rank(self):
        self.launch(1)

    def test_2_ranks(self):
        self.launch(2)

    def test_3_ranks(self):
        self.launch(3)

    def test_4_ranks(self):
        self.launch(4)

    def test_8_ranks(self):
        self.launch(8)

    def test_a_missing_library_is_named(self):
        environment = {**os.environ, "SLIMCCL_LIBRARY": "/nowhere/libslimccl.so",
                       "PYTHONPATH": os.pathsep.join(sys.path)}
        result = subprocess.run([sys.executable, "-c", "import slimccl"], env=environment, capture_output=True,
                                text=True, check=False)
        self.assertIn("ImportError: libslimccl.so was not found", result.stderr)
        self.assertIn("/nowhere/libslimccl.so:", result.stderr)


if __name__ == "__main__":
    unittest.main()
