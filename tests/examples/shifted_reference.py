"""The methods of arXiv 2206.10452 on the ridge problem of //examples:convex, in NumPy and with draws of its own.

It shares no code with the example: the instance is drawn again from the same Philox numbers, the step sizes come from
the theorems anew, and the compressors' randomness is NumPy's. Prints `name value` lines: constants of the instance, and
for each method the median over seeds of the rounds to 1e-10; or, where it stalls, of the mean error from round 1000 on.
"""

import sys

import numpy as np

SETTLED = 1000
WORKERS, ROWS, COLUMNS, L2, KEPT = 10, 100, 80, 0.01, 40
FEATURE, COEFFICIENT, NOISE, START = range(4)


def philox(i, j, kind, seed=1):
    """Philox4x32-10 of counters (i, j, 0, kind) and key (seed, 0): two uniform numbers each, as float64 in [0, 1)."""
    i, j = np.broadcast_arrays(np.asarray(i, np.uint64), np.asarray(j, np.uint64))
    low = np.uint64(0xFFFFFFFF)
    c = [i.copy(), j.copy(), np.zeros_like(i), np.full_like(i, kind)]
    k = [np.uint64(seed), np.uint64(0)]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return [((c[2 * u + 1] << np.uint64(32) | c[2 * u]) >> np.uint64(11)).astype(float) * 2.0**-53 for u in (0, 1)]


def normal(i, j, kind):
    u, v = philox(i, j, kind)
    return np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)


# The instance: worker w has rows 10w to 10w + 9.
a = normal(np.arange(ROWS)[:, None], np.arange(COLUMNS)[None, :], FEATURE)
b = a[:, :10] @ (100 * philox(np.arange(10), 0, COEFFICIENT)[0]) + 10 * normal(np.arange(ROWS), 0, NOISE)
shards = a.reshape(WORKERS, -1, COLUMNS)
x0 = np.sqrt(10) * normal(np.arange(COLUMNS), 0, START)
hessian = a.T @ a / ROWS + L2 * np.eye(COLUMNS)
solution = np.linalg.solve(hessian, a.T @ b / ROWS)
eigenvalues = np.linalg.eigvalsh(hessian)
mu, L = eigenvalues[0], eigenvalues[-1]
Lmax = max(np.linalg.eigvalsh(s.T @ s / len(s))[-1] + L2 for s in shards)
start = np.sum((x0 - solution) ** 2)


def gradients(x):
    """x: seeds × columns; the workers' gradients: seeds × workers × columns."""
    residual = (x @ a.T - b).reshape(len(x), WORKERS, 1, -1)
    return (residual @ shards)[:, :, 0] / shards.shape[1] + L2 * x[:, None]


def randk(rng, v):
    u = rng.random(v.shape)
    return np.where(u <= np.partition(u, KEPT - 1)[..., KEPT - 1 : KEPT], v * (COLUMNS / KEPT), 0)


def topk(v):
    m = np.abs(v)
    return np.where(m >= np.partition(m, -KEPT)[..., -KEPT, None], v, 0)


OMEGA = COLUMNS / KEPT - 1


def compress(rng, v, induced):
    if not induced:
        return randk(rng, v)
    c = topk(v)
    return c + randk(rng, v - c)


def method(seed, exact, noise, shift=None, learn=None, induced=False, iterates=False):
    """exact: converges. noise: the factor of omega·Lmax/n in the step size. shift: fixed h_i. learn: "diana" or "rand",
    how the h_i change."""
    seeds, rounds = (5, 6000) if exact else (15, 4000)  # a plateau has more to average out
    rng = np.random.default_rng(seed)
    omega = OMEGA * (1 - KEPT / COLUMNS) if induced else OMEGA
    alpha = 1 / (1 + omega)
    over = noise * omega / WORKERS
    gamma = 1 / (L + over * Lmax)
    eta = 1 / (L / mu + over * (Lmax / mu - 1))
    if iterates:
        gamma = (1 + eta * over) / (eta * (L + over * Lmax))
    x = np.tile(x0, (seeds, 1))
    h = np.zeros((seeds, WORKERS, COLUMNS)) if shift is None else np.tile(shift, (seeds, 1, 1))
    errors = np.empty((rounds, seeds))
    arrived = np.full(seeds, np.inf)
    for k in range(rounds):
        sent = x[:, None] - gamma * gradients(x) if iterates else gradients(x)
        q = compress(rng, sent - h, induced)
        mean = (h + q).mean(1)
        x = (1 - eta) * x + eta * mean if iterates else x - gamma * mean
        if learn == "diana":
            h = h + alpha * q
        elif learn == "rand":
            falls = rng.random(seeds) < alpha
            h[falls] = sent[falls]
        errors[k] = np.sum((x - solution) ** 2, 1) / start
        arrived = np.where(errors[k] <= 1e-10, np.minimum(arrived, k + 1), arrived)
        if exact and np.all(arrived < np.inf):
            return np.median(arrived)
    return np.inf if exact else np.median(errors[SETTLED:].mean(0))


def main():
    print("L", repr(L))
    print("mu", repr(mu))
    print("Lmax", repr(Lmax))
    print("start", repr(start))
    first, last = gradients(x0[None])[0], gradients(solution[None])[0]
    results = {
        "DCGD": method(1, False, 2),
        "fixed": method(2, False, 2, shift=first),
        "DCGD-STAR": method(3, True, 1, shift=last),
        "DIANA": method(4, True, 6, learn="diana"),
        "induced": method(5, True, 6, learn="diana", induced=True),
        "Rand-DIANA": method(6, True, 6, learn="rand"),
        "GDCI": method(7, False, 2, iterates=True),
        "VR-GDCI": method(8, True, 6, iterates=True, learn="diana"),
    }
    for name, value in results.items():
        print(name, repr(float(value)))


if __name__ == "__main__":
    sys.exit(main())
