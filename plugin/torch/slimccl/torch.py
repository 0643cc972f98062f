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
        self._global = [_global_rank(group, r) for r in range(dist.get_world_size(group))]
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


def _global_rank(group, rank):
    return dist.distributed_c10d.get_global_rank(group, rank)


def _over_gloo(group, seed, timeout):
    members = [_global_rank(group, r) for r in range(dist.get_world_size(group))]
    group = dist.new_group(members, backend="gloo")
    hosts = [None] * len(members)
    dist.all_gather_object(hosts, socket.gethostname(), group=group)
    return core.HostCommunicator(dist.get_rank(group), len(members), _ProcessGroup(group),
                                 hosts.count(socket.gethostname()), seed, timeout)


def _over_mpi(mpi, group, seed, timeout):
    from mpi4py import MPI  # pylint: disable=import-outside-toplevel; only here is it needed
    mine = (mpi.Get_rank(), mpi.Get_size(), MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    there = [None] * dist.get_world_size(group)
    dist.all_gather_object(there, mine, group=group)
    for rank, (theirs, size, threads) in enumerate(there):  # all ranks find the same
        if (theirs, size) != (rank, len(there)):
            raise core.Error(f"rank {rank} of the model's {len(there)} is rank {theirs} of {size} in mpi=: give a "
                             "communicator of the same processes in the same order")
        if not threads:
            raise core.Error(f"rank {rank} has no MPI_THREAD_MULTIPLE, which mpi4py asks for by default: buckets "
                             "travel by a thread of the hook")
    return core.MpiCommunicator(mpi, seed, timeout)


class _Host:
    """Gradients in host memory: by a thread of its own, so that buckets keep their order while the backward pass goes
    on."""

    stream = None

    def __init__(self, comm):
        self.comm = comm
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="slimccl")

    def enqueue(self, reduce, *arguments):
        """A torch Future of reduce(*arguments)."""
        future = torch.futures.Future()

        def run():
            try:
                future.set_result(reduce(*arguments))
            except BaseException as error:  # pylint: disable=broad-except; the backward pass raises it
                future.set_exception(error)

        self._worker.submit(run)
        return future

    def do(self, function, *arguments):
        """function(*arguments), behind all that was enqueued."""
        return self._worker.submit(function, *arguments).result()

    def close(self):
        self._worker.shutdown()
        self.comm.close()


class _Cuda:
    """Gradients on a CUDA device: over an NCCL communicator of the hook's own (the process group's belongs to its own
    stream and watchdog), enqueued at once on a stream beside the backward pass's."""

    def __init__(self, device, group, device_bytes, seed, timeout):
        def share(value):
            box = [value]
            dist.broadcast_object_list(box, _global_rank(group, 0), group, device)
            return box[0]

        self._device, self._side = device, torch.cuda.Stream(device)
        self.stream = self._side.cuda_stream
        with torch.cuda.device(device):
            self.comm = core.NcclCommunicator(dist.get_rank(group), dist.get_world_size(group), share, device_bytes,
                                              seed, timeout)

    def enqueue(self, reduce, buffer, *arguments):
        """A torch Future of reduce(buffer, *arguments): the streams that wait for it go on behind that work."""
        future = torch.futures.Future(devices=[self._device])
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        buffer.record_stream(self._side)
        with torch.cuda.stream(self._side):
            future.set_result(reduce(buffer, *arguments))
        return future

    @staticmethod
    def do(function, *arguments):
        return function(*arguments)

    def close(self):
        self.comm.close()


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
        self.met = False  # a bucket came that is this one; before: loaded only


