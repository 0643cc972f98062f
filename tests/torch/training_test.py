"""Training with the DDP hook, beside no hook and torch's own fp16 and PowerSGD hooks in the same run: a convolutional
net on DNA (splice junctions, of Debian's libfann-doc), and a small transformer on the licence texts of the system.
Prints a table; fails where error feedback costs more than it should."""
import glob
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import slimccl.torch

RANKS = 2
HOOKS = ("none", "torch fp16", "torch PowerSGD", "ef(qsgd(bits=4))", "ef(rotate(onebit))", "ef(topk(ratio=0.01))")


def register(model, name):
    """Gives our hook, where it is ours."""
    if name == "torch fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif name == "torch PowerSGD":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=10)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif name != "none":
        return slimccl.torch.register_hook(model, name)
    return None


# ---- DNA: 60 bases as 2 bits each; is there a splice junction in the middle, and which? ----


def genes(which):
    with open(f"/usr/share/doc/libfann-dev/examples/datasets/gene.{which}", encoding="ascii") as file:
        numbers = torch.tensor([float(word) for word in file.read().split()[3:]])
    rows = numbers.reshape(-1, 123)
    return rows[:, :120].reshape(-1, 60, 2).transpose(1, 2) * 2 - 1, rows[:, 120:].argmax(1)


class Convolutional(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv1d(2, 64, 9, padding=4)
        self.second = torch.nn.Conv1d(64, 64, 5, padding=2)
        self.third = torch.nn.Linear(64 * 15, 64)
        self.last = torch.nn.Linear(64, 3)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.first(x)), 2)
        x = F.max_pool1d(F.relu(self.second(x)), 2)
        return self.last(F.relu(self.third(x.flatten(1))))


def train_genes(rank, hook_name):
    (x, y), (tx, ty) = genes("train"), genes("test")
    x, y = x[rank::RANKS], y[rank::RANKS]
    torch.manual_seed(1)
    model = DistributedDataParallel(Convolutional())
    hook = register(model, hook_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(rank)
    for _ in range(10):
        for batch in torch.randperm(len(x), generator=order)[:384].split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = float((model.module(tx).argmax(1) == ty).float().mean())
    return accuracy, hook


# ---- Text: the next character ----


class Transformer(torch.nn.Module):

    def __init__(self, symbols, width=48, context=48):
        super().__init__()
        self.symbol = torch.nn.Embedding(symbols, width)
        self.place = torch.nn.Parameter(0.02 * torch.randn(context, width))
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 2)
        self.last = torch.nn.Linear(width, symbols)
        self.register_buffer("mask", torch.triu(torch.full((context, context), float("-inf")), 1))

    def forward(self, x):
        return self.last(self.layers(self.symbol(x) + self.place, self.mask))


def text():
    bytes_ = b"".join(open(path, "rb").read() for path in sorted(glob.glob("/usr/share/common-licenses/*GPL-[23]")))
    symbols = sorted(set(bytes_))
    return torch.tensor([symbols.index(b) for b in bytes_]), len(symbols)


def train_text(rank, hook_name):
    data, symbols = text()
    cut = len(data) * 9 // 10
    torch.manual_seed(1)
    model = DistributedDataParallel(Transformer(symbols))
    hook = register(model, hook_name)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(rank)
    for _ in range(150):
        at = torch.randint(cut - 49, (8,), generator=order)
        batch = torch.stack([data[i:i + 49] for i in at])
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    held = data[cut:cut + 49 * ((len(data) - cut) // 49)].reshape(-1, 49)
    with torch.no_grad():
        loss = float(F.cross_entropy(model.module(held[:, :-1]).flatten(0, 1), held[:, 1:].flatten()))
    return loss, hook


def run(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    results = {}
    for task in (train_genes, train_text):
        for name in HOOKS:
            value, hook = task(rank, name)
            ratio = float("nan")
            if hook:
                rows = hook.stats()
                ratio = sum(r["plain_bytes"] for r in rows) / sum(r["wire_bytes"] for r in rows)
                hook.close()
            results[task.__name__, name] = value, ratio
    if rank == 0:
        torch.save(results, f"{folder}/results")
    dist.barrier()
    dist.destroy_process_group()


class TrainingTest(unittest.TestCase):

    def test_error_feedback_keeps_the_accuracy(self):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(run, (folder,), RANKS)
            results = torch.load(f"{folder}/results")
        print(f"{'hook':24} {'DNA, accuracy':>14} {'text, loss':>11} {'ratio':>6} {'ratio':>6}")
        for name in HOOKS:
            (accuracy, one), (loss, two) = results["train_genes", name], results["train_text", name]
            print(f"{name:24} {accuracy:14.4f} {loss:11.4f} {one:6.1f} {two:6.1f}", flush=True)
        accuracy, loss = results["train_genes", "none"][0], results["train_text", "none"][0]
        self.assertGreater(accuracy, 0.85)
        self.assertLess(loss, 2.6)
        # What a run of some 250 steps allows: memory needs about 1/ratio steps to send everything once.
        for name, points, percent in (("ef(qsgd(bits=4))", 0.02, 0.02), ("ef(rotate(onebit))", 0.06, 0.05),
                                      ("ef(topk(ratio=0.01))", 0.07, 0.10)):
            with self.subTest(name):
                self.assertGreater(results["train_genes", name][0], accuracy - points)
                self.assertLess(results["train_text", name][0], loss * (1 + percent))
        self.assertGreater(results["train_text", "ef(qsgd(bits=4))"][1], 7)


if __name__ == "__main__":
    unittest.main()
