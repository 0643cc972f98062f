"""The C API (slimccl.h) by ctypes: communicators whose bytes are moved by Python functions, MPI or NCCL; their
tensors."""
import ctypes
import ctypes.util
import os
import pathlib


class Error(RuntimeError):
    """A call failed; the text is slimGetLastError()'s."""


class Lane(ctypes.Structure):
    """slimLane_t: what goes to one rank and what comes from it."""

    _fields_ = [
        ("send", ctypes.c_void_p),
        ("send_bytes", ctypes.c_size_t),
        ("recv", ctypes.c_void_p),
        ("recv_bytes", ctypes.c_size_t),
    ]


_BEGIN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Lane))
_WAIT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_double)


class _Callbacks(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("context", ctypes.c_void_p), ("begin", _BEGIN), ("wait", _WAIT)]


class _Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("algo", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("slice_bytes", ctypes.c_size_t),
        ("timeout", ctypes.c_double),
        ("device_bytes", ctypes.c_size_t),
        ("hierarchy", ctypes.c_int),
        ("domain", ctypes.c_uint64),
    ]


class _NcclId(ctypes.Structure):
    """ncclUniqueId."""

    _fields_ = [("internal", ctypes.c_uint8 * 128)]


class Stats(ctypes.Structure):
    """slimTensorStats_t: see slimccl.h."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("size", "calls", "elements", "wire_bytes", "plain_bytes",
                                                     "state_bytes", "flagged_units")]
    _fields_ += [(name, ctypes.c_double) for name in ("relative_error", "state_ratio", "encode_seconds",
                                                      "exchange_seconds", "reduce_seconds", "decode_seconds")]


FLOAT16, FLOAT32, FLOAT64, BFLOAT16 = 6, 7, 8, 9
SUM, AVG = 0, 4


def _places():
    """Where the library may be, best first."""
    here = pathlib.Path(__file__).resolve().parent
    if os.environ.get("SLIMCCL_LIBRARY"):
        yield os.environ["SLIMCCL_LIBRARY"]
        return
    yield str(here / "libslimccl.so")
    yield str(here.parent.parent.parent / "bazel-bin" / "plugin" / "libslimccl.so")
    yield ctypes.util.find_library("slimccl") or "libslimccl.so"


def _load():
    tried = []
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError as error:
            tried.append(f"  {place}: {error}")
    raise ImportError("libslimccl.so was not found. Build it (bazelw build //plugin:libslimccl.so) or name it in "
                      "SLIMCCL_LIBRARY. Tried:\n" + "\n".join(tried))


_library = _load()
_library.slimGetLastError.restype = ctypes.c_char_p
_library.slimTensorSpec.restype = ctypes.c_char_p
for _name, _types in {
        "slimCommInitCallbacks": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p,
                                  ctypes.c_void_p],
        "slimCommDestroy": [ctypes.c_void_p],
        "slimTensorCreate": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32],
        "slimTensorDestroy": [ctypes.c_void_p],
        "slimTensorSpec": [ctypes.c_void_p],
        "slimTensorRescale": [ctypes.c_void_p, ctypes.c_double],
        "slimTensorGetStats": [ctypes.c_void_p, ctypes.c_void_p],
        "slimStateSave": [ctypes.c_void_p, ctypes.c_char_p],
        "slimStateLoad": [ctypes.c_void_p, ctypes.c_char_p],
        "slimAllReduce": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                          ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p],
}.items():
    getattr(_library, _name).argtypes = _types
_CUDA = hasattr(_library, "slimCommInitNCCL")
if _CUDA:
    _library.slimCommInitNCCL.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]


def _check(result):
    if result != 0:
        raise Error(_library.slimGetLastError().decode())


def version():
    """(major, minor, patch) of the library that is loaded."""
    number = ctypes.c_int()
    _check(_library.slimGetVersion(ctypes.byref(number)))
    return number.value // 10000, number.value // 100 % 100, number.value % 100


class Communicator:
    """One rank's handle. To be used by one thread at a time."""

    _comm = None

    def _call(self, result):
        _check(result)

    def create(self, spec, slot):
        """A tensor slot; see slimTensorCreate."""
        tensor = ctypes.c_void_p()
        _check(_library.slimTensorCreate(ctypes.byref(tensor), self._comm, spec.encode(), slot))
        return tensor

    @staticmethod
    def destroy(tensor):
        _check(_library.slimTensorDestroy(tensor))

    @staticmethod
    def spec(tensor):
        """Its spec as understood, both directions."""
        return _library.slimTensorSpec(tensor).decode()

    @staticmethod
    def rescale(tensor, factor):
        _check(_library.slimTensorRescale(tensor, factor))

    @staticmethod
    def stats(tensor):
        stats = Stats(size=ctypes.sizeof(Stats))
        _check(_library.slimTensorGetStats(tensor, ctypes.byref(stats)))
        return stats

    def all_reduce(self, address, count, datatype, op, tensor, stream=None):
        """In place over count elements at address; tensor None: uncompressed. stream: a cudaStream_t, where address is
        device memory; the call is enqueued there."""
        self._call(_library.slimAllReduce(address, address, count, datatype, op, tensor, self._comm, stream))

    def save(self, path):
        _check(_library.slimStateSave(self._comm, os.fsencode(path)))

    def load(self, path):
        _check(_library.slimStateLoad(self._comm, os.fsencode(path)))

    def close(self):
        """Frees the communicator and its tensors."""
        comm, self._comm = self._comm, None
        if comm:
            _check(_library.slimCommDestroy(comm))


