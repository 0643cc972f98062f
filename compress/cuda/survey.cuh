/* stats=tensor and stats=previous: the statistics that all blocks of a piece share (format.md §5). Units add to them
 * side by side, in an order that is fixed. What C's passes.c does in encodeGathered. */
#ifndef SLIM_COMPRESS_CUDA_SURVEY_CUH_
#define SLIM_COMPRESS_CUDA_SURVEY_CUH_

/* What v adds to its piece's; nothing where it is not finite. Ends with a barrier. */
SLIM_FN void slimPutPartial(const slimNode* node, const slimBlock* b, const float* v, bool finite, slimPartial* to) {
  slimPartial partial = {0, 0, 0, 0};
  if (finite) partial = slimGatherTruncated(node, b, v);
  if (slimThread() == 0) *to = partial;
  slimSync();
}

/* The tree over a piece's units, as over a block's elements. */
SLIM_FN void slimMakeShapes(const slimShapeArgs* p) {
  __shared__ double sum[SLIM_SHAPE_THREADS], logs[SLIM_SHAPE_THREADS], count[SLIM_SHAPE_THREADS],
      nv[SLIM_SHAPE_THREADS];
  slimPieceAt* piece = slimPieceShared();
  const uint32_t column = slimThread();
  for (uint32_t r = blockIdx.x; r < p->pieces; r += gridDim.x) {
    slimOpenPiece(piece, p->tree, slimFloat32, p->n, p->cut, p->pieces, r, false);
    const slimPartial* partial = p->partials + (piece->start >> slimLog2(p->tree->unit));
    double a = 0, b = 0, c = 0, d = 0;
    const bool kept = !p->last && p->mean && p->mean[r] > 0;
    for (uint64_t u = column; u < piece->layout.units && !kept; u += SLIM_SHAPE_THREADS) {
      a += partial[u].sum;
      b += partial[u].logs;
      c += partial[u].count;
      d += partial[u].nv;
    }
    sum[column] = a;
    logs[column] = b;
    count[column] = c;
    nv[column] = d;
    for (uint32_t w = SLIM_SHAPE_THREADS / 2; w; w /= 2) {
      slimSync();
      if (column >= w) continue;
      sum[column] += sum[column + w];
      logs[column] += logs[column + w];
      count[column] += count[column + w];
      nv[column] += nv[column + w];
    }
    if (column != 0) continue;
    slimShape shape = {0, 0};
    const bool any = nv[0] > 0;
    if (any) {
      shape.mean = (float)(sum[0] / nv[0]);
      if (slimRoot(p->tree)->powerlaw) shape.table = slimPowerTable(count[0], nv[0], logs[0]);
    }
    if (kept) {
      shape.mean = p->mean[r];
      shape.table = (uint32_t)p->table[r];
    }
    if (!p->last) {
      p->shapes[r] = shape;
    } else if (any) {
      p->mean[r] = shape.mean;
      p->table[r] = (float)shape.table;
    }
  }
}

#endif
