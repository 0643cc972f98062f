#!/usr/bin/env python3
"""Decodes SlimCCL payloads, from docs/format.md alone (version 1).

    decode_payload.py TREE TYPE SEED FILE [down]   prints the decoded values, one a line
    decode_payload.py --check FOLDER               decodes every payload of FOLDER/cases.txt and compares

TREE is the codec tree without its feedback, e.g. 'topk(k=5,block=64,qsgd(bits=5))'; TYPE is fp16, bf16, fp32 or fp64.
"""
import re
import struct
import sys

import numpy as np

F = np.float32


# ---- Specs ----------------------------------------------------------------------------------------------------------

class Node:
    def __init__(self, name, options, children):
        self.name, self.options, self.children = name, options, children

    def get(self, key, default):
        return self.options.get(key, default)

    def block(self):
        if self.name == "rotate" and "block" not in self.options:
            return unit_of(self.children[0])
        return int(self.get("block", 4096 if self.name in ("topk", "randk") else 512))

    def wide(self):
        """A selector over the whole piece."""
        return self.name in ("topk", "randk") and self.get("scope", "block") != "block"


def parse(text):
    tokens = re.findall(r"[(),=]|[^(),=\s]+", text)

    def node():
        name = tokens.pop(0)
        options, children = {}, []
        if tokens and tokens[0] == "(":
            tokens.pop(0)
            while tokens[0] != ")":
                if tokens[1] == "=":
                    key = tokens.pop(0)
                    tokens.pop(0)
                    if key in ("inner", "C", "Q"):
                        children.append(node())
                    else:
                        options[key] = tokens.pop(0)
                elif tokens[0] == "dither":
                    options[tokens.pop(0)] = True
                else:
                    children.append(node())
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
        if name in ("topk", "randk") and not children:
            children.append(Node("fp32", {}, []))
        return Node(name, options, children)

    return node()


# ---- Randomness (section 3) -----------------------------------------------------------------------------------------

DITHER, INDEX, ROTATION = 0, 1, 2


