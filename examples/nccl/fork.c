/* One process a device, made by fork: before it, nothing of CUDA or NCCL is used. Rank 0 makes the identifier, and the
 * parent hands it round. */
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

static void transfer(bool writes, int fd, void* data, size_t bytes) {
  const ssize_t n = writes ? write(fd, data, bytes) : read(fd, data, bytes);
  if (n != (ssize_t)bytes) {
    fprintf(stderr, "fork: a process has ended early\n");
    exit(1);
  }
}

static void child(int rank, int ranks, int in, int out) {
  ncclUniqueId id;
  if (rank == 0) {
    NCCL(ncclGetUniqueId(&id));
    transfer(true, out, &id, sizeof id);
  }
  transfer(false, in, &id, sizeof id);
  Report report = runRank(rank, ranks, id);
  transfer(true, out, &report, sizeof report);
  exit(0);
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "fork", .ranks = 2, .steps = 3, .count = 20001, .tolerance = 1e-6});
  const int ranks = client.ranks;
  int down[mostRanks][2], up[mostRanks][2];
  for (int r = 0; r < ranks; r++) {
    if (pipe(down[r]) || pipe(up[r])) return 1;
    if (fork() == 0) {
      close(down[r][1]); /* so that a dead parent, or child, ends the other's read */
      close(up[r][0]);
      child(r, ranks, down[r][0], up[r][1]);
    }
    close(down[r][0]);
    close(up[r][1]);
  }
  ncclUniqueId id;
  Report reports[mostRanks];
  transfer(false, up[0][0], &id, sizeof id);
  for (int r = 0; r < ranks; r++) transfer(true, down[r][1], &id, sizeof id);
  for (int r = 0; r < ranks; r++) transfer(false, up[r][0], &reports[r], sizeof reports[r]);
  int failed = 0, status;
  while (wait(&status) > 0) failed |= status != 0;
  return clientSummary(reports, ranks) | failed;
}
