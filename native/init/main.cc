// The init stub: replaced by the launch core's own.
extern "C" [[noreturn]] void _start() {
  for (;;) asm volatile("syscall" ::"a"(60), "D"(0) : "rcx", "r11", "memory");
}
