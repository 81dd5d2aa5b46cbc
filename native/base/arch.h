// All that depends on the processor: entering the kernel, starting a child on a stack of its own,
// and the first instructions of a program without libc. Adding an architecture touches this file
// only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isopod::arch {

// Result, or -errno. Touches neither errno nor any other memory of the caller, so that it is safe
// in a CLONE_VM child, which shares its parent's thread-local storage.
#if defined(__x86_64__)

constexpr uint32_t kAuditArch = 0xc000003e;  // AUDIT_ARCH_X86_64

inline long raw(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

// clone3(args, size) whose child runs entry(data) on the stack that args names and never returns.
inline long clone_call(long nr, void* args, size_t size, void (*entry)(void*), void* data) {
  long result;
  register void (*target)(void*) asm("r8") = entry;
  register void* operand asm("r9") = data;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r9, %%rdi\n\t"
      "call *%%r8\n\t"
      "ud2\n"
      "1:"
      : "=a"(result)
      : "a"(nr), "D"(args), "S"(size), "r"(target), "r"(operand)
      : "rcx", "r11", "memory", "cc");
  return result;
}

// The kernel enters with argc at the stack pointer and the stack 16-aligned.
#define ISOPOD_ENTRY(main_function) \
  asm(".globl _start\n"             \
      ".type _start, @function\n"   \
      "_start:\n\t"                 \
      "xor %ebp, %ebp\n\t"          \
      "and $-16, %rsp\n\t"          \
      "call " #main_function        \
      "\n\t"                        \
      "ud2\n")

#elif defined(__aarch64__)

constexpr uint32_t kAuditArch = 0xc00000b7;  // AUDIT_ARCH_AARCH64

inline long raw(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  register long x8 asm("x8") = nr;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc #0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory", "cc");
  return x0;
}

inline long clone_call(long nr, void* args, size_t size, void (*entry)(void*), void* data) {
  register long x8 asm("x8") = nr;
  register void* x0 asm("x0") = args;
  register size_t x1 asm("x1") = size;
  register void (*x9)(void*) asm("x9") = entry;
  register void* x10 asm("x10") = data;
  asm volatile(
      "svc #0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, xzr\n\t"
      "mov x0, x10\n\t"
      "blr x9\n\t"
      "brk #0\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), "r"(x9), "r"(x10)
      : "memory", "cc", "x30");
  return reinterpret_cast<long>(x0);
}

#define ISOPOD_ENTRY(main_function) \
  asm(".globl _start\n"             \
      ".type _start, %function\n"   \
      "_start:\n\t"                 \
      "mov x29, xzr\n\t"            \
      "bl " #main_function          \
      "\n\t"                        \
      "brk #0\n")

#else
#error "isopod runs on x86_64 and aarch64"
#endif

}  // namespace isopod::arch
