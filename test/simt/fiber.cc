/* Fibres: a switch is a call that returns on another stack. */
#include "fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

namespace simt {

static constexpr size_t guard_bytes = 4096;

Fiber::Fiber()
{
    void *memory =
        mmap(nullptr, guard_bytes + stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED ||
        mprotect(static_cast<char *>(memory) + guard_bytes, stack_bytes, PROT_READ | PROT_WRITE) != 0) {
        perror("simt: a lane's stack");
        abort();
    }
    stack = static_cast<char *>(memory) + guard_bytes;
    static size_t made;
    top = stack + stack_bytes - made++ * 320 % 8192;
}

Fiber::~Fiber()
{
    munmap(stack - guard_bytes, guard_bytes + stack_bytes);
}

#if defined(__x86_64__)

/* simt_switch(&save, load): push what the ABI says a call preserves, exchange stacks, pop the same. */
asm(R"(
    .text
    .p2align 4
    .hidden simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch

    .hidden simt_enter
    .type simt_enter, @function
simt_enter:
    movq %rbx, %rdi
    call *%rbp
    ud2
    .size simt_enter, . - simt_enter
)");

extern "C" void simt_switch(void **save, void *load);
extern "C" void simt_enter();

void Fiber::prepare(void (*entry)(void *), void *argument)
{
    /* What simt_switch pops: r15, r14, r13, r12, rbx, rbp, where to return to; the stack is then aligned to 16. */
    void **frame = reinterpret_cast<void **>(top) - 9;
    frame[4] = argument;
    frame[5] = reinterpret_cast<void *>(entry);
    frame[6] = reinterpret_cast<void *>(simt_enter);
    self = frame;
}

void Fiber::resume()
{
    simt_switch(&scheduler, self);
}

void Fiber::suspend()
{
    simt_switch(&self, scheduler);
}

void Fiber::prefetch() const
{
    __builtin_prefetch(self);
    __builtin_prefetch(static_cast<char *>(self) + 64);
}

#else

static void enter(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low)
{
    uint64_t entry = static_cast<uint64_t>(entry_high) << 32 | entry_low;
    uint64_t argument = static_cast<uint64_t>(argument_high) << 32 | argument_low;
    reinterpret_cast<void (*)(void *)>(entry)(reinterpret_cast<void *>(argument));
}

void Fiber::prepare(void (*entry)(void *), void *argument)
{
    uint64_t code = reinterpret_cast<uint64_t>(entry), data = reinterpret_cast<uint64_t>(argument);
    getcontext(&self);
    self.uc_stack.ss_sp = stack;
    self.uc_stack.ss_size = static_cast<size_t>(top - stack);
    self.uc_link = nullptr;
    makecontext(&self, reinterpret_cast<void (*)()>(enter), 4, static_cast<unsigned>(code >> 32),
                static_cast<unsigned>(code), static_cast<unsigned>(data >> 32), static_cast<unsigned>(data));
}

void Fiber::resume()
{
    swapcontext(&scheduler, &self);
}

void Fiber::suspend()
{
    swapcontext(&self, &scheduler);
}

void Fiber::prefetch() const {}

#endif

} // namespace simt