class HostCommunicator(Communicator):
    """In host memory. exchange.begin(id, lanes) and exchange.wait(id, timeout) move bytes between the processes
    (slimCallbacks_t); what they raise comes out of the call that needed them."""

    def __init__(self, rank, ranks, exchange, neighbours=1, seed=1, timeout=600.0):
        self._exchange, self._raised, self._ranks = exchange, None, ranks
        self._callbacks = _Callbacks(ctypes.sizeof(_Callbacks), None, _BEGIN(self._begin), _WAIT(self._wait))
        config = _Config(size=ctypes.sizeof(_Config), seed=seed, timeout=timeout)
        self._comm = ctypes.c_void_p()
        _check(_library.slimCommInitCallbacks(ctypes.byref(self._comm), rank, ranks, neighbours,
                                              ctypes.byref(self._callbacks), ctypes.byref(config)))

    def _guarded(self, function, *arguments):
        try:
            function(*arguments)
            return 0
        except BaseException as error:  # pylint: disable=broad-except; it must not pass through C
            self._raised = error
            return 1

    def _begin(self, _, number, lanes):
        return self._guarded(self._exchange.begin, number, lanes[:self._ranks])

    def _wait(self, _, number, timeout):
        return self._guarded(self._exchange.wait, number, timeout)

    def _call(self, result):
        raised, self._raised = self._raised, None
        if result != 0:
            raise Error(_library.slimGetLastError().decode()) from raised


class MpiCommunicator(Communicator):
    """In host memory, over a duplicate of mpi4py's communicator mpi. Collective; so is close, before MPI_Finalize."""

    def __init__(self, mpi, seed=1, timeout=600.0):
        from mpi4py import MPI  # pylint: disable=import-outside-toplevel; it calls MPI_Init
        place = str(pathlib.Path(_library._name).with_name("libslimccl_mpi_transport.so"))
        try:
            library = ctypes.CDLL(place)
        except OSError as error:
            raise Error("MPI as transport wants libslimccl_mpi_transport.so, of the MPI that mpi4py has, beside "
                        "libslimccl.so. Build it (bazelw build //plugin:libslimccl_mpi_transport.so). Tried:\n"
                        f"  {place}: {error}") from error
        # MPI_Comm is a pointer or an int.
        kind = ctypes.c_void_p if MPI._sizeof(mpi) == ctypes.sizeof(ctypes.c_void_p) else ctypes.c_int
        library.slimCommInitMPI.argtypes = [ctypes.c_void_p, kind, ctypes.c_void_p]
        config = _Config(size=ctypes.sizeof(_Config), seed=seed, timeout=timeout)
        self._comm = ctypes.c_void_p()
        _check(library.slimCommInitMPI(ctypes.byref(self._comm), kind.from_address(MPI._addressof(mpi)),
                                       ctypes.byref(config)))


class NcclCommunicator(Communicator):
    """In the memory of CUDA's current device, over an NCCL communicator of its own. Collective.

    share(bytes) answers rank 0's bytes on every rank. device_bytes of the device are reserved for all state and buffers
    (0: 256 MiB); the smallest of the ranks' holds."""

    def __init__(self, rank, ranks, share, device_bytes=0, seed=1, timeout=600.0):
        if not _CUDA:
            raise Error("this libslimccl.so was built without CUDA and NCCL: tensors on a GPU want one with both")
        try:  # the one that the process has loaded: two would not know of each other
            self._nccl = ctypes.CDLL("libnccl.so.2", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError as error:
            raise Error("this process has loaded no libnccl.so.2: PyTorch must have been built with NCCL as a shared "
                        "library") from error
        self._nccl.ncclGetErrorString.restype = ctypes.c_char_p
        self._nccl.ncclCommInitRank.argtypes = [ctypes.c_void_p, ctypes.c_int, _NcclId, ctypes.c_int]
        self._nccl.ncclCommDestroy.argtypes = [ctypes.c_void_p]
        number = _NcclId()
        if rank == 0:
            self._succeed("ncclGetUniqueId", ctypes.byref(number))
        self._base, self._comm = ctypes.c_void_p(), ctypes.c_void_p()
        number = _NcclId.from_buffer_copy(share(bytes(number)))
        self._succeed("ncclCommInitRank", ctypes.byref(self._base), ranks, number, rank)
        config = _Config(size=ctypes.sizeof(_Config), seed=seed, timeout=timeout, device_bytes=device_bytes)
        try:
            _check(_library.slimCommInitNCCL(ctypes.byref(self._comm), self._base, ctypes.byref(config)))
        except Error:
            self._nccl.ncclCommDestroy(self._base)
            raise

    def _succeed(self, name, *arguments):
        code = getattr(self._nccl, name)(*arguments)
        if code != 0:
            raise Error(f"{name}: {self._nccl.ncclGetErrorString(code).decode()}")

    def close(self):
        super().close()
        base, self._base = self._base, None
        if base:
            self._succeed("ncclCommDestroy", base)
