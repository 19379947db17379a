// Threads, scratch memory and instruction set of one engine.
//
// A job's tasks are numbers in a row, and each thread has a share of them, so that it reads on where it has read. Who has
// finished its share takes from the others'. Whoever takes a task off a share by compare-and-swap owns a task of the
// current job: a job can't end, and its fields can't change, before all of its tasks have returned. So a thread that
// comes late does no harm, and none ever waits for one that the system has not scheduled, unless that one holds a task.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels.h"

namespace {

// How long a thread without work looks for more before it sleeps: longer than the gap between two kernels of a step
// (a few microseconds of Python), far shorter than anyone would notice.
constexpr auto SPIN = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// Tasks from `last - left` to `last`.
struct alignas(64) Share {
  int64_t last = 0;
  std::atomic<int64_t> left{0};
};

struct Context {
  Context(const Kernels* kernels, int threads) : kernels(kernels) {
    shares = std::vector<Share>(threads);
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
  }

  ~Context() {
    {
      const std::lock_guard<std::mutex> guard(mutex);
      is_closing = true;
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
    for (void* memory : memories) std::free(memory);
  }

  void run(int64_t num_tasks, void (*function)(void*, int64_t), void* data) {
    if (workers.empty() || num_tasks == 1) {
      for (int64_t i = 0; i < num_tasks; ++i) function(data, i);
      return;
    }
    task = function;
    argument = data;
    done.store(0, std::memory_order_relaxed);
    const int64_t num_shares = int64_t(shares.size());
    for (int64_t i = 0; i < num_shares; ++i) {
      const int64_t first = num_tasks * i / num_shares, last = num_tasks * (i + 1) / num_shares;
      shares[i].last = last;
      shares[i].left.store(last - first);
    }
    if (num_sleeping.load() > 0) {
      const std::lock_guard<std::mutex> guard(mutex);
      wake.notify_all();
    }
    take_tasks(0);
    for (int i = 0; done.load(std::memory_order_acquire) != num_tasks; ++i) {
      if (i < 1000) {
        relax();
      } else {
        std::this_thread::yield();  // the thread that holds the last task may be waiting for this core
      }
    }
  }

  // Takes what there is to do, from this thread's own share first.
  void take_tasks(int self) {
    const int num_shares = int(shares.size());
    for (int i = 0; i < num_shares; ++i) empty(shares[(self + i) % num_shares]);
  }

  void empty(Share& share) {
    int64_t count = share.left.load(std::memory_order_acquire);
    while (count > 0) {
      if (!share.left.compare_exchange_weak(count, count - 1, std::memory_order_acq_rel)) continue;
      task(argument, share.last - count);
      done.fetch_add(1, std::memory_order_release);
      count = share.left.load(std::memory_order_acquire);
    }
  }

  void work(int self) {
    while (true) {
      take_tasks(self);
      const auto start = std::chrono::steady_clock::now();
      for (int i = 1; shares[self].left.load(std::memory_order_relaxed) == 0; ++i) {
        relax();
        if (i % 64 == 0 && std::chrono::steady_clock::now() - start > SPIN) {
          if (!sleep(self)) return;
          break;
        }
      }
    }
  }

  bool sleep(int self) {
    std::unique_lock<std::mutex> lock(mutex);
    num_sleeping.fetch_add(1);
    wake.wait(lock, [this, self] { return is_closing || shares[self].left.load() > 0; });
    num_sleeping.fetch_sub(1);
    return !is_closing;
  }

  const Kernels* kernels;
  void (*task)(void*, int64_t) = nullptr;
  void* argument = nullptr;
  std::vector<Share> shares;
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<int> num_sleeping{0};
  bool is_closing = false;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;
  void* memories[NUM_SCRATCHES] = {};
  size_t sizes[NUM_SCRATCHES] = {};
};

Context* open_context(const Kernels* kernels, int threads) { return new Context(kernels, threads); }

const Kernels& kernels_of(const Context* context) { return *context->kernels; }

void run_parallel(Context* context, int64_t num_tasks, void (*task)(void*, int64_t), void* argument) {
  context->run(num_tasks, task, argument);
}

int num_threads(const Context* context) { return int(context->workers.size()) + 1; }

void* scratch(Context* context, Scratch number, size_t num_bytes) {
  if (context->sizes[number] < num_bytes) {
    std::free(context->memories[number]);
    const size_t size = (num_bytes + num_bytes / 4 + 4095) / 4096 * 4096;
    context->memories[number] = std::aligned_alloc(64, size);
    if (context->memories[number] == nullptr) std::abort();
    context->sizes[number] = size;
  }
  return context->memories[number];
}

#pragma GCC visibility push(default)
extern "C" {

void nexttoken_close(Context* context) { delete context; }
}
