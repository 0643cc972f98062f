/* The calls that may be compressed, for SLIM_COUNT as the type of counts: mpi.c includes this for int, and where MPI
 * has functions for large counts (MPI_Allreduce_c, …) for MPI_Count. SLIM_CALL(name): the function's name. */

SLIM_EXPORT int SLIM_CALL(MPI_Allreduce)(const void* send, void* recv, SLIM_COUNT count, MPI_Datatype type, MPI_Op op,
                                         MPI_Comm comm) {
  int code;
  const mpiCall call = {slimCollectiveAllReduce, orOwn(send, recv), recv, (size_t)count, type, op, 0, comm};
  if (count >= 0 && compressed(&call, &code)) return code;
  return SLIM_CALL(PMPI_Allreduce)(send, recv, count, type, op, comm);
}

SLIM_EXPORT int SLIM_CALL(MPI_Iallreduce)(const void* send, void* recv, SLIM_COUNT count, MPI_Datatype type, MPI_Op op,
                                          MPI_Comm comm, MPI_Request* request) {
  const mpiCall call = {slimCollectiveAllReduce, orOwn(send, recv), recv, (size_t)count, type, op, 0, comm};
  tie* l;
  if (job.on && !job.threads) {
    slimCountForwarded(slimReasonThread);
    return SLIM_CALL(PMPI_Iallreduce)(send, recv, count, type, op, comm, request);
  }
  pending* p = job.on ? calloc(1, sizeof *p) : NULL;
  if (p && count >= 0 && decide(&call, false, &p->call, &l)) {
    p->channel = l->channel;
    if ((l->queue || slimQueueCreate(&l->queue) == slimSuccess) &&
        PMPI_Grequest_start(query, release, keepOn, p, &p->request) == MPI_SUCCESS) {
      *request = p->request;
      if (slimQueuePush(l->queue, perform, p) == slimSuccess) return MPI_SUCCESS;
    }
    slimWarn("MPI_Iallreduce: %s", slimGetLastError());
    PMPI_Comm_call_errhandler(comm, MPI_ERR_OTHER);
    return MPI_ERR_OTHER;
  }
  free(p);
  return SLIM_CALL(PMPI_Iallreduce)(send, recv, count, type, op, comm, request);
}

SLIM_EXPORT int SLIM_CALL(MPI_Reduce)(const void* send, void* recv, SLIM_COUNT count, MPI_Datatype type, MPI_Op op,
                                      int root, MPI_Comm comm) {
  int code;
  const mpiCall call = {slimCollectiveReduce, orOwn(send, recv), recv, (size_t)count, type, op, root, comm};
  if (count >= 0 && compressed(&call, &code)) return code;
  return SLIM_CALL(PMPI_Reduce)(send, recv, count, type, op, root, comm);
}

SLIM_EXPORT int SLIM_CALL(MPI_Bcast)(void* buffer, SLIM_COUNT count, MPI_Datatype type, int root, MPI_Comm comm) {
  int code;
  const mpiCall call = {slimCollectiveBroadcast, buffer, buffer, (size_t)count, type, MPI_SUM, root, comm};
  if (count >= 0 && compressed(&call, &code)) return code;
  return SLIM_CALL(PMPI_Bcast)(buffer, count, type, root, comm);
}

SLIM_EXPORT int SLIM_CALL(MPI_Reduce_scatter_block)(const void* send, void* recv, SLIM_COUNT count, MPI_Datatype type,
                                                    MPI_Op op, MPI_Comm comm) {
  int code;
  if (job.on && count >= 0 && scattered(send, recv, count, type, op, comm, &code)) return code;
  return SLIM_CALL(PMPI_Reduce_scatter_block)(send, recv, count, type, op, comm);
}

SLIM_EXPORT int SLIM_CALL(MPI_Reduce_scatter)(const void* send, void* recv, const SLIM_COUNT counts[],
                                              MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  int code, ranks = 0;
  if (job.on && PMPI_Comm_size(comm, &ranks) == MPI_SUCCESS) {
    int equal = 1;
    while (equal < ranks && counts[equal] == counts[0]) equal++;
    if (equal < ranks)
      slimCountForwarded(slimReasonShape);
    else if (counts[0] >= 0 && scattered(send, recv, counts[0], type, op, comm, &code))
      return code;
  }
  return SLIM_CALL(PMPI_Reduce_scatter)(send, recv, counts, type, op, comm);
}

SLIM_EXPORT int SLIM_CALL(MPI_Allgather)(const void* send, SLIM_COUNT sendCount, MPI_Datatype sendType, void* recv,
                                         SLIM_COUNT recvCount, MPI_Datatype recvType, MPI_Comm comm) {
  int code, rank;
  if (job.on && recvCount >= 0 && (send == MPI_IN_PLACE || (sendCount == recvCount && sendType == recvType))) {
    PMPI_Comm_rank(comm, &rank);
    const void* own = (const char*)recv + (size_t)rank * (size_t)recvCount * bytesOf(recvType);
    const mpiCall call = {
        slimCollectiveAllGather, orOwn(send, own), recv, (size_t)recvCount, recvType, MPI_SUM, 0, comm};
    if (compressed(&call, &code)) return code;
  }
  return SLIM_CALL(PMPI_Allgather)(send, sendCount, sendType, recv, recvCount, recvType, comm);
}

#undef SLIM_COUNT
#undef SLIM_CALL
