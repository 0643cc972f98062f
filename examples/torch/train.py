"""A transformer over characters, trained with DDP as PyTorch's users write it: it knows nothing of SlimCCL.

    torchrun --nproc-per-node 8 examples/torch/train.py
    SLIM_COMPRESS='ef(qsgd(bits=4))' LD_PRELOAD=PREFIX/lib/libslimccl_nccl.so torchrun ... examples/torch/train.py

Also under Open MPI's mpirun (bench/netlab.sh), given MASTER_ADDR. Ranks may share a device where NCCL takes them for
ranks of different hosts; without a device they train on the CPU, over gloo. Rank 0 prints a line every --every steps: loss, and milliseconds a step since the last line.
"""
import argparse
import hashlib
import os
import pathlib
import time

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3", help="what it learns")
parser.add_argument("--width", type=int, default=1024)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--every", type=int, default=10)
args = parser.parse_args()

for name in ("RANK", "WORLD_SIZE"):
    os.environ.setdefault(name, os.environ.get({"RANK": "OMPI_COMM_WORLD_RANK"}.get(name, "OMPI_COMM_WORLD_SIZE"), "0"))
os.environ.setdefault("MASTER_PORT", "29500")
rank = int(os.environ["RANK"])
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

torch.manual_seed(1)
layer = torch.nn.TransformerEncoderLayer(args.width, 8, 4 * args.width, dropout=0, batch_first=True)
model = torch.nn.Sequential(
    torch.nn.Embedding(256, args.width),
    torch.nn.TransformerEncoder(layer, args.layers),
    torch.nn.Linear(args.width, 256),
).to(device)
ddp = torch.nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.index is not None else None)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.02, momentum=0.9)
text = torch.tensor(list(pathlib.Path(args.text).read_bytes()), device=device)
draws = torch.Generator().manual_seed(100 + rank)

total, begin = 0.0, time.time()
for step in range(1, args.steps + 1):
    at = torch.randint(0, len(text) - 129, (8,), generator=draws)
    batch = torch.stack([text[a : a + 129] for a in at.tolist()])
    optimizer.zero_grad(set_to_none=True)
    logits = ddp(batch[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(ddp.parameters(), 1.0)
    optimizer.step()
    total += loss.item()
    if step % args.every == 0:
        ms = 1e3 * (time.time() - begin) / args.every
        if rank == 0:
            print(f"step {step:4}: loss {total / args.every:.4f}, {ms:.1f} ms a step", flush=True)
        total, begin = 0.0, time.time()

state = b"".join(p.detach().cpu().numpy().tobytes() for p in ddp.parameters())
mine, all_of_them = hashlib.sha256(state).hexdigest(), [None] * dist.get_world_size()
dist.all_gather_object(all_of_them, mine)
if rank == 0:
    count = sum(p.numel() for p in ddp.parameters())
    alike = "the same" if len(set(all_of_them)) == 1 else "NOT the same"
    print(f"{count / 1e6:.1f} M parameters, {len(all_of_them)} ranks: {alike} bits on all of them")
dist.destroy_process_group()