class Hook:
    """The state of register_hook: one for each DDP model and process."""

    def __init__(self, model, spec, policy, rescale, seed, timeout, device_bytes, mpi):
        self._names = {id(p): n for n, p in model.module.named_parameters()}
        self._spec, self._policy, self._rescale = spec, policy, rescale
        group = model.process_group
        self._rank, self._ranks = dist.get_rank(group), dist.get_world_size(group)
        learning = [p for p in model.module.parameters() if p.requires_grad]
        devices = {p.device for p in learning}
        if len(devices) > 1 or not {d.type for d in devices} <= {"cpu", "cuda"}:
            raise core.Error(f"gradients on {', '.join(sorted(map(str, devices)))}: the hook wants those of a process "
                             "on the CPU, or on one CUDA device")
        device = learning[0].device
        if device.type == "cpu":
            self._place = _Host(_over_mpi(mpi, group, seed, timeout) if mpi is not None
                                else _over_gloo(group, seed, timeout))
        else:
            if mpi is not None:
                raise core.Error("mpi= is for gradients on the CPU; these are on a CUDA device, and go over NCCL")
            if device_bytes is None:
                device_bytes = (256 << 20) + sum(p.numel() * max(4, p.element_size()) for p in learning) * 5 // 2
            self._place = _Cuda(device, group, device_bytes, seed, timeout)
        self._comm = self._place.comm
        try:
            probe = self._comm.create(spec, 0)  # a mistake in the spec is told now
        except core.Error:
            self.close()
            raise
        self._full_spec = self._comm.spec(probe)
        self._comm.destroy(probe)
        self._plans, self._slots, self._scale = {}, 0, None

    # ---- Buckets ----

    def _spec_of(self, name, parameter):
        answer = self._policy(name, parameter)
        return self._spec if answer is True else answer or None

    def _plan(self, parameters, gradients, start):
        names = tuple(self._names[id(p)] for p in parameters)
        plan = self._plans.get(names)
        if plan and plan.met:
            return plan
        # A parameter is in one bucket: where DDP has formed its buckets anew, plans of old ones are of no more use.
        for old in [n for n, p in self._plans.items() if p.met and not set(n).isdisjoint(names)]:
            self._drop(old)
        if not plan:
            plan = self._plans[names] = _Plan(names, self._parts(names, parameters, gradients, start))
        plan.met = True
        return plan

    def _parts(self, names, parameters, gradients, start):
        parts = {}
        for name, parameter, gradient in zip(names, parameters, gradients):
            spec = self._spec_of(name, parameter)
            ranges = parts.setdefault(spec, _Part(spec, [])).ranges
            at = gradient.storage_offset() - start
            if ranges and ranges[-1][1] == at:
                ranges[-1] = (ranges[-1][0], at + gradient.numel())
            else:
                ranges.append((at, at + gradient.numel()))
        return list(parts.values())

    def _tensor(self, part):
        if part.spec and not part.tensor:
            part.slot, self._slots = self._slots, self._slots + 1
            part.tensor = self._comm.create(part.spec, part.slot)
        return part.tensor

    def _take_scale(self, scale):
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

    def _reduce(self, buffer, parameters, gradients, scale):
        if scale is not None:
            self._take_scale(scale)
        plan = self._plan(parameters, gradients, buffer.storage_offset())
        for part in plan.parts:
            views = [buffer[low:high] for low, high in part.ranges]
            flat = views[0] if len(views) == 1 else torch.cat(views)
            self._comm.all_reduce(flat.data_ptr(), flat.numel(), _TYPES[flat.dtype], core.AVG, self._tensor(part),
                                  self._place.stream)
            if len(views) > 1:
                for view, piece in zip(views, flat.split([v.numel() for v in views])):
                    view.copy_(piece)
        return buffer

    def __call__(self, _, bucket):
        buffer = bucket.buffer()
        if buffer.dtype not in _TYPES:
            raise core.Error(f"gradients of {buffer.dtype}: give fp16, bf16, fp32 or fp64")
        scale = float(self._rescale()) if self._rescale and bucket.index() == 0 else None
        return self._place.enqueue(self._reduce, buffer, bucket.parameters(), bucket.gradients(), scale)

    # ---- Between steps ----

    def stats(self):
        """One row a compressed part: parameters' names, spec, and core.Stats' fields."""
        return self._place.do(self._stats)

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
        return self._place.do(self._state_dict)

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
        """Takes up the memory of state_dict. Where rank, world size or spec is another, ValueError; with reset=True such
        a state is left aside, and memory begins at zero. DDP forms its first buckets anew after one step: memory of
        buckets that are not met yet waits for them."""
        for field, mine in (("version", 1), ("world_size", self._ranks), ("rank", self._rank),
                            ("spec", self._full_spec)):
            if state[field] != mine:
                if reset:
                    self._place.do(self._forget)
                    return
                raise ValueError(f"the state is of {field} {state[field]!r}, this run has {mine!r}: its memory does "
                                 "not fit. Pass reset=True to begin with none")
        self._place.do(self._load, state)

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
        """Frees all memory; the model must not run backward afterwards. On all ranks."""
        self._place.close()


def register_hook(model, spec, policy=exempt_vectors, rescale=None, seed=1, timeout=600.0, device_bytes=None,
                  mpi=None):
    """Compresses the gradients of a DistributedDataParallel model, on the CPU or on a CUDA device; returns the Hook.

    model: as DistributedDataParallel made it; no other hook may be registered.
    spec: what is sent, e.g. "ef(topk(ratio=0.01))" (docs/specs.md).
    policy: policy(name, parameter) answers True (spec), False or None (uncompressed), or a spec of its own; or a dict
        of shell patterns of names to such answers, the first match counts, and exempt_vectors where none does. The
        same on all ranks.
    rescale: a function that gives the current unit of gradients, e.g. GradScaler's get_scale: where it changes, the
        memory is converted (slimTensorRescale).
    seed: of all random draws. timeout: seconds to wait for other ranks.
    device_bytes: memory of the CUDA device that is reserved for all state and buffers. By default 256 MiB and 10 bytes
        a parameter that learns: enough for ef in fp32, twice, since memory from a checkpoint waits for its buckets.
    mpi: an mpi4py communicator of the same processes in the same order: gradients on the CPU go through MPI, not gloo.

    All ranks of the model's process group call it together. Raises core.Error for a spec that is wrong.
    """
    if isinstance(policy, dict):
        patterns = policy

        def policy(name, parameter):
            for pattern, answer in patterns.items():
                if fnmatch.fnmatchcase(name, pattern):
                    return answer
            return exempt_vectors(name, parameter)

    hook = Hook(model, spec, policy, rescale, seed, timeout, device_bytes, mpi)
    # The registered function may be called while the model is torn down: it holds the hook.
    model.register_comm_hook(None, hook.__call__)
    return hook
