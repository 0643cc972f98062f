"""SlimCCL for PyTorch: gradients of DistributedDataParallel travel compressed.

    import slimccl.torch
    model = torch.nn.parallel.DistributedDataParallel(net)
    hook = slimccl.torch.register_hook(model, "ef(topk(ratio=0.01))")
"""
import concurrent.futures
import ctypes
import datetime
import fnmatch
import os
import socket
import tempfile

import torch
import torch.distributed as dist

from slimccl import core

_TYPES = {
    torch.float32: core.FLOAT32,
    torch.float64: core.FLOAT64,
    torch.float16: core.FLOAT16,
    torch.bfloat16: core.BFLOAT16,
}


class _ProcessGroup:
    """Moves bytes by a process group's isend and irecv."""

    def __init__(self, group):
        self._group, self._works = group, {}
        self._global = [dist.distributed_c10d.get_global_rank(group, r) for r in range(dist.get_world_size(group))]
        self._rank = dist.get_rank(group)

    @staticmethod
    def _bytes(address, count):
        return torch.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype=torch.uint8)

    def begin(self, number, lanes):
        works = []
        for p, lane in enumerate(lanes):
            if p != self._rank and lane.recv_bytes:
                works.append(dist.irecv(self._bytes(lane.recv, lane.recv_bytes), self._global[p], self._group, number))
        for p, lane in enumerate(lanes):
            if p != self._rank and lane.send_bytes:
                works.append(dist.isend(self._bytes(lane.send, lane.send_bytes), self._global[p], self._group, number))
        self._works[number] = works

    def wait(self, number, timeout):
        for work in self._works.pop(number):
            work.wait(datetime.timedelta(seconds=timeout))


def exempt_vectors(name, parameter):
    """The default policy: norms and biases stay plain. They are few, and known to suffer most."""
    del name
    return parameter.dim() > 1


class _Part:
    """Elements of a bucket that go through one tensor slot (or, without a spec, uncompressed)."""

    def __init__(self, spec, ranges):
        self.spec, self.ranges = spec, ranges
        self.tensor = self.slot = None


class _Plan:
    """How one bucket, known by the names of its parameters, is cut into parts."""

    def __init__(self, names, parts):
        self.names, self.parts = names, parts
        self.used = None  # the last step that used it; None: loaded, and not met yet


