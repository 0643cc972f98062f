#include "tests/collectives/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace slim_test {
namespace {

size_t roundUp(size_t a, size_t b) { return (a + b - 1) / b * b; }

struct Aligned {  // payloads are 16-byte aligned
  explicit Aligned(size_t bytes) : storage(bytes + 64) {}
  uint8_t* data() { return storage.data() + (64 - (uintptr_t)storage.data() % 64) % 64; }
  Bytes storage;
};

Bytes toReals(slimDataType_t type, const Bytes& elements) {
  const size_t n = elements.size() / slimTypeBytes(type);
  Bytes out(n * slimRealBytes(type));
  slimToReal(type, elements.data(), n, out.data());
  return out;
}

template <typename Real>
bool finiteReals(const uint8_t* data, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!std::isfinite(reinterpret_cast<const Real*>(data)[i])) return false;
  return true;
}
bool finiteRange(size_t real, const uint8_t* data, size_t n) {
  return real == 8 ? finiteReals<double>(data, n) : finiteReals<float>(data, n);
}

template <typename Real>
void meanOf(const std::vector<const uint8_t*>& sources, size_t n, uint8_t* out) {
  const Real weight = (Real)(1.0 / (double)sources.size());
  for (size_t i = 0; i < n; i++) {
    Real sum = 0;
    for (auto* s : sources) sum = sum + reinterpret_cast<const Real*>(s)[i];
    reinterpret_cast<Real*>(out)[i] = sum * weight;
  }
}

uint8_t* at(Bytes& b, size_t offset) { return b.empty() ? nullptr : b.data() + offset; }

}  // namespace

const char* nameOf(Kind kind) {
  const char* names[] = {"allreduce", "broadcast", "reduce", "reduce_scatter", "all_gather"};
  return names[(int)kind];
}

std::string Case::name() const {
  return std::string(nameOf(kind)) + " " + spec + " type " + std::to_string(type) + " count " + std::to_string(count) +
         " ranks " + std::to_string(ranks) + " root " + std::to_string(root) + " algo " + std::to_string(algo) +
         " slice " + std::to_string(sliceBytes);
}

Model::Model(const Case& setup) : setup_(setup) {
  if (slimCompressorCreate(&compressor_, setup.spec.c_str()) != slimSuccess) {
    ADD_FAILURE() << slimLastMessage();
    return;
  }
  hash_ = slimCompressorHash(compressor_, setup.type);
  real_ = slimRealBytes(setup.type);
  size_ = slimTypeBytes(setup.type);
  const auto &up = compressor_->up.feedback, &down = compressor_->down.feedback;
  down_ = (setup.kind == Kind::kAllReduce || setup.kind == Kind::kReduce) && setup.algo == slimAlgoTwoShot;
  s.resize(setup.ranks);
  v.resize(setup.ranks);
  for (int r = 0; r < setup.ranks; r++) {
    if (setup.kind == Kind::kBroadcast && r != setup.root) continue;
    if (up.memory) s[r].resize(setup.sendCount() * slimMemoryBytes(&up, setup.type));
    if (up.momentum > 0) v[r].resize(setup.sendCount() * real_);
  }
  const size_t received = setup.kind == Kind::kReduceScatter ? setup.sendCount() : setup.recvCount();
  if (up.shifts) h.resize(received * real_);
  if (down_ && down.memory && !down.shifts) e.resize(setup.count * slimMemoryBytes(&down, setup.type));
  if (down_ && down.shifts) H.resize(setup.count * real_);
  const size_t unit = slimTreeUnit(compressor_->up.tree);
  if (slimTreeSharesLambda(compressor_->up.tree)) common.resize((setup.count + unit - 1) / unit * real_);
}

Model::~Model() { slimCompressorDestroy(compressor_); }