def philox(c0, c1, c2, c3, seed):
    """Philox4x32 with 7 rounds; c0 is an array, and so is each of the four words."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c = [np.asarray(c0, np.uint64) & mask] + [np.full(np.shape(c0), v & 0xFFFFFFFF, np.uint64) for v in (c1, c2, c3)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(7):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> shift) ^ c[1] ^ np.uint64(k0), b & mask, (a >> shift) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c)


class Place:
    """Who sent the payload, and where in the tree a draw happens."""

    def __init__(self, seed, slot, step, rank, down, branch=0):
        self.seed, self.slot, self.step, self.rank, self.down, self.branch = seed, slot, step, rank, down, branch

    def at(self, branch):
        return Place(self.seed, self.slot, self.step, self.rank, self.down, branch)

    def words(self, kind, c0, all_ranks, step):
        purpose = kind + 8 * self.branch + (64 if self.down and kind != ROTATION else 0)
        rank = 0xFFFFFF if all_ranks else self.rank
        return philox(c0, self.slot, step, rank + (purpose << 24), self.seed)

    def draw32(self, kind, e, all_ranks):
        w = self.words(kind, e // 4, all_ranks, self.step)
        return w[e % 4, np.arange(len(e))]

    def draw1(self, kind, e, step):
        w = self.words(kind, e // 128, True, step)
        return (w[e % 128 // 32, np.arange(len(e))] >> (e % 32).astype(np.uint64)) & np.uint64(1)


# ---- Codecs (section 5) ---------------------------------------------------------------------------------------------

def unpack(data, count, bits):
    """count codes of `bits` bits each, least significant bit first; what is missing is 0."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    stream = np.concatenate([stream, np.zeros(max(0, count * bits - len(stream)), np.uint8)])[: count * bits]
    return (stream.reshape(count, bits).astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(1).astype(np.int64)


def small_float(codes, mantissa, bias):
    codes = np.asarray(codes)
    field = codes >> mantissa & ((1 << 7 - mantissa) - 1)
    fraction = codes & ((1 << mantissa) - 1)
    size = np.where(field == 0, np.ldexp(fraction * 1.0, 1 - bias - mantissa),
                    np.ldexp(fraction + float(1 << mantissa), field - bias - mantissa))
    return np.where(codes & 0x80, -size, size).astype(F)


def levels(node):
    """L and b."""
    if node.name == "ternary":
        return 1, 2
    if "levels" in node.options:
        s = int(node.get("levels", 0))
        return s, int(np.ceil(np.log2(2 * s + 1)))
    b = int(node.get("bits", 0))
    return 2 ** (b - 1) - 1, b


def streams(leaf):
    """Bits an element of each code section."""
    if leaf.name in ("qsgd", "ternary"):
        return [levels(leaf)[1]]
    if leaf.name in TRUNCATED or is_dithering(leaf):
        return [int(leaf.get("bits", 0))]
    return {"fp32": [32], "fp16": [16], "bf16": [16], "fp8": [8], "sign": [1], "onebit": [1], "natural": [1, 8]}[leaf.name]


def has_scale(leaf):
    return leaf.name in ("fp8", "onebit", "qsgd", "ternary", "natural", "nuqsgd") + TRUNCATED


TRUNCATED = ("tqsgd", "tbqsgd", "tnqsgd")


def is_dithering(leaf):
    """Natural dithering."""
    return leaf.name == "nuqsgd" or (leaf.name == "natural" and "bits" in leaf.options)


def is_power(leaf):
    return leaf.name == "tbqsgd" or (leaf.name in TRUNCATED and leaf.get("model", "") == "powerlaw")


def root_of(rising, low, high):
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high


def truncated_levels(leaf, table):
    """P_0 ... P_(h-1)."""
    h, workers = 2 ** (int(leaf.get("bits", 0)) - 1), float(leaf.get("workers", 1))
    s = 2.0 * h - 1
    u = (2 * np.arange(h) + 1) / s
    if not is_power(leaf):
        if leaf.name == "tqsgd":
            return (u * root_of(lambda a: a * np.exp(a) - s * s * workers, 0, 100)).astype(F)
        a = 3 * np.log(1 + s * np.sqrt(6 * workers) / 9)
        return (-3 * np.log(1 - u * (1 - np.exp(-a / 3)))).astype(F)
    gamma, mu = 3 + (table % 32 + 1) / 16, 2.0 ** (-2 - (table // 32) / 2)
    below, tail, bend = np.cbrt((1 - mu) / 2), np.cbrt(mu * (gamma - 1) / 2), gamma / 3 - 1

    def mass(x):
        return (1 - mu) * x if x <= 1 else 1 - mu * x ** (1 - gamma)

    def root(x):
        return below * min(x, 1) + (tail * (1 - x ** -bend) / bend if x > 1 else 0)

    def biscaled(a):
        parts = [(mass(k * a) * k * k, (mass(a) - mass(k * a)) * (1 - k) ** 2) for k in np.arange(1, 8) / 8]
        return min((np.cbrt(i) + np.cbrt(o)) ** 3 for i, o in parts)

    quality = {"tqsgd": mass, "tnqsgd": lambda a: 2 * root(a) ** 3 / a ** 2, "tbqsgd": biscaled}[leaf.name]

    def balance(a):
        return a ** (gamma - 1) * quality(a) - mu * s * s * workers / (gamma - 2)

    a = 1 if balance(1) >= 0 else 4096 if balance(4096) <= 0 else root_of(balance, 1, 4096)
    if leaf.name == "tqsgd":
        return (u * a).astype(F)
    if leaf.name == "tnqsgd":
        y = u * root(a)
        return np.array([x / below if x <= below else (1 - (x - below) * bend / tail) ** (-1 / bend) for x in y], F)
    least = np.inf
    for part in np.arange(1, 32) / 32:
        for i in np.arange(1, s - 1, 2):
            variance = mass(part * a) * part ** 2 / i ** 2 + (mass(a) - mass(part * a)) * (1 - part) ** 2 / (s - i) ** 2
            if variance < least * (1 - 1e-9):
                least, k, inside = variance, part, i
    return np.array([i / inside * k * a if i <= inside else k * a + (i - inside) / (s - inside) * (a - k * a)
                     for i in u * s], F)


def decode_leaf(leaf, sections, size, block):
    sections = list(sections)
    scale = None
    if has_scale(leaf):
        scale = np.repeat(np.frombuffer(sections.pop(0), "<f4"), block)[:size]
    tables = np.zeros(size, np.int64)
    if is_power(leaf):
        tables = np.repeat(np.frombuffer(sections.pop(0), np.uint8), block)[:size].astype(np.int64)
    codes = [unpack(data, size, bits) for data, bits in zip(sections, streams(leaf))]
    if leaf.name == "fp32":
        return codes[0].astype(np.uint32).view(F)
    if leaf.name == "fp16":
        return codes[0].astype(np.uint16).view(np.float16).astype(F)
    if leaf.name == "bf16":
        return (codes[0].astype(np.uint32) << 16).astype(np.uint32).view(F)
    if leaf.name == "fp8":
        return small_float(codes[0], 2, 15) * scale if leaf.get("format", "e4m3") == "e5m2" \
            else small_float(codes[0], 3, 7) * scale
    if leaf.name == "sign":
        value = F(leaf.get("scale", "1"))
        return np.where(codes[0], -value, value)
    if leaf.name == "onebit":
        return np.where(codes[0], -scale, scale)
    if leaf.name in ("qsgd", "ternary"):
        return (codes[0] - levels(leaf)[0]).astype(F) * scale
    if is_dithering(leaf):
        top = levels(leaf)[0]
        k = codes[0] - top
        return (np.sign(k) * np.ldexp(1.0, np.abs(k) - top)).astype(F) * scale
    if leaf.name in TRUNCATED:
        known = {table: truncated_levels(leaf, table) for table in set(tables)}
        h = 2 ** (streams(leaf)[0] - 1)
        levels_of = np.stack([known[table][np.where(c >= h, c - h, h - 1 - c)] for table, c in zip(tables, codes[0])])
        return np.where(codes[0] >= h, levels_of * scale, -(levels_of * scale))
    size = (codes[1].astype(np.uint32) << 23).astype(np.uint32).view(F)  # natural
    return np.where(codes[0], -size, size) * scale


# ---- Trees (sections 4 and 6) ---------------------------------------------------------------------------------------

def unit_of(node):
    if node.name in ("topk", "randk"):
        return None if node.wide() else node.block()
    if node.name == "induced":
        units = [unit_of(child) for child in node.children]
        return None if None in units else max(units)
    if node.name == "rotate":
        return max(node.block(), unit_of(node.children[0]))
    return node.block()


def ultra_sparse(node):
    return float(node.get("k", 1)) < 1


def count_of(node, of):
    k = int(np.ceil(float(node.options["k"]))) if "k" in node.options else max(1, int(np.floor(float(node.options["ratio"]) * of + 0.5)))
    return min(k, of)


def log2(power):
    return power.bit_length() - 1


def up(a, b):
    return -(-a // b)


def section_bytes(node, size, nv, whole, block=None):
    """What a unit of `size` elements, nv of them valid, adds to each section. whole: below rotate or a selector."""
    if node.name == "induced":
        return [b for child in node.children for b in section_bytes(child, size, nv, whole)]
    if node.name == "rotate":
        stretch = unit_of(node)
        return [size // stretch * b for b in section_bytes(node.children[0], stretch, stretch, True)]
    if node.wide():
        k, inner = count_of(node, nv), node.children[0]
        index = [4 * k] if node.name == "topk" else []
        return index + section_bytes(inner, up(k, inner.block()) * inner.block(), k, False)
    if node.name in ("topk", "randk"):
        k, blocks = count_of(node, node.block()), size // node.block()
        index = [blocks * up(k * log2(node.block()), 8)] if node.name == "topk" else []
        index += [blocks] if ultra_sparse(node) else []
        return index + [blocks * b for b in section_bytes(node.children[0], k, k, True, block=k)]
    blocks = up(size, block or node.block())
    scale = ([4 * blocks] if has_scale(node) else []) + ([blocks] if is_power(node) else [])
    return scale + [up((size if whole else nv) * bits, 8) for bits in streams(node)]


def decode_unit(node, sections, size, nv, e0, place, block=None):
    if node.name == "induced":
        c, q = node.children
        split = len(section_bytes(c, size, nv, False))
        return decode_unit(c, sections[:split], size, nv, e0, place.at(1)) + \
            decode_unit(q, sections[split:], size, nv, e0, place.at(2))
    if node.name == "rotate":
        return decode_rotate(node, sections, size, e0, place)
    if node.name in ("topk", "randk"):
        return decode_selector(node, sections, size, nv, e0, place)
    return decode_leaf(node, sections, size, block or node.block())


def part(sections, sizes, index):
    return [data[index * b:(index + 1) * b] for data, b in zip(sections, sizes)]


def decode_rotate(node, sections, size, e0, place):
    r, stretch, inner, out = node.block(), unit_of(node), node.children[0], []
    sizes = section_bytes(inner, stretch, stretch, True)
    for start in range(0, size, stretch):
        w = decode_unit(inner, part(sections, sizes, start // stretch), stretch, stretch, e0 + start, place)
        stride = 1
        while stride < r:
            pairs = w.reshape(-1, 2, stride)
            w = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
            stride *= 2
        w = w * F(2.0 ** (-log2(r) / 2))
        step = 0 if node.get("signs", "") == "fixed" else place.step
        flips = place.draw1(ROTATION, np.arange(e0 + start, e0 + start + stretch), step)
        out.append(np.where(flips == 1, -w, w))
    return np.concatenate(out)


def decode_selector(node, sections, size, nv, e0, place):
    out, inner = np.zeros(size, F), node.children[0]
    wide = node.wide()
    stretch = size if wide else node.block()
    k = count_of(node, nv if wide else stretch)
    inner_block = inner.block() if wide else k
    inner_size = up(k, inner_block) * inner_block
    sizes = section_bytes(inner, inner_size, k, not wide, block=inner_block)
    bits = 32 if wide else log2(stretch)
    for start in range(0, size, stretch):
        valid = min(max(nv - start, 0), stretch)
        count, index = min(k, valid), start // stretch
        below = sections
        if node.name == "topk":
            width = up(k * bits, 8)
            chosen = unpack(sections[0][index * width:(index + 1) * width], k, bits)[:count]
            below = sections[1:]
        if ultra_sparse(node) and not wide:
            if not below[0][index]:
                continue
            below = below[1:]
        if node.name == "randk":
            keys = place.draw32(INDEX, np.arange(e0 + start, e0 + start + valid), node.get("seed", "own") == "shared")
            chosen = np.sort(np.argsort(keys, kind="stable")[:count])
        values = decode_unit(inner, part(below, sizes, index), inner_size, count, 0, place, block=inner_block)
        out[start + chosen] = values[:count]
    return out


# ---- Payloads -------------------------------------------------------------------------------------------------------

TYPES = {"fp16": np.float16, "bf16": None, "fp32": np.float32, "fp64": np.float64}


def align(n):
    return up(n, 16) * 16


def decode(payload, tree, type_name, seed, down=False):
    """The decoded values: float64 for fp64 tensors, else float32; NaN in flagged units."""
    if type_name not in TYPES:
        raise ValueError("unknown type " + type_name)
    magic, version, flags, _, step, slot, rank, n, first, size, zero = struct.unpack("<4sHHQQIIQQQQ", payload[:64])
    if magic != b"SLM1" or version != 1 or zero != 0:
        raise ValueError("not a payload of version 1")
    if size != len(payload) or size % 16:
        raise ValueError("the header says %d bytes, there are %d" % (size, len(payload)))
    wide = type_name == "fp64"
    real = np.float64 if wide else F
    if flags & 1:
        raise ValueError("an error report: rank %d disagreed" % n)
    if flags & 2:
        return np.frombuffer(payload, "<f8" if wide else "<f4", n, 64)
    node = parse(tree)
    place = Place(seed, slot, step, rank, down)
    out = np.zeros(n, real)
    unit = unit_of(node) or n
    units = up(n, unit) if n else 0
    if units == 0:
        return out
    at = 64
    flagged = np.unpackbits(np.frombuffer(payload, np.uint8, up(units, 8), at), bitorder="little")
    at += align(up(units, 8))
    exponents = np.zeros(units, np.int32)
    if wide:
        exponents = np.frombuffer(payload, "<i4", units, at)
        at += align(4 * units)
    rest = n - (units - 1) * unit
    full, last = section_bytes(node, unit, unit, False), section_bytes(node, unit, rest, False)
    sections = []
    for a, b in zip(full, last):
        bytes_here = (units - 1) * a + b
        sections.append(payload[at:at + bytes_here])
        if any(payload[at + bytes_here:at + align(bytes_here)]):
            raise ValueError("a gap is not zero")
        at += align(bytes_here)
    if at != len(payload):
        raise ValueError("the tree takes %d bytes, there are %d" % (at, len(payload)))
    for u in range(units):
        nv = rest if u == units - 1 else unit
        here = slice(u * unit, u * unit + nv)
        if flagged[u]:
            out[here] = np.nan
            continue
        if unit_of(node) is None and flagged[1]:  # nothing is sent
            continue
        own = [data[u * a:] if u == units - 1 else data[u * a:(u + 1) * a] for data, a in zip(sections, full)]
        values = decode_unit(node, own, unit, nv, first + u * unit, place)[:nv]
        out[here] = np.ldexp(values.astype(real), exponents[u]) if wide else values
    return out


def check(folder):
    failed = 0
    with open(folder + "/cases.txt") as index:
        for line in index:
            name, type_name, direction, seed, tree = line.split(None, 4)
            with open("%s/%s.payload" % (folder, name), "rb") as file:
                payload = file.read()
            expected = np.fromfile("%s/%s.expected" % (folder, name), TYPES[type_name])
            got = decode(payload, tree.strip(), type_name, int(seed, 0), direction == "down").astype(TYPES[type_name])
            nans = np.isnan(expected)
            same = got.shape == expected.shape and np.array_equal(nans, np.isnan(got)) and \
                got[~nans].tobytes() == expected[~nans].tobytes()
            print("%-12s %4d values, %4d bytes: %s" % (name, len(expected), len(payload), "ok" if same else "DIFFERS"))
            failed += not same
    return failed


def main(args):
    if len(args) == 2 and args[0] == "--check":
        return 1 if check(args[1]) else 0
    if len(args) not in (4, 5) or (len(args) == 5 and args[4] != "down"):
        sys.stderr.write(__doc__)
        return 2
    with open(args[3], "rb") as file:
        payload = file.read()
    for value in decode(payload, args[0], args[1], int(args[2], 0), len(args) == 5):
        print(repr(float(value)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