class Hook:
    """The state of register_hook: one for each DDP model and process."""

    def __init__(self, model, spec, policy, rescale, seed, timeout):
        self._names = {id(p): n for n, p in model.module.named_parameters()}
        self._spec, self._policy, self._rescale = spec, policy, rescale
        group = model.process_group
        members = [dist.distributed_c10d.get_global_rank(group, r) for r in range(dist.get_world_size(group))]
        self._group = dist.new_group(members, backend="gloo")
        self._rank, self._ranks = dist.get_rank(self._group), dist.get_world_size(self._group)
        hosts = [None] * self._ranks
        dist.all_gather_object(hosts, socket.gethostname(), group=self._group)
        self._comm = core.Communicator(self._rank, self._ranks, _ProcessGroup(self._group),
                                       hosts.count(socket.gethostname()), seed, timeout)
        probe = self._comm.create(spec, 0)  # a mistake in the spec is told now
        self._full_spec = self._comm.spec(probe)
        self._comm.destroy(probe)
        self._plans, self._slots, self._step, self._scale = {}, 0, 0, None
        # One thread, so that buckets keep their order while the backward pass goes on.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="slimccl")

    # ---- Buckets ----

    def _spec_of(self, name, parameter):
        answer = self._policy(name, parameter)
        return self._spec if answer is True else answer or None

    def _plan(self, parameters, gradients, start):
        names = tuple(self._names[id(p)] for p in parameters)
        plan = self._plans.get(names)
        if plan:
            return plan
        parts = {}
        for name, parameter, gradient in zip(names, parameters, gradients):
            spec = self._spec_of(name, parameter)
            ranges = parts.setdefault(spec, _Part(spec, [])).ranges
            at = gradient.storage_offset() - start
            if ranges and ranges[-1][1] == at:
                ranges[-1] = (ranges[-1][0], at + gradient.numel())
            else:
                ranges.append((at, at + gradient.numel()))
        plan = self._plans[names] = _Plan(names, list(parts.values()))
        return plan

    def _tensor(self, part):
        if part.spec and not part.tensor:
            part.slot, self._slots = self._slots, self._slots + 1
            part.tensor = self._comm.create(part.spec, part.slot)
        return part.tensor

    def _begin_step(self, scale):
        self._step += 1
        # DDP forms its buckets anew once: the plans of the old ones are of no more use.
        for names, plan in list(self._plans.items()):
            if plan.used is not None and plan.used < self._step - 1:
                self._drop(names)
        if scale is not None:
            if self._scale is not None and scale != self._scale:
                for plan in self._plans.values():
                    for part in plan.parts:
                        if part.tensor:
                            self._comm.rescale(part.tensor, scale / self._scale)
            self._scale = scale

    def _drop(self, names):
        for part in self._plans.pop(names).parts:
            if part.tensor:
                self._comm.destroy(part.tensor)

    def _reduce(self, first, scale, buffer, parameters, gradients):
        if first:
            self._begin_step(scale)
        plan = self._plan(parameters, gradients, buffer.storage_offset())
        plan.used = self._step
        for part in plan.parts:
            views = [buffer[low:high] for low, high in part.ranges]
            flat = views[0] if len(views) == 1 else torch.cat(views)
            self._comm.all_reduce(flat.data_ptr(), flat.numel(), _TYPES[flat.dtype], core.AVG, self._tensor(part))
            if len(views) > 1:
                for view, piece in zip(views, flat.split([v.numel() for v in views])):
                    view.copy_(piece)
        return buffer

    def __call__(self, _, bucket):
        buffer = bucket.buffer()
        if buffer.device.type != "cpu":
            raise core.Error(f"gradients on {buffer.device}: this version's hook compresses CPU tensors")
        if buffer.dtype not in _TYPES:
            raise core.Error(f"gradients of {buffer.dtype}: give fp16, bf16, fp32 or fp64")
        first = bucket.index() == 0
        scale = float(self._rescale()) if first and self._rescale else None
        future = torch.futures.Future()

        def run(*arguments):
            try:
                future.set_result(self._reduce(*arguments))
            except BaseException as error:  # pylint: disable=broad-except; the backward pass raises it
                future.set_exception(error)

        self._worker.submit(run, first, scale, buffer, bucket.parameters(), bucket.gradients())
        return future

    # ---- Between steps ----

    def _do(self, function, *arguments):
        return self._worker.submit(function, *arguments).result()

    def stats(self):
        """One row a compressed part: parameters' names, spec, and core.Stats' fields."""
        return self._do(self._stats)

    def _stats(self):
        rows = []
        for plan in self._plans.values():
            for part in plan.parts:
                if part.tensor:
                    stats = self._comm.stats(part.tensor)
                    rows.append({"parameters": plan.names, "spec": self._comm.spec(part.tensor),
                                 **{name: getattr(stats, name) for name, _ in stats._fields_[1:]}})
        return rows

    def state_dict(self):
        """This rank's feedback memory and what it belongs to. Save one a rank."""
        return self._do(self._state_dict)

    def _state_dict(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state")
            self._comm.save(path)
            with open(path, "rb") as file:
                state = file.read()
        plans = [(plan.names, [(part.spec, part.ranges, part.slot) for part in plan.parts])
                 for plan in self._plans.values()]
        return {"version": 1, "world_size": self._ranks, "rank": self._rank, "spec": self._full_spec,
                "slots": self._slots, "scale": self._scale, "plans": plans,
                "state": torch.frombuffer(bytearray(state), dtype=torch.uint8)}

    def load_state_dict(self, state, reset=False):
        """Takes up the memory of state_dict. Where rank, world size or spec is another, ValueError; with reset=True such a
        state is left aside, and memory begins at zero. DDP forms its first buckets anew after one step: memory of buckets
        that are not met yet waits for them."""
        for field, mine in (("version", 1), ("world_size", self._ranks), ("rank", self._rank),
                            ("spec", self._full_spec)):
            if state[field] != mine:
                if reset:
                    self._do(self._forget)
                    return
                raise ValueError(f"the state is of {field} {state[field]!r}, this run has {mine!r}: its memory does not "
                                 "fit. Pass reset=True to begin with none")
        self._do(self._load, state)

    def _forget(self):
        for names in list(self._plans):
            self._drop(names)

    def _load(self, state):
        self._forget()
        for names, parts in state["plans"]:
            plan = self._plans[tuple(names)] = _Plan(tuple(names), [])
            for spec, ranges, slot in parts:
                part = _Part(spec, [tuple(r) for r in ranges])
                if slot is not None:
                    part.slot, part.tensor = slot, self._comm.create(spec, slot)
                plan.parts.append(part)
        self._slots, self._scale = state["slots"], state["scale"]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state")
            with open(path, "wb") as file:
                file.write(state["state"].numpy().tobytes())
            self._comm.load(path)

    def close(self):
        """Ends the worker and frees all memory; the model must not run backward afterwards."""
        self._worker.shutdown()
        self._comm.close()


def register_hook(model, spec, policy=exempt_vectors, rescale=None, seed=1, timeout=600.0):
    """Compresses the gradients of a DistributedDataParallel model on the CPU; returns the Hook.

    model: as DistributedDataParallel made it; no other hook may be registered.
    spec: what is sent, e.g. "ef(topk(ratio=0.01))" (docs/specs.md).
    policy: policy(name, parameter) answers True (spec), False or None (uncompressed), or a spec of its own; or a dict
        of shell patterns of names to such answers, the first match counts, and exempt_vectors where none does. The
        same on all ranks.
    rescale: a function that gives the current unit of gradients, e.g. GradScaler's get_scale: where it changes, the
        memory is converted (slimTensorRescale).
    seed: of all random draws. timeout: seconds to wait for other ranks.

    All ranks of the model's process group call it together. Raises core.Error for a spec that is wrong.
    """
    if isinstance(policy, dict):
        patterns = policy

        def policy(name, parameter):
            for pattern, answer in patterns.items():
                if fnmatch.fnmatchcase(name, pattern):
                    return answer
            return exempt_vectors(name, parameter)

    hook = Hook(model, spec, policy, rescale, seed, timeout)
    # The registered function may be called while the model is torn down: it holds the hook.
    model.register_comm_hook(None, hook.__call__)
    return hook
