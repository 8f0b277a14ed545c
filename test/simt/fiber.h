/* A stack and a place in its code: what a lane runs on. */
#ifndef AWQ_SIMT_FIBER_H
#define AWQ_SIMT_FIBER_H

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

class Fiber {
  public:
    static constexpr size_t stack_bytes = 128 << 10;

    Fiber();
    ~Fiber();
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;

    /* Make the next resume() call entry(argument), which must never return. */
    void prepare(void (*entry)(void *), void *argument);
    void resume();  /* from the scheduler, until the fibre suspends */
    void suspend(); /* from the fibre, back to the scheduler */
    void prefetch() const; /* it will be resumed soon */

    char *stack; /* its lowest address; below lies a page that may not be touched */

  private:
    char *top; /* of the stack in use, at other sets of the caches for each fibre */
#if defined(__x86_64__)
    void *self, *scheduler; /* stack pointers */
#else
    ucontext_t self, scheduler;
#endif
};

} // namespace simt

#endif /* AWQ_SIMT_FIBER_H */