std::vector<Model::Piece> Model::pieces() const {
  const size_t n = setup_.count, ranks = (size_t)setup_.ranks;
  const bool parts = setup_.kind == Kind::kReduceScatter || setup_.kind == Kind::kAllGather;
  size_t unit = slimTreeUnit(compressor_->up.tree);
  if (down_) unit = std::max(unit, (size_t)slimTreeUnit(compressor_->down.tree));
  size_t slice = std::max<size_t>(1, setup_.sliceBytes / (4 * ranks * unit)) * ranks * unit;
  if (parts) slice /= ranks;
  if (slimTreeIsGlobal(compressor_->up.tree)) slice = n;
  std::vector<Piece> out;
  for (size_t base = 0; base < n; base += slice) {
    const size_t length = std::min(slice, n - base), units = (length + unit - 1) / unit;
    if (parts) {
      for (size_t r = 0; r < ranks; r++) out.push_back({r * n + base, r * roundUp(n, unit) + base, length, (int)r});
    } else if (down_) {
      for (size_t r = 0; r < ranks; r++) {
        const size_t from = std::min(length, r * units / ranks * unit),
                     to = std::min(length, (r + 1) * units / ranks * unit);
        if (from < to) out.push_back({base + from, base + from, to - from, (int)r});
      }
    } else {
      out.push_back({base, base, length, setup_.root});
    }
  }
  return out;
}

// Where rank finds the piece in what it sends.
size_t Model::sentAt(const Piece& p, int rank) const {
  return setup_.kind == Kind::kAllGather ? p.at - (size_t)rank * setup_.count : p.at;
}

// All of a call's reals go in full precision: reals[rank] is what rank sends.
std::vector<Bytes> Model::dense(const std::vector<Bytes>& reals, slimRedOp_t op, bool output, bool toShift,
                                bool toDown) {
  const bool spread = setup_.kind == Kind::kAllGather || setup_.kind == Kind::kBroadcast;
  const size_t total = setup_.kind == Kind::kReduceScatter ? setup_.sendCount() : setup_.recvCount();
  Bytes all(total * real_);
  if (spread) {
    for (int r = 0; r < setup_.ranks; r++) {
      if (setup_.kind == Kind::kBroadcast && r != setup_.root) continue;
      const size_t place = setup_.kind == Kind::kAllGather ? (size_t)r * setup_.count * real_ : 0;
      std::vector<const uint8_t*> one{reals[r].data()};
      if (real_ == 8)
        meanOf<double>(one, setup_.count, all.data() + place);
      else
        meanOf<float>(one, setup_.count, all.data() + place);
    }
  } else {
    std::vector<const uint8_t*> sources;
    for (auto& r : reals) sources.push_back(r.data());
    if (real_ == 8)
      meanOf<double>(sources, total, all.data());
    else
      meanOf<float>(sources, total, all.data());
  }
  for (size_t i = 0; i < total; i++)
    if (finiteRange(real_, &all[i * real_], 1)) {
      if (toShift && !h.empty()) std::memcpy(&h[i * real_], &all[i * real_], real_);
      if (toDown && !H.empty()) std::memcpy(&H[i * real_], &all[i * real_], real_);
    }
  std::vector<Bytes> y(setup_.ranks);
  const double factor = op == slimSum && !spread ? setup_.ranks : 1;
  for (int r = 0; r < setup_.ranks && output; r++) {
    const size_t from = setup_.kind == Kind::kReduceScatter ? (size_t)r * setup_.count : 0;
    y[r].resize(setup_.recvCount() * size_);
    slimFromReal(setup_.type, all.data() + from * real_, setup_.recvCount(), factor, y[r].data());
  }
  return y;
}

