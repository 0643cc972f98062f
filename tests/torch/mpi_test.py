"""The DDP hook with MPI as transport: mpi_test.py MPIRUN starts itself under mpirun, on 1, 2, 3, 4 and 8 ranks."""
import functools
import os
import subprocess
import sys
import tempfile
import unittest

import torch
import torch.distributed as dist

import slimccl.torch
from hook_test import CHECKS, backward, ddp, equal, everywhere

STEPS = 4


def check_bits_are_those_of_gloo(rank, comm):
    """What goes through MPI has the bits of what goes through gloo, and does not go through gloo."""
    for spec in "ef(qsgd(bits=4))", "ef(topk(ratio=0.05))":
        model, hook = ddp(spec)
        expected = [backward(model, rank, step) for step in range(STEPS)]
        hook.close()
        model, hook = ddp(spec, mpi=comm)
        send, dist.isend = dist.isend, None
        for step in range(STEPS):
            grads = backward(model, rank, step)
            assert equal(grads, expected[step]), (spec, step)
            everywhere(rank, grads)
            comm.Barrier()  # the program's own calls go on beside the hook's
        dist.isend = send
        assert all(row["calls"] for row in hook.stats())
        hook.close()


def check_another_order_is_refused(rank, ranks, comm):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    try:
        slimccl.torch.register_hook(model, "ef(onebit)", mpi=comm.Split(0, -rank))
        assert ranks == 1, "a communicator of another order was taken"
    except slimccl.Error as error:
        assert f"rank 0 of the model's {ranks} is rank {ranks - 1} of {ranks}" in str(error), error


def program(folder):
    """One rank."""
    from mpi4py import MPI  # it calls MPI_Init
    comm = MPI.COMM_WORLD
    rank, ranks = comm.Get_rank(), comm.Get_size()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    check_bits_are_those_of_gloo(rank, comm)
    check_another_order_is_refused(rank, ranks, comm)
    slimccl.torch.register_hook = functools.partial(slimccl.torch.register_hook, mpi=comm)
    for check in CHECKS if ranks < 8 else []:  # more processes than cores take long
        check(rank, ranks)
    # The models are gone by now. In PyTorch 1.13 one that is freed later frees the group while it holds Python's lock,
    # and waits for the group's threads, of which one may want that lock for a tensor of the last call.
    dist.barrier()
    dist.destroy_process_group()
    print(f"rank {rank} is done", flush=True)


class MpiTest(unittest.TestCase):
    mpirun = None

    def launch(self, ranks):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "TMPDIR": folder, "OMPI_MCA_btl_vader_backing_directory": folder,
                           "PYTHONPATH": os.pathsep.join(sys.path)}
            result = subprocess.run([self.mpirun, "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__,
                                     "--rank", folder], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(result.returncode, 0, result.stdout)
            for rank in range(ranks):
                self.assertIn(f"rank {rank} is done", result.stdout)

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
    if sys.argv[1] == "--rank":
        program(sys.argv[2])
    else:
        MpiTest.mpirun = sys.argv.pop(1)
        unittest.main()
