// Streams: a worker thread each, with delays that the seed draws; the order that events and synchronisation make, kept
// as clocks; capture and graphs; kernels, block by block.
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "tests/simgpu/core.h"

namespace simgpu {

Mutex& theMutex = *new Mutex;
std::condition_variable_any& progress = *new std::condition_variable_any;
Clock& hostClock = *new Clock;
Running* running;
bool& destroying() {
  static thread_local bool is;
  return is;
}
CUstreamCaptureMode& captureMode() {
  static thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

namespace {

std::set<std::shared_ptr<Capture>>& captures() {
  static auto& all = *new std::set<std::shared_ptr<Capture>>;
  return all;
}

long number(const char* name, long otherwise, long least, long most) {
  const char* text = getenv(name);
  if (!text || !*text) return otherwise;
  char* end;
  const long v = strtol(text, &end, 0);
  if (!*end && v >= least && v <= most) return v;
  fprintf(stderr, "simgpu: %s=%s: a number from %ld to %ld is wanted\n", name, text, least, most);
  _exit(1);
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool allDone(const std::vector<MarkPtr>& marks) {
  return std::all_of(marks.begin(), marks.end(), [](const MarkPtr& m) { return m->done; });
}

void execute(Running& r, const Work& work) {
  running = &r;
  work(r);
  if (r.touchedHost) join(&hostClock, *r.clock);  // the host may have seen it
  running = nullptr;
}

// One operation in four is late, by up to 0.2 ms.
void delay(Lock& lock, uint64_t* random) {
  const uint64_t draw = next(random);
  if (draw & 3) return;
  lock.unlock();
  usleep((unsigned)(draw >> 32) % 200);
  lock.lock();
}

void work(StreamPtr s) {
  alignas(16) static thread_local char signalStack[1 << 16];  // for a kernel that overruns its own
  stack_t alternative = {};
  if (!sigaltstack(nullptr, &alternative) && (alternative.ss_flags & SS_DISABLE)) {
    alternative.ss_flags = 0;
    alternative.ss_sp = signalStack;
    alternative.ss_size = sizeof signalStack;
    sigaltstack(&alternative, nullptr);
  }

  Lock lock(theMutex);
  for (;;) {
    progress.wait(lock, [&] { return !s->queue.empty() || s->destroyed; });
    if (s->queue.empty()) {
      streams().erase(s);
      return;
    }
    Op& op = s->queue.front();
    progress.wait(lock, [&] { return allDone(op.after); });
    delay(lock, &s->random);
    const uint32_t id = newOp(op.name, s->number, op.sequence);
    Running r = {&lock, s->context->ordinal, id, newRun(id, 0), &op.mark->clock, &s->random};
    execute(r, op.work);
    op.mark->done = true;
    op.mark->seconds = now();
    s->queue.pop_front();
    progress.notify_all();
  }
}

uint32_t streamNumbers;

void breakCapture(Capture* c) { c->broken = true; }

size_t thisThread() { return std::hash<std::thread::id>()(std::this_thread::get_id()); }

// While a thread adds something to the graph of a capture. A graph is not safe for threads, and CUDA's driver has been
// seen to crash: so calls of two threads that meet in one are reported. Some take a while, so that others come by.
class Adding {
 public:
  explicit Adding(const Stream* s) : capture_(s->capture) {
    if (!capture_ || capture_->inside == thisThread()) return;
    if (capture_->inside) {
      breakCapture(capture_.get());
      report(s->context->ordinal, Finding::capture,
             "something is captured on stream " + std::to_string(s->number) +
                 " while another thread adds to the same graph");
      return;
    }
    mine_ = true;
    capture_->inside = thisThread();
    static uint64_t random = seed();
    const uint64_t draw = next(&random);
    if (draw & 3) return;
    theMutex.unlock();
    usleep((unsigned)(draw >> 32) % 200);
    theMutex.lock();
  }
  ~Adding() {
    if (mine_) capture_->inside = 0;
  }

 private:
  const std::shared_ptr<Capture> capture_;
  bool mine_ = false;
};

}  // namespace

uint64_t seed() {
  static const uint64_t value = (uint64_t)number("SIMGPU_SEED", 1, 0, 1L << 62);
  return value;
}
int deviceCount() {
  static const int count = (int)number("SIMGPU_DEVICES", 1, 0, kMaxDevices);
  return count;
}

Context* contextOf(int ordinal) {
  static Context* all = [] {
    auto* contexts = new Context[kMaxDevices];
    for (int d = 0; d < kMaxDevices; d++) {
      contexts[d].ordinal = d;
      contexts[d].peers = 1u << d;
    }
    return contexts;
  }();
  if (ordinal < 0 || ordinal >= deviceCount()) return nullptr;
  Context* c = &all[ordinal];
  if (!c->legacy) {
    c->legacy = newStream(c, CU_STREAM_DEFAULT, 0);
    c->legacy->legacy = true;
  }
  return c;
}

void join(Clock* clock, const Clock& other) {
  if (clock->size() < other.size()) clock->resize(other.size());
  for (size_t i = 0; i < other.size(); i++) (*clock)[i] = std::max((*clock)[i], other[i]);
}

uint32_t newStreamNumber() { return streamNumbers++; }

std::set<StreamPtr>& streams() {
  static auto& all = *new std::set<StreamPtr>;
  return all;
}

StreamPtr newStream(Context* c, unsigned flags, int priority) {
  auto s = std::make_shared<Stream>();
  s->context = c;
  s->number = newStreamNumber();
  s->flags = flags;
  s->priority = priority;
  s->random = seed() * 1000003 + s->number;
  s->last = std::make_shared<Mark>();
  s->last->done = true;
  streams().insert(s);
  return s;
}

void destroyStream(Stream* s) {
  s->destroyed = true;
  if (!s->hasWorker) {
    for (auto i = streams().begin(); i != streams().end(); ++i)
      if (i->get() == s) {
        streams().erase(i);
        return;
      }
  }
  progress.notify_all();
}

std::map<const void*, MarkPtr>& newestOf() {
  static auto& all = *new std::map<const void*, MarkPtr>;
  return all;
}

// The newest node of that order.
static void comeAfter(const Graph& graph, const void* order, std::vector<int>* after) {
  for (int i = (int)graph.nodes.size() - 1; order && i >= 0; i--)
    if (graph.nodes[(size_t)i].order == order) {
      after->push_back(i);
      return;
    }
}

CUresult enqueue(Stream* s, const std::string& name, Work w, std::vector<MarkPtr> after, const void* order) {
  const Adding adding(s);
  if (s->capture) {
    Capture& c = *s->capture;
    if (c.broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    auto& nodes = c.graph->nodes;
    std::vector<int> before = s->captured;
    comeAfter(*c.graph, order, &before);
    nodes.push_back({name, std::move(w), std::move(before), s->lane, order});
    s->captured = {(int)nodes.size() - 1};
    return CUDA_SUCCESS;
  }
  if (s->context->error) return s->context->error;
  if (s->legacy) {
    for (const StreamPtr& other : streams()) {
      if (other->context != s->context || other.get() == s || (other->flags & CU_STREAM_NON_BLOCKING)) continue;
      if (other->capture) {
        breakCapture(other->capture.get());
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      }
      after.push_back(other->last);
    }
  } else if (!(s->flags & CU_STREAM_NON_BLOCKING)) {
    after.push_back(s->context->legacy->last);
  }
  if (s->context->settled) after.push_back(s->context->settled);
  if (order && newestOf()[order]) after.push_back(newestOf()[order]);
  join(&s->clock, hostClock);
  for (const MarkPtr& m : after) join(&s->clock, m->clock);
  if (s->clock.size() <= s->number) s->clock.resize(s->number + 1);
  Op op = {name, std::move(w), std::move(after), std::make_shared<Mark>(), ++s->clock[s->number]};
  op.mark->clock = s->clock;
  s->last = op.mark;
  if (order) newestOf()[order] = op.mark;
  s->queue.push_back(std::move(op));
  if (!s->hasWorker) {
    s->hasWorker = true;
    StreamPtr self;
    for (const StreamPtr& each : streams())
      if (each.get() == s) self = each;
    std::thread(work, self).detach();
  }
  progress.notify_all();
  return CUDA_SUCCESS;
}

void await(Lock& lock, const MarkPtr& mark) {
  progress.wait(lock, [&] { return mark->done; });
  join(&hostClock, mark->clock);
}

CUresult synchronize(Lock& lock, Stream* s) {
  if (s->capture) {
    breakCapture(s->capture.get());
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  Context* c = s->context;
  await(lock, MarkPtr(s->last));
  return c->error;
}

CUresult synchronizeAll(Lock& lock, Context* c) {
  std::vector<MarkPtr> marks;
  for (const StreamPtr& s : streams())
    if (s->context == c) marks.push_back(s->last);
  for (const MarkPtr& m : marks) await(lock, m);
  return c->error;
}

/* ---- Events
 * ------------------------------------------------------------------------------------------------------------ */

CUresult recordEvent(Stream* s, Event* e) {
  const Adding adding(s);
  if (s->capture) {
    if (s->capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    e->capture = s->capture;
    e->captured = s->captured;
    e->mark = nullptr;
    return CUDA_SUCCESS;
  }
  const CUresult error = enqueue(s, "event record", [](Running&) {});
  if (error) return error;
  e->capture = nullptr;
  e->mark = s->last;
  return CUDA_SUCCESS;
}

CUresult waitEvent(Stream* s, Event* e) {
  if (e->capture) {
    if (!captures().count(e->capture)) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    if (s->capture && s->capture != e->capture) {
      breakCapture(s->capture.get());
      breakCapture(e->capture.get());
      return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    if (!s->capture) {
      if (s->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      s->capture = e->capture;
      s->capture->streams.push_back(s);
      s->lane = s->capture->graph->lanes++;
      s->captured.clear();
    }
    const Adding adding(s);
    for (int node : e->captured)
      if (std::find(s->captured.begin(), s->captured.end(), node) == s->captured.end()) s->captured.push_back(node);
    return CUDA_SUCCESS;
  }
  if (s->capture) {
    if (!e->mark) return CUDA_SUCCESS;
    breakCapture(s->capture.get());
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  return e->mark ? enqueue(s, "event wait", [](Running&) {}, {e->mark}) : CUDA_SUCCESS;
}

/* ---- Capture and graphs
 * ------------------------------------------------------------------------------------------------- */

CUresult unsafeCall() {
  CUresult error = CUDA_SUCCESS;
  if (captureMode() == CU_STREAM_CAPTURE_MODE_RELAXED) return error;
  for (const auto& c : captures()) {
    if (c->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
    if (c->thread != thisThread() &&
        (captureMode() != CU_STREAM_CAPTURE_MODE_GLOBAL || c->mode != CU_STREAM_CAPTURE_MODE_GLOBAL))
      continue;
    breakCapture(c.get());
    error = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return error;
}

CUresult beginCapture(Stream* s, CUstreamCaptureMode mode) {
  static uint64_t ids;
  if (s->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (s->capture) return CUDA_ERROR_ILLEGAL_STATE;
  auto c = std::make_shared<Capture>();
  c->mode = mode;
  c->id = ++ids;
  c->thread = thisThread();
  c->origin = s;
  c->streams = {s};
  c->graph->lanes = 1;
  s->capture = c;
  s->captured.clear();
  s->lane = 0;
  captures().insert(c);
  return CUDA_SUCCESS;
}

CUresult endCapture(Stream* s, std::shared_ptr<Graph>* graph) {
  if (!s->capture) return CUDA_ERROR_ILLEGAL_STATE;
  std::shared_ptr<Capture> c = s->capture;
  if (c->origin != s) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && c->thread != thisThread())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;

  // Everything that another stream captured must come before the origin's last node.
  std::vector<bool> reached(c->graph->nodes.size());
  std::vector<int> open = s->captured;
  while (!open.empty()) {
    const int node = open.back();
    open.pop_back();
    if (reached[(size_t)node]) continue;
    reached[(size_t)node] = true;
    const auto& after = c->graph->nodes[(size_t)node].after;
    open.insert(open.end(), after.begin(), after.end());
  }
  bool joined = true;
  for (Stream* other : c->streams)
    for (int node : other->captured) joined = joined && reached[(size_t)node];
  for (Stream* other : c->streams) other->capture = nullptr;
  captures().erase(c);
  const std::shared_ptr<Graph> captured = std::move(c->graph);  // events may keep c for long
  if (c->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!joined) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  *graph = captured;
  return CUDA_SUCCESS;
}

std::shared_ptr<Graph> graphUnderCapture(const Graph* g) {
  for (const auto& c : captures())
    if (c->graph.get() == g) return c->graph;
  return nullptr;
}

void holdInGraph(const std::shared_ptr<Graph>& g, const UserObjectPtr& object, unsigned count) {
  for (const auto& c : captures())
    if (c->graph == g) {
      const std::shared_ptr<Capture> kept = c;  // Adding may let others in
      const Adding adding(kept->origin);
      g->objects[object] += count;
      return;
    }
  g->objects[object] += count;
}

// A thread of the driver's calls destroy functions one after the other, each some time after it could.
UserObjectPtr newUserObject(void* data, CUhostFn destroy, int device) {
  struct Line {
    std::deque<UserObject*> objects;
    std::condition_variable_any more;
    uint64_t created = 0;
  };
  static Line& line = *new Line;
  static const bool begun = [] {
    std::thread([] {
      Lock lock(theMutex);
      for (;;) {
        line.more.wait(lock, [] { return !line.objects.empty(); });
        const std::unique_ptr<UserObject> o(line.objects.front());
        line.objects.pop_front();
        lock.unlock();
        usleep((unsigned)o->delay);
        lock.lock();
        join(&hostClock, o->last);
        lock.unlock();
        destroying() = true;
        o->destroy(o->data);
        destroying() = false;
        lock.lock();
      }
    }).detach();
    return true;
  }();
  (void)begun;
  // One in four is late, by up to 20 ms.
  uint64_t random = (seed() * 1000003 + ++line.created) * kMaxDevices + (uint64_t)device;
  const uint64_t draw = next(&random);
  return UserObjectPtr(new UserObject{data, destroy, draw & 3 ? 0 : (draw >> 32) % 20000}, [](UserObject* o) {
    line.objects.push_back(o);
    line.more.notify_all();
  });
}
// The nodes of a graph that is launched on a stream under capture become the capture's.
static CUresult captureGraph(const Executable& inside, Stream* s) {
  const Graph& child = *inside.graph;
  const Adding adding(s);
  if (!s->capture || s->capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  Graph& graph = *s->capture->graph;
  for (const auto& object : inside.objects) graph.objects[object.first] += object.second;
  const int first = (int)graph.nodes.size();
  std::vector<bool> isLast(child.nodes.size(), true);
  for (Node node : child.nodes) {
    for (int& before : node.after) {
      isLast[(size_t)before] = false;
      before += first;
    }
    if (node.after.empty()) node.after = s->captured;
    comeAfter(graph, node.order, &node.after);
    node.lane += graph.lanes;
    graph.nodes.push_back(std::move(node));
  }
  graph.lanes += child.lanes;
  if (!child.nodes.empty()) s->captured.clear();
  for (size_t i = 0; i < isLast.size(); i++)
    if (isLast[i]) s->captured.push_back(first + (int)i);
  return CUDA_SUCCESS;
}

CUresult launchGraph(Executable* e, Stream* s) {
  if (s->capture) return captureGraph(*e, s);
  // A node's place in its lane, for clocks; lanes go on counting from launch to launch.
  auto base = std::make_shared<Clock>(e->sequences);
  auto graph = e->graph;
  auto lanes = e->streams;
  auto objects = e->objects;  // until the launch has ended
  Clock after;
  for (const Node& n : graph->nodes) {
    const uint32_t lane = lanes[(size_t)n.lane];
    if (after.size() <= lane) after.resize(lane + 1);
    after[lane] = ++e->sequences[(size_t)n.lane];
  }
  std::vector<MarkPtr> wait;
  if (e->last) wait.push_back(e->last);
  // For each order among the nodes: what came before this launch, and the end of the last such node.
  struct Turn {
    MarkPtr before, end;
    size_t last;
  };
  std::map<const void*, Turn> turns;
  for (size_t i = 0; i < graph->nodes.size(); i++) {
    const void* order = graph->nodes[i].order;
    if (order) turns[order] = {newestOf()[order], std::make_shared<Mark>(), i};
  }
  const CUresult error = enqueue(
      s, "graph",
      [graph, lanes, base, turns, objects](Running& launch) {
        const size_t count = graph->nodes.size();
        std::vector<Clock> clocks(count);
        std::vector<uint32_t> sequence(count);
        Clock next = *base;
        for (size_t i = 0; i < count; i++) sequence[i] = ++next[(size_t)graph->nodes[i].lane];
        std::vector<bool> started(count), ended(count);
        auto run = [&](size_t i, Lock& lock) {
          const Node& n = graph->nodes[i];
          const uint32_t lane = lanes[(size_t)n.lane];
          clocks[i] = *launch.clock;
          if (clocks[i].size() <= lane) clocks[i].resize(lane + 1);
          for (size_t l = 0; l < lanes.size(); l++)  // this launch's own nodes are unknown at first
            if (lanes[l] < clocks[i].size()) clocks[i][lanes[l]] = (*base)[l];
          for (int j : n.after) join(&clocks[i], clocks[(size_t)j]);
          clocks[i][lane] = sequence[i];
          delay(lock, launch.random);
          const auto turn = turns.find(n.order);
          if (turn != turns.end() && turn->second.before) {
            progress.wait(lock, [&] { return turn->second.before->done; });
            join(&clocks[i], turn->second.before->clock);
          }
          const uint32_t id = newOp(n.name, lane, sequence[i]);
          Running r = {&lock, launch.device, id, newRun(id, 0), &clocks[i], launch.random};
          execute(r, n.work);
          ended[i] = true;
          if (turn != turns.end() && turn->second.last == i) turn->second.end->done = true;
          progress.notify_all();
        };
        std::vector<std::thread> waiting;  // nodes that may wait for those of other devices, as NCCL's do
        for (size_t begun = 0; begun < count;) {
          std::vector<size_t> ready;  // any order that the dependencies allow
          for (size_t i = 0; i < count; i++) {
            const auto& before = graph->nodes[i].after;
            if (!started[i] && std::all_of(before.begin(), before.end(), [&](int j) { return ended[(size_t)j]; }))
              ready.push_back(i);
          }
          if (ready.empty()) {
            progress.wait(*launch.lock);
            continue;
          }
          const size_t i = ready[below(launch.random, (uint32_t)ready.size())];
          started[i] = true;
          begun++;
          if (!graph->nodes[i].order)
            run(i, *launch.lock);
          else
            waiting.emplace_back([&run, i] {
              Lock lock(theMutex);
              run(i, lock);
            });
        }
        launch.lock->unlock();
        for (std::thread& t : waiting) t.join();
        launch.lock->lock();
        running = &launch;
      },
      wait);
  if (error) return error;
  join(&s->clock, after);
  s->last->clock = s->clock;
  e->last = s->last;
  for (auto& each : objects) join(&each.first->last, s->clock);
  for (auto& each : turns) {
    each.second.end->clock = s->clock;
    newestOf()[each.first] = each.second.end;
  }
  return CUDA_SUCCESS;
}

/* ---- Kernels
 * -------------------------------------------------------------------------------------------------------------- */

static const std::vector<const Library*>& libraries() {
  static const auto& all = *[] {
    auto* found = new std::vector<const Library*>;
    std::string paths = getenv("SIMGPU_KERNELS") ? getenv("SIMGPU_KERNELS") : "";
    if (paths.empty()) {
      Dl_info self;
      if (!dladdr((void*)&contextOf, &self)) return found;
      paths = self.dli_fname;
      paths = paths.substr(0, paths.rfind('/') + 1) + "libsimgpu_kernels.so";
    }
    for (size_t at = 0; at <= paths.size();) {
      const size_t end = std::min(paths.find(':', at), paths.size());
      const std::string path = paths.substr(at, end - at);
      at = end + 1;
      void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      auto* library = handle ? (const Library*)dlsym(handle, "simgpuLibrary") : nullptr;
      if (library)
        found->push_back(library);
      else
        fprintf(stderr, "simgpu: no kernels in %s: %s\n", path.c_str(), dlerror());
    }
    return found;
  }();
  return all;
}

Function* functionNamed(const std::string& name) {
  static auto& all = *new std::map<std::string, Function>;
  const auto known = all.find(name);
  if (known != all.end()) return &known->second;
  for (const Library* library : libraries())
    for (unsigned i = 0; i < library->count; i++)
      if (name == library->kernels[i].name) return &(all[name] = {&library->kernels[i], library, 48 << 10});
  return nullptr;
}

CUresult launchKernel(Function* f, dim3 grid, dim3 block, unsigned dynamicShared, Stream* s, void* const* parameters) {
  const uint64_t threads = (uint64_t)block.x * block.y * block.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
  if (!threads || threads > 1024 || block.z > 64 || !blocks || blocks > 0x7fffffff || grid.y > 65535 ||
      grid.z > 65535 || dynamicShared > (unsigned)f->dynamicSharedLimit || (f->kernel->count && !parameters))
    return CUDA_ERROR_INVALID_VALUE;

  // Parameters are copied now, as the driver does; device addresses in their pointers become those that kernels may
  // use.
  auto values = std::make_shared<std::vector<std::vector<uint64_t>>>();
  for (unsigned i = 0; i < f->kernel->count; i++) {
    std::vector<uint64_t> words((f->kernel->sizes[i] + 7) / 8);
    memcpy(words.data(), parameters[i], f->kernel->sizes[i]);
    values->push_back(std::move(words));
  }
  for (size_t i = 0; i < f->kernel->pointerCount; i++) {
    const Pointer& p = f->kernel->pointers[i];
    uint64_t& pointer = (*values)[p.parameter][p.at / 8];
    if (isDevice(pointer)) pointer += kSpan;
  }
  Context* c = s->context;
  return enqueue(s, std::string("kernel ") + f->kernel->name, [=](Running& r) {
    std::vector<void*> pointers;
    for (auto& words : *values) pointers.push_back(words.data());
    const Launch launch = {f->kernel, pointers.data(), grid, block, dynamicShared, r.op, c->peers | c->pools, r.random};
    std::vector<uint32_t> order(blocks);
    for (uint32_t b = 0; b < blocks; b++) {
      const uint32_t at = below(r.random, b + 1);
      order[b] = order[at];
      order[at] = b;
    }
    for (uint32_t b : order) {
      running = &r;
      if (!f->library->runBlock(launch, {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y}, hooks)) return;
      if (theMutex.wanted()) {
        r.lock->unlock();
        std::this_thread::yield();
        r.lock->lock();
      }
    }
    running = &r;
  });
}

}  // namespace simgpu