std::vector<Bytes> Model::step(const std::vector<Bytes>& x, slimRedOp_t op) {
  const auto &up = compressor_->up.feedback, &down = compressor_->down.feedback;
  const int ranks = setup_.ranks;
  const bool spread = setup_.kind == Kind::kAllGather || setup_.kind == Kind::kBroadcast;
  std::vector<Bytes> reals(ranks);
  for (int r = 0; r < ranks; r++) reals[r] = toReals(setup_.type, x[r]);
  auto take =
      [&](std::vector<Bytes>& to) {  // to = x, by groups of 64 that are finite, counted from the start of each part
        bool all = true;
        for (int r = 0; r < ranks; r++)
          for (size_t part = 0; part < to[r].size() / real_; part += setup_.count)
            for (size_t i = part; i < part + setup_.count; i += 64) {
              const size_t m = std::min<size_t>(64, part + setup_.count - i);
              const bool finite = finiteRange(real_, &reals[r][i * real_], m);
              if (finite) std::memcpy(&to[r][i * real_], &reals[r][i * real_], m * real_);
              all = all && finite;
            }
        return all;
      };

  const uint64_t warmup = std::max(up.warmup, down_ ? down.warmup : 0);
  if (step_ && up.resync && step_ >= warmup && step_ % up.resync == 0) dense(s, op, false, true, false);
  if (step_ < warmup) {
    step_++;
    return dense(reals, op, true, false, false);
  }
  const bool init = step_ == warmup && up.initFirst,
             initDown = step_ == warmup && down_ && down.shifts && (init || down.initFirst);
  const bool coin =
      !init && !initDown && up.kind == slimFeedbackRandDiana && slimCoin(testSeed(), setup_.slot, step_, up.refresh);
  const bool coinDown = !init && !initDown && down_ && down.kind == slimFeedbackRandDiana && !(coin && up.replace) &&
                        slimCoin(testSeed(), setup_.slot, step_, down.refresh);
  if (step_ == warmup) take(v);
  if (init || initDown || (coin && up.replace)) {
    if (!init && !coin) {
      step_++;
      return dense(reals, op, true, false, true);
    }
    const bool finite = take(s);
    auto y = dense(finite ? s : reals, op, true, finite, finite && initDown);
    if (!finite) dense(s, op, false, true, initDown);
    step_++;
    return y;
  }

  const size_t unit = slimTreeUnit(compressor_->up.tree);
  std::vector<Bytes> y(ranks);
  for (auto& one : y) one.resize(setup_.recvCount() * size_);
  for (const Piece& p : pieces()) {
    const size_t bytes = slimPayloadBytes(compressor_->up.tree, setup_.type, p.n);
    std::vector<Aligned> payloads;
    std::vector<const uint8_t*> pointers;
    for (int r = 0; r < ranks; r++) {
      payloads.emplace_back(bytes);
      pointers.push_back(payloads[r].data());
      if (spread && r != p.owner) continue;
      slimEncodePass pass = {};
      pass.direction = &compressor_->up;
      pass.stamp = {hash_, testSeed(), step_, setup_.slot, (uint32_t)r, false};
      pass.type = setup_.type;
      pass.x = x[r].data() + sentAt(p, r) * size_;
      pass.n = p.n;
      pass.first = p.first;
      pass.payload = payloads[r].data();
      pass.s = at(s[r], sentAt(p, r) * slimMemoryBytes(&up, setup_.type));
      pass.v = at(v[r], sentAt(p, r) * real_);
      pass.lambda = at(common, p.at / unit * real_);
      Kept& kept = kept_[std::make_tuple(false, r, p.first)];
      pass.mean = &kept.mean;
      pass.table = &kept.table;
      EXPECT_EQ(slimPassEncode(&pass, nullptr), slimSuccess) << slimLastMessage();
    }
    if (spread) {
      slimDecodePass pass = {};
      pass.direction = &compressor_->up;
      pass.stamp = {hash_, testSeed(), step_, setup_.slot, (uint32_t)p.owner, false};
      pass.type = setup_.type;
      pass.n = p.n;
      pass.first = p.first;
      pass.payload = pointers[p.owner];
      pass.h = at(h, p.at * real_);
      pass.y = y[0].data() + p.at * size_;
      pass.factor = 1;
      EXPECT_EQ(slimPassDecode(&pass, nullptr), slimSuccess) << slimLastMessage();
      continue;
    }
    const int owner = setup_.kind == Kind::kReduceScatter ? p.owner : 0;
    slimReducePass pass = {};
    pass.up = &compressor_->up;
    pass.stamp = {hash_, testSeed(), step_, setup_.slot, (uint32_t)p.owner, true};
    pass.type = setup_.type;
    pass.n = p.n;
    pass.first = p.first;
    pass.ranks = ranks;
    pass.payloads = pointers.data();
    pass.weight = 1.0 / ranks;
    pass.h = at(h, p.at * real_);
    pass.factor = op == slimSum ? ranks : 1;
    pass.lambda = at(common, p.at / unit * real_);
    if (!down_) {
      pass.y =
          y[owner].data() + (p.at - (setup_.kind == Kind::kReduceScatter ? (size_t)owner * setup_.count : 0)) * size_;
      EXPECT_EQ(slimPassReduce(&pass, nullptr), slimSuccess) << slimLastMessage();
      continue;
    }
    Aligned downlink(slimPayloadBytes(compressor_->down.tree, setup_.type, p.n));
    pass.factor = 1;
    uint8_t* out = y[0].data() + p.at * size_;
    Bytes mean(p.n * size_);
    if (coinDown) {
      pass.y = mean.data();
      EXPECT_EQ(slimPassReduce(&pass, nullptr), slimSuccess);
      slimEncodePass encode = {};
      encode.direction = &compressor_->down;
      encode.stamp = pass.stamp;
      encode.type = setup_.type;
      encode.x = mean.data();
      encode.n = p.n;
      encode.first = p.first;
      encode.s = at(H, p.at * real_);
      encode.payload = downlink.data();
      if (!down.replace) {
        EXPECT_EQ(slimPassEncode(&encode, nullptr), slimSuccess);
      }
    } else {
      pass.down = &compressor_->down;
      pass.e = !H.empty() ? at(H, p.at * real_) : at(e, p.at * slimMemoryBytes(&down, setup_.type));
      pass.payload = downlink.data();
      Kept& kept = kept_[std::make_tuple(true, p.owner, p.first)];
      pass.mean = &kept.mean;
      pass.table = &kept.table;
      EXPECT_EQ(slimPassReduce(&pass, nullptr), slimSuccess) << slimLastMessage();
    }
    const double factor = op == slimSum ? ranks : 1;
    if (!(coinDown && down.replace)) {
      slimDecodePass decode = {};
      decode.direction = &compressor_->down;
      decode.stamp = pass.stamp;
      decode.type = setup_.type;
      decode.n = p.n;
      decode.first = p.first;
      decode.payload = downlink.data();
      decode.h = at(H, p.at * real_);
      decode.y = out;
      decode.factor = factor;
      decode.lambda = pass.lambda;
      EXPECT_EQ(slimPassDecode(&decode, nullptr), slimSuccess) << slimLastMessage();
    }
    if (coinDown) {
      Bytes full = toReals(setup_.type, mean);
      for (size_t i = 0; i < p.n; i++)
        if (finiteRange(real_, &full[i * real_], 1)) std::memcpy(&H[(p.at + i) * real_], &full[i * real_], real_);
      if (down.replace) {
        std::vector<const uint8_t*> one{full.data()};
        Bytes same(full.size());
        if (real_ == 8)
          meanOf<double>(one, p.n, same.data());
        else
          meanOf<float>(one, p.n, same.data());
        slimFromReal(setup_.type, same.data(), p.n, factor, out);
      }
    }
  }
  if (coin) {
    take(s);
    dense(s, op, false, true, false);
  }
  if (setup_.kind != Kind::kReduceScatter)
    for (int r = 1; r < ranks; r++) y[r] = y[0];
  step_++;
  return y;
}

void Model::setShift(const std::vector<Bytes>& shifts) {
  for (int r = 0; r < setup_.ranks; r++)
    if (!s[r].empty()) s[r] = toReals(setup_.type, shifts[r]);
  dense(s, slimAvg, false, true, compressor_->down.feedback.kind == slimFeedbackShift);
}

}  // namespace slim_test
