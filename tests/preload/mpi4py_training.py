"""Data-parallel training with NumPy and mpi4py: a two-layer network on synthetic classes. Knows nothing of SlimCCL."""
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
rank, ranks = comm.Get_rank(), comm.Get_size()

teacher = np.random.default_rng(1)
centres = teacher.normal(size=(10, 64))
data = np.random.default_rng(100 + rank)
labels = data.integers(10, size=512)
x = (centres[labels] + 1.5 * data.normal(size=(512, 64))).astype(np.float32)
y = np.eye(10, dtype=np.float32)[labels]

start = np.random.default_rng(2)
w1 = (0.1 * start.normal(size=(64, 128))).astype(np.float32)
w2 = (0.1 * start.normal(size=(128, 10))).astype(np.float32)


def step(xb, yb):
    h = np.maximum(xb @ w1, 0)
    z = h @ w2
    z -= z.max(axis=1, keepdims=True)
    p = np.exp(z)
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(p[yb > 0] + 1e-9))
    d = (p - yb) / len(xb)
    return loss, xb.T @ ((d @ w2.T) * (h > 0)), h.T @ d


def mean_loss():
    return comm.allreduce(float(step(x, y)[0])) / ranks


first = mean_loss()
for t in range(150):
    batch = data.integers(512, size=64)
    _, g1, g2 = step(x[batch], y[batch])
    for w, g in ((w1, g1), (w2, g2)):
        total = np.empty_like(g)
        comm.Allreduce(g, total, op=MPI.SUM)
        w -= 0.3 * total / ranks

last = mean_loss()
reference = comm.bcast(w1.tobytes())
differ = comm.allreduce(int(reference != w1.tobytes()))
if rank == 0:
    print(f"first_loss {first:.6f}\nloss {last:.6f}\nranks_differ {differ}")
