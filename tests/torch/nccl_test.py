"""slimccl.core over NCCL, on the stand-in for CUDA devices: a process and a device a rank, beside the CPU's bits."""
import ctypes
import multiprocessing as mp
import os
import tempfile
import unittest

import numpy as np

from slimccl import core

COUNT = 100003
STEPS = 3


def pipes(ranks):
    """ends[r][p]: rank r's end towards rank p."""
    ends = [[None] * ranks for _ in range(ranks)]
    for r in range(ranks):
        for p in range(r):
            ends[r][p], ends[p][r] = mp.Pipe()
    return ends


class Exchange:
    """Bytes over pipes, for the host's communicator: all at once, where the exchange is waited for."""

    def __init__(self, ends):
        self._ends, self._begun = ends, {}

    def begin(self, number, lanes):
        self._begun[number] = [(lane.send, lane.send_bytes, lane.recv, lane.recv_bytes) for lane in lanes]

    def wait(self, number, timeout):
        del timeout
        rank = self._ends.index(None)
        for p, (send, send_bytes, recv, recv_bytes) in enumerate(self._begun.pop(number)):
            for sends in (rank < p, rank > p):  # the lower rank of two sends first
                if p != rank and sends and send_bytes:
                    self._ends[p].send_bytes(ctypes.string_at(send, send_bytes))
                if p != rank and not sends and recv_bytes:
                    ctypes.memmove(recv, self._ends[p].recv_bytes(), recv_bytes)


class Device:
    """A CUDA device by its driver's functions, current on this thread."""

    def __init__(self, ordinal):
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._context, self.stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuInit", 0)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), ordinal)
        self._do("cuCtxSetCurrent", self._context)
        self._do("cuStreamCreate", ctypes.byref(self.stream), 1)

    def _do(self, name, *arguments):
        result = getattr(self._cuda, name)(*arguments)
        assert result == 0, f"{name}: {result}"

    def put(self, array):
        address = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(array.nbytes))
        self._do("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return address

    def take(self, address, like):
        array = np.empty_like(like)
        self._do("cuStreamSynchronize", self.stream)
        self._do("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), address, ctypes.c_size_t(array.nbytes))
        self._do("cuMemFree_v2", address)
        return array


def gradient(rank, step):
    return np.random.default_rng(1000 * step + rank).standard_normal(COUNT, np.float32)


def on_device(device, comm, array, tensor):
    there = device.put(array)
    comm.all_reduce(there.value, array.size, core.FLOAT32, core.AVG, tensor, device.stream)
    return device.take(there, array)


def on_host(comm, array, tensor):
    array = array.copy()
    comm.all_reduce(array.ctypes.data, array.size, core.FLOAT32, core.AVG, tensor)
    return array


def run(rank, ranks, ends, folder):
    device = Device(rank)

    def share(value):
        if rank == 0:
            for end in ends[1:]:
                end.send(value)
            return value
        return ends[0].recv()

    try:
        core.NcclCommunicator(rank, ranks, share)
        assert False, "there is no NCCL yet"
    except core.Error as error:
        assert "libnccl.so.2" in str(error), error
    ctypes.CDLL("libnccl.so.2")

    comm = core.NcclCommunicator(rank, ranks, share)
    host = core.HostCommunicator(rank, ranks, Exchange(ends), ranks)
    plain = on_device(device, comm, np.arange(COUNT, dtype=np.float32) + rank, None)
    assert np.array_equal(plain, np.arange(COUNT) + np.float32((ranks - 1) / 2)), "uncompressed"

    spec = "ef(qsgd(bits=4))"
    tensor, twin = comm.create(spec, 7), host.create(spec, 7)
    for step in range(STEPS):
        x = gradient(rank, step)
        y = on_device(device, comm, x, tensor)
        assert np.array_equal(y, on_host(host, x, twin)), f"step {step}: the CPU has other bits"
        mean = sum(gradient(r, step) for r in range(ranks)) / ranks
        assert np.linalg.norm(y - mean) < 0.6 * np.linalg.norm(mean), step
    assert comm.stats(tensor).calls == STEPS and comm.stats(tensor).state_bytes == host.stats(twin).state_bytes
    comm.rescale(tensor, 4.0)
    host.rescale(twin, 4.0)
    path = os.path.join(folder, str(rank))
    comm.save(path)
    comm.close()

    # A state goes on on either; memory that does not suffice is an error with a hint, and the rest goes on.
    again = core.NcclCommunicator(rank, ranks, share, device_bytes=4 << 20)
    tensor = again.create(spec, 7)
    again.load(path)
    x = gradient(rank, STEPS)
    assert np.array_equal(on_device(device, again, x, tensor), on_host(host, x, twin)), "after loading"
    large = again.create("ef(fp32)", 8)
    try:
        on_device(device, again, np.zeros(1 << 20, np.float32), large)
        assert False, "it has no room for this"
    except core.Error as error:
        assert "deviceBytes" in str(error), error
    again.close()
    host.close()


def guarded(rank, *arguments):
    try:
        run(rank, *arguments)
    except BaseException as error:
        raise RuntimeError(f"rank {rank}") from error


class NcclTest(unittest.TestCase):

    def launch(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            context = mp.get_context("fork")
            ends = pipes(ranks)
            processes = [context.Process(target=guarded, args=(r, ranks, ends[r], folder)) for r in range(ranks)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            self.assertEqual([process.exitcode for process in processes], [0] * ranks)

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


if __name__ == "__main__":
    unittest.main()
