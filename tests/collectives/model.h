// What a collective must give: the passes of compress/ called for all ranks and pieces in one plain loop
// (docs/format.md §7, §8), with the state of all ranks in whole arrays. No transport, no threads, no code of
// collectives/.
#ifndef SLIM_TESTS_COLLECTIVES_MODEL_H_
#define SLIM_TESTS_COLLECTIVES_MODEL_H_

#include <map>
#include <tuple>

#include "compress/compress.h"
#include "tests/collectives/group.h"

namespace slim_test {

enum class Kind { kAllReduce, kBroadcast, kReduce, kReduceScatter, kAllGather };
const char* nameOf(Kind kind);

struct Case {
  Kind kind = Kind::kAllReduce;
  std::string spec;
  slimDataType_t type = slimFloat32;
  size_t count = 0;
  int ranks = 1;
  int root = 0;
  slimAlgo_t algo = slimAlgoTwoShot;  // TwoShot, OneShot, or Linear, which must give OneShot's bits
  size_t sliceBytes = 8 << 20;
  uint32_t slot = 0;

  std::string name() const;
  size_t sendCount() const { return kind == Kind::kReduceScatter ? count * (size_t)ranks : count; }
  size_t recvCount() const { return kind == Kind::kAllGather ? count * (size_t)ranks : count; }
};

class Model {
 public:
  explicit Model(const Case& setup);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // One call: x[rank] in, y[rank] out (where several ranks receive the same, the same bytes).
  std::vector<Bytes> step(const std::vector<Bytes>& x, slimRedOp_t op);
  void setShift(const std::vector<Bytes>& shifts);  // elements

  // State, as reals: s, v by rank; h of all that is received; e and H of the whole tensor; common: λ, one a unit.
  std::vector<Bytes> s, v;
  Bytes h, e, H, common;

 private:
  struct Piece {
    size_t at, first, n;  // at: in the reduced tensor, or in the receivers' buffer
    int owner;            // who reduces it, or sends it
  };
  std::vector<Piece> pieces() const;
  std::vector<Bytes> dense(const std::vector<Bytes>& reals, slimRedOp_t op, bool output, bool toH, bool toDown);
  size_t sentAt(const Piece& p, int rank) const;
  // stats=previous: mean and table of what a rank sends of a piece.
  struct Kept {
    float mean, table;
  };
  std::map<std::tuple<bool, int, size_t>, Kept> kept_;

  Case setup_;
  slimCompressor* compressor_ = nullptr;
  uint64_t hash_ = 0, step_ = 0;
  size_t real_, size_;
  bool down_;
};

}  // namespace slim_test
#endif
