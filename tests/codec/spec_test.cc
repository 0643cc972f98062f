// The spec language: round trips, defaults, errors with their column, what each feedback accepts, fits and refuses, and
// the numbers that come out of it.
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <gtest/gtest.h>

#include "compress/compress.h"

namespace {

struct Spec {
  explicit Spec(const std::string& text) {
    result = slimCompressorCreate(&c, text.c_str());
    if (result != slimSuccess) {
      c = nullptr;
      message = slimLastMessage();
    }
  }
  ~Spec() { slimCompressorDestroy(c); }
  Spec(const Spec&) = delete;
  Spec& operator=(const Spec&) = delete;
  std::string text() const { return c ? c->text : "(" + message + ")"; }
  slimResult_t result;
  slimCompressor* c = nullptr;
  std::string message;
};

const char* const kGood[] = {"fp32",
                             "fp16",
                             "bf16",
                             "fp8",
                             "fp8(format=e5m2,block=64)",
                             "sign",
                             "sign(scale=0.01)",
                             "onebit",
                             "onebit(dither)",
                             "onebit(dither,f=2)",
                             "onebit(dither,lambda=inf)",
                             "onebit(dither,lambda=0.5,block=8192)",
                             "onebit(scale=unbiased)",
                             "rotate(onebit(dither,delta=0.01))",
                             "fo",
                             "fo(f=2,block=1024,signs=fixed)",
                             "ef(fo(lambda=inf))",
                             "fo(lambda=shared)",
                             "none(fo(f=2,lambda=shared),warmup=3)",
                             "ternary",
                             "ternary(norm=2)",
                             "ternary(norm=inf,block=64)",
                             "qsgd(bits=2)",
                             "qsgd(bits=8,norm=2,rounding=nearest,block=1024)",
                             "qsgd(levels=16)",
                             "natural",
                             "natural(block=64)",
                             "natural(bits=4)",
                             "natural(bits=8,norm=2,block=64)",
                             "nuqsgd(bits=3)",
                             "tqsgd(bits=2)",
                             "tqsgd(bits=4,model=powerlaw,block=64)",
                             "tbqsgd(bits=3,workers=8)",
                             "tnqsgd(bits=3)",
                             "tnqsgd(bits=8,workers=16,model=laplace)",
                             "tnqsgd(bits=3,model=powerlaw)",
                             "tnqsgd(bits=3,stats=tensor)",
                             "ef(tbqsgd(bits=3,stats=previous))",
                             "ef(tnqsgd(bits=2,model=powerlaw))",
                             "topk(ratio=0.01)",
                             "topk(k=5,scope=chunk)",
                             "topk(ratio=0.01,qsgd(bits=8))",
                             "topk(ratio=0.01,values=qsgd(bits=8))",
                             "topk(k=100,scope=global)",
                             "topk(k=0.5)",
                             "ef(randk(k=0.125,scope=chunk))",
                             "randk(ratio=0.01)",
                             "randk(k=10,block=512,seed=shared,scale=unbiased)",
                             "randk(ratio=0.05,seed=own,scale=1,fp16)",
                             "rotate(onebit)",
                             "rotate(qsgd(bits=2),block=2048,signs=fixed)",
                             "rotate(codec=ternary)",
                             "induced(topk(ratio=0.01),randk(ratio=0.01))",
                             "induced(topk(ratio=0.01),qsgd(bits=4))",
                             "none(onebit)",
                             "ef(onebit)",
                             "ef(topk(ratio=0.01))",
                             "ef(rotate(qsgd(bits=2)))",
                             "ef21(topk(ratio=0.01))",
                             "ef21(onebit,momentum=0.1)",
                             "ef_bv(topk(ratio=0.01),lambda=0.5,nu=0.5)",
                             "ef_bv(qsgd(bits=4),workers=8)",
                             "diana(ternary)",
                             "diana(qsgd(bits=4),alpha=0.5)",
                             "diana(qsgd(bits=4),alpha=auto,init=first,resync=256)",
                             "diana(qsgd(bits=4),warmup=10)",
                             "shift(qsgd(bits=4))",
                             "rand_diana(qsgd(bits=4),p=0.01,refresh=replace)",
                             "rand_diana(natural)",
                             "ef(onebit,warmup=100)",
                             "ef(onebit,memory=bf16)",
                             "diana(induced(topk(ratio=0.01),randk(ratio=0.01)))",
                             "up=diana(qsgd(bits=4)); down=ef(qsgd(bits=8))",
                             "up=ef(onebit);down=none(fp32)",
                             "up=onebit; down=fp16",
                             "  ef ( qsgd ( bits = 4 , norm = inf ) )  "};

TEST(SpecLanguage, PrintsBothDirectionsAndParsesThemBackToTheSame) {
  for (const char* text : kGood) {
    Spec spec(text);
    ASSERT_EQ(slimSuccess, spec.result) << text << ": " << spec.message;
    EXPECT_NE(std::string::npos, spec.text().find("up=")) << spec.text();
    EXPECT_NE(std::string::npos, spec.text().find("down=")) << spec.text();
    Spec again(spec.text());
    ASSERT_EQ(slimSuccess, again.result) << spec.text() << ": " << again.message;
    EXPECT_EQ(spec.text(), again.text());
    EXPECT_TRUE(again.c->downGiven || again.c->sharedDown) << spec.text();
    EXPECT_EQ(slimCompressorHash(spec.c, slimFloat32), slimCompressorHash(again.c, slimFloat32));
    for (uint64_t n : {0, 1, 511, 512, 10007}) {
      EXPECT_EQ(slimPayloadBytes(spec.c->up.tree, slimFloat32, n), slimPayloadBytes(again.c->up.tree, slimFloat32, n));
      EXPECT_EQ(slimPayloadBytes(spec.c->down.tree, slimFloat64, n),
                slimPayloadBytes(again.c->down.tree, slimFloat64, n));
    }
    EXPECT_EQ(64u, slimPayloadBytes(spec.c->up.tree, slimFloat32, 0));
    EXPECT_EQ(spec.c->up.feedback.kind, again.c->up.feedback.kind);
    EXPECT_EQ(spec.c->up.feedback.lambda, again.c->up.feedback.lambda) << spec.text();
    EXPECT_EQ(spec.c->up.feedback.nu, again.c->up.feedback.nu) << spec.text();
  }
}

TEST(SpecLanguage, ADefaultWrittenOutIsTheSameSpec) {
  const char* const pairs[][2] = {
      {"ef(onebit)", "ef(onebit(block=512))"},
      {"ef(onebit)", "ef(onebit,memory=fp32)"},
      {"qsgd(bits=4)", "qsgd(bits=4,norm=inf,block=512)"},
      {"ef(topk(ratio=0.01))", "ef(topk(ratio=0.01,scope=block,block=4096,fp32))"},
      {"none(randk(ratio=0.01))", "none(randk(ratio=0.01,scale=auto,seed=own,scope=block))"},
      {"fp8", "fp8(format=e4m3)"},
      {"sign", "sign(scale=1)"},
      {"onebit(scale=mean)", "onebit"},
      {"fo", "rotate(onebit(dither))"},
      {"ef(fo(lambda=inf, signs=fixed))", "ef(rotate(onebit(dither,lambda=inf),signs=fixed))"},
      {"fo(f=2,block=1024)", "rotate(onebit(dither,f=2,block=1024))"},
      {"fo(lambda=0.25)", "rotate(onebit(dither,lambda=0.25))"},
      {"rotate(onebit)", "rotate(onebit,signs=redrawn)"},
      {"diana(qsgd(bits=4))", "diana(qsgd(bits=4),alpha=auto)"},
      {" ef ( onebit ) ", "ef(onebit)"},
  };
  for (const auto& pair : pairs) {
    Spec a("up=" + std::string(pair[0]) + "; down=none(fp32)"), b("up=" + std::string(pair[1]) + "; down=none(fp32)");
    EXPECT_EQ(slimSuccess, a.result) << a.message;
    EXPECT_EQ(slimSuccess, b.result) << b.message;
    EXPECT_EQ(a.text(), b.text());
  }
}

// What a word stands for in its place: the same payloads, if not the same text.
TEST(SpecLanguage, AutomaticChoicesAreAsDocumented) {
  const char* const pairs[][2] = {
      {"onebit", "none(onebit)"},
      {"ef(onebit(dither))", "ef(onebit(dither,f=1.5))"},
      {"qsgd(bits=4)", "qsgd(bits=4,rounding=stochastic)"},
      {"ef(qsgd(bits=4))", "ef(qsgd(bits=4,rounding=nearest))"},
      {"ef21(qsgd(bits=4))", "ef21(qsgd(bits=4,rounding=nearest))"},
      {"ef(qsgd(bits=4,norm=2))", "ef(qsgd(bits=4,norm=2,rounding=stochastic))"},
      {"ef(randk(ratio=0.01))", "ef(randk(ratio=0.01,scale=1))"},
      {"ef_bv(randk(ratio=0.01))", "ef_bv(randk(ratio=0.01,scale=1))"},
      {"none(randk(ratio=0.01))", "none(randk(ratio=0.01,scale=unbiased))"},
      {"diana(randk(ratio=0.01))", "diana(randk(ratio=0.01,scale=unbiased))"},
      {"rotate(onebit(block=1024))", "rotate(onebit(block=1024),block=1024)"},
      {"fo", "rotate(onebit(dither,f=1.5))"},
      {"fo(delta=1)", "rotate(onebit(dither,f=3.723297411059034))"}, /* sqrt(2 ln 1024) */
  };
  for (const auto& pair : pairs) {
    Spec a("up=" + std::string(pair[0]) + "; down=none(fp32)"), b("up=" + std::string(pair[1]) + "; down=none(fp32)");
    ASSERT_EQ(slimSuccess, a.result) << a.message;
    ASSERT_EQ(slimSuccess, b.result) << b.message;
    slimClass of = slimTreeClass(a.c->up.tree), as = slimTreeClass(b.c->up.tree);
    EXPECT_EQ(as.omega, of.omega) << pair[0];
    EXPECT_EQ(as.delta, of.delta) << pair[0];
    EXPECT_EQ(as.bits, of.bits) << pair[0];
    std::vector<float> x(5000), s(x.size(), 0.0f);
    for (size_t i = 0; i < x.size(); i++) x[i] = std::sin(static_cast<float>(i * i));
    std::vector<uint8_t> payloads[2];
    for (const Spec* spec : {&a, &b}) {
      std::vector<uint64_t> buffer(slimPayloadBytes(spec->c->up.tree, slimFloat32, x.size()) / 8 + 2);
      uint8_t* payload = reinterpret_cast<uint8_t*>(buffer.data());
      if (reinterpret_cast<uintptr_t>(payload) % 16) payload += 8;
      s.assign(x.size(), 0.0f);
      slimEncodePass pass = {};
      pass.direction = &spec->c->up;
      pass.stamp.seed = 5;
      pass.type = slimFloat32;
      pass.x = x.data();
      pass.n = x.size();
      pass.s = spec->c->up.feedback.memory ? s.data() : nullptr;
      pass.payload = payload;
      ASSERT_EQ(slimSuccess, slimPassEncode(&pass, nullptr));
      payloads[spec == &b].assign(payload, payload + slimPayloadBytes(spec->c->up.tree, slimFloat32, x.size()));
    }
    EXPECT_EQ(payloads[0], payloads[1]) << pair[0];
  }
}

TEST(SpecLanguage, ALoneSpecGetsItsDownlink) {
  const char* const pairs[][2] = {
      {"ef(onebit)", "ef(onebit)"},
      {"ef(qsgd(bits=4))", "ef(qsgd(bits=4))"},
      {"ef(rotate(qsgd(bits=2)))", "ef(rotate(qsgd(bits=2)))"},
      {"none(qsgd(bits=4,rounding=nearest))", "qsgd(bits=4,rounding=nearest)"},
      {"qsgd(bits=4)", "qsgd(bits=4)"},
      {"ef(onebit,warmup=100)", "ef(onebit)"},
      {"ef(onebit,memory=bf16)", "ef(onebit,memory=bf16)"},
      {"shift(qsgd(bits=4))", "ef(qsgd(bits=8))"},
      {"rand_diana(natural)", "ef(qsgd(bits=8))"},
      {"ef_bv(topk(ratio=0.01))", "ef(qsgd(bits=8))"},
      {"ef(topk(ratio=0.01))", "ef(topk(ratio=0.01))"},
      {"ef(topk(k=9,block=512,qsgd(bits=8)))", "ef(topk(k=9,block=512,qsgd(bits=8)))"},
      {"diana(ternary(norm=inf))", "ef(qsgd(bits=8))"},
      {"diana(qsgd(bits=4))", "ef(qsgd(bits=8))"},
      {"ef21(onebit)", "ef(qsgd(bits=8))"},
  };
  for (const auto& pair : pairs) {
    Spec lone(pair[0]), both("up=" + std::string(pair[0]) + "; down=" + pair[1]), up("up=" + std::string(pair[0]));
    ASSERT_EQ(slimSuccess, lone.result) << lone.message;
    EXPECT_EQ(lone.text(), both.text());
    EXPECT_EQ(lone.text(), up.text());
    EXPECT_FALSE(lone.c->downGiven);
    EXPECT_TRUE(both.c && both.c->downGiven);
  }
  Spec shared("none(randk(ratio=0.01,seed=shared))"), own("none(randk(ratio=0.01,seed=own))");
  ASSERT_EQ(slimSuccess, shared.result) << shared.message;
  ASSERT_EQ(slimSuccess, own.result) << own.message;
  EXPECT_TRUE(shared.c->sharedDown) << shared.text();
  EXPECT_FALSE(own.c->sharedDown) << own.text();
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

struct Bad {
  const char* spec;
  int column, orColumn;  // a wrong value may be shown at its name or at itself
  std::vector<const char*> says;
};

TEST(SpecErrors, NameTheColumnAndWhatIsKnown) {
  const Bad bad[] = {
      {"ef(qsgd(bit=4))",
       9,
       9,
       {"unknown option 'bit' of qsgd", "options:", "bits", "levels", "block", "norm", "rounding"}},
      {"foo", 1, 1, {"foo", "qsgd", "onebit", "topk"}},
      {"ef(foo)", 4, 4, {"foo", "codec"}},
      {"ef(rotate(foo))", 11, 11, {"foo", "codec"}},
      {"", 1, 1, {}},
      {"   ", 1, 4, {}},
      {"ef(", 4, 4, {}},
      {"ef()", 4, 1, {}},
      {"ef(onebit", 10, 10, {")"}},
      {"ef(onebit))", 11, 11, {}},
      {"ef(onebit) x", 12, 12, {}},
      {"ef(onebit);", 11, 12, {"down="}},
      {"up=ef(onebit); sideways=ef(onebit)", 16, 16, {"down"}},
      {"up=ef(onebit); up=ef(onebit)", 16, 16, {"down"}},
      {"ef(qsgd(bits=4,bits=5))", 16, 16, {"bits"}},
      {"ef(qsgd(bits=4,levels=5))", 4, 16, {"bits", "levels"}},
      {"ef(qsgd(bits=9))", 14, 9, {"bits=9: expected 2 to 8"}},
      {"ef(qsgd(bits=four))", 14, 9, {"bits"}},
      {"ef(qsgd(bits=4.5))", 14, 9, {"bits"}},
      {"ef(qsgd(bits=))", 14, 9, {}},
      {"ef(qsgd(bits=1))", 14, 4, {"onebit"}},
      {"qsgd(bits=1)", 11, 1, {"onebit"}},
      {"qsgd(norm=3,bits=4)", 11, 6, {"norm", "2", "inf"}},
      {"onebit(block=100)", 14, 8, {"block", "64", "8192"}},
      {"onebit(block=32)", 14, 8, {"block", "64", "8192"}},
      {"onebit(block=16384)", 14, 8, {"block", "64", "8192"}},
      {"fp8(format=e3m4)", 12, 5, {"e4m3", "e5m2"}},
      {"topk(block=512)", 1, 1, {"ratio", "k"}},
      {"topk(ratio=0.01,k=5)", 1, 17, {"ratio", "k"}},
      {"topk(ratio=0)", 12, 6, {"ratio"}},
      {"topk(k=0)", 8, 6, {"k=0", "1e-06"}},
      {"topk(k=2.5)", 1, 8, {"whole number", "below 1"}},
      {"topk(k=4097)", 1, 8, {"larger than the block"}},
      {"topk(ratio=1.5)", 12, 6, {"ratio"}},
      {"topk(ratio=0.01,scope=row)", 23, 17, {"block", "chunk", "global"}},
      {"topk(ratio=nan)", 12, 6, {"ratio"}},
      {"ef(ef(onebit))", 4, 4, {"ef"}},
      {"rotate(ef(onebit))", 8, 8, {"ef"}},
      {"ef(onebit,onebit)", 11, 11, {}},
      {"rotate(onebit,qsgd(bits=4))", 15, 15, {}},
      {"ef(foo(k=1))", 4, 4, {"foo", "known", "qsgd", "onebit"}},
      {"induced(topk(ratio=0.01))", 1, 25, {}},
      {"ef(sign)", 4, 4, {"contractive", "onebit"}},
      {"ef(onebit, resync=100)", 1, 12, {"resync", "diana", "ef21"}},
      {"ef(onebit, init=first)", 1, 12, {"init"}},
      {"ef(onebit,memory=fp16)", 18, 11, {"memory", "fp32|bf16"}},
      {"diana(natural,memory=bf16)", 15, 15, {"unknown option 'memory' of diana"}},
      {"diana(natural,init=first,warmup=3)", 1, 26, {"init", "warmup"}},
      {"ef(qsgd(bits=4,norm=2,rounding=nearest))", 4, 4, {}},
      {"ef(randk(ratio=0.1,scale=unbiased))", 4, 4, {"scale=1"}},
      {"topk(k=5,scope=chunk,block=512)", 1, 22, {"block"}},
      {"rotate(topk(k=5,scope=chunk))", 8, 1, {}},
      {"ef(tnqsgd)", 4, 4, {"bits"}},
      {"onebit(f=2)", 1, 8, {"dither"}},
      {"onebit(dither,f=2,lambda=1)", 1, 19, {"f", "lambda"}},
      {"onebit(dither,lambda=-1)", 22, 15, {"lambda"}},
      {"onebit(dither,f=2,delta=0.1)", 1, 19, {"f", "delta"}},
      {"onebit(dither,scale=unbiased)", 1, 15, {"scale", "dither"}},
      {"onebit(dither,delta=0.1)", 1, 8, {"delta", "rotate"}},
      {"rotate(onebit(dither,delta=0.1),block=64)", 1, 8, {"delta", "block"}},
      {"ef(fo(delta=2))", 13, 7, {"delta"}},
      {"ef(fo(lambda=shared))", 4, 4, {"lambda=shared", "feedback"}},
      {"onebit(dither,lambda=shared)", 1, 1, {"lambda=shared", "rotate"}},
      {"rotate(onebit(dither,lambda=shared),block=64)", 1, 1, {"lambda=shared", "block"}},
      {"rotate(fo(lambda=shared))", 1, 1, {"lambda=shared", "outermost"}},
      {"topk(k=64,scope=chunk,onebit(dither,lambda=shared))", 1, 1, {"lambda=shared"}},
      {"up=fo(lambda=shared); down=fp32", 28, 28, {"same codec"}},
      {"up=fp32; down=fo(lambda=shared)", 15, 15, {"same codec"}},
      {"up=fo(lambda=shared); down=fo(f=2,lambda=shared)", 28, 28, {"same codec"}},
      {"fo(f=1,delta=1,lambda=shared)", 1, 1, {"delta"}},
      {"ef(fo(bits=2))", 7, 7, {"unknown option 'bits' of fo", "f, lambda, delta, block, signs"}},
      {"fo(f=1,lambda=1)", 1, 8, {"f", "lambda"}},
      {"ef(onebit(scale=unbiased))", 4, 4, {"scale=unbiased"}},
      {"diana(rotate(onebit(scale=unbiased)))", 7, 7, {"scale=unbiased"}},
      {"diana(qsgd(bits=4),alpha=2)", 26, 20, {"alpha"}},
  };
  for (const Bad& test : bad) {
    Spec spec(test.spec);
    ASSERT_NE(slimSuccess, spec.result) << "'" << test.spec << "' became " << spec.text();
    EXPECT_EQ(slimInvalidArgument, spec.result) << test.spec;
    int column = 0;
    ASSERT_EQ(1, sscanf(spec.message.c_str(), "spec:1:%d: ", &column)) << test.spec << ": " << spec.message;
    EXPECT_TRUE(column == test.column || column == test.orColumn)
        << "'" << test.spec << "' column " << test.column << ": " << spec.message;
    for (const char* word : test.says) {
      EXPECT_NE(std::string::npos, spec.message.find(word)) << "'" << word << "' in: " << spec.message;
    }
  }
}

TEST(SpecErrors, NothingCrashesTheParser) {
  std::mt19937 random(4711);
  const char pieces[] = "(),=;. 0123456789-+eEinfuprqsgdbtkol\"\n\t\x01\x7f\xff";
  int accepted = 0;
  for (int round = 0; round < 60000; round++) {
    std::string text = kGood[random() % (sizeof kGood / sizeof kGood[0])];
    int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits; i++) {
      size_t at = random() % (text.size() + 1);
      char c = pieces[random() % (sizeof pieces - 1)];
      switch (random() % 4) {
        case 0:
          text.insert(at, 1, c);
          break;
        case 1:
          text.erase(at, 1 + random() % 3);
          break;
        case 2:
          if (at < text.size()) text[at] = c;
          break;
        case 3:
          text += text.substr(at);
      }
    }
    Spec spec(text);
    if (spec.result == slimSuccess) {
      accepted++;
      Spec again(spec.text());
      ASSERT_EQ(slimSuccess, again.result) << text << " → " << spec.text() << ": " << again.message;
      ASSERT_EQ(spec.text(), again.text()) << text;
      slimPayloadBytes(spec.c->up.tree, slimFloat32, 12345);
      slimTreeClass(spec.c->down.tree);
    } else {
      ASSERT_EQ(0u, spec.message.find("spec:1:")) << text << ": " << spec.message;
    }
  }
  EXPECT_GT(accepted, 100);
  for (const char* step : {"ef(", "rotate(", "induced(", "topk(k=1,", "(", ")", "up=", "x", "9", " "}) {
    std::string deep;
    for (int i = 0; i < 20000; i++) deep += step;
    Spec spec(deep);
    EXPECT_NE(slimSuccess, spec.result);
    deep += "onebit";
    Spec closed(deep + std::string(20000, ')'));
    EXPECT_NE(slimSuccess, closed.result);
  }
}

// ---- What feedback may hold
// -------------------------------------------------------------------------------------------

const char* const kUnbiased[] = {"fp32",
                                 "qsgd(bits=4,rounding=stochastic)",
                                 "qsgd(levels=5,norm=2,rounding=stochastic)",
                                 "ternary(norm=inf)",
                                 "ternary(norm=2)",
                                 "natural",
                                 "natural(bits=4)",
                                 "nuqsgd(bits=3)",
                                 "onebit(dither,lambda=inf)",
                                 "randk(ratio=0.1,scale=unbiased)",
                                 "rotate(qsgd(bits=2,rounding=stochastic))",
                                 "rotate(ternary)",
                                 "induced(topk(ratio=0.01),qsgd(bits=4))"};
const char* const kContractive[] = {"topk(ratio=0.1)",
                                    "topk(k=5,qsgd(bits=8,rounding=nearest))",
                                    "onebit",
                                    "rotate(onebit)",
                                    "qsgd(bits=4,rounding=nearest)",
                                    "rotate(qsgd(bits=2,rounding=nearest))",
                                    "randk(ratio=0.1,scale=1)",
                                    "topk(ratio=0.1,scope=chunk)",
                                    "fp8",
                                    "fp16",
                                    "bf16"};
const char* const kNeither[] = {"sign",
                                "onebit(scale=unbiased)",
                                "fo",
                                "onebit(dither,f=2)",
                                "onebit(dither,lambda=1)",
                                "topk(ratio=0.1,qsgd(bits=4))",
                                "tqsgd(bits=4)",
                                "tnqsgd(bits=3)",
                                "tnqsgd(bits=3,model=powerlaw)",
                                "tbqsgd(bits=3)",
                                "qsgd(bits=4,rounding=nearest,norm=2)"};

TEST(Classes, AreAsTheMathematicsSays) {
  for (const char* codec : kUnbiased) {
    Spec spec("none(" + std::string(codec) + ")");
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_TRUE(std::isfinite(slimTreeClass(spec.c->up.tree).omega)) << codec;
  }
  for (const char* codec : kNeither) {
    Spec spec("none(" + std::string(codec) + ")");
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_TRUE(std::isinf(slimTreeClass(spec.c->up.tree).omega)) << codec;
    EXPECT_EQ(0, slimTreeClass(spec.c->up.tree).delta) << codec;
  }
  for (const char* codec : kContractive) {
    Spec spec("none(" + std::string(codec) + ")");
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_TRUE(std::isinf(slimTreeClass(spec.c->up.tree).omega)) << codec;
    EXPECT_GT(slimTreeClass(spec.c->up.tree).delta, 0) << codec;
    EXPECT_LE(slimTreeClass(spec.c->up.tree).delta, 1) << codec;
  }
  struct {
    const char* spec;
    double omega;
  } exact[] = {{"ternary(norm=2,block=512)", std::sqrt(512.0) - 1},
               {"ternary(norm=inf,block=64)", (1 + 8) / 2.0 - 1},
               {"natural", 1.0 / 8},
               {"natural(bits=4)", 1.0 / 8 + 512 * std::ldexp(1.0, -12) / 4},
               {"natural(bits=3,block=4096)", 1.0 / 8 + 16},
               {"nuqsgd(bits=4,block=64)", 1.0 / 8 + 64 * std::ldexp(1.0, -12) / 4},
               {"randk(k=32,block=512,scale=unbiased)", 15},
               {"randk(ratio=0.01,block=4096,scale=unbiased)", 4096.0 / 41 - 1}};
  for (const auto& test : exact) {
    Spec spec("none(" + std::string(test.spec) + ")");
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_NEAR(test.omega, slimTreeClass(spec.c->up.tree).omega, 1e-6 * test.omega) << test.spec;
  }
  Spec topk("none(topk(k=16,block=512))");
  EXPECT_NEAR(16.0 / 512, slimTreeClass(topk.c->up.tree).delta, 1e-9);
  Spec randk("ef(randk(k=16,block=512))");
  EXPECT_NEAR(16.0 / 512, slimTreeClass(randk.c->up.tree).delta, 1e-9);
  // δ ≥ 1 / (1 + ω) once fitted.
  Spec plain("none(ternary(norm=2))"), fitted("ef(ternary(norm=2))");
  EXPECT_GE(slimTreeClass(fitted.c->up.tree).delta, 1 / (1 + slimTreeClass(plain.c->up.tree).omega) - 1e-9);
}

// What is sent of a block is a block of its own for the codec inside: its scale serves k values, not the padded k.
TEST(Classes, CountASelectorsValuesAsABlockOfK) {
  const uint64_t n = 1 << 20;
  for (const char* text :
       {"topk(k=8,block=64,qsgd(bits=8))", "topk(k=16,block=512,onebit)", "topk(k=200,block=8192,natural)",
        "randk(k=8,block=64,qsgd(bits=5))", "randk(k=24,block=1024,fp8)", "topk(k=64,block=4096)", "qsgd(bits=3)",
        "induced(topk(k=8,block=64,qsgd(bits=4)),natural)", "rotate(onebit(block=64))"}) {
    Spec spec(text);
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    const double payload = 8 * static_cast<double>(slimPayloadBytes(spec.c->up.tree, slimFloat32, n) - 64);
    EXPECT_NEAR(payload / n, slimTreeClass(spec.c->up.tree).bits + 1.0 / slimTreeUnit(spec.c->up.tree), 1e-3) << text;
  }
  Spec onebit("ef(topk(k=5,block=64,onebit))"), signs("ef(randk(k=5,block=64,onebit))");
  EXPECT_NEAR(5.0 / 64 / 5, slimTreeClass(onebit.c->up.tree).delta, 1e-12);
  EXPECT_NEAR(5.0 / 64 / 5, slimTreeClass(signs.c->up.tree).delta, 1e-12);
  Spec ternary("none(randk(k=4,block=64,ternary))");
  EXPECT_NEAR((1 + (1 + 2) / 2.0 - 1) * 16 - 1, slimTreeClass(ternary.c->up.tree).omega, 1e-12);
}

TEST(Trees, NoneOfACodecIsTheCodec) {
  for (const char* codec : {"fp32", "qsgd(bits=4)", "topk(k=5,scope=chunk)", "rotate(onebit)"}) {
    Spec bare(codec), none("none(" + std::string(codec) + ")"),
        both("up=none(" + std::string(codec) + "); down=none(" + codec + ")");
    ASSERT_EQ(slimSuccess, none.result) << none.message;
    EXPECT_EQ(bare.text(), none.text());
    EXPECT_EQ(bare.text(), both.text());
    EXPECT_EQ(slimCompressorHash(bare.c, slimFloat32), slimCompressorHash(both.c, slimFloat32));
  }
  Spec warm("none(onebit,warmup=3)"), bare("onebit");
  ASSERT_EQ(slimSuccess, warm.result) << warm.message;
  EXPECT_NE(bare.text(), warm.text());
  EXPECT_EQ(3u, warm.c->up.feedback.warmup);
}

// docs/specs.md's table. a: accepted; f: fitted, or made contractive; r: refused.
TEST(Classes, FeedbackAcceptsFitsOrRefuses) {
  struct {
    const char* codec;
    char ef, efBv, diana;
  } rows[] = {
      {"fp32", 'a', 'a', 'a'},
      {"fp16", 'a', 'a', 'r'},
      {"bf16", 'a', 'a', 'r'},
      {"fp8", 'a', 'a', 'r'},
      {"fp8(format=e5m2)", 'a', 'a', 'r'},
      {"sign", 'r', 'r', 'r'},
      {"onebit", 'a', 'a', 'r'},
      {"onebit(dither,f=1.5)", 'f', 'r', 'r'},
      {"onebit(dither,lambda=0.5)", 'f', 'r', 'r'},
      {"onebit(dither,lambda=inf)", 'f', 'a', 'a'},
      {"ternary", 'f', 'a', 'a'},
      {"ternary(norm=2)", 'f', 'a', 'a'},
      {"natural", 'f', 'a', 'a'},
      {"natural(bits=4)", 'f', 'a', 'a'},
      {"nuqsgd(bits=3)", 'f', 'a', 'a'},
      {"tqsgd(bits=3)", 'f', 'r', 'r'},
      {"tbqsgd(bits=3)", 'f', 'r', 'r'},
      {"tnqsgd(bits=3)", 'f', 'r', 'r'},
      {"tnqsgd(bits=3,model=powerlaw)", 'f', 'r', 'r'},
      {"tnqsgd(bits=3,stats=previous)", 'f', 'r', 'r'},
      {"qsgd(bits=4)", 'f', 'a', 'a'},
      {"qsgd(bits=2,norm=2)", 'f', 'a', 'a'},
      {"qsgd(bits=4,rounding=stochastic)", 'f', 'a', 'a'},
      {"qsgd(bits=4,rounding=nearest)", 'a', 'a', 'r'},
      {"qsgd(bits=4,rounding=nearest,norm=2)", 'r', 'r', 'r'},
      {"topk(ratio=0.1)", 'a', 'a', 'r'},
      {"topk(ratio=0.1,scope=chunk)", 'a', 'a', 'r'},
      {"topk(ratio=0.1,qsgd(bits=8))", 'f', 'r', 'r'},
      {"topk(ratio=0.1,ternary)", 'f', 'r', 'r'},
      {"topk(ratio=0.1,natural)", 'f', 'r', 'r'},
      {"randk(ratio=0.1)", 'f', 'f', 'a'},
      {"randk(ratio=0.1,scale=1)", 'a', 'a', 'r'},
      {"randk(ratio=0.1,scale=unbiased)", 'r', 'a', 'a'},
      {"rotate(onebit)", 'a', 'a', 'r'},
      {"rotate(ternary)", 'f', 'a', 'a'},
      {"rotate(qsgd(bits=4))", 'f', 'a', 'a'},
      {"rotate(qsgd(bits=4,rounding=nearest))", 'a', 'a', 'r'},
      {"induced(topk(ratio=0.01),randk(ratio=0.01))", 'f', 'a', 'a'},
      {"induced(topk(ratio=0.01),qsgd(bits=4))", 'f', 'a', 'a'},
  };
  for (const auto& row : rows) {
    Spec none(row.codec);
    EXPECT_EQ(slimSuccess, none.result) << row.codec << ": " << none.message;
    for (const char* feedback : {"ef", "ef21", "ef_bv", "diana", "shift", "rand_diana"}) {
      bool contractive = !std::strcmp(feedback, "ef") || !std::strcmp(feedback, "ef21");
      char expected = contractive ? row.ef : !std::strcmp(feedback, "ef_bv") ? row.efBv : row.diana;
      std::string text = std::string("up=") + feedback + "(" + row.codec + "); down=none(fp32)";
      Spec spec(text);
      if (expected == 'r') {
        EXPECT_NE(slimSuccess, spec.result) << text << " became " << spec.text();
        EXPECT_EQ(0u, spec.message.find("spec:1:")) << spec.message;
        EXPECT_NE(std::string::npos, spec.message.find(feedback)) << spec.message;
        bool names = spec.message.find("ef21") != std::string::npos || spec.message.find("ef_bv") != std::string::npos;
        // What is contractive has a home: the message says where.
        bool biased = row.diana == 'r' && row.efBv == 'a';
        EXPECT_TRUE(names || contractive || !biased || !std::strcmp(feedback, "ef_bv")) << spec.message;
        continue;
      }
      ASSERT_EQ(slimSuccess, spec.result) << text << ": " << spec.message;
      slimClass guarantee = slimTreeClass(spec.c->up.tree);
      EXPECT_TRUE(!contractive || guarantee.delta > 0) << text;
      bool unbiased = std::strstr(feedback, "diana") || !std::strcmp(feedback, "shift");
      EXPECT_TRUE(!unbiased || std::isfinite(guarantee.omega)) << text;
      if (none.c && expected == 'a' && row.diana == 'a') {
        EXPECT_EQ(slimTreeClass(none.c->up.tree).omega, guarantee.omega) << text;
      }
    }
  }
}

// ---- The numbers of the feedback table ------------------------------------------------------------------------------

TEST(Feedback, HasTheTablesNumbers) {
  struct {
    const char* spec;
    slimFeedbackKind kind;
    double sigma, a, b, c, nu, lambda;
    bool memory, shifts;
  } rows[] = {
      {"ef(onebit)", slimFeedbackEf, 1, 1, 1, -1, 1, 0, true, false},
      {"diana(qsgd(bits=4),alpha=0.5)", slimFeedbackDiana, -1, 1, 0, 0.5, 1, 0.5, true, true},
      {"ef21(onebit)", slimFeedbackEf21, -1, 1, 0, 1, 1, 1, true, true},
      {"ef_bv(onebit,lambda=0.75,nu=0.5)", slimFeedbackEfBv, -1, 1, 0, 0.75, 0.5, 0.75, true, true},
      {"shift(qsgd(bits=4))", slimFeedbackShift, -1, 1, 0, 0, 1, 0, true, true},
      {"rand_diana(qsgd(bits=4),p=0.25)", slimFeedbackRandDiana, -1, 1, 0, 0, 1, 0, true, true},
  };
  for (const auto& row : rows) {
    Spec spec(row.spec);
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    const slimFeedback& f = spec.c->up.feedback;
    EXPECT_EQ(row.kind, f.kind) << row.spec;
    EXPECT_EQ(row.sigma, f.sigma) << row.spec;
    EXPECT_EQ(row.a, f.a) << row.spec;
    EXPECT_EQ(row.b, f.b) << row.spec;
    EXPECT_EQ(row.c, f.c) << row.spec;
    EXPECT_TRUE(!row.shifts || row.nu == f.nu) << row.spec << " " << f.nu;
    EXPECT_TRUE(!row.shifts || row.lambda == f.lambda) << row.spec << " " << f.lambda;
    EXPECT_EQ(row.memory, f.memory) << row.spec;
    EXPECT_EQ(row.shifts, f.shifts) << row.spec;
    EXPECT_EQ(0u, f.warmup);
    EXPECT_EQ(0u, f.resync);
    EXPECT_FALSE(f.initFirst);
  }
  Spec none("onebit");
  EXPECT_FALSE(none.c->up.feedback.memory || none.c->up.feedback.shifts);
  Spec extras("diana(qsgd(bits=4),init=first,resync=256)"), warm("ef(onebit,warmup=10)");
  ASSERT_EQ(slimSuccess, extras.result) << extras.message;
  EXPECT_EQ(10u, warm.c->up.feedback.warmup);
  EXPECT_EQ(256u, extras.c->up.feedback.resync);
  EXPECT_TRUE(extras.c->up.feedback.initFirst);
  Spec momentum("ef21(onebit,momentum=0.125)");
  EXPECT_EQ(0.125, momentum.c->up.feedback.momentum);
  Spec rand("rand_diana(qsgd(bits=4),p=0.25,refresh=replace)"), add("rand_diana(qsgd(bits=4),p=0.25,refresh=add)");
  ASSERT_EQ(slimSuccess, rand.result) << rand.message;
  EXPECT_EQ(0.25, rand.c->up.feedback.refresh);
  EXPECT_TRUE(rand.c->up.feedback.replace);
  EXPECT_FALSE(add.c->up.feedback.replace);
}

TEST(Feedback, AutomaticNumbersFollowFromTheClass) {
  for (const char* codec : {"qsgd(bits=4)", "natural", "randk(ratio=0.1)"}) {
    Spec spec("diana(" + std::string(codec) + ")");
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_NEAR(1 / (1 + slimTreeClass(spec.c->up.tree).omega), spec.c->up.feedback.lambda, 1e-9) << codec;
    EXPECT_EQ(spec.c->up.feedback.lambda, spec.c->up.feedback.c);
  }
  // DIANA's ternary: half of alpha_p = min ‖x‖² / (‖x‖₁ ‖x‖_p).
  Spec two("diana(ternary(norm=2,block=64))"), inf("diana(ternary(norm=inf,block=64))");
  EXPECT_NEAR(1 / 8.0 / 2, two.c->up.feedback.lambda, 1e-9);
  EXPECT_NEAR(2 / (1 + 8.0) / 2, inf.c->up.feedback.lambda, 1e-9);
}

TEST(Trees, KnowTheirUnitAndScope) {
  struct {
    const char* spec;
    uint32_t unit;
  } units[] = {{"onebit(block=64)", 64},
               {"qsgd(bits=4)", 512},
               {"topk(ratio=0.01)", 4096},
               {"topk(ratio=0.01,block=256,qsgd(bits=4,block=8192))", 256},
               {"rotate(onebit(block=256),block=2048)", 2048},
               {"induced(topk(ratio=0.01,block=1024),qsgd(bits=4,block=64))", 1024}};
  for (const auto& test : units) {
    Spec spec(test.spec);
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    EXPECT_EQ(test.unit, slimTreeUnit(spec.c->up.tree)) << test.spec;
  }
  Spec global("topk(k=5,scope=global)"), chunk("topk(k=5,scope=chunk)"), shared("randk(ratio=0.01,seed=shared)"),
      own("randk(ratio=0.01,seed=own)"), plain("fp32"), ultra("randk(k=0.5,seed=shared)"),
      ultraChunk("randk(k=0.5,scope=chunk,seed=shared)"), quantised("randk(ratio=0.01,seed=shared,qsgd(bits=4))");
  EXPECT_TRUE(slimTreeIsGlobal(global.c->up.tree));
  EXPECT_FALSE(slimTreeIsGlobal(chunk.c->up.tree));
  EXPECT_TRUE(slimTreeIsLinear(shared.c->up.tree));
  EXPECT_TRUE(slimTreeIsLinear(plain.c->up.tree));
  EXPECT_FALSE(slimTreeIsLinear(own.c->up.tree));
  EXPECT_FALSE(slimTreeIsLinear(quantised.c->up.tree));
  EXPECT_FALSE(slimTreeIsLinear(ultra.c->up.tree));
  EXPECT_FALSE(slimTreeIsLinear(ultraChunk.c->up.tree));
}

TEST(Trees, HashTheirTextAndType) {
  for (const char* text : {"ef(onebit)", "diana(qsgd(bits=4))"}) {
    Spec spec(text);
    ASSERT_EQ(slimSuccess, spec.result) << spec.message;
    for (slimDataType_t type : {slimFloat16, slimFloat32, slimFloat64, slimBfloat16}) {
      std::string hashed = spec.text() + "#" + std::to_string(static_cast<int>(type));
      EXPECT_EQ(XXH3_64bits(hashed.data(), hashed.size()), slimCompressorHash(spec.c, type)) << hashed;
    }
  }
}

}  // namespace
